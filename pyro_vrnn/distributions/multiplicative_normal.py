"""Multiplicative Gaussian noise on blocks of weights, with a density."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vrnn.distributions.block_factor import BlockFactorNormal, check_all, in_double
from pyro_vrnn.ops.blocks import (
    block_dims,
    block_square_ratios,
    interleave,
    scale_blocks,
)
from pyro_vrnn.shapes import check_nonnegative_float


class MultiplicativeNormal(BlockFactorNormal):
    r"""
    Blocks of weights times a normal factor each, and noise: a normal of rank one and a diagonal.

    .. math::
        w_k = z_k m_k + \sigma \epsilon_k, \quad z_k \sim N(1, \alpha_k), \qquad
        q(w_k) = N(m_k,\; S_k + \alpha_k m_k m_k^\top), \quad S_k = \mathrm{diag}(\sigma^2).

    With :math:`\alpha = p / (1 - p)` the factor has the variance of inverted dropout. Without the
    noise q has no density and an infinite divergence from every normal; that is
    ``baselines.LSTM(method="gaussian")``.

    The divergence from N(0, s^2) is exact, with :math:`d_k = \|m_k / \sigma\|`,

    .. math::
        \mathrm{KL}_k = \sum \tfrac12
        \left(\frac{\sigma^2}{s^2} - 1 - \log \frac{\sigma^2}{s^2}\right)
        + \frac{(1 + \alpha) \|m_k\|^2}{2 s^2} - \tfrac12 \log(1 + \alpha d_k^2).

    Its gradient does **not** become that of weight decay as :math:`\sigma \to 0`: beside
    :math:`(1 + \alpha) m_k / s^2` the term :math:`-m_k / \|m_k\|^2` stays, which keeps blocks away
    from 0. Gradients of a sample reach ``loc``, ``scale`` and ``alpha``.

    Shapes: ``loc`` is ``(*batch, *event)``, ``scale`` broadcasts to it, and ``alpha`` to
    ``(*batch, *grid)``, the grid of blocks.

    Example::

        >>> from pyro.distributions import Normal
        >>> q = MultiplicativeNormal(torch.ones(4, 3), 0.1, 1 / 3, block_shape=(4, 1))
        >>> q.event_shape, q.grid_shape
        (torch.Size([4, 3]), (1, 3))
        >>> prior = Normal(torch.zeros(4, 3), 1.0).to_event(2)
        >>> torch.distributions.kl_divergence(q, prior)
        tensor(22.3405)

    :param torch.Tensor loc: means :math:`m`, in the units of the weights.
    :param scale: standard deviation :math:`\sigma > 0`, a float or a tensor.
    :param alpha: variance of the factors, :math:`\alpha \ge 0`, a float or a tensor; above 0 if it
        requires a gradient.
    :param tuple block_shape: shape of one block of weights that share a factor.
    :param bool validate_args: whether to check values; by default as torch's distributions do.
    :raises TypeError: if ``loc`` is not a floating point tensor.
    :raises ValueError: if ``block_shape`` does not tile the event, a shape does not broadcast,
        ``alpha`` is negative, ``scale`` is not positive, or ``loc`` is not finite.

    **References**

    [1] Srivastava et al. (2014), *Dropout*, section 10, https://jmlr.org/papers/v15/srivastava14a

    [2] Kingma, Salimans, Welling (2015), https://arxiv.org/abs/1506.02557
    """

    factor_name = "alpha"
    alpha: Tensor | float
    arg_constraints = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "alpha": constraints.nonnegative,
    }

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor | float,
        alpha: Tensor | float,
        block_shape: Sequence[int],
        *,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(loc, scale, block_shape)
        if not isinstance(alpha, Tensor):
            alpha = check_nonnegative_float("alpha", alpha)
        self._set_factor(alpha, validate_args)

    def _check_factor(self) -> None:
        alpha = self.alpha
        if isinstance(alpha, Tensor) and alpha.requires_grad:  # the square root has none at 0
            check_all("alpha > 0 where it has a gradient", alpha, (alpha > 0) & (alpha < math.inf))
        elif isinstance(alpha, Tensor):
            check_all("alpha >= 0", alpha, (alpha >= 0) & (alpha < math.inf))

    @property
    def has_factor(self) -> bool:
        """Whether the factors vary."""
        return isinstance(self.alpha, Tensor) or self.alpha > 0

    @property
    def factor_mean(self) -> float:
        """The mean of a factor, 1."""
        return 1.0

    @property
    def factor_variance(self) -> Tensor | float:
        """The variance of a factor, alpha."""
        return self.alpha

    @property
    def median(self) -> Tensor:
        """The median of each weight by itself, its mean; no gradient is recorded."""
        return self.loc.detach()

    def draw_factors(self, shape: Sequence[int]) -> Tensor:
        """
        Draw factors alone, from N(1, alpha).

        :param shape: theirs, to which ``alpha`` broadcasts.
        """
        normals = self.loc.new_empty(shape).normal_()
        if isinstance(self.alpha, Tensor):
            return 1 + normals * self.alpha.sqrt()
        return normals.mul_(math.sqrt(self.alpha)).add_(1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the exact log density; sums run in float64."""
        if self._validate_args:
            self._validate_sample(value)
        rest = value - self.loc
        dims = tuple(range(-len(self.block_shape), 0))
        if not self.has_factor:
            total = -block_square_ratios(rest, self.scale, self.block_shape) / 2
        else:
            squares = block_square_ratios(self.loc, self.scale, self.block_shape)
            # Along m the variance is 1 + alpha d^2. It is taken apart before squaring: for blocks
            # far from 0 the difference of two large squares would lose what is left of them.
            along = self._products(rest) / squares.clamp(min=torch.finfo(torch.float64).tiny)
            across = rest - scale_blocks(self.loc, along.to(self.loc.dtype), self.block_shape)
            total = -block_square_ratios(across, self.scale, self.block_shape) / 2
            spread = 1 + in_double(self.alpha) * squares
            total = total - along.square() * squares / spread / 2 - spread.log() / 2
        return (total.sum(dims) - self._log_scale_sum(2 * math.pi)).to(self.loc.dtype)

    def _products(self, rest: Tensor) -> Tensor:
        """Sum over each block of ``rest`` times ``loc``, both in units of ``scale``."""
        whitened = (rest / self.scale).to(torch.float64) * (self.loc / self.scale)
        return interleave(whitened, self.block_shape).sum(block_dims(len(self.block_shape)))

    def mask_information(self, square_sums: Tensor | None = None) -> Tensor:
        r"""
        Return :math:`\frac12 \log(1 + \alpha d_k^2)`, that of a block and its factor, in float64.

        Shapes: ``(*batch, *grid)``, before an expansion of the batch.

        :param torch.Tensor square_sums: those of the blocks of ``loc``, if at hand.
        """
        distances = block_square_ratios(
            self._unexpanded_loc, self.scale, self.block_shape, square_sums
        )
        return (in_double(self.alpha) * distances).log1p() / 2
