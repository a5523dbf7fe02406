"""The anatomy of an ELBO as an xarray dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyro_vrnn.diagnostics._datasets import Variable, make_dataset
from pyro_vrnn.diagnostics.elbo_terms import ELBOAnatomy, SiteKL
from pyro_vrnn.shapes import FloatArray

PARTS = ("constant", "slab", "mask", "gal", "gal_gap", "mask_entropy")


def elbo_dataset(anatomy: ELBOAnatomy) -> Any:
    """Return variables by draw, by observed site, by site and by layer."""
    names = {
        "site": [site.name for site in anatomy.sites],
        "layer": [part.name for part in anatomy.layers],
        "observed_site": [part.name for part in anatomy.log_likelihood],
    }
    expected = [part.expected for part in anatomy.log_likelihood]
    variables: dict[str, Variable] = {
        "elbo": (("draw",), anatomy.elbo_draws),
        "expected_log_likelihood": (("draw",), anatomy.expected_log_likelihood_draws),
        "log_likelihood": (("observed_site",), np.array([e.value for e in expected])),
        "log_likelihood_error": (
            ("observed_site",),
            np.array([e.standard_error for e in expected]),
        ),
        "site_layer": (("site",), np.array([site.layer for site in anatomy.sites], dtype=str)),
        **_columns("site", "kl", anatomy.sites),
        **_columns("layer", "layer_kl", anatomy.layers),
    }
    attrs = {
        "elbo": anatomy.elbo.value,
        "elbo_error": anatomy.elbo.standard_error,
        "kl": anatomy.kl.value,
        "kl_error": anatomy.kl.standard_error,
        "num_observations": anatomy.num_observations,
        "seed": anatomy.seed,
        "has_density": int(anatomy.has_density),  # netCDF has no booleans
        "unit": "nats",
    }
    if anatomy.reference is not None:
        attrs |= {"reference": anatomy.reference, "reference_kind": anatomy.reference_kind}
    coords = {dim: np.array(values, dtype=str) for dim, values in names.items()}
    return make_dataset(variables, coords, attrs)


def _columns(dim: str, prefix: str, parts: Sequence[SiteKL]) -> dict[str, Variable]:
    def column(values: list[float | None]) -> FloatArray:
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    kl = [part.kl for part in parts]
    sampled = [part.sampled for part in parts]
    found = {
        prefix: column([estimate.value for estimate in kl]),
        f"{prefix}_error": column([estimate.standard_error for estimate in kl]),
        f"{prefix}_sampled": column([None if s is None else s.value for s in sampled]),
        f"{prefix}_sampled_error": column(
            [None if s is None else s.standard_error for s in sampled]
        ),
    }
    found |= {f"{prefix}_{name}": column([getattr(part, name) for part in parts]) for name in PARTS}
    return {name: ((dim,), values) for name, values in found.items()}
