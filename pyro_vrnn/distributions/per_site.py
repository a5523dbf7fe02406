"""Arguments that are one number for all weights, or a mapping from kind or site to one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro_vrnn.shapes import check_probability

PerSite = float | Mapping[str, float]
DEFAULT_DROP_PROB = 0.25


def lookup(given: PerSite, name: str, kind: str, default: float) -> tuple[float, bool]:
    """
    Return the value for a site, and whether the site or its kind was named.

    >>> lookup({"bias": 0.5, "head.bias": 0.1}, "head.bias", "bias", 1.0)
    (0.1, True)
    >>> lookup({"bias": 0.5}, "head.weight", "linear", 1.0), lookup(0.2, "w", "linear", 1.0)
    ((1.0, False), (0.2, False))

    :param str name: of the site; it goes before the kind.
    :param float default: for sites that a mapping does not name.
    """
    if not isinstance(given, Mapping):
        return given, False
    key = name if name in given else kind
    return given.get(key, default), key in given


def check_drop_prob(name: str, value: Any) -> float:
    """Return ``value`` as a float if it is a number in [0, 1)."""
    if not isinstance(value, bool) and isinstance(value, (int, float)) and not 0 <= value < 1:
        why = ": everything would be dropped" if value == 1 else ""
        raise ValueError(f"Expected {name} in [0, 1), got {value}{why}.")
    return check_probability(name, value)
