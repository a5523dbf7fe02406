"""The pages of results are what the JSON gives, and the benchmarks measure what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import results_page
from benchmarks.speed import GROUPS, measure_row, table
from benchmarks.speed_timing import Case, Setting, compare, layer_products, matrix_rates

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
SPEED = sorted(RESULTS.glob("speed_*.json"))
speed_files = pytest.mark.parametrize("path", SPEED, ids=lambda path: path.stem)


def setting(**changes):
    options = dict(threads=1, runs=3, seconds=0.01, quick=True, large=False, rate=1e9)
    return Setting(torch.device("cpu"), **{**options, **changes})


def row(**changes):
    made = {
        "key": "k", "group": "layer", "what": "a layer", "shape": {"T": 3}, "threads": 1,
        "reference": "nn.LSTM", "reference_seconds": 0.01, "seconds": 0.02, "ratio": 2.0,
        "ratio_quartiles": [1.9, 2.1], "pairs": 5, "target": 1.05, "holds": False,
    }  # fmt: skip
    return {**made, **changes}


def record(*rows):
    return {
        "command": "c", "config": {}, "date": "d", "wall_time_seconds": 60.0, "load_average": {},
        "versions": {}, "machine": {}, "rates": {}, "rows": list(rows), "profiles": [],
    }  # fmt: skip


def test_pages_are_what_the_json_gives():
    assert results_page.differing() == []


def test_check_names_the_page_that_differs(tmp_path):
    for name, text in results_page.pages().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert results_page.differing(tmp_path) == []
    speed = tmp_path / "speed.md"
    speed.write_text(speed.read_text(encoding="utf-8") + "0.99", encoding="utf-8")
    (tmp_path / "scope.md").unlink()
    assert results_page.differing(tmp_path) == ["speed.md", "scope.md"]


def test_a_missed_target_is_shown_plainly():
    kept, missed = row(ratio=1.0, holds=True), row(what="another layer")
    page = results_page.speed_section("CPU", record(kept, missed))
    assert "1 of 2 rows that have a target reach it. These do not:" in page
    assert "- another layer, T=3, 1 thread(s): 2.00 [1.90, 2.10], target ≤ 1.05: **missed**" in page
    assert "≤ 1.05: holds" in page
    assert "MISSED" in table(record(missed))


@speed_files
def test_verdicts_follow_from_the_numbers(path):
    for found in json.loads(path.read_text())["rows"]:
        expected = None
        if found["target"] is not None:
            expected = found["ratio"] <= found["target"]
            expected |= found.get("floor_ratio", 2.0) <= found.get("floor_target", 1.0)
        assert found["holds"] == expected, found["key"]


@speed_files
def test_committed_runs_are_whole(path):
    found = json.loads(path.read_text())
    assert not found["config"]["quick"]
    assert {"layer", "draw", "step", "predict", "growth", "peers", "memory"} == {
        entry["group"] for entry in found["rows"]
    }
    keys = [(entry["key"], entry["threads"]) for entry in found["rows"] + found["profiles"]]
    assert len(keys) == len(set(keys))


def test_no_text_of_the_data_is_in_the_results():
    """The reviews may not be given on: of strings there are the names of the scopes alone."""

    def texts(value):
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            return set().union(*map(texts, value))
        return {value} if isinstance(value, str) else set()

    found = json.loads((RESULTS / "scope_variance.json").read_text())
    assert texts(found["problems"]) == {"batch", "sequence"}


@pytest.mark.parametrize("group", GROUPS)
def test_each_row_has_a_name_of_its_own(group):
    keys = [case.key for case in GROUPS[group](setting(quick=False, large=True))]
    assert keys
    assert len(keys) == len(set(keys))


def test_reference_and_ours_take_turns():
    calls = []
    found = compare(setting(runs=3), lambda: calls.append("A"), lambda: calls.append("B"))
    assert "".join(calls) == "AB" * 5  # two of them to warm up
    assert found["pairs"] == 3


@pytest.mark.parametrize(
    ("case_target", "floor_ratio", "holds"),
    [
        (2.0, None, True),
        (0.5, None, False),
        (None, None, None),
        (0.5, 1.2, True),
        (0.5, 1.8, False),
    ],
)
def test_a_row_holds_by_its_target_or_its_floor(case_target, floor_ratio, holds):
    numbers = {"ratio": 1.0}
    if floor_ratio is not None:
        numbers |= {"floor_ratio": floor_ratio, "floor_target": 1.5}
    case = Case("layer", "w", {"T": 1}, case_target, lambda _: numbers)
    assert measure_row(case, setting())["holds"] is holds


def test_a_layer_s_row_has_its_counts():
    case = next(iter(GROUPS["layer"](setting())))
    found = measure_row(case, setting())
    assert found["multiplications"]["ours"] == 3 * 35 * 20 * 800 * 400
    assert found["times_products"]["ours"] == pytest.approx(
        found["seconds"] * 1e9 / found["multiplications"]["ours"]
    )


def test_noise_takes_five_products_for_three():
    shape = (2, 3, 4)
    assert layer_products("GRU", shape, 5) == 3 * 2 * 3 * 12 * 9
    ratio = layer_products("GRU", shape, noise=True) / layer_products("GRU", shape)
    assert ratio == pytest.approx(5 / 3)


def test_the_rate_is_the_best_of_the_sizes(monkeypatch):
    monkeypatch.setattr("benchmarks.speed_timing.SIZES", ((8, 8, 8), (64, 64, 64)))
    rates = matrix_rates(torch.device("cpu"), rounds=2)
    assert rates["best"] == max(max(e["mm"], e["times_transpose"]) for e in rates["sizes"])
