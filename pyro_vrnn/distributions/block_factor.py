r"""
Weights with one random factor for each block: what the guides' distributions have in common.

.. math::
    w_k = z_k\, m_k + \sigma \epsilon_k, \qquad \epsilon_k \sim N(0, I),

the factors :math:`z_k` independent of each other and of the noise. A factor of 0 or 1 makes
:class:`~pyro_vrnn.distributions.SpikeAndSlab`, a normal one
:class:`~pyro_vrnn.distributions.MultiplicativeNormal`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_vrnn.ops.blocks import grid_shape, interleave, scale_blocks, spread, sum_event
from pyro_vrnn.shapes import check_finite, check_positive_int, shape_text


class BlockFactorNormal(TorchDistribution):
    r"""
    Blocks of weights that share a factor, each weight with normal noise of its own.

    Subclasses say how factors are distributed, and add their parameter by :meth:`_set_factor`.

    :param torch.Tensor loc: what the factors multiply, :math:`m`, ``(*batch, *event)``.
    :param scale: standard deviation :math:`\sigma` of the noise; broadcasts to ``loc``.
    :param tuple block_shape: shape of one block.
    """

    has_rsample = True
    has_noise = True  # whether a draw has normal noise beside its factors
    factor_name: str  # of the parameter of the factors' distribution
    _validate_args: bool

    def __init__(self, loc: Tensor, scale: Tensor | float, block_shape: Sequence[int]) -> None:
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
        # Divergences are taken before an expansion and broadcast after.
        self._unexpanded_loc = loc
        super().__init__(batch_shape, event_shape, validate_args=False)

    def _set_factor(self, value: Tensor | float, validate_args: bool | None) -> None:
        """Keep the factors' parameter and check values, as the last step of construction."""
        if isinstance(value, Tensor):
            _check_broadcasts(self.factor_name, value, (*self.batch_shape, *self.grid_shape))
            value = value.to(self.loc)
        setattr(self, self.factor_name, value)
        self._validate_args = type(self)._validate_args if validate_args is None else validate_args
        if self._validate_args:
            if not torch.isfinite(self.loc.detach().sum()):  # one pass; the sum may also overflow
                check_finite("loc", self.loc.detach())
            self._check_scale()
            self._check_factor()

    def _check_scale(self) -> None:
        check_all("scale > 0", self.scale, (self.scale > 0) & (self.scale < math.inf))

    @abstractmethod
    def _check_factor(self) -> None:
        """Refuse values of the factors' parameter that are out of range."""

    @property
    @abstractmethod
    def has_factor(self) -> bool:
        """Whether there are factors: False if they are known to be 1."""

    @abstractmethod
    def draw_factors(self, shape: Sequence[int]) -> Tensor:
        """
        Draw factors alone.

        :param shape: theirs, to which their parameter broadcasts.
        """

    @property
    @abstractmethod
    def factor_mean(self) -> Tensor | float:
        """The mean of a factor."""

    @property
    @abstractmethod
    def factor_variance(self) -> Tensor | float:
        """The variance of a factor."""

    @abstractmethod
    def mask_information(self, square_sums: Tensor | None = None) -> Tensor:
        """
        Return the mutual information of each block and its factor, in float64.

        Shapes: ``(*batch, *grid)``, before an expansion of the batch.

        :param torch.Tensor square_sums: those of the blocks of ``loc``, if at hand.
        """

    def __repr__(self) -> str:
        def text(x: Tensor | float) -> str:
            return (
                f"{float(x):.6g}" if not isinstance(x, Tensor) or x.numel() == 1 else str(x.shape)
            )

        factor = getattr(self, self.factor_name)
        return (
            f"{type(self).__name__}(loc: {self.loc.shape}, scale: {text(self.scale)}, "
            f"{self.factor_name}: {text(factor)}, block_shape: {self.block_shape})"
        )

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> Any:
        """Real tensors of the event's shape."""
        return constraints.independent(constraints.real, len(self.block_shape))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """Return this distribution with a larger batch shape; parameters are views."""
        new: Self = self._get_checked_instance(type(self), _instance)
        batch_shape = torch.Size(batch_shape)
        new.block_shape, new.grid_shape = self.block_shape, self.grid_shape
        new.loc = self.loc.expand(batch_shape + self.event_shape)
        new.scale = self.scale
        setattr(new, self.factor_name, getattr(self, self.factor_name))
        new._unexpanded_loc = self._unexpanded_loc
        super(BlockFactorNormal, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """The mean, E z times loc."""
        return self.scaled(self.loc, self.factor_mean)

    @property
    def variance(self) -> Tensor:
        """The variance of each weight, scale^2 + Var z loc^2."""
        return self.scale.square() + self.scaled(self.loc.square(), self.factor_variance)

    def scaled(self, x: Tensor, factor: Tensor | float) -> Tensor:
        """Multiply the blocks of ``x`` by a number, or by one for each of them."""
        if not isinstance(factor, Tensor):
            return x * factor
        shape = torch.broadcast_shapes(factor.shape, self.grid_shape)
        return scale_blocks(x, factor.expand(shape), self.block_shape)

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Draw the factor of each block and the noise of each weight."""
        sample_shape = torch.Size(sample_shape)
        noise = self.loc.new_empty(self._extended_shape(sample_shape)).normal_()
        # In place, for the largest tensors there are: fresh memory costs as much as the numbers.
        draw = noise * self.scale if self.scale.requires_grad else noise.mul_(self.scale)
        if not self.has_factor:
            return draw.add_(self.loc)
        factors = self.draw_factors(sample_shape + self.batch_shape + self.grid_shape)
        interleave(draw, self.block_shape).addcmul_(
            interleave(self.loc, self.block_shape), spread(factors, len(self.block_shape))
        )
        return draw

    def entropy(self) -> Tensor:
        """Return the exact entropy, by the mutual information of each block and its factor."""
        information = self.mask_information().sum(tuple(range(-len(self.block_shape), 0)))
        total = self._log_scale_sum(2 * math.pi * math.e) + information
        return total.expand(self.batch_shape).to(self.loc.dtype)

    def _log_scale_sum(self, factor: float) -> Tensor:
        log_scale = sum_event(self.scale.to(torch.float64).log(), self.event_shape)
        return log_scale + 0.5 * math.log(factor) * self.event_shape.numel()


def check_all(what: str, value: Tensor, right: Tensor) -> None:
    """Refuse a parameter of which not every value is ``right``."""
    if not bool(right.all()):
        raise ValueError(f"Expected {what}, got {value.detach()[~right][0].item():.6g}.")


def in_double(x: Tensor | float) -> Tensor | float:
    """Return a tensor in float64, a number as it is."""
    return x.to(torch.float64) if isinstance(x, Tensor) else x


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
