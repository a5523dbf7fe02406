"""How many observations a site counts, and what coding them uniformly would cost."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_factor
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, OneHotCategorical

from pyro_vrnn.distributions.wrapped import unmasked, wrapped

Site = dict[str, Any]
CLASS_SITES = "class_sites"  # attribute of an export


def num_observations(site: Site) -> float:
    """
    Return how many observations a site counts: elements of its plates, not those masked out.

    An event (``to_event``) counts once if any element of it is not masked, a factor never, and a
    scale as it scales the likelihood: a minibatch of B counts N.
    """
    if site_is_factor(site):
        return 0.0
    return _total(unmasked(site["fn"], site["value"]).any(-1), site)


def uniform_log_likelihood(site: Site) -> float | None:
    """Return the log-likelihood of a site under uniform coding; None if its values are no code."""
    if site_is_factor(site):
        return 0.0
    base = wrapped(site["fn"])[-1]
    if isinstance(base, Categorical):
        size, elements = base.param_shape[-1], 1
    elif isinstance(base, OneHotCategorical):
        size = elements = base.event_shape[-1]
    elif isinstance(base, Bernoulli):
        size, elements = 2, 1
    else:
        return None
    return -_total(unmasked(site["fn"], site["value"]).sum(-1), site) / elements * math.log(size)


def _total(counts: Tensor, site: Site) -> float:
    scale, mask = _on_cpu(site["scale"]), _on_cpu(site["mask"])
    return float(scale_and_mask(counts.double(), scale, mask).sum())


def is_class(site: Site) -> bool:
    """Return whether a site's values are ids of classes or words, in no order."""
    return isinstance(wrapped(site["fn"])[-1], (Categorical, OneHotCategorical))


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, torch.Tensor) else value
