"""Which sites are exported: by pattern, whole or as a summary, within a number of bytes."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from pyro_vrnn.diagnostics._datasets import check_total_size, size_text
from pyro_vrnn.diagnostics._sites import SiteInfo

Key = tuple[str, str]  # group, variable
SHARED_GROUPS = ("posterior", "prior")  # hold the same sites


@dataclass(frozen=True)
class Selection:
    """The sites of each group that holds draws."""

    posterior: tuple[SiteInfo, ...]
    summarized: tuple[SiteInfo, ...]
    predictive: tuple[SiteInfo, ...]
    pointwise: tuple[SiteInfo, ...]
    latents: tuple[SiteInfo, ...]
    may_summarize: bool  # sites of the posterior that were not asked for by name


def select(
    sites: Mapping[str, SiteInfo],
    posterior: bool | Sequence[str],
    summarize: Sequence[str],
    log_likelihood: bool | str,
) -> Selection:
    """
    Select sites by name or pattern.

    :raises TypeError: if ``posterior`` is a str, or ``summarize`` is.
    :raises ValueError: if a name or pattern matches no site.
    """
    candidates = [name for name, site in sites.items() if site.group == "posterior"]
    if isinstance(posterior, str):
        raise TypeError(f"Expected posterior to be a bool or a list of sites, got {posterior!r}.")
    if isinstance(summarize, str):
        raise TypeError(f"Expected summarize to be a list of sites, got {summarize!r}.")
    if isinstance(posterior, bool):
        chosen = set(candidates) if posterior else set()
    else:
        chosen = _matching("posterior", posterior, candidates)
    summarized = _matching("summarize", summarize, candidates)
    return Selection(
        posterior=tuple(sites[n] for n in candidates if n in chosen - summarized),
        summarized=tuple(sites[n] for n in candidates if n in summarized),
        predictive=tuple(s for s in sites.values() if s.group == "posterior_predictive"),
        pointwise=tuple(s for s in sites.values() if s.kind == "observed" and log_likelihood),
        latents=tuple(s for s in sites.values() if s.kind == "latent"),
        may_summarize=isinstance(posterior, bool),
    )


def _matching(argument: str, patterns: Sequence[str], candidates: Sequence[str]) -> set[str]:
    found: set[str] = set()
    unknown = []
    for pattern in patterns:
        matches = {n for n in candidates if n == pattern or fnmatchcase(n, pattern)}
        found |= matches
        if not matches:
            unknown.append(pattern)
    if unknown:
        raise ValueError(
            f"Expected the sites in {argument} to be among {', '.join(candidates)}, "
            f"got {', '.join(map(repr, unknown))}."
        )
    return found


def fit_size(selection: Selection, sizes: Mapping[Key, int], max_bytes: int) -> Selection:
    """
    Summarise the largest sites, as many as it takes for the rest to fit, and say so.

    :param sizes: (group, variable) -> bytes of all its draws.
    :raises ValueError: if what was asked for by name, or is no weight, does not fit.
    """
    total = sum(sizes.values())
    largest = sorted(selection.posterior, key=lambda site: -_bytes(site.name, sizes))
    moved: list[SiteInfo] = []
    left = total
    while selection.may_summarize and left > max_bytes and len(moved) < len(largest):
        moved.append(largest[len(moved)])
        left -= _bytes(moved[-1].name, sizes)
    names = {site.name for site in moved}
    if left > max_bytes:
        check_total_size(sizes, max_bytes)
    if moved:
        _warn(moved, sizes, total, max_bytes)
    kept = tuple(site for site in selection.posterior if site.name not in names)
    return replace(selection, posterior=kept, summarized=(*selection.summarized, *moved))


def _bytes(name: str, sizes: Mapping[Key, int]) -> int:
    return sum(sizes.get((group, name), 0) for group in SHARED_GROUPS)


def _warn(
    moved: Collection[SiteInfo], sizes: Mapping[Key, int], total: int, max_bytes: int
) -> None:
    listed = ", ".join(f"{s.name} ({size_text(_bytes(s.name, sizes))})" for s in moved)
    warnings.warn(
        f"Expected an export of at most {size_text(max_bytes)} (max_bytes), got "
        f"{size_text(total)}: of {listed} the group posterior_summary has the mean and sd of each "
        "element in the place of all draws, and sample_stats their norm at each draw. Name the "
        "sites to keep whole in posterior=[...], lower num_samples or raise max_bytes.",
        UserWarning,
        stacklevel=6,
    )
