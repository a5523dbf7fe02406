"""What a guide's state dict says beside its parameters: of what distributions they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.infer.guide_site import GuideSite

KEY = "_extra_state"  # torch's name for it
USUAL = "non-inverted"


def encode(factor_name: str, sites: Mapping[str, GuideSite]) -> Tensor:
    """Write factors, blocks and scales as JSON in bytes, which every file of tensors can hold."""
    facts = {
        name: [
            list(site.block_shape),
            getattr(site, factor_name),
            site.scale,
            # Not written where it is the usual one, as files from before it was there have none.
            *([site.parametrization] if site.parametrization != USUAL else []),
        ]
        for name, site in sites.items()
    }
    text = json.dumps({"factor": factor_name, "sites": facts})
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def restored(state: Any, factor_name: str, sites: Mapping[str, GuideSite]) -> dict[str, GuideSite]:
    """
    Return the sites with the scales of a state.

    :raises RuntimeError: if it is the state of other distributions, whose parameters these are not.
    """
    found = json.loads(bytes(state.tolist()).decode())
    if found["factor"] != factor_name:
        raise RuntimeError(
            f"Expected the state of a guide with {factor_name}, got one with {found['factor']}."
        )
    result = dict(sites)
    for name, (blocks, factor, scale, *rest) in found["sites"].items():
        if name not in sites:
            continue  # torch names the parameters that are too many
        site = sites[name]
        ours = (
            list(site.block_shape),
            getattr(site, factor_name),
            site.scale == 0,
            site.parametrization,
        )
        for what, expected, got in zip(
            ("blocks of shape", factor_name, "scale=0:", "parametrization"),
            ours,
            (blocks, factor, scale == 0, rest[0] if rest else USUAL),
            strict=True,
        ):
            if expected != got:
                raise RuntimeError(
                    f"Expected a state with {what} {expected} for '{name}', got {got}: build the "
                    "guide with the arguments of the one that was saved."
                )
        result[name] = replace(site, scale=scale)
    return result
