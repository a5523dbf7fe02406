"""The mixture of a spike at zero and a slab, block by block: the guide's distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vrnn.distributions.block_factor import BlockFactorNormal, check_all
from pyro_vrnn.ops.blocks import block_square_ratios, interleave, spread
from pyro_vrnn.ops.mixture_median import mixture_median
from pyro_vrnn.ops.mutual_information import tabulated_mutual_information
from pyro_vrnn.shapes import check_probability


class SpikeAndSlab(BlockFactorNormal):
    r"""
    Block-wise mixture of a spike at zero and a slab at ``loc`` that share one scale.

    .. math::
        q(w) = \prod_k q(w_k), \qquad
        q(w_k) = p_k \mathcal{N}(w_k; 0, S_k) + (1 - p_k) \mathcal{N}(w_k; m_k, S_k),

    with S diagonal. The event is the whole weight tensor, tiled by blocks; all weights of a block
    are dropped together, and each weight still has its own normal noise. ``loc`` is non-inverted:
    the mean is :math:`(1 - p) m`.

    Gradients of a sample reach ``loc`` and ``scale``, not ``drop_prob``: the mask is drawn from a
    Bernoulli distribution. The divergence from a diagonal normal is exact, see
    :mod:`pyro_vrnn.distributions.kl`. Values are refused only if ``validate_args`` is on (which
    waits for a GPU); shapes always are. A float ``drop_prob`` never waits for a GPU.

    Shapes: ``loc`` is ``(*batch, *event)``, ``scale`` broadcasts to it and is kept as it is, and
    ``drop_prob`` broadcasts to ``(*batch, *grid)``, the grid of blocks.

    Example::

        >>> from pyro.distributions import Normal
        >>> q = SpikeAndSlab(torch.ones(4, 3), 0.1, 0.5, block_shape=(4, 1))
        >>> q.batch_shape, q.event_shape, q.grid_shape
        (torch.Size([]), torch.Size([4, 3]), (1, 3))
        >>> prior = Normal(torch.zeros(4, 3), 1.0).to_event(2)
        >>> torch.distributions.kl_divergence(q, prior)
        tensor(22.6116)

    :param torch.Tensor loc: slab means :math:`m`, in the units of the weights.
    :param scale: standard deviation :math:`\sigma > 0`, a float or a tensor.
    :param drop_prob: spike probability :math:`p \in [0, 1]`, a float or a tensor.
    :param tuple block_shape: shape of one block of weights that is dropped together.
    :param bool validate_args: whether to check values; by default as torch's distributions do.
    :raises TypeError: if ``loc`` is not a floating point tensor.
    :raises ValueError: if ``block_shape`` does not tile the event, a shape does not broadcast,
        ``drop_prob`` is outside [0, 1] or requires a gradient, ``scale`` is not positive, or
        ``loc`` is not finite.

    **References**

    [1] Gal, Ghahramani (2016), https://arxiv.org/abs/1512.05287
    """

    factor_name = "drop_prob"
    drop_prob: Tensor | float
    arg_constraints = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "drop_prob": constraints.unit_interval,
    }

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor | float,
        drop_prob: Tensor | float,
        block_shape: Sequence[int],
        *,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(loc, scale, block_shape)
        if not isinstance(drop_prob, Tensor):
            drop_prob = check_probability("drop_prob", drop_prob)
        elif drop_prob.requires_grad:
            raise ValueError(
                "Expected drop_prob without gradient, got a tensor that requires grad: the mask is "
                "drawn from a Bernoulli, so no reparameterised gradient reaches its probability."
            )
        self._set_factor(drop_prob, validate_args)

    def _check_factor(self) -> None:
        p = self.drop_prob
        if isinstance(p, Tensor):
            check_all("drop_prob in [0, 1]", p, (p >= 0) & (p <= 1))

    @property
    def has_factor(self) -> bool:
        """Whether anything is dropped."""
        return isinstance(self.drop_prob, Tensor) or self.drop_prob > 0

    @property
    def factor_mean(self) -> Tensor | float:
        """The mean of a mask, 1 - p."""
        return 1 - self.drop_prob

    @property
    def factor_variance(self) -> Tensor | float:
        """The variance of a mask, p (1 - p)."""
        return self.drop_prob * (1 - self.drop_prob)

    @property
    def median(self) -> Tensor:
        """The exact median of each weight by itself; no gradient is recorded."""
        scale = self.scale.expand(self.loc.shape).detach()
        distance = interleave((self.loc.detach() / scale).abs(), self.block_shape)
        p = self.drop_prob
        if isinstance(p, Tensor):
            p = spread(p.expand(*self.batch_shape, *self.grid_shape), len(self.block_shape))
        median = mixture_median(distance, p).reshape(self.loc.shape)
        return (median * scale * self.loc.detach().sign()).to(self.loc.dtype)

    def draw_factors(self, shape: Sequence[int]) -> Tensor:
        """
        Draw masks alone: 1 where a block is kept, 0 where it is dropped.

        :param shape: that of the masks, to which ``drop_prob`` broadcasts.
        """
        if isinstance(self.drop_prob, Tensor):
            return torch.bernoulli((1 - self.drop_prob).expand(torch.Size(shape)))
        return self.loc.new_empty(shape).bernoulli_(1 - self.drop_prob)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the exact log density; sums run in float64."""
        if self._validate_args:
            self._validate_sample(value)
        p = self.drop_prob
        slab = -block_square_ratios(value - self.loc, self.scale, self.block_shape) / 2
        if isinstance(p, Tensor) or p > 0.0:
            spike = -block_square_ratios(value, self.scale, self.block_shape) / 2
            slab = torch.logaddexp(spike + _log(p), slab + _log1p(-p))
        total = slab.sum(tuple(range(-len(self.block_shape), 0)))
        return (total - self._log_scale_sum(2 * math.pi)).to(self.loc.dtype)

    def mask_information(self, square_sums: Tensor | None = None) -> Tensor:
        """
        Return the mutual information of each block and its component, in float64.

        Shapes: ``(*batch, *grid)``, before an expansion of the batch.

        :param torch.Tensor square_sums: those of the blocks of ``loc``, if at hand.
        """
        distances = block_square_ratios(
            self._unexpanded_loc, self.scale, self.block_shape, square_sums
        )
        return tabulated_mutual_information(distances, self.drop_prob)


def _log(p: Tensor | float) -> Tensor | float:
    if isinstance(p, Tensor):
        return p.to(torch.float64).log()
    return math.log(p)


def _log1p(x: Tensor | float) -> Tensor | float:
    if isinstance(x, Tensor):
        return x.to(torch.float64).log1p()
    return math.log1p(x) if x > -1 else -math.inf
