"""What the guides ask of their arguments and of each site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro.distributions import constraints

from pyro_vrnn.distributions.weight_site import RECURRENT_KINDS, WeightSite
from pyro_vrnn.infer.guide_site import GuideSite
from pyro_vrnn.shapes import (
    check_nonnegative_float,
    check_positive_float,
    shape_text,
)


def check_names(
    argument: str, given: Mapping[str, Any], sites: Sequence[str], kinds: Sequence[str]
) -> None:
    """Refuse names that are no site or kind of this model, with what may have been meant."""
    unknown = sorted(set(given) - {*sites, *kinds})
    if not unknown:
        return
    meant = [
        known
        for name in unknown
        for known in (*sites, *kinds)
        if known.endswith(f".{name}") or (known in kinds and name.startswith(known))
    ]
    hint = f"; did you mean {' or '.join(map(repr, dict.fromkeys(meant)))}?" if meant else "."
    raise ValueError(
        f"Expected the names in {argument} to be sites or kinds of weights "
        f"({', '.join((*sites, *kinds))}), got {', '.join(map(repr, unknown))}{hint}"
    )


def check_scale(name: str, value: Any, learned: bool) -> float:
    if learned:
        return check_positive_float(name + ", which is learned,", value)
    return check_nonnegative_float(name, value)


def suits_sequences(
    record: WeightSite | None, block_shape: tuple[int, ...], shape: torch.Size
) -> bool:
    """Whether blocks are input columns, of all rows or of a gate's, or the rows of an embedding."""
    if record is None or len(shape) != 2:
        return False
    if record.kind == "embedding":
        return block_shape == (1, shape[1])
    gates = {1, record.gates} if record.kind in RECURRENT_KINDS else {1}
    return block_shape[1] == 1 and shape[0] // block_shape[0] in gates


def check_sequence_blocks(site: GuideSite) -> None:
    if not site.suits_sequences:
        raise ValueError(
            f"Expected blocks of '{site.name}' that are its input columns or an embedding's rows, "
            f"as scope='sequence' needs, got {shape_text(site.block_shape)} of a "
            f"{site.kind or 'unknown'} weight of shape {shape_text(site.shape)}: a mask of single "
            "weights has no form M diag(z)."
        )


def check_real(name: str, support: Any) -> None:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if not isinstance(support, type(constraints.real)):
        raise ValueError(
            f"Expected weight '{name}' to have a prior on all real numbers, got support {support}: "
            "guide it apart with AutoGuideList."
        )


def check_blocks(name: str, block_shape: Any, shape: torch.Size) -> tuple[int, ...]:
    is_shape = isinstance(block_shape, (tuple, list)) and len(block_shape) == len(shape)
    if not is_shape or any(b < 1 or s % b for s, b in zip(shape, block_shape, strict=True)):
        got = shape_text(block_shape) if isinstance(block_shape, (tuple, list)) else block_shape
        raise ValueError(
            f"Expected a block shape of '{name}' that tiles {shape_text(shape)}, got {got}."
        )
    return tuple(block_shape)
