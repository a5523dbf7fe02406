"""How many observations a site counts, and what coding them uniformly would cost."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_factor
from torch.distributions import Bernoulli, Categorical, OneHotCategorical

Site = dict[str, Any]
CLASS_SITES = "class_sites"  # attribute of an export


def num_observations(site: Site) -> float:
    """
    Return how many observations a site counts: elements of its plates, not those masked out.

    An event (``to_event``) counts once, a factor never, and a scale as it scales the likelihood:
    a minibatch of B counts N.
    """
    if site_is_factor(site):
        return 0.0
    fn, value = site["fn"], torch.as_tensor(site["value"])
    batch = value.shape[: value.dim() - fn.event_dim]
    counts = torch.ones(torch.broadcast_shapes(batch, fn.batch_shape), dtype=torch.float64)
    for part in _wrapped(fn):
        if isinstance(part, MaskedDistribution):
            counts = scale_and_mask(counts, 1.0, _on_cpu(part._mask))
    return float(scale_and_mask(counts, _on_cpu(site["scale"]), _on_cpu(site["mask"])).sum())


def uniform_log_likelihood(site: Site) -> float | None:
    """Return the log-likelihood of a site under uniform coding; None if its values are no code."""
    if site_is_factor(site):
        return 0.0
    fn = site["fn"]
    base = _wrapped(fn)[-1]
    if isinstance(base, Categorical):
        size, per_event = base.param_shape[-1], fn.event_shape.numel()
    elif isinstance(base, OneHotCategorical):
        size = base.event_shape[-1]
        per_event = fn.event_shape.numel() // size
    elif isinstance(base, Bernoulli):
        size, per_event = 2, fn.event_shape.numel()
    else:
        return None
    return -num_observations(site) * per_event * math.log(size)


def is_class(site: Site) -> bool:
    """Return whether a site's values are ids of classes or words, in no order."""
    return isinstance(_wrapped(site["fn"])[-1], (Categorical, OneHotCategorical))


def _wrapped(fn: Any) -> list[Any]:
    """Return a distribution and those it wraps."""
    found = [fn]
    while hasattr(found[-1], "base_dist"):
        found.append(found[-1].base_dist)
    return found


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, torch.Tensor) else value
