"""
Plots of predictive checks: PIT, coverage by level, scores by horizon, reliability.

Each draws into the axes ``ax``, or into new ones, and returns them. Colours and lines are those of
matplotlib's current style, ArviZ's among them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from pyro_vrnn.diagnostics._axes import given_or_new
from pyro_vrnn.diagnostics.class_check import ClassCheck
from pyro_vrnn.diagnostics.forecast_check import ForecastCheck
from pyro_vrnn.scores import (
    CoverageCurve,
    EcdfBand,
    HorizonScores,
    Reliability,
    ecdf,
    ecdf_band,
    effective_size,
)
from pyro_vrnn.scores.uniform_band import unit_values
from pyro_vrnn.shapes import check_instance, number_array, shape_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "0.6"


def plot_pit(
    pit: ForecastCheck | ArrayLike,  # (N,) or (blocks, per block)
    *,
    band: EcdfBand | None = None,
    color: str = "C0",
    label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """
    Draw the empirical CDF of PIT values minus that of the uniform distribution, and its band.

    A calibrated forecaster stays in the whole band with its probability. A curve that goes up and
    then down through zero has intervals that are too narrow; down and then up, too wide; all above
    zero, forecasts that are too high.

    :param pit: PIT values, rows being the independent units, or a check.
    :param band: the band to draw; None for 95 % and the effective number of values.
    :param str color: of curve and band.
    :param label: of the curve; None for none.
    :param ax: matplotlib axes; None for new ones.
    :returns: the axes.
    :raises TypeError: if ``pit`` or ``band`` is none of these.
    :raises ValueError: for values outside [0, 1], or of more than two dims.
    """
    if isinstance(pit, ForecastCheck):
        values, band = pit.pit, band or pit.band
    else:
        values = unit_values("pit", number_array("pit", pit, "a ForecastCheck or PIT values"))
        if values.ndim not in (1, 2):
            raise ValueError(
                "Expected pit of shape (N,) or (blocks, per block), got "
                f"{shape_text(values.shape)}."
            )
    if band is not None:
        check_instance("band", band, EcdfBand, " (ecdf_band)")
    else:
        band = ecdf_band(effective_size(values.reshape(len(values), -1)))
    ax = given_or_new(ax)
    x = _ended(band.points)
    ax.fill_between(
        x,
        _ended(band.lower) - x,
        _ended(band.upper) - x,
        color=color,
        alpha=0.2,
        linewidth=0,
        label=f"{band.probability:.0%} band",
    )
    ax.axhline(0.0, color=GREY, lw=0.8, ls="--")
    ax.plot(x, ecdf(values, x) - x, color=color, label=label)
    ax.set(xlabel="PIT", ylabel="empirical CDF - uniform")
    ax.legend()
    return ax


def plot_coverage(
    coverage: ForecastCheck | CoverageCurve,
    *,
    color: str = "C0",
    label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """
    Draw coverage by level with its ranges, and the band of a calibrated forecaster.

    :param coverage: a curve, or a check that has one.
    :param str color: of curve and band.
    :param label: of the curve; None for none.
    :param ax: matplotlib axes; None for new ones.
    :returns: the axes.
    :raises TypeError: if ``coverage`` is neither.
    """
    curve = coverage.coverage if isinstance(coverage, ForecastCheck) else coverage
    check_instance("coverage", curve, CoverageCurve, " or ForecastCheck")
    ax = given_or_new(ax)
    band = curve.band
    ax.fill_between(
        _ended(band.points),
        _ended(band.lower),
        _ended(band.upper),
        color=color,
        alpha=0.2,
        linewidth=0,
        label=f"{band.probability:.0%} band",
    )
    ax.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls="--")
    ax.errorbar(
        curve.levels,
        curve.coverage,
        yerr=_errors(curve.coverage, curve.lower, curve.upper),
        color=color,
        marker=".",
        capsize=2,
        elinewidth=0.8,
        label=label,
    )
    ax.set(xlabel="level of the central interval", ylabel="share inside")
    ax.legend()
    return ax


def plot_horizon(
    scores: HorizonScores,
    *,
    color: str = "C0",
    label: str | None = None,
    ylabel: str = "",
    ax: Axes | None = None,
) -> Axes:
    """
    Draw a score by steps ahead with its bootstrap ranges.

    :param scores: such as :attr:`ForecastCheck.crps`.
    :param str color: of line and ranges.
    :param label: of the line; None for none.
    :param str ylabel: what the score is, with its unit.
    :param ax: matplotlib axes; None for new ones.
    :returns: the axes.
    :raises TypeError: if ``scores`` are no :class:`~pyro_vrnn.scores.HorizonScores`.
    """
    check_instance("scores", scores, HorizonScores, " (such as check.crps)")
    from matplotlib.ticker import MaxNLocator

    ax = given_or_new(ax)
    ahead = np.arange(1, len(scores.mean) + 1)
    ax.fill_between(ahead, scores.lower, scores.upper, color=color, alpha=0.2, linewidth=0)
    ax.plot(ahead, scores.mean, color=color, marker=".", label=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="steps ahead", ylabel=ylabel)
    if label is not None:
        ax.legend()
    return ax


def plot_reliability(
    bins: ClassCheck | Reliability,
    *,
    color: str = "C0",
    label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """
    Draw how often events happened against their probability, with intervals and where they are.

    Points below the diagonal are of probabilities that are too high. Grey bars at the foot are the
    bins, as high as their share of the events (axis on the right).

    :param bins: bins, or a check that has them.
    :param str color: of the points.
    :param label: of the points; None for none.
    :param ax: matplotlib axes; None for new ones.
    :returns: the axes.
    :raises TypeError: if ``bins`` is neither.
    """
    parts = bins.reliability if isinstance(bins, ClassCheck) else bins
    check_instance("bins", parts, Reliability, " or ClassCheck")
    ax = given_or_new(ax)
    shares = parts.count / parts.count.sum()
    foot = ax.twinx()
    foot.bar(
        parts.lower_edge,
        shares,
        width=parts.upper_edge - parts.lower_edge,
        align="edge",
        color="0.9",
        edgecolor="0.75",
        linewidth=0.5,
    )
    highest = float(shares.max())
    foot.set(ylim=(0.0, 4.0 * highest), yticks=[0.0, highest], yticklabels=["0", f"{highest:.2g}"])
    foot.set_ylabel("share of the events", loc="bottom")
    foot.grid(False)
    # The bars behind the points, which else are drawn first.
    ax.set_zorder(foot.get_zorder() + 1)
    ax.patch.set_visible(False)
    ax.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls="--")
    ax.errorbar(
        parts.confidence,
        parts.frequency,
        yerr=_errors(parts.frequency, parts.lower, parts.upper),
        color=color,
        marker="o",
        markersize=4,
        capsize=2,
        elinewidth=0.8,
        label=label,
    )
    ax.set(xlabel="probability", ylabel="frequency", xlim=(0, 1), ylim=(0, 1))
    if label is not None:
        ax.legend()
    return ax


def _ended(values: Any) -> Any:
    """Return values at the points with those at 0 and 1, which every CDF shares."""
    return np.concatenate([[0.0], values, [1.0]])


def _errors(middle: Any, lower: Any, upper: Any) -> Any:
    """Return distances to both ends, as errorbar wants them; a mean may round past its range."""
    return np.maximum(np.stack([middle - lower, upper - middle]), 0.0)
