"""The sites of a trace that count in an ELBO."""

from __future__ import annotations

from typing import Any

from pyro.poutine.util import site_is_subsample

Site = dict[str, Any]


def sample_sites(trace: Any) -> dict[str, Site]:
    """Return the sites that count: those of pyro.deterministic do not."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and not (site_is_subsample(site) or site["infer"].get("_deterministic"))
    }


def latent_sites(trace: Any) -> dict[str, Site]:
    """Return those of them that are not observed."""
    return {n: site for n, site in sample_sites(trace).items() if not site["is_observed"]}
