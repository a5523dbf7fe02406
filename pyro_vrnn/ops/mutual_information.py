r"""
Mutual information of a two-component Gaussian mixture and its component.

.. math::
    B \sim \mathrm{Bernoulli}(1 - p), \quad y = d B + \mathcal{N}(0, 1), \qquad
    I(d^2, p) = I(y; B) = H(y) - \tfrac12 \log 2 \pi e.

It is 0 at d = 0 and at p in {0, 1}, and the entropy of a Bernoulli(p) as d grows. Two routes:
quadrature, slow and accurate at every (d, p), and for training a table made from it for each p.

With :math:`\ell(x) = \log(p / (1 - p)) - d x` and x = y - d / 2, the density of y and the posterior
probability of the spike are

.. math::
    f = \sqrt{p (1 - p) / 2 \pi}\, e^{-x^2 / 2 - d^2 / 8}\, 2 \cosh(\ell / 2), \qquad
    \pi = 1 / (1 + e^{-\ell}),

and the I-MMSE identity [1] gives a derivative that is an integral of a positive function:

.. math::
    D(d^2, p) = \frac{\partial I}{\partial (d^2)} = \tfrac12 E[\pi (1 - \pi)], \qquad
    I = \int_0^{d^2} D(s, p)\, ds = H_B(p) - E[H_B(\pi)].

Both expectations are of analytic functions whose only singularities lie at distance :math:`\pi`
from the real axis of :math:`\ell`, so that the trapezoid rule converges exponentially.

**References**

[1] Guo, Shamai, Verdu (2005), https://arxiv.org/abs/cs/0412108
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyro_vrnn.shapes import check_probability

FAR = 20.0  # from this distance on I = H_B(p): what is left is below exp(-FAR**2 / 8) = 2e-22
NEAR = 1.0  # up to this distance I is integrated from D, beyond it is a difference of entropies

_HALF_WIDTH = 9.5  # in units of x; exp(-9.5**2 / 2) = 3e-20
_GAUSS_NODES = 16
_CHUNK = 512

_INTERVALS, _DEGREE, _FIT_NODES = 640, 6, 10
_MAX_TABLES = 16
_CACHE_CHUNK = 32768


def binary_entropy(p: Tensor) -> Tensor:
    """
    Entropy in nats of a Bernoulli variable; 0 at both ends, accurate near 0.

    >>> binary_entropy(torch.tensor([0.0, 0.25, 0.5]))
    tensor([0.0000, 0.5623, 0.6931])
    """
    return -torch.xlogy(p, p) - torch.special.xlog1py(1 - p, -p)


def mutual_information(d2: Tensor, p: Tensor | float) -> Tensor:
    r"""
    Mutual information :math:`I(d^2, p)` in nats by quadrature, in float64.

    The absolute error is below 1e-13 and the relative error below 1e-8 for every p and d.

    Shapes: ``d2`` and ``p`` broadcast; no gradient is recorded.

    Example::

        >>> mutual_information(torch.tensor([0.0, 1.0, 1e4]), 0.5)
        tensor([0.0000, 0.1114, 0.6931], dtype=torch.float64)

    :param torch.Tensor d2: squared distance :math:`d^2 \ge 0` of the component means.
    :param p: probability of the component at 0.
    """
    return _quadrature(_information, d2, p)


def mutual_information_grad(d2: Tensor, p: Tensor | float) -> Tensor:
    r"""
    Derivative :math:`\partial I / \partial (d^2)` by quadrature, in float64; p (1 - p) / 2 at 0.

    Shapes: ``d2`` and ``p`` broadcast; no gradient is recorded.

    :param torch.Tensor d2: squared distance :math:`d^2 \ge 0` of the component means.
    :param p: probability of the component at 0.
    """
    return _quadrature(_derivative, d2, p)


@torch.no_grad()
def _quadrature(rule: Callable[[Tensor, Tensor], Tensor], d2: Tensor, p: Tensor | float) -> Tensor:
    d2 = d2.to(torch.float64)
    d2, probs = torch.broadcast_tensors(d2, torch.as_tensor(p, dtype=d2.dtype, device=d2.device))
    if d2.numel() == 0:
        return torch.empty_like(d2, memory_format=torch.contiguous_format)
    pairs = zip(d2.reshape(-1).split(_CHUNK), probs.reshape(-1).split(_CHUNK), strict=True)
    return torch.cat([rule(*pair) for pair in pairs]).reshape(d2.shape)


def _information(d2: Tensor, p: Tensor) -> Tensor:  # (K,), (K,)
    value = binary_entropy(p)
    near, far = d2 <= NEAR**2, d2 >= FAR**2
    nodes, weights = _gauss_legendre(d2)
    inner = d2[near, None] * nodes  # (K', nodes)
    value[near] = d2[near] * (_derivative(inner, p[near, None]) * weights).sum(-1)
    apart = ~(near | far)
    value[apart] -= _posterior_mean(d2[apart], p[apart], _entropy_term)
    return torch.where(_degenerate(p), 0.0 * d2.clamp(max=1.0), value)


def _derivative(d2: Tensor, p: Tensor) -> Tensor:  # (*K), (*K)
    inside = _posterior_mean(d2.clamp(max=FAR**2), p, _variance_term) / 2
    value = torch.where(d2 >= FAR**2, torch.zeros_like(inside), inside)
    return torch.where(_degenerate(p), 0.0 * d2.clamp(max=1.0), value)


def _degenerate(p: Tensor) -> Tensor:
    return (p == 0) | (p == 1)


def _posterior_mean(d2: Tensor, p: Tensor, term: Callable[[Tensor], Tensor]) -> Tensor:
    r"""Integrate :math:`f g(\pi)`, ``term`` being :math:`2 \cosh(a / 2) g e^{a / 2}`."""
    inner = torch.where(_degenerate(p), 0.5, p)
    d = d2.sqrt()[..., None]
    logit = (torch.log(inner) - torch.log1p(-inner))[..., None]
    # The maximum of exp(-x^2 / 2 - |logit - d x| / 2), around which both tails are negligible.
    centre = torch.minimum(torch.maximum(logit / d.clamp(min=1e-12), -d / 2), d / 2)
    # A step of 1/2 in the log odds, and never above 1/4 in x.
    rate = max(4, math.ceil(2 * float(d.nan_to_num(nan=0.0).max()))) if d.numel() else 4
    reach = math.ceil(_HALF_WIDTH * rate)
    grid = torch.arange(-reach, reach + 1, dtype=d.dtype, device=d.device) / rate
    x = centre + grid
    a = (logit - d * x).abs()
    integrand = torch.exp(-(x * x) / 2 - d * d / 8 - a / 2) * term(a)
    norm = torch.sqrt(inner * (1 - inner) / (2 * math.pi)) / rate
    return norm * integrand.sum(-1)


def _variance_term(a: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-a))


def _entropy_term(a: Tensor) -> Tensor:
    t = torch.exp(-a).clamp(min=1e-300)
    return (1 + t) * torch.log1p(t) / t + a


def _gauss_legendre(like: Tensor) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(_GAUSS_NODES)
    return like.new_tensor((nodes + 1) / 2), like.new_tensor(weights / 2)


class MutualInformationTable:
    r"""
    Piecewise polynomials in d of :math:`I / d^2` and of D on [0, 20], for one p.

    Made once from the quadrature; a look-up costs one gather and a Horner scheme, in float64, never
    waits for a GPU, and is within 1e-14 of the quadrature.

    :param float p: probability of the component at 0.
    """

    def __init__(self, p: float) -> None:
        self.p = check_probability("p", p)
        self.limit = float(binary_entropy(torch.tensor(self.p, dtype=torch.float64)))
        self.coefficients = self._fit()  # (degree + 1, 2, intervals)
        self._copies: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def _fit(self) -> Tensor:
        nodes, weights = np.polynomial.chebyshev.chebgauss(_FIT_NODES)
        width = FAR / _INTERVALS
        d = width * (np.arange(_INTERVALS)[:, None] + (nodes + 1) / 2)  # (intervals, nodes)
        d2 = torch.from_numpy(d).square()
        values = torch.stack(
            [mutual_information(d2, self.p) / d2, mutual_information_grad(d2, self.p)], 1
        )
        basis = np.polynomial.chebyshev.chebvander(nodes, _DEGREE) * weights[:, None] * 2 / np.pi
        basis[:, 0] /= 2
        to_monomial = np.zeros((_DEGREE + 1, _DEGREE + 1))
        for k, row in enumerate(np.eye(_DEGREE + 1)):
            to_monomial[: k + 1, k] = np.polynomial.chebyshev.cheb2poly(row)[: k + 1]
        return torch.einsum("jn,irn->jri", torch.from_numpy(to_monomial @ basis.T), values)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the coefficients and the limit at large d, on ``device``."""
        if device not in self._copies:
            limit = torch.tensor([self.limit], dtype=torch.float64)
            self._copies[device] = (self.coefficients.to(device), limit.to(device))
        return self._copies[device]

    def __call__(self, d2: Tensor) -> tuple[Tensor, Tensor]:
        """Return I and D at ``d2``, in float64 and of its shape."""
        coefficients, limit = self.on(d2.device)
        return _look_up(d2, coefficients, limit)


