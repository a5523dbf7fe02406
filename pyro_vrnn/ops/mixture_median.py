r"""
Median of :math:`p \mathcal{N}(0, 1) + (1 - p) \mathcal{N}(d, 1)`.

With P the larger of p and 1 - p, the median lies at a distance t from the mean of the component
with weight P, towards the other, where

.. math::
    P\, \mathrm{erf}(t / \sqrt 2) = (1 - P)\, \mathrm{erf}((d - t) / \sqrt 2), \qquad
    0 \le t \le d / 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_ROUNDS = 64


@torch.no_grad()
def mixture_median(d: Tensor, p: Tensor | float) -> Tensor:
    r"""
    Return the median, in float64, by a Newton iteration kept inside a shrinking bracket.

    Shapes: ``d`` and ``p`` broadcast; no gradient is recorded.

    Example::

        >>> mixture_median(torch.tensor([2.0, 50.0]), 0.5)
        tensor([ 1., 25.], dtype=torch.float64)

    :param torch.Tensor d: distance :math:`d \ge 0` of the component means.
    :param p: probability of the component at 0.
    """
    d = d.to(torch.float64)
    d, spike = torch.broadcast_tensors(d, torch.as_tensor(p, dtype=d.dtype, device=d.device))
    heavy = torch.maximum(spike, 1 - spike)
    low = torch.zeros_like(d)
    # erf of the right-hand side is at most 1.
    high = torch.minimum(d / 2, math.sqrt(2) * torch.erfinv((1 - heavy) / heavy))
    t = high
    for _ in range(_ROUNDS):
        excess = heavy * torch.erf(t / math.sqrt(2))
        excess = excess - (1 - heavy) * torch.erf((d - t) / math.sqrt(2))
        slope = heavy * torch.exp(-t * t / 2) + (1 - heavy) * torch.exp(-((d - t) ** 2) / 2)
        low, high = torch.where(excess < 0, t, low), torch.where(excess < 0, high, t)
        step = t - excess / (math.sqrt(2 / math.pi) * slope)
        t = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
    t = torch.where(heavy == 0.5, d / 2, t)
    return torch.where(spike >= 0.5, t, d - t)
