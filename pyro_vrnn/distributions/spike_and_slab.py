"""The mixture of a spike at zero and a slab, block by block: the guide's distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vrnn.ops.blocks import (
    block_square_ratios,
    grid_shape,
    interleave,
    scale_blocks,
    spread,
    sum_event,
)
from pyro_vrnn.ops.mixture_median import mixture_median
from pyro_vrnn.ops.mutual_information import tabulated_mutual_information
from pyro_vrnn.shapes import check_finite, check_positive_int, check_probability, shape_text


class SpikeAndSlab(TorchDistribution):
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

    has_rsample = True
    has_noise = True  # whether a draw has normal noise beside its mask
    _validate_args: bool
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
        if not isinstance(loc, Tensor) or not loc.is_floating_point():
            got = loc.dtype if isinstance(loc, Tensor) else type(loc).__name__
            raise TypeError(f"Expected loc to be a floating point Tensor, got {got}.")
        self.block_shape = tuple(
            check_positive_int("each size in block_shape", b) for b in block_shape
        )
        n = len(self.block_shape)
        if not 1 <= n <= loc.dim():
            raise ValueError(
                f"Expected block_shape of 1 to {loc.dim()} dims for loc of shape "
                f"{shape_text(loc.shape)}, got {shape_text(self.block_shape)}."
            )
        batch_shape, event_shape = loc.shape[: loc.dim() - n], loc.shape[loc.dim() - n :]
        self.grid_shape = grid_shape(event_shape, self.block_shape)
        self.loc = loc
        self.scale = torch.as_tensor(scale, dtype=loc.dtype, device=loc.device)
        _check_broadcasts("scale", self.scale, loc.shape)
        self.drop_prob = self._checked_drop_prob(drop_prob, batch_shape)
        # Divergences are taken before an expansion and broadcast after.
        self._unexpanded_loc = loc
        super().__init__(batch_shape, event_shape, validate_args=False)
        self._validate_args = type(self)._validate_args if validate_args is None else validate_args
        if self._validate_args:
            self._check_values()

    def _checked_drop_prob(
        self, drop_prob: Tensor | float, batch_shape: torch.Size
    ) -> Tensor | float:
        if not isinstance(drop_prob, Tensor):
            return check_probability("drop_prob", drop_prob)
        if drop_prob.requires_grad:
            raise ValueError(
                "Expected drop_prob without gradient, got a tensor that requires grad: the mask is "
                "drawn from a Bernoulli, so no reparameterised gradient reaches its probability."
            )
        _check_broadcasts("drop_prob", drop_prob, (*batch_shape, *self.grid_shape))
        return drop_prob.to(self.loc)

    def _check_values(self) -> None:
        if not torch.isfinite(self.loc.detach().sum()):  # one pass; the sum may also overflow
            check_finite("loc", self.loc.detach())
        self._check_scale()
        p = self.drop_prob
        if isinstance(p, Tensor):
            _check_all("drop_prob in [0, 1]", p, (p >= 0) & (p <= 1))

    def _check_scale(self) -> None:
        _check_all("scale > 0", self.scale, (self.scale > 0) & (self.scale < math.inf))

    def __repr__(self) -> str:
        def text(x: Tensor | float) -> str:
            return (
                f"{float(x):.6g}" if not isinstance(x, Tensor) or x.numel() == 1 else str(x.shape)
            )

        return (
            f"{type(self).__name__}(loc: {self.loc.shape}, scale: {text(self.scale)}, "
            f"drop_prob: {text(self.drop_prob)}, block_shape: {self.block_shape})"
        )

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> Any:
        """Real tensors of the event's shape."""
        return constraints.independent(constraints.real, len(self.block_shape))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> SpikeAndSlab:
        """Return this distribution with a larger batch shape; parameters are views."""
        new = self._get_checked_instance(SpikeAndSlab, _instance)
        batch_shape = torch.Size(batch_shape)
        new.block_shape, new.grid_shape = self.block_shape, self.grid_shape
        new.loc = self.loc.expand(batch_shape + self.event_shape)
        new.scale, new.drop_prob = self.scale, self.drop_prob
        new._unexpanded_loc = self._unexpanded_loc
        super(SpikeAndSlab, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """The mean, (1 - p) loc."""
        return self._scaled(self.loc, 1 - self.drop_prob)

    @property
    def variance(self) -> Tensor:
        """The variance of each weight, scale^2 + p (1 - p) loc^2."""
        p = self.drop_prob
        return self.scale.square() + self._scaled(self.loc.square(), p * (1 - p))

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

    def _scaled(self, x: Tensor, factor: Tensor | float) -> Tensor:
        if not isinstance(factor, Tensor):
            return x * factor
        return scale_blocks(x, factor.expand(self.batch_shape + self.grid_shape), self.block_shape)

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Draw the mask of each block and the noise of each weight."""
        noise = self.loc.new_empty(self._extended_shape(torch.Size(sample_shape))).normal_()
        # In place, for the largest tensors there are: fresh memory costs as much as the numbers.
        draw = noise * self.scale if self.scale.requires_grad else noise.mul_(self.scale)
        keep = self._keep(torch.Size(sample_shape))
        if keep is None:
            return draw.add_(self.loc)
        interleave(draw, self.block_shape).addcmul_(
            interleave(self.loc, self.block_shape), spread(keep, len(self.block_shape))
        )
        return draw

    def _keep(self, sample_shape: torch.Size) -> Tensor | None:
        """Draw which blocks are kept, as numbers 0 and 1 ``(*sample, *batch, *grid)``."""
        if not isinstance(self.drop_prob, Tensor) and self.drop_prob == 0.0:
            return None
        return self.draw_mask(sample_shape + self.batch_shape + self.grid_shape)

    def draw_mask(self, shape: Sequence[int]) -> Tensor:
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

    def entropy(self) -> Tensor:
        """Return the exact entropy, by the mutual information of each block and its mask."""
        information = self.mask_information().sum(tuple(range(-len(self.block_shape), 0)))
        total = self._log_scale_sum(2 * math.pi * math.e) + information
        return total.expand(self.batch_shape).to(self.loc.dtype)

    def _log_scale_sum(self, factor: float) -> Tensor:
        log_scale = sum_event(self.scale.to(torch.float64).log(), self.event_shape)
        return log_scale + 0.5 * math.log(factor) * self.event_shape.numel()

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


def _check_broadcasts(name: str, value: Tensor, shape: Sequence[int]) -> None:
    fits = value.dim() <= len(shape) and all(
        size in (1, full)
        for size, full in zip(reversed(value.shape), reversed(shape), strict=False)
    )
    if not fits:
        raise ValueError(
            f"Expected {name} to broadcast to shape {shape_text(shape)}, "
            f"got {shape_text(value.shape)}."
        )


def _check_all(what: str, value: Tensor, right: Tensor) -> None:
    if not bool(right.all()):
        raise ValueError(f"Expected {what}, got {value.detach()[~right][0].item():.6g}.")
