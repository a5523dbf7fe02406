r"""
Exact divergence of :class:`SpikeAndSlab` and :class:`MultiplicativeNormal` from a diagonal normal.

Whiten u = w_k / sigma. Both components then have unit covariance, and rotating onto the line from 0
to m_k / sigma leaves n - 1 standard normals and p N(0, 1) + (1 - p) N(d, 1), d = ||m_k / sigma||.
With I the mutual information of a block and its component, and the prior N(m0, s^2),

.. math::
    \mathrm{KL}_k = \sum \tfrac12 \left(\frac{\sigma^2}{s^2} - 1 - \log \frac{\sigma^2}{s^2}\right)
    + \frac{p \|m_0\|^2 + (1 - p) \|m_k - m_0\|^2}{2 s^2} - I(d_k^2, p).

Only the first part needs the number of weights: no training of m removes it. Without noise, in
:class:`~pyro_vrnn.distributions.BlockDropout`, it is infinite and left out, so that the divergence
is defined up to a constant; I is then the entropy of the mask.

The same holds for every random factor z of a block, w_k = z m_k + sigma epsilon: the entropy of a
block is that of its noise and I(w_k; z), and the second moment needs the first two of z,

.. math::
    \mathrm{KL}_k = \sum \tfrac12 \left(\frac{\sigma^2}{s^2} - 1 - \log \frac{\sigma^2}{s^2}\right)
    + \frac{\mathrm{Var}(z) \|m_k\|^2 + \|E(z)\, m_k - m_0\|^2}{2 s^2} - I(w_k; z).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Independent, Normal
from torch.distributions.kl import register_kl

from pyro_vrnn.distributions.block_factor import BlockFactorNormal, in_double
from pyro_vrnn.distributions.spike_and_slab import SpikeAndSlab
from pyro_vrnn.ops.blocks import block_square_ratios, block_square_sums, is_flat, sum_event
from pyro_vrnn.ops.mutual_information import binary_entropy
from pyro_vrnn.shapes import shape_text

_SMALL = 2**16  # tensors up to this size are worth a float64 copy


class KLParts(NamedTuple):
    r"""
    The three parts of the divergence, in nats and float64, of the batch shape; they sum to it.

    :param torch.Tensor constant: :math:`\sum \frac12 (\sigma^2/s^2 - 1 - \log \sigma^2/s^2)`, what
        the noise costs whatever the means are; without noise 0 in the place of infinity.
    :param torch.Tensor slab: :math:`\sum_k E \|z_k m_k - m_0\|^2 / (2 s^2)`; of a spike and slab
        that is :math:`\sum_k (p \|m_0\|^2 + (1-p) \|m_k - m_0\|^2) / (2 s^2)`.
    :param torch.Tensor mask: minus the mutual information of the blocks and their factors; of a
        spike and slab :math:`-\sum_k I(d_k^2, p)`, between minus the entropy of the mask and 0;
        without noise that entropy.
    """

    constant: Tensor
    slab: Tensor
    mask: Tensor


def kl_parts(q: BlockFactorNormal, prior: Independent[Any]) -> KLParts:
    """
    Return the parts of the exact divergence of ``q`` from ``prior``.

    For a :class:`~pyro_vrnn.distributions.BlockDropout` they sum to it up to a constant.

    Example::

        >>> from pyro.distributions import Normal
        >>> prior = Normal(0.0, 1.0).expand([4, 3]).to_event(2)
        >>> q = SpikeAndSlab(torch.full((4, 3), 2.0), 0.1, 0.5, block_shape=(4, 1))
        >>> [round(part.item(), 3) for part in kl_parts(q, prior)]
        [21.691, 12.0, -2.079]

    :param BlockFactorNormal q: the guide's distribution.
    :param prior: a diagonal normal, ``Normal(...).to_event(q.event_dim)``.
    :raises NotImplementedError: if ``prior`` is not of that form.
    :raises ValueError: if the event shapes differ.
    """
    loc0, scale0 = _diagonal_normal(q, prior)
    dims = tuple(range(-q.event_dim, 0))
    loc, block_shape = q._unexpanded_loc, q.block_shape
    centred = _is_zero(loc0)
    needed = (scale0, *((q.scale,) if q.has_factor and q.has_noise else ()))
    shared = centred and any(is_flat(scale, q.event_dim) for scale in needed)
    square_sums = block_square_sums(loc, block_shape) if shared else None

    if q.has_noise:
        constant = _scale_part(q.scale, scale0, q.event_shape)
    else:
        constant = loc.new_zeros((), dtype=torch.float64)
    mean, variance = in_double(q.factor_mean), in_double(q.factor_variance)
    ratios = block_square_ratios(loc, scale0, block_shape, square_sums)
    if centred:
        slab = (variance + mean**2) * ratios
    else:
        slab = block_square_ratios(q.scaled(loc, q.factor_mean) - loc0, scale0, block_shape)
        slab = slab + variance * ratios
    mask = torch.zeros_like(constant)
    if q.has_factor:
        mask = -q.mask_information(square_sums).sum(dims)
    shape = torch.broadcast_shapes(q.batch_shape, prior.batch_shape)
    parts = (constant, slab.sum(dims) / 2, mask)
    return KLParts(*[part.expand(shape) for part in parts])


def gal_kl_divergence(q: SpikeAndSlab, prior: Independent[Any]) -> Tensor:
    r"""
    Gal and Ghahramani's approximation: the mask part taken as if spike and slab never overlapped.

    .. math::
        0 \le \mathrm{KL} - \mathrm{KL}_\mathrm{Gal} = \sum_k H_B(p_k) - I(d_k^2, p_k)
        \le \sum_k H_B(p_k).

    Without noise there is no overlap, and the two are the same. Parameters and errors are those of
    :func:`kl_parts`.
    """
    entropy = _mask_entropy(q)
    parts = kl_parts(q, prior)
    return (parts.constant + parts.slab - entropy).to(q.loc.dtype)


def gal_gap(q: SpikeAndSlab) -> Tensor:
    """Return the exact divergence minus Gal and Ghahramani's, in float64; it needs no prior."""
    information = q.mask_information().sum(tuple(range(-q.event_dim, 0)))
    return (_mask_entropy(q) - information).expand(q.batch_shape)


