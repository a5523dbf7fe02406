"""The attributes of an export: what can be written to a file, as numbers and text."""

from __future__ import annotations

import datetime
import json
from typing import Any

from pyro_vrnn.diagnostics._history import weight_guides
from pyro_vrnn.infer import AutoWeightGuide, FitResult, GuideSite
from pyro_vrnn.runs import versions

FIT_FACTS = ("steps_per_epoch", "wall_time", "best_epoch", "stopped")


def attributes(model: Any, guide: Any, seed: int | None) -> dict[str, Any]:
    """Return libraries and versions, programs, seed, and what a weight guide decided by site."""
    found = versions()
    attrs: dict[str, Any] = {
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(),
        "creation_library": "pyro_vrnn",
        "creation_library_version": found["pyro-vrnn"],
        "inference_library": "pyro",
        "inference_library_version": found["pyro-ppl"],
        "torch_version": found["torch"],
        "model": _name_of(model),
        "guide": _name_of(guide),
        "draws": "function draws: one weight for all sequences and time steps of a draw",
    }
    if seed is not None:
        attrs["seed"] = seed
    return attrs | _guide_facts(guide)


def fit_attributes(result: FitResult) -> dict[str, Any]:
    """Return what is known of a run of ``fit``."""
    facts = {name: getattr(result, name) for name in FIT_FACTS}
    # The export's own seed is another one.
    facts |= {"fit_seed": result.seed, "fit_versions": json.dumps(result.versions)}
    return {name: value for name, value in facts.items() if value is not None}


def _guide_facts(guide: Any) -> dict[str, Any]:
    by_site: dict[str, dict[str, Any]] = {}
    for part in weight_guides(guide):
        for name, site in part.sites.items():
            facts = _site_facts(part, site)
            for key, value in facts.items():
                by_site.setdefault(key, {})[name] = value
    attrs: dict[str, Any] = {name: json.dumps(values) for name, values in by_site.items()}
    if 0 in by_site.get("scales", {}).values():
        attrs["bound"] = (
            "up to a constant: sites without noise have no density, so log_g__ is left out and the "
            "constant part of their divergence, which is infinite, counts as 0"
        )
    return attrs


def _site_facts(part: AutoWeightGuide, site: GuideSite) -> dict[str, Any]:
    scale = float(part.distribution(site.name).scale.double().mean())
    return {
        f"{part.factor_name}s": getattr(site, part.factor_name),
        "scales": 0 if site.scale == 0 else scale,
        "scopes": site.scope,
        "block_shapes": list(site.block_shape),
    }


def _name_of(program: Any) -> str:
    return getattr(program, "__qualname__", type(program).__qualname__)