@functools.lru_cache(maxsize=256)
def mutual_information_table(p: float) -> MutualInformationTable:
    """
    Return the table for ``p``, made at the first call.

    >>> value, slope = mutual_information_table(0.5)(torch.tensor([0.0, 1.0]))
    >>> value, slope
    (tensor([0.0000, 0.1114], dtype=torch.float64), tensor([0.1250, 0.0995], dtype=torch.float64))
    """
    return MutualInformationTable(p)


def _look_up(
    d2: Tensor,  # (*K)
    coefficients: Tensor,  # (degree + 1, 2, P * intervals)
    limits: Tensor,  # (P,)
    which: Tensor | None = None,  # (*K), the row of P of each element
) -> tuple[Tensor, Tensor]:
    flat = d2.to(torch.float64).reshape(-1)
    rows = torch.zeros_like(flat, dtype=torch.int64) if which is None else which.reshape(-1)
    if flat.numel() <= _CACHE_CHUNK:
        value, slope = _look_up_flat(flat, coefficients, limits, rows)
    else:
        pairs = zip(flat.split(_CACHE_CHUNK), rows.split(_CACHE_CHUNK), strict=True)
        parts = [_look_up_flat(x, coefficients, limits, row) for x, row in pairs]
        value, slope = torch.cat([v for v, _ in parts]), torch.cat([s for _, s in parts])
    return value.reshape(d2.shape), slope.reshape(d2.shape)


