"""The parts of one site's analytic KL, as a trace of the guide and one of the model have it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Independent, Normal

from pyro_vrnn.distributions.block_factor import BlockFactorNormal
from pyro_vrnn.distributions.deferred import Deferred
from pyro_vrnn.distributions.kl import gal_gap, kl_parts
from pyro_vrnn.distributions.spike_and_slab import SpikeAndSlab

Site = dict[str, Any]


class KLSplit(NamedTuple):
    """
    Parts of one site's KL in nats, with the program's scales and masks.

    ``gal_gap`` (exact minus Gal's) and ``mask_entropy`` are None where there is no spike.
    """

    constant: float
    slab: float
    mask: float
    gal_gap: float | None
    mask_entropy: float | None


def kl_split(site: Site, prior: Site) -> KLSplit | None:
    """Return the parts of the KL of a guide's site from a model's; None for other families."""
    q, p = site["fn"], prior["fn"]
    q = q.base if isinstance(q, Deferred) else q
    if isinstance(q, BlockFactorNormal):
        try:
            parts = kl_parts(q, p)
        except NotImplementedError:  # a prior that is no diagonal normal
            return None
        gap = gal_gap(q) if isinstance(q, SpikeAndSlab) and q.has_factor else None
        values = [*parts, *([] if gap is None else [gap, gap - parts.mask])]
    elif (terms := _normal_parts(q, p)) is not None:
        values = [*terms, torch.zeros_like(terms[0])]
    else:
        return None
    constant, slab, mask, *rest = (_sum(value, site) for value in values)
    return KLSplit(constant, slab, mask, *(rest or (None, None)))


def has_noise(site: Site) -> bool:
    """Whether what a guide draws at this site has a density, as far as its class says so."""
    fn = site["fn"]
    fn = fn.base if isinstance(fn, Deferred) else fn
    return not isinstance(fn, BlockFactorNormal) or fn.has_noise


def _normal_parts(q: Any, p: Any) -> tuple[Tensor, Tensor] | None:
    """Return the constant and the slab part of two diagonal normals, of the batch shape."""
    bases = [_without_events(fn) for fn in (q, p)]
    if not all(isinstance(base, Normal) for base in bases) or q.event_shape != p.event_shape:
        return None
    (loc, scale), (loc0, scale0) = ((base.loc.double(), base.scale.double()) for base in bases)
    ratio = scale / scale0
    constant = (ratio - 1) * (ratio + 1) / 2 - ratio.log()
    slab = ((loc - loc0) / scale0).square() / 2
    dims = tuple(range(-len(q.event_shape), 0))
    constant, slab = (part.sum(dims) if dims else part for part in (constant, slab))
    return constant, slab


def _without_events(fn: Any) -> Any:
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn


def _sum(value: Tensor, site: Site) -> float:
    return float(scale_and_mask(value, site["scale"], site["mask"]).sum(dtype=torch.float64))
