"""Plots of an ELBO's parts, over the steps of a training and by site."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vrnn.diagnostics._axes import given_or_new
from pyro_vrnn.diagnostics.elbo_terms import NOISE, ELBOAnatomy, SiteKL
from pyro_vrnn.infer.fit_result import FitResult
from pyro_vrnn.shapes import FloatArray, check_choice, check_instance, check_positive_int

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = {"constant": ("0.75", "constant"), "slab": ("C0", "slab"), "mask": ("C2", "mask")}


def plot_elbo_parts(
    history: Any,
    *,
    window: int = 1,
    skip: int = 0,
    relative: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """
    Draw the ELBO of every step with its parts: expected log-likelihood, and minus the KL.

    The ELBO is the sum of the two. A KL is often so much larger than all changes that nothing else
    can be seen: with ``relative`` each line is shown less its own last value, which the legend
    gives.

    :param history: what :func:`~pyro_vrnn.infer.fit` returned, what
        :func:`~pyro_vrnn.from_pyro_svi` exported of it, or the ``svi`` group of that.
    :param int window: draw means of this many steps, each at the last of them.
    :param int skip: leave out this many first steps, which set the scale otherwise.
    :param bool relative: draw each line less its last value.
    :param ax: matplotlib axes; None for new ones.
    :returns: the axes.
    :raises TypeError: if ``history`` is none of these.
    :raises ValueError: if it does not hold the parts, or has too few steps.
    """
    lines = _history(history)
    count = len(lines["ELBO"])
    if isinstance(skip, bool) or not isinstance(skip, int) or not 0 <= skip < count:
        raise ValueError(f"Expected skip in 0..{count - 1}, got {skip!r}.")
    if check_positive_int("window", window) > count - skip:
        raise ValueError(f"Expected window of at most {count - skip} steps, got {window}.")
    ax = given_or_new(ax)
    steps = np.arange(count)[skip + window - 1 :]
    styles = {"ELBO": ("C0", 2.0), "expected log-likelihood": ("C1", 1.2), "-KL": ("C3", 1.2)}
    for name, values in lines.items():
        windows = np.lib.stride_tricks.sliding_window_view(values[skip:], window)
        mean = windows.mean(axis=-1)
        color, width = styles[name]
        label = name.replace("-", "−", 1) if name.startswith("-") else name
        if relative:
            label += f" (at the end {mean[-1]:,.0f})"
            mean = mean - mean[-1]
        ax.plot(steps, mean, color=color, lw=width, label=label)
    ax.set(xlabel="step", ylabel="nats, less the last" if relative else "nats")
    ax.legend(loc="lower right")  # what climbs leaves this corner free
    return ax


def plot_kl_by_site(
    anatomy: ELBOAnatomy,
    *,
    by: str = "site",
    per_weight: bool = False,
    constant: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """
    Draw the KL of each site or layer as a stacked bar of its constant, slab and mask parts.

    The mask part is negative, so it goes to the left; a diamond marks the KL, their sum. A KL
    that is sampled, or not split, is one bar, with two standard errors.

    :param anatomy: what :func:`~pyro_vrnn.diagnostics.elbo_anatomy` returned.
    :param str by: ``"site"`` or ``"layer"``.
    :param bool per_weight: divide each by its number of weights.
    :param bool constant: False leaves the constant part out, beside which the others can be too
        small to see; the diamond is then the rest. KLs that are not split stay whole.
    :param ax: matplotlib axes; None for new ones.
    :returns: the axes.
    :raises TypeError: if ``anatomy`` is not an :class:`~pyro_vrnn.diagnostics.ELBOAnatomy`.
    :raises ValueError: if ``by`` is neither, or there are no latents.
    """
    check_instance("anatomy", anatomy, ELBOAnatomy, " (elbo_anatomy)")
    parts = anatomy.sites if check_choice("by", by, ("site", "layer")) == "site" else anatomy.layers
    if not parts:
        raise ValueError("Expected an anatomy of at least one latent, got none.")
    ax = given_or_new(ax)
    rows = np.arange(len(parts))
    sizes = np.array([part.num_weights if per_weight else 1 for part in parts], dtype=float)
    split = np.array([part.constant is not None for part in parts])
    left = np.zeros(len(parts))
    for name, (color, label) in PARTS.items():
        if name == "constant" and not constant:
            continue
        values = np.array([_value(part, name) for part in parts]) / sizes
        start = np.zeros(len(parts)) if name == "mask" else left
        if split.any() and (name != "mask" or values.any()):
            ax.barh(rows[split], values[split], left=start[split], color=color, label=label)
        left = left + values
    left_out = np.array([0.0 if constant else _value(part, "constant") for part in parts])
    kl = (np.array([part.kl.value for part in parts]) - left_out) / sizes
    total = "KL" if constant else "KL less its constant part"
    errors = NOISE * np.array([part.kl.standard_error for part in parts]) / sizes
    if not split.all():
        ax.barh(rows[~split], kl[~split], color="C4", label="not split")
    ax.errorbar(kl, rows, xerr=errors, fmt="D", ms=4, lw=1, color="black", label=total)
    ax.set_yticks(rows, [_label(part) for part in parts])
    ax.invert_yaxis()
    ax.axvline(0, color="black", lw=0.8)
    ax.set(xlabel="nats a weight" if per_weight else "nats")
    ax.legend()
    return ax


def _value(part: SiteKL, name: str) -> float:
    value = getattr(part, name)
    return 0.0 if value is None else float(value)


def _label(part: SiteKL) -> str:
    """Return a name, and whether the KL is known up to a constant only."""
    return part.name if part.has_density else f"{part.name} (+ constant)"


def _history(history: Any) -> dict[str, FloatArray]:
    """Return the ELBO and its parts by step."""
    if isinstance(history, FitResult):
        expected: Any = history.expected_log_likelihood
        by_site = list(history.kl.values())
        elbo = np.asarray(history.elbo)
        kl = np.sum(by_site, axis=0) if by_site else None
    else:
        group = _svi_group(history)
        elbo = np.asarray(group["elbo"])
        expected = np.asarray(group["expected_log_likelihood"]) if _has(group) else []
        kl = np.asarray(group["kl"].sum("site")) if _has(group) else None
    if len(expected) == 0 or kl is None:
        raise ValueError(
            "Expected a history with the ELBO's parts, got the ELBO alone: train with fit and "
            "TraceExactKL_ELBO, its default, and export its FitResult as svi_result."
        )
    return {"ELBO": elbo, "expected log-likelihood": np.asarray(expected), "-KL": -np.asarray(kl)}


def _has(group: Any) -> bool:
    return "expected_log_likelihood" in group and "kl" in group


def _svi_group(history: Any) -> Any:
    """Return the group of an exported object that holds the optimisation."""
    if hasattr(history, "data_vars") and "elbo" in history.data_vars:
        return history
    try:
        group = history["svi"]
        assert "elbo" in group
    except (TypeError, KeyError, AssertionError) as error:
        raise TypeError(
            "Expected history to be a FitResult, or an export of one with its svi group, got "
            f"{type(history).__name__}."
        ) from error
    return group
