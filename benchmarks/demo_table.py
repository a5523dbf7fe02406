"""
The README's table of the demo: medians over seeds of the committed results.

The results are made by ``pyro-vrnn demo --seed S --out benchmarks/results/demo`` for S = 0, 1, 2.
``python benchmarks/demo_table.py`` prints the table; a test holds the README to it.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "demo"
METHODS = {
    "bayesian": "**Bayesian LSTM, SVI**",
    "variational": "dropout as VI, plain torch",
    "naive": "naive dropout",
    "none": "no dropout",
    "ensemble": "deep ensemble of 5",
    "last_change": "last change, no network",
    "seasonal_naive": "seasonal naive",
}
COLUMNS = (
    "RMSE (ppm)",
    "NLL",
    "CRPS (ppm)",
    "90% interval score",
    "90% width",
    "50% coverage",
    "90% coverage",
)


def markdown_table(runs: list[dict[str, Any]]) -> str:
    """Return medians over runs as a Markdown table, a method in each row."""

    def median(*path: str | int) -> float:
        values = []
        for run in runs:
            value: Any = run
            for key in path:
                value = value[key]
            values.append(value)
        return statistics.median(values)

    def coverage(method: str, level: str) -> str:
        key = f"interval_{level}"
        return "{:.2f} [{:.2f}, {:.2f}]".format(
            median("test", method, key, "coverage"),
            median("test", method, key, "coverage_range", 0),
            median("test", method, key, "coverage_range", 1),
        )

    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
    for method, label in METHODS.items():
        cells = [f"{median('test', method, key):.3f}" for key in ("rmse", "nll", "crps")]
        for part in ("score", "width"):
            cells.append(f"{median('test', method, 'interval_90%', part):.2f}")
        cells += [coverage(method, "50%"), coverage(method, "90%")]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def undecided(runs: list[dict[str, Any]]) -> tuple[int, int]:
    """
    Return how many differences between the Bayesian and a plain network have 0 in their range.

    :returns: that number, and that of all differences: method by run by CRPS and NLL.
    """
    parts = [
        run["test_difference"][method][score]
        for run in runs
        for method in ("variational", "naive", "none", "ensemble")
        for score in ("crps", "nll")
    ]
    return sum(part["lower"] <= 0 <= part["upper"] for part in parts), len(parts)


def weight_shares(runs: list[dict[str, Any]]) -> tuple[str, str]:
    """Return the range of the weights' share of the variance, of the Bayesian and of the others."""
    ours = [run["variance_share_of_weights"] for run in runs]
    others = [share for run in runs for share in run["plain_variance_share"].values()]
    return (
        f"{100 * min(ours):.2f} % to {100 * max(ours):.1f} %",
        f"{100 * min(others):.1f} % to {100 * max(others):.1f} %",
    )


def load() -> list[dict[str, Any]]:
    """Return the committed results, by seed."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("demo-co2-seed*.json"))]


if __name__ == "__main__":
    print(markdown_table(load()))
