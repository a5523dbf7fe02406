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
    "bayesian": "Bayesian LSTM",
    "last_change": "last change, no network",
    "seasonal_naive": "seasonal naive",
}


def markdown_table(runs: list[dict[str, Any]]) -> str:
    """Return medians over runs as a Markdown table."""

    def median(*path: str | int) -> float:
        values = []
        for run in runs:
            value: Any = run
            for key in path:
                value = value[key]
            values.append(value)
        return statistics.median(values)

    lines = [
        "| | " + " | ".join(METHODS.values()) + " |",
        "|---|" + "---|" * len(METHODS),
    ]

    def row(label: str, cells: list[str]) -> None:
        lines.append(f"| {label} | " + " | ".join(cells) + " |")

    for key, label in (("rmse", "RMSE (ppm)"), ("nll", "NLL"), ("crps", "CRPS (ppm)")):
        row(label, [f"{median('test', m, key):.3f}" for m in METHODS])
    for level in ("50%", "90%"):
        key = f"interval_{level}"
        for part in ("score", "width"):
            cells = [f"{median('test', m, key, part):.2f}" for m in METHODS]
            row(f"{level} interval {part} (ppm)", cells)
        cells = [
            "{:.3f} [{:.2f}, {:.2f}]".format(
                median("test", m, key, "coverage"),
                median("test", m, key, "coverage_range", 0),
                median("test", m, key, "coverage_range", 1),
            )
            for m in METHODS
        ]
        row(f"{level} coverage", cells)
    return "\n".join(lines)


def load() -> list[dict[str, Any]]:
    """Return the committed results, by seed."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("demo-co2-seed*.json"))]


if __name__ == "__main__":
    print(markdown_table(load()))
