"""Dropout of whole blocks of weights, the limit of the spike and slab without noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vrnn.distributions.spike_and_slab import SpikeAndSlab
from pyro_vrnn.distributions.unscored import Unscored
from pyro_vrnn.ops.blocks import scale_blocks
from pyro_vrnn.ops.mutual_information import binary_entropy
from pyro_vrnn.shapes import shape_text


class BlockDropout(SpikeAndSlab):
    r"""
    Blocks of weights that are 0 or ``loc``: the limit of :class:`SpikeAndSlab` without noise.

    .. math::
        q(w) = \prod_k q(w_k), \qquad q(w_k) = p_k\, \delta_0 + (1 - p_k)\, \delta_{m_k}.

    It has all that :class:`SpikeAndSlab` has, with a ``scale`` of 0, but **no density**, so that
    its divergence from a normal is infinite. ``kl_divergence`` is what is left of it without the
    part that does not depend on :math:`m`,

    .. math::
        \sum_k \frac{p_k \|m_0\|^2 + (1 - p_k) \|m_k - m_0\|^2}{2 s^2} - \sum_k H_B(p_k),

    whose gradient is that of weight decay. An ELBO made with it is defined **up to a constant**:
    it is no bound and may be negative or positive without meaning. It compares two values of
    ``loc`` (or, blocks and prior given, of ``drop_prob``), not two architectures or priors, and
    not an ELBO with noise.

    ``log_prob`` returns an :class:`~pyro_vrnn.distributions.unscored.Unscored`, which Pyro's
    ``TraceMeanField_ELBO`` asks for and does not use. Every number made of it raises: with
    ``Trace_ELBO``, ``TraceGraph_ELBO`` or ``RenyiELBO``, or a prior without an analytic KL.

    Shapes: as for :class:`SpikeAndSlab`.

    Example::

        >>> from pyro.distributions import Normal
        >>> q = BlockDropout(torch.full((4, 3), 2.0), 0.5, block_shape=(4, 1))
        >>> sorted(set(q.sample((20,)).flatten().tolist())), q.mean[0, 0].item()
        ([0.0, 2.0], 1.0)
        >>> prior = Normal(torch.zeros(4, 3), 1.0).to_event(2)
        >>> torch.distributions.kl_divergence(q, prior)  # 12 of the slab, - 3 log 2 of the masks
        tensor(9.9206)

    :param torch.Tensor loc: values of the weights that are kept, :math:`m`.
    :param drop_prob: probability :math:`p \in [0, 1]` that a block is 0, a float or a tensor.
    :param tuple block_shape: shape of one block of weights that is dropped together.
    :param bool validate_args: whether to check values; by default as torch's distributions do.
    :raises TypeError: if ``loc`` is not a floating point tensor.
    :raises ValueError: if ``block_shape`` does not tile the event, a shape does not broadcast,
        ``drop_prob`` is outside [0, 1] or requires a gradient, or ``loc`` is not finite.
    :raises NotImplementedError: where a density is needed, in ``entropy`` too.

    **References**

    [1] Gal, Ghahramani (2016), https://arxiv.org/abs/1512.05287
    """

    has_noise = False
    arg_constraints = {"loc": constraints.real, "drop_prob": constraints.unit_interval}

    def __init__(
        self,
        loc: Tensor,
        drop_prob: Tensor | float,
        block_shape: Sequence[int],
        *,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(loc, 0.0, drop_prob, block_shape, validate_args=validate_args)

    def _check_scale(self) -> None:
        """Check nothing: it is 0."""

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Draw the mask of each block; a tensor of its own, also where nothing is dropped."""
        sample_shape = torch.Size(sample_shape)
        if not self.has_factor:
            return self.loc.expand(self._extended_shape(sample_shape)).clone()
        masks = self.draw_factors(sample_shape + self.batch_shape + self.grid_shape)
        return scale_blocks(self.loc, masks, self.block_shape)

    @property
    def median(self) -> Tensor:
        """The limit of the medians: loc, 0, or loc / 2 where p = 1/2; no gradient is recorded."""
        p = self.drop_prob
        if not isinstance(p, Tensor):
            return self.loc.detach() * (0.5 if p == 0.5 else float(p < 0.5))
        return self.scaled(self.loc.detach(), torch.heaviside(0.5 - p, p.new_full((), 0.5)))

    def log_prob(self, value: Tensor) -> Tensor:
        """
        Return what Pyro may scale, mask and sum, and nobody can read: there is no density.

        The value is not looked at.

        :raises ValueError: if the shape of ``value`` is not that of a draw.
        """
        n = len(self.block_shape)
        batch, event = value.shape[: max(value.dim() - n, 0)], value.shape[value.dim() - n :]
        if event != self.event_shape:
            raise ValueError(
                f"Expected a value of event shape {shape_text(self.event_shape)}, "
                f"got {shape_text(value.shape)}."
            )
        return Unscored(
            torch.broadcast_shapes(batch, self.batch_shape),
            dtype=self.loc.dtype,
            device=self.loc.device,
            message=self._no_density("log density"),
        )

    def entropy(self) -> NoReturn:
        """Raise an error: there is no density."""
        raise NotImplementedError(self._no_density("entropy"))

    def _no_density(self, what: str) -> str:
        return (
            "Expected BlockDropout to be scored by its analytic KL from a diagonal normal alone, "
            f"got the {what} of one of event shape {shape_text(self.event_shape)} asked for: "
            "masks without noise have no density. Use TraceExactKL_ELBO or TraceMeanField_ELBO "
            "with normal priors, or scale > 0 (SpikeAndSlab)."
        )

    def mask_information(self, square_sums: Tensor | None = None) -> Tensor:
        """
        Return the entropy of each block's mask, in float64: a draw tells which blocks are dropped.

        At loc = 0 too, though the information is 0 there with any noise.

        Shapes: ``(*batch, *grid)``, before an expansion of the batch.

        :param torch.Tensor square_sums: not used.
        """
        loc, p = self._unexpanded_loc, self.drop_prob
        shape = loc.shape[: loc.dim() - len(self.block_shape)] + torch.Size(self.grid_shape)
        if isinstance(p, Tensor):
            entropy = binary_entropy(p.to(torch.float64))
            return entropy.expand(torch.broadcast_shapes(shape, entropy.shape))
        entropy = binary_entropy(torch.tensor(p, dtype=torch.float64))
        return loc.new_full((), entropy.item(), dtype=torch.float64).expand(shape)
