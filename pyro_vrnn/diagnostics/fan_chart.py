"""Plots of predictive draws over time and of the ELBO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyro_vrnn.diagnostics._axes import given_or_new
from pyro_vrnn.infer.fit_result import FitResult
from pyro_vrnn.scores import central_interval
from pyro_vrnn.shapes import check_positive_int, number_array, shape_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LIGHTEST, DARKEST = 0.2, 0.45  # opacity of the widest and the narrowest interval


def plot_fan(
    draws: ArrayLike,  # (S, T)
    time: ArrayLike,  # (T,)
    observed: ArrayLike | None = None,  # (T,)
    *,
    levels: Sequence[float] = (0.5, 0.9),
    color: str = "C0",
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """
    Draw the median of the draws, shaded central intervals around it, and what was observed.

    Intervals are pointwise: each holds its share of the draws at each time alone, not of whole
    paths.

    :param draws: predictive draws ``(S, T)``, at least two.
    :param time: numbers or dates, ``(T,)``.
    :param observed: values ``(T,)``, NaN where missing (a gap is left); None for none.
    :param levels: probabilities inside the intervals, each in (0, 1).
    :param str color: of median and intervals.
    :param str xlabel: what time is, with its unit.
    :param str ylabel: what the values are, with their unit.
    :param str title: title of the axes.
    :param ax: matplotlib axes; None for new ones.
    :returns: the axes.
    :raises TypeError: if draws or observations are no numbers.
    :raises ValueError: for a shape that does not fit, fewer than 2 draws, draws that are not
        finite, or a level outside (0, 1).
    """
    time, paths = np.asarray(time), number_array("draws", draws)
    if time.ndim != 1:
        raise ValueError(f"Expected time of shape (T,), got {shape_text(time.shape)}.")
    if paths.ndim != 2 or paths.shape[1] != len(time):
        expected = shape_text(("S", len(time)))
        raise ValueError(f"Expected draws of shape {expected}, got {shape_text(paths.shape)}.")
    widest_first = sorted(levels, reverse=True)
    intervals = [central_interval(paths, level) for level in widest_first]
    values = None if observed is None else number_array("observed", observed).astype(np.float64)
    if values is not None and values.shape != time.shape:
        raise ValueError(
            f"Expected observed of shape {shape_text(time.shape)}, got {shape_text(values.shape)}."
        )
    ax = given_or_new(ax)
    shades = np.linspace(LIGHTEST, DARKEST, len(widest_first))
    for level, (lower, upper), alpha in zip(widest_first, intervals, shades, strict=True):
        label = f"{100 * level:g} % interval"
        ax.fill_between(
            time, lower, upper, color=color, alpha=float(alpha), linewidth=0, label=label
        )
    ax.plot(time, np.median(paths, axis=0), color=color, label="median")
    if values is not None:
        ax.plot(time, values, color="black", marker=".", markersize=4, lw=0.8, label="observed")
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.legend()
    return ax


def plot_elbo(
    elbo: FitResult | ArrayLike,  # (steps,)
    *,
    window: int | None = None,
    skip: int = 0,
    color: str = "C0",
    ax: Axes | None = None,
) -> Axes:
    """
    Draw the ELBO estimate of every step, and its running mean.

    :param elbo: what :func:`~pyro_vrnn.infer.fit` returned, or numbers in nats.
    :param int window: draw the mean of this many steps too, at the last of them (an epoch's steps
        leave no noise from the order of the batches); None for none.
    :param int skip: leave out this many first steps, which set the scale otherwise.
    :param str color: of the lines.
    :param ax: matplotlib axes; None for new ones.
    :returns: the axes.
    :raises TypeError: if ``elbo`` is neither.
    :raises ValueError: if ``elbo`` is not one sequence, or has too few steps for ``window`` and
        ``skip``.
    """
    elbo = elbo.elbo if isinstance(elbo, FitResult) else elbo
    values = number_array("elbo", elbo, "a FitResult or numbers").astype(np.float64)
    if values.ndim != 1:
        raise ValueError(f"Expected elbo of shape (steps,), got {shape_text(values.shape)}.")
    if not isinstance(skip, int) or not 0 <= skip < len(values):
        raise ValueError(f"Expected skip in 0..{len(values) - 1}, got {skip!r}.")
    steps = np.arange(len(values))[skip:]
    values = values[skip:]
    if window is not None and check_positive_int("window", window) > len(values):
        raise ValueError(f"Expected window of at most {len(values)} steps, got {window}.")
    ax = given_or_new(ax)
    style: dict[str, Any] = {} if window is None else {"alpha": 0.35, "lw": 0.8}
    ax.plot(steps, values, color=color, label="each step", **style)
    if window is not None:
        ax.plot(
            steps[window - 1 :],
            _running_mean(values, window),
            color=color,
            label=f"mean of {window} steps",
        )
        ax.legend()
    ax.set(xlabel="step", ylabel="ELBO (nats)")
    return ax


def _running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    windows = np.lib.stride_tricks.sliding_window_view(values, window)
    return np.asarray(windows.mean(axis=-1))