def _look_up_flat(
    d2: Tensor, coefficients: Tensor, limits: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    position = d2.sqrt() * (_INTERVALS / FAR)
    # NaN would be an index out of range; it survives in t.
    interval = position.nan_to_num(nan=0.0).clamp(0, _INTERVALS - 1).to(torch.int64)
    t = (2 * (position - interval) - 1).clamp(max=1.0)
    index = torch.add(interval, rows, alpha=_INTERVALS)
    ratio, slope = (_horner(coefficients[:, kind].unbind(0), index, t) for kind in range(2))
    far = d2 >= FAR**2
    value = torch.where(far, limits.index_select(0, rows), ratio * d2)
    return value, slope.masked_fill(far, 0.0)


def _horner(coefficients: tuple[Tensor, ...], index: Tensor, t: Tensor) -> Tensor:
    result = coefficients[-1].index_select(0, index)
    for coefficient in reversed(coefficients[:-1]):
        result = torch.addcmul(coefficient.index_select(0, index), result, t)
    return result


class _TabulatedInformation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, d2: Tensor, p: Tensor | float) -> Tensor:
        value, slope = _value_and_slope(d2, p)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return grad * slope, None


def _value_and_slope(d2: Tensor, p: Tensor | float) -> tuple[Tensor, Tensor]:
    if not isinstance(p, Tensor):
        return mutual_information_table(float(p))(d2)
    d2, p = torch.broadcast_tensors(d2, p.detach().to(torch.float64))
    distinct, which = torch.unique(p, return_inverse=True)
    if len(distinct) > _MAX_TABLES:
        return mutual_information(d2, p), mutual_information_grad(d2, p)
    copies = [mutual_information_table(value).on(d2.device) for value in distinct.tolist()]
    coefficients = torch.cat([copy[0] for copy in copies], -1)
    return _look_up(d2, coefficients, torch.cat([copy[1] for copy in copies]), which)


def tabulated_mutual_information(d2: Tensor, p: Tensor | float) -> Tensor:
    r"""
    :math:`I(d^2, p)` for training: from tables, with the gradient D to ``d2``.

    The gradient is once differentiable and finite everywhere: p (1 - p) / 2 at d = 0, 0 far out.
    A float ``p`` never waits for a GPU. A tensor with up to 16 distinct values uses one table for
    each; one with more falls to quadrature. No gradient reaches ``p``.

    Shapes: ``d2`` and ``p`` broadcast, and the result has the shape of ``d2`` broadcast to ``p``.

    Example::

        >>> d2 = torch.tensor([0.0, 4.0], dtype=torch.float64, requires_grad=True)
        >>> tabulated_mutual_information(d2, 0.25).sum().backward()
        >>> d2.grad
        tensor([0.0937, 0.0458], dtype=torch.float64)

    :param torch.Tensor d2: squared distance :math:`d^2 \ge 0`, in float64.
    :param p: probability of the component at 0: a float, or a tensor of one for each block.
    :raises TypeError: if ``d2`` is not float64.
    """
    if d2.dtype != torch.float64:
        raise TypeError(f"Expected d2 of dtype torch.float64, got {d2.dtype}.")
    if isinstance(p, Tensor):
        d2, p = torch.broadcast_tensors(d2, p)
    value: Tensor = _TabulatedInformation.apply(d2, p)  # type: ignore[no-untyped-call]
    return value
