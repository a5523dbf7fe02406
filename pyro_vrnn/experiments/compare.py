"""Runs of experiments side by side: a table, and their learning curves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pyro_vrnn.experiments.study_config import METHOD_TEXTS
from pyro_vrnn.experiments.study_run import LAYOUT, RUN
from pyro_vrnn.files import writable_folder, write_atomic
from pyro_vrnn.shapes import check_choice, check_sequence

Run = dict[str, Any]
Curve = list[float]

# Of each kind of experiment: the score, and how a value of the curve becomes it.
_SCORES: dict[str, tuple[str, str, Callable[[float], float]]] = {
    "language": ("perplexity", "nll", math.exp),
    "sentiment": ("RMSE", "rmse", float),
}
PARTS = ("train", "valid", "test")
FACTS = ("experiment", "method", "seed", "metrics", "best_epoch", "finished", "wall_time")
ALONE = "training data of one epoch"
TICKS = (10, 20, 30, 50, 70, 100, 150, 200, 300, 400, 500, 700, 1000, 2000, 5000)


def read_runs(paths: Sequence[str | Path]) -> list[Run]:
    """
    Read runs, from their files or folders, in the order of experiment, method and seed.

    A folder without a ``run.json`` is searched for runs one level down.

    :raises FileNotFoundError: if a path has no run.
    :raises TypeError: if ``paths`` is one path.
    :raises ValueError: if a file is none of a run, or no path is given.
    """
    paths = check_sequence("paths", paths, of="paths")
    files = [file for path in paths for file in _files(Path(path))]
    if not files:
        raise ValueError("Expected at least one run, got none.")
    order = list(METHOD_TEXTS)
    runs = [_read(file) for file in dict.fromkeys(files)]
    return sorted(runs, key=lambda r: (r["experiment"], order.index(r["method"]), r["seed"]))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = [path / RUN] if (path / RUN).is_file() else sorted(path.glob(f"*/{RUN}"))
    found = found or sorted(path.glob("*.json"))
    if not found:
        raise FileNotFoundError(f"Expected a run ({RUN}) in {path}, got none.")
    return found


def _read(path: Path) -> Run:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected JSON in {path}, got {error}.") from error
    if not isinstance(found, dict) or found.get("layout") != LAYOUT or "curve" not in found:
        raise ValueError(f"Expected a run of an experiment (layout {LAYOUT}) in {path}.")
    missing = [name for name in FACTS if name not in found]
    curve = found["curve"] if isinstance(found["curve"], dict) else {}
    if "train_loss" not in curve or not {"test_nll", "test_rmse"} & set(curve):
        missing.append("curve of training and test data")
    if missing:
        raise ValueError(f"Expected a whole run in {path}, got one without {', '.join(missing)}.")
    check_choice(f"the method of {path}", found["method"], tuple(METHOD_TEXTS))
    return found


def score_of(run: Run) -> str:
    """Return the name of a run's score: ``"perplexity"`` or ``"RMSE"``."""
    return _kind(run)[0]


def _kind(run: Run) -> tuple[str, str, Callable[[float], float]]:
    kind = "sentiment" if "test_rmse" in run["curve"] else "language"
    return _SCORES[kind]


def curves(run: Run) -> dict[str, Curve]:
    """Return the score after every epoch, at the means of the weights: train, valid, test."""
    _, name, convert = _kind(run)
    return {
        part: [convert(value) for value in run["curve"][f"{part}_{name}"]]
        for part in PARTS
        if f"{part}_{name}" in run["curve"]
    }


