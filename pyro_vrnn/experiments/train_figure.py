"""The picture of a training: predictions of the validation part, and how training went."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vrnn.data.series import Series
from pyro_vrnn.diagnostics.fan_chart import plot_elbo, plot_fan
from pyro_vrnn.experiments.demo_figure import time_axis
from pyro_vrnn.experiments.train_predictions import Predictions
from pyro_vrnn.infer.fit_result import FitResult

NUM_BINS = 10
Draw = Callable[[Any, Predictions], None]  # what fills a subfigure with predictions


def draw_training(path: Path, predictions: Predictions, result: FitResult, draw: Draw) -> None:
    """Draw the figure to ``path``: predictions above, ELBO and held-out score below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    grid = figure.add_gridspec(2, 1)
    top, bottom = (figure.add_subfigure(grid[row, 0]) for row in range(2))
    draw(top, predictions)
    elbo, held_out = bottom.subplots(1, 2)
    skip = min(20, len(result.elbo) // 4)  # the first steps would set the scale
    window = max(1, min(result.steps_per_epoch, len(result.elbo) - skip))
    plot_elbo(result, window=window, skip=skip, ax=elbo)
    elbo.set_title("ELBO")
    scores = result.validation["expected_log_likelihood"]
    held_out.plot(np.arange(1, len(scores) + 1), scores, marker=".", lw=1)
    if result.best_epoch is not None:
        held_out.axvline(result.best_epoch + 1, color="0.6", lw=0.8, ls="--", label="best epoch")
        held_out.legend()
    # One bad epoch would set the scale.
    low, high = float(np.quantile(scores, 0.1)), float(np.max(scores))
    if high > low:
        held_out.set_ylim(low - 0.5 * (high - low), high + 0.1 * (high - low))
    held_out.set(
        xlabel="epoch",
        ylabel="nats an observation" + ("" if predictions.draws is None else ", standard units"),
        title="Held-out expected log-likelihood",
    )
    figure.savefig(path, dpi=120)


def draw_series(series: Series, horizon: int, figure: Any, predictions: Predictions) -> None:
    """Draw a fan chart of the validation forecasts."""
    assert predictions.draws is not None
    draws = predictions.draws.reshape(len(predictions.draws), -1)
    records = predictions.records[-draws.shape[1] :]
    indices = np.array([record["origin"] + record["step"] - 1 for record in records])
    time, xlabel = time_axis(series, indices)
    steps = "1 step" if horizon == 1 else f"1 to {horizon} steps"
    plot_fan(
        draws,
        time,
        np.array([record["truth"] for record in records]),
        xlabel=xlabel,
        ylabel=series.name,
        title=f"Validation part of {series.name}, {steps} ahead from "
        f"{draws.shape[1] // horizon} origins",
        ax=figure.subplots(),
    )


def draw_values(label: str, figure: Any, predictions: Predictions) -> None:
    """Draw truth against prediction with intervals, and where the truth lies in its draws."""
    records = predictions.records
    truth, middle, low, high = (
        np.array([record[name] for record in records]) for name in ("truth", "50%", "5%", "95%")
    )
    against, ranks = figure.subplots(1, 2)
    error = [middle - low, high - middle]
    style = {"fmt": "o", "ms": 3, "lw": 0.8, "alpha": 0.6}
    against.errorbar(truth, middle, yerr=error, label="median, 90 % interval", **style)
    ends = [min(truth.min(), low.min()), max(truth.max(), high.max())]
    against.plot(ends, ends, color="0.6", lw=0.8, ls="--")
    against.set(xlabel=f"{label}, observed", ylabel=f"{label}, predicted", title="Validation part")
    against.legend()
    assert predictions.draws is not None
    last = truth[-predictions.draws.shape[1] :]
    below = (predictions.draws[..., 0] <= last).mean(axis=0)
    ranks.hist(below, bins=NUM_BINS, range=(0, 1), edgecolor="white")
    ranks.axhline(len(last) / NUM_BINS, color="0.6", lw=0.8, ls="--")
    ranks.set(
        xlabel="share of draws below the truth",
        ylabel="sequences",
        title="Calibration: level if right",
    )


def draw_classes(classes: Sequence[str], figure: Any, predictions: Predictions) -> None:
    """Draw a reliability diagram, and the uncertainty of right and wrong predictions."""
    records = predictions.records
    confidence = np.array([_confidence(record) for record in records])
    right = np.array([record["predicted"] == record["truth"] for record in records])
    reliability, spread = figure.subplots(1, 2)
    place = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    bins = [place == k for k in range(NUM_BINS) if (place == k).any()]
    reliability.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls="--")
    reliability.plot(
        [confidence[b].mean() for b in bins], [right[b].mean() for b in bins], color="C0", lw=1
    )
    reliability.scatter(
        [confidence[b].mean() for b in bins],
        [right[b].mean() for b in bins],
        s=[20 + 200 * b.mean() for b in bins],
        label="validation sequences (area: their share)",
    )
    reliability.set(
        xlabel="probability of the predicted class",
        ylabel="share that is right",
        xlim=(-0.02, 1.02),
        ylim=(-0.05, 1.05),
        title="Reliability",
    )
    reliability.legend(loc="upper left")
    entropy = np.array([record["entropy"] for record in records])
    spread.hist(
        [entropy[right], entropy[~right]],
        bins=NUM_BINS,
        range=(0, float(np.log(len(classes)))),
        stacked=True,
        label=["right", "wrong"],
        color=["C0", "C3"],
    )
    spread.set(
        xlabel="entropy (nats; at most log of the classes)",
        ylabel="sequences",
        title=f"Uncertainty of {len(records)} predictions",
    )
    spread.legend()


def _confidence(record: Mapping[str, Any]) -> float:
    return float(record[f"p({record['predicted']})"])
