"""A linear layer with a Gaussian prior."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vrnn.distributions.weight_site import WeightSite, uniform_start
from pyro_vrnn.nn.weights import OWNER, Prior, WeightModule
from pyro_vrnn.ops.particles import flatten_particles, linear, particle_shape
from pyro_vrnn.shapes import check_dtype, check_last_dim, check_positive_int, shape_text


class Linear(WeightModule):
    """
    :class:`torch.nn.Linear` with a Gaussian prior on its weight and bias.

    Example::

        >>> layer = Linear(8, 2)
        >>> layer(torch.zeros(5, 20, 8)).shape
        torch.Size([5, 20, 2])

    :param int in_features: size of the last dim of the input.
    :param int out_features: size of the last dim of the output.
    :param bool bias: whether the layer adds a bias.
    :param prior_scale: standard deviation of the priors; see
        :class:`~pyro_vrnn.nn.weights.WeightModule`.
    :param prior_loc: mean of the priors, likewise.
    :raises ValueError: if a size is not positive or a prior does not fit.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        prior_scale: Prior = 1.0,
        prior_loc: Prior = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(prior_scale=prior_scale, prior_loc=prior_loc, device=device, dtype=dtype)
        self.in_features = check_positive_int("in_features", in_features)
        self.out_features = check_positive_int("out_features", out_features)
        start = uniform_start(self.in_features)
        shape = (self.out_features, self.in_features)
        self._add_weight("weight", shape, WeightSite("linear", start=start))
        if bias:
            self._add_weight("bias", (self.out_features,), WeightSite("bias", start=start))
        else:
            self.bias = None
        self._check_prior_names()

    def forward(
        self,
        input: Tensor,  # (*P, *, in_features)
        *,
        particles: int | None = None,
        batch_dim: int | None = None,
    ) -> Tensor:  # (*P, *, out_features)
        """
        Apply one draw of the layer, or S of them.

        :param int particles: how many leading dims of ``input`` are particle dims, such as
            ``output.dim() - 3`` for a batch of sequences out of an LSTM. Needed only when the
            weights carry particles (``vectorize_particles``, ``Predictive(parallel=True)``): there
            it cannot be told from sizes, because S and N may be equal.
        :param int batch_dim: the dim of ``input`` that counts the sequences. Needed only under
            ``scope="sequence"`` (a draw for each sequence) for an input of more than two dims.
        :raises TypeError: if the input has another dtype than the weights.
        :raises ValueError: if the last dim does not fit, or ``particles`` or ``batch_dim`` is
            needed and missing.
        """
        check_last_dim("input", input, self.in_features)
        weight, bias = self.weight, self.bias
        check_dtype("input", input, weight.dtype, owner=OWNER)
        leading = torch.Size(particle_shape([(weight, 2), (bias, 1)]))
        if particles is None:
            if leading:
                raise ValueError(
                    f"Expected particles=, the number of leading particle dims of the input "
                    f"{shape_text(input.shape)}, because the weights carry particle dims "
                    f"{shape_text(leading)}; got None. (If the layer is called inside a data "
                    "plate, read the weights before the plate: these dims are then the plate's.)"
                )
            particles = 0
        if not 0 <= particles < input.dim():
            raise ValueError(
                f"Expected particles in 0..{input.dim() - 1} for input "
                f"{shape_text(input.shape)}, got {particles}."
            )
        carried = input.shape[:particles]
        if leading and carried and leading.numel() != carried.numel():
            raise ValueError(
                f"Expected input with particle dims {shape_text(leading)} like the weights', "
                f"got {shape_text(carried)}."
            )
        x = input.flatten(0, particles - 1) if particles > 1 else input
        weight = flatten_particles(weight, 2)
        bias = None if bias is None else flatten_particles(bias, 1)
        output = linear(x, weight, bias, particles=bool(particles), batch_dim=batch_dim)
        shape = leading or carried
        return output.unflatten(0, shape) if shape else output

    def extra_repr(self) -> str:
        """Show the constructor's arguments."""
        bias = "bias" in self._weight_shapes
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}"