def table(runs: Iterable[Run]) -> str:
    """
    Return a text table, a run in each row.

    Scores are those of the best epoch at the means of the weights; "MC" is the average over draws.
    The best epoch is chosen by the validation text, where there is one.
    """
    rows = [["experiment", "method", "seed", "epochs", "best", *PARTS, "MC test", "S", "hours"]]
    for run in runs:
        by_part, metrics = curves(run), run["metrics"]
        best = run["best_epoch"]
        mc = metrics.get("mc_test_perplexity", metrics.get("mc_test_rmse"))
        rows.append(
            [
                f"{run['experiment']} ({score_of(run)})",
                METHOD_TEXTS[run["method"]] + ("" if run["finished"] else ", unfinished"),
                str(run["seed"]),
                str(len(run["curve"]["train_loss"])),
                "" if best is None else str(best + 1),
                *(
                    _number(by_part[part][best]) if part in by_part and best is not None else ""
                    for part in PARTS
                ),
                "" if mc is None else _number(mc),
                str(metrics.get("num_samples", "")),
                f"{run['wall_time'] / 3600:.2f}",
            ]
        )
    return _aligned(rows)


def _number(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.4f}"


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    texts = 2  # columns on the left
    return "\n".join(
        "  ".join(
            f"{cell:<{width}}" if k < texts else f"{cell:>{width}}"
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def draw_curves(runs: Sequence[Run], path: str | Path) -> Path:
    """
    Draw train and test scores by epoch, a panel for each experiment, a colour for each method.

    :param path: of the picture; its suffix says the format.
    :raises ValueError: if there is no run, or no format of that name.
    """
    from matplotlib.figure import Figure

    if not runs:
        raise ValueError("Expected at least one run, got none.")
    formats = Figure().canvas.get_supported_filetypes()
    if Path(path).suffix.removeprefix(".") not in formats:
        raise ValueError(
            f"Expected a picture that ends in one of .{', .'.join(sorted(formats))}, got {path}."
        )
    writable_folder(Path(path).parent)
    names = list(dict.fromkeys(run["experiment"] for run in runs))
    figure = Figure(figsize=(max(6.5, 5.2 * len(names)), 4.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _draw_panel(axes, [run for run in runs if run["experiment"] == name])
        axes.set_title(name)
    figure.legend(handles=_handles(runs), loc="outside lower center", ncols=3, fontsize="small")
    return write_atomic(path, lambda aside: figure.savefig(aside, dpi=120))


def _color(method: str) -> str:
    return f"C{list(METHOD_TEXTS).index(method)}"


def _handles(runs: Sequence[Run]) -> list[Any]:
    from matplotlib.lines import Line2D

    methods = [method for method in METHOD_TEXTS if any(run["method"] == method for run in runs)]
    return [
        *(Line2D([], [], color=_color(m), lw=1.8, label=METHOD_TEXTS[m]) for m in methods),
        Line2D([], [], color="0.3", lw=1.8, label="test data, at the means of the weights"),
        Line2D([], [], color="0.3", ls="--", lw=1.1, label="training data, likewise"),
        Line2D([], [], color="0.3", ls="", marker="o", ms=5, label="best epoch"),
        *(
            [Line2D([], [], color="0.3", ls="", marker="o", mfc="none", ms=8, label=ALONE)]
            if any(len(run["curve"]["train_loss"]) == 1 for run in runs)
            else []
        ),
    ]


def _draw_panel(axes: Any, runs: Sequence[Run]) -> None:
    for run in runs:
        by_part, color = curves(run), _color(run["method"])
        epochs = range(1, len(by_part["test"]) + 1)
        # A line of one point is nothing.
        marker = {"marker": "o", "mfc": "none", "ms": 8} if len(epochs) == 1 else {}
        axes.plot(epochs, by_part["test"], color=color, lw=1.8)
        axes.plot(epochs, by_part["train"], color=color, lw=1.1, ls="--", **marker)
        if run["best_epoch"] is not None:
            best = run["best_epoch"]
            axes.plot(best + 1, by_part["test"][best], "o", color=color, ms=5)
    score = score_of(runs[0])
    if score == "perplexity":
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        ticks = [tick for tick in TICKS if low <= tick <= high]
        axes.set_yticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
    axes.locator_params(axis="x", integer=True)
    axes.set(xlabel="epoch", ylabel=score)