def _kl_block_factor_normal(q: BlockFactorNormal, prior: Independent[Any]) -> Tensor:
    parts = kl_parts(q, prior)
    return (parts.constant + parts.slab + parts.mask).to(q.loc.dtype)


register_kl(BlockFactorNormal, Independent)(_kl_block_factor_normal)


def _diagonal_normal(q: BlockFactorNormal, prior: Independent[Any]) -> tuple[Tensor, Tensor]:
    base: Any = prior
    event_dim = 0
    while isinstance(base, Independent):
        base, event_dim = base.base_dist, event_dim + base.reinterpreted_batch_ndims
    if not isinstance(base, Normal) or event_dim != q.event_dim:
        raise NotImplementedError(
            f"Expected a Normal prior with {q.event_dim} event dims, got {prior}."
        )
    if prior.event_shape != q.event_shape:
        raise ValueError(
            f"Expected a prior of event shape {shape_text(q.event_shape)}, "
            f"got {shape_text(prior.event_shape)}."
        )
    return _unexpanded(base.loc), _unexpanded(base.scale)


def _unexpanded(x: Tensor) -> Tensor:
    for dim, stride in enumerate(x.stride()):
        if stride == 0 and x.shape[dim] > 1:
            x = x.narrow(dim, 0, 1)
    return x


def _is_zero(x: Tensor) -> bool:
    """Whether ``x`` is known to be 0 without waiting for a GPU."""
    return x.numel() == 1 and x.device.type == "cpu" and not x.requires_grad and x.item() == 0.0


def _scale_part(scale: Tensor, scale0: Tensor, event_shape: torch.Size) -> Tensor:
    if max(scale.numel(), scale0.numel()) <= _SMALL:
        scale, scale0 = scale.to(torch.float64), scale0.to(torch.float64)
    ratio = scale / scale0
    terms: Tensor = _ScaleTerm.apply(ratio)  # type: ignore[no-untyped-call]
    return sum_event(terms, event_shape)


class _ScaleTerm(torch.autograd.Function):
    """(r^2 - 1) / 2 - log r, in few passes: r is as large as the weights for learned scales."""

    @staticmethod
    def forward(ctx: Any, ratio: Tensor) -> Tensor:
        ctx.save_for_backward(ratio)
        # (r - 1) (r + 1), not r^2 - 1, which loses what r has where both scales are close.
        return (ratio - 1).mul_(ratio + 1).mul_(0.5).sub_(ratio.log())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (ratio,) = ctx.saved_tensors
        return ratio.reciprocal().neg_().add_(ratio).mul_(grad)


def _mask_entropy(q: SpikeAndSlab) -> Tensor:
    if not isinstance(q, SpikeAndSlab):
        raise TypeError(f"Expected q to be a SpikeAndSlab, got {type(q).__name__}.")
    p = torch.as_tensor(q.drop_prob, dtype=torch.float64, device=q.loc.device)
    return sum_event(binary_entropy(p), q.grid_shape)
