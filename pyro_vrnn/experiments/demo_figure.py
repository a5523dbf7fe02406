"""The demo's picture: fan chart of the test part, methods side by side, ELBO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pyro_vrnn.data.series import Series
from pyro_vrnn.diagnostics.fan_chart import plot_elbo, plot_fan
from pyro_vrnn.experiments.forecast import Study
from pyro_vrnn.experiments.forecast_report import FLOORS, METHODS

ZOOM_ORIGINS = 4


def time_axis(series: Series, indices: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], str]:
    """Return the labels as dates where they all are, else the index, and the axis label."""
    if series.labels is not None:
        try:
            dates = np.array([np.datetime64(label.strip()) for label in series.labels])
        except ValueError:
            pass
        else:
            return dates[indices].astype("datetime64[s]").astype(object), ""
    return indices, "step"


def draw_demo(path: Path, series: Series, study: Study, found: dict[str, Any]) -> None:
    """Draw the figure to ``path``; its suffix gives the format."""
    from matplotlib.figure import Figure

    forecasts, plan = study.test, study.plan
    num_draws = forecasts.draws.shape[0]
    draws = forecasts.draws.reshape(num_draws, -1)
    start = int(forecasts.origins[0])
    indices = np.arange(start, start + draws.shape[1])
    time, xlabel = time_axis(series, indices)
    figure = Figure(figsize=(14, 8), layout="constrained")
    grid = figure.add_gridspec(2, 1)
    top, bottom = (figure.add_subfigure(grid[row, 0]) for row in range(2))
    wide, zoom = top.subplots(1, 2, width_ratios=(2, 1))
    steps = "1 step" if plan.horizon == 1 else f"1 to {plan.horizon} steps"
    title = f"{series.name}: test part, {steps} ahead from {len(forecasts.origins)} origins"
    plot_fan(
        draws,
        time,
        forecasts.y.ravel(),
        xlabel=xlabel,
        ylabel=series.name,
        title=title,
        ax=wide,
    )
    last = ZOOM_ORIGINS * plan.horizon
    plot_fan(
        draws[:, -last:],
        time[-last:],
        forecasts.y.ravel()[-last:],
        xlabel=xlabel,
        title=f"last {ZOOM_ORIGINS} origins",
        ax=zoom,
    )
    zoom.get_legend().remove()
    for k in range(ZOOM_ORIGINS):
        zoom.axvline(time[-last + k * plan.horizon], color="0.6", lw=0.8, ls=":")
    zoom.tick_params(axis="x", rotation=30)

    _draw_scores(bottom, study, found)
    figure.savefig(path, dpi=120)


def _draw_scores(bottom: Any, study: Study, found: dict[str, Any]) -> None:
    by_horizon, differences, coverage, elbo = bottom.subplots(1, 4)
    ahead = np.arange(1, study.plan.horizon + 1)
    for name, label in METHODS.items():
        scores = found["test_crps_by_horizon"][name]
        by_horizon.plot(ahead, scores, label=label, **_style(name))
    by_horizon.set(xlabel="steps ahead", title="CRPS by horizon (lower is better)")
    by_horizon.set_ylim(bottom=0)

    others = list(found["test_difference"])
    for row, name in enumerate(others):
        part = found["test_difference"][name]["crps"]
        error = [[part["mean"] - part["lower"]], [part["upper"] - part["mean"]]]
        color = _style(name)["color"]
        differences.errorbar(part["mean"], row, xerr=error, fmt="o", color=color, capsize=3)
    differences.axvline(0, color="0.6", lw=0.8, ls="--")
    differences.set_yticks(range(len(others)), [METHODS[name] for name in others], fontsize=8)
    differences.invert_yaxis()
    differences.set(xlabel="CRPS (below 0: Bayesian is better)", title="Bayesian minus others")

    levels = found["test_coverage"]["level"]
    coverage.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls="--")
    for name, label in METHODS.items():
        if name in found["test_coverage"]:
            inside = found["test_coverage"][name]
            coverage.plot(levels, inside, label=label, **_style(name))
    coverage.set(xlabel="level of the interval", ylabel="share inside", title="Coverage")

    history = study.chosen.result.elbo
    skip = min(20, len(history) // 4)  # the first steps would set the scale
    window = min(study.chosen.result.steps_per_epoch, len(history) - skip)
    plot_elbo(history, window=window, skip=skip, ax=elbo)
    elbo.set_title("ELBO of the chosen model")
    handles, labels = by_horizon.get_legend_handles_labels()
    bottom.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)


def _style(name: str) -> dict[str, Any]:
    """Return how a method is drawn: ours strong, what has no network dashed."""
    options: dict[str, Any] = {"color": f"C{list(METHODS).index(name)}", "lw": 1.2}
    if name == "bayesian":
        return {**options, "lw": 2.5, "zorder": 5}
    return {**options, "ls": "--"} if name in FLOORS else options
