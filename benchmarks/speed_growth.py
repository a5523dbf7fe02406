"""
Rows of growth: T, N, S doubled, and memory of a prediction when S grows.

Guard against anything that grows faster than the data, or keeps draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.speed_layer import Layer
from benchmarks.speed_memory import DRAWS as MEMORY_DRAWS
from benchmarks.speed_memory import peak_bytes
from benchmarks.speed_predict import DRAWS, Trained
from benchmarks.speed_timing import Case, Setting, Shape, compare

TARGET, MEMORY_TARGET = 2.1, 1.1
BASE: Shape = (35, 20, 200)


def _doubled(shape: Shape, letter: str) -> Shape:
    steps, sequences, hidden = shape
    return (2 * steps, sequences, hidden) if letter == "T" else (steps, 2 * sequences, hidden)


def _measure_layer(setting: Setting, letter: str) -> dict[str, Any]:
    once = Layer("LSTM", BASE, setting.device)
    twice = Layer("LSTM", _doubled(BASE, letter), setting.device)
    weights = once.masked("noise"), twice.masked("noise")
    return compare(setting, partial(once.run, weights[0]), partial(twice.run, weights[1]))


def _measure_predict(setting: Setting, letter: str) -> dict[str, Any]:
    draws, sequences, steps = (DRAWS, 1, 35) if letter in "ST" else (20, 500, 35)
    draws = draws // 10 if setting.quick else draws
    double = {letter: 2}
    once = Trained(sequences, 32, 0.01, setting.device, steps)
    twice = Trained(
        sequences * double.get("N", 1), 32, 0.01, setting.device, steps * double.get("T", 1)
    )
    return compare(
        setting,
        partial(once.predict, draws),
        partial(twice.predict, draws * double.get("S", 1)),
        warm_up=1,
    )


def _measure_memory(setting: Setting, strategy: str) -> dict[str, Any]:
    found = peak_bytes(str(setting.device), setting.threads, "predictions", strategy)
    once, more = found[str(MEMORY_DRAWS)], found[str(4 * MEMORY_DRAWS)]
    return {"reference_bytes": once, "bytes": more, "ratio": more / once, "pairs": 1}


def cases(setting: Setting) -> Iterator[Case]:
    """Yield the rows: base against doubled."""
    layer = dict(zip("TNH", BASE, strict=True))
    for letter in "TN":
        what = f"{letter} doubled: LSTM, sequence scope, masks and noise"
        yield Case(
            "growth", what, layer, TARGET, partial(_measure_layer, letter=letter), "not doubled"
        )
    for letter in "STN":
        shape = (
            {"S": 20, "T": 35, "N": 500, "H": 32}
            if letter == "N"
            else {"S": DRAWS, "T": 35, "N": 1, "H": 32}
        )
        what = f"{letter} doubled: predict"
        measure = partial(_measure_predict, letter=letter)
        yield Case("growth", what, shape, TARGET, measure, "not doubled")
    for strategy, shape in (
        ("batched", {"S": MEMORY_DRAWS, "T": 35, "N": 1, "H": 32}),
        ("loop", {"S": MEMORY_DRAWS, "T": 35, "N": 200, "H": 32}),
    ):
        what = f"4 S: peak memory of predict, strategy {strategy}"
        measure = partial(_measure_memory, strategy=strategy)
        yield Case("growth", what, shape, MEMORY_TARGET, measure, "S draws")
