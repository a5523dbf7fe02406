"""The demo's picture: fan chart of the test part, scores by horizon, ELBO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pyro_vrnn.data.series import Series
from pyro_vrnn.diagnostics.fan_chart import plot_elbo, plot_fan
from pyro_vrnn.experiments.forecast import Study

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
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    grid = figure.add_gridspec(2, 1)
    top, bottom = (figure.add_subfigure(grid[row, 0]) for row in range(2))
    wide, zoom = top.subplots(1, 2, width_ratios=(2, 1))
    steps = "1 step" if plan.horizon == 1 else f"1 to {plan.horizon} steps"
    title = f"{series.name}: test part, {steps} ahead from {len(forecasts.origins)} origins"
    plot_fan(wide, time, forecasts.y.ravel(), draws, xlabel=xlabel, ylabel=series.name, title=title)
    last = ZOOM_ORIGINS * plan.horizon
    plot_fan(
        zoom,
        time[-last:],
        forecasts.y.ravel()[-last:],
        draws[:, -last:],
        xlabel=xlabel,
        title=f"last {ZOOM_ORIGINS} origins",
    )
    zoom.get_legend().remove()
    for k in range(ZOOM_ORIGINS):
        zoom.axvline(time[-last + k * plan.horizon], color="0.6", lw=0.8, ls=":")
    zoom.tick_params(axis="x", rotation=30)

    _draw_scores(bottom, study, found)
    figure.savefig(path, dpi=120)


def _draw_scores(bottom: Any, study: Study, found: dict[str, Any]) -> None:
    forecasts, plan = study.test, study.plan
    by_horizon, coverage, elbo = bottom.subplots(1, 3)
    ahead = np.arange(1, plan.horizon + 1)
    for name, label, color in (
        ("bayesian", "Bayesian", "C0"),
        ("seasonal_naive", "seasonal naive", "C1"),
        ("last_change", "last change", "C2"),
    ):
        scores = found["test_crps_by_horizon"][name]
        by_horizon.plot(ahead, scores, marker=".", color=color, label=label)
    by_horizon.set(xlabel="steps ahead", ylabel="CRPS (lower is better)", title="CRPS by horizon")
    by_horizon.set_ylim(bottom=0)
    by_horizon.legend()

    levels = np.linspace(0.05, 0.95, 19)
    ranks = (forecasts.draws <= forecasts.y).mean(axis=0).ravel()
    inside = [float((np.abs(2 * ranks - 1) <= level).mean()) for level in levels]
    coverage.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls="--", label="calibrated")
    coverage.plot(levels, inside, marker=".", label="Bayesian")
    coverage.set(xlabel="level of the interval", ylabel="share inside", title="Coverage")
    coverage.legend()

    history = study.chosen.result.elbo
    skip = min(20, len(history) // 4)  # the first steps would set the scale
    window = min(study.chosen.result.steps_per_epoch, len(history) - skip)
    plot_elbo(elbo, history, window=window, skip=skip)
    elbo.set_title("ELBO of the chosen model")
