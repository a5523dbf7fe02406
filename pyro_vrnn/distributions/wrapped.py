"""Distributions inside others: events, expansions and masks wrap them."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor


def wrapped(fn: Any) -> list[Any]:
    """
    Return a distribution and those it wraps, the innermost last.

    >>> from pyro.distributions import Normal
    >>> fn = Normal(torch.zeros(4, 3), 1.0).mask(torch.tensor(True)).to_event(1)
    >>> [type(part).__name__ for part in wrapped(fn)]
    ['Independent', 'MaskedDistribution', 'Normal']
    """
    found = [fn]
    while hasattr(found[-1], "base_dist"):
        found.append(found[-1].base_dist)
    return found


def unmasked(fn: Any, value: Any) -> Tensor:
    """
    Return which elements no mask inside a distribution hides, ``(*batch, elements of an event)``.

    >>> from pyro.distributions import Normal
    >>> mask = torch.tensor([True, False, True])
    >>> unmasked(Normal(torch.zeros(2, 3), 1.0).mask(mask).to_event(1), torch.zeros(2, 3))
    tensor([[ True, False,  True],
            [ True, False,  True]])

    :param value: of a site with the distribution, which may be the larger one.
    :returns: on the CPU.
    """
    shape = torch.as_tensor(value).shape
    shape = torch.broadcast_shapes(shape, fn.batch_shape + fn.event_shape)
    kept = torch.tensor(True)
    for part in wrapped(fn):
        if isinstance(part, MaskedDistribution):
            mask = torch.as_tensor(part._mask).cpu()
            kept = kept & mask[(..., *[None] * part.event_dim)]
    batch = shape[: len(shape) - fn.event_dim]
    return kept.expand(shape).reshape(*batch, math.prod(shape[len(batch) :]))
