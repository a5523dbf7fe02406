"""The history's columns: blocks of rows that read as one list."""

from __future__ import annotations

import math

import pytest

from pyro_vrnn.infer import _columns
from pyro_vrnn.infer._columns import Columns
from pyro_vrnn.infer.fit_result import FitResult


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(_columns, "BLOCK", 3)


def filled(rows):
    columns = Columns()
    for k in range(rows):
        columns.append({"a": float(k), **({"late": -float(k)} if k >= 4 else {})})
    return columns


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 6, 7, 10])
def test_a_column_reads_as_one_list(rows):
    columns = filled(rows)
    assert columns.length == rows
    assert columns["a"] == [float(k) for k in range(rows)]
    assert all(columns.since("a", k) == columns["a"][k:] for k in range(rows + 1))
    assert columns["nothing"] == []


@pytest.mark.parametrize("rows", [5, 6, 7, 10])
def test_a_late_column_is_open_before(rows):
    late = filled(rows)["late"]
    assert all(math.isnan(value) for value in late[:4])
    assert late[4:] == [-float(k) for k in range(4, rows)]


@pytest.mark.parametrize("rows", [0, 2, 3, 5, 7])
def test_columns_are_loaded_and_go_on(rows):
    twin = Columns()
    twin.load(filled(rows).part())
    for k in range(rows, 9):
        twin.append({"a": float(k), **({"late": -float(k)} if k >= 4 else {})})
    whole = filled(9)
    assert twin["a"] == whole["a"]
    assert twin["late"][4:] == whole["late"][4:]
    assert twin.length == 9


def test_a_result_is_stored_and_loaded():
    result = FitResult(seed=3, skipped=[[0, 1]])
    for k in range(5):
        result.steps.append({"loss": float(k), "kl.w": 2.0 * k, "kl_weight": 1.0})
    result.epochs.append({"loss": 2.0, "nll": 0.5})
    twin = FitResult()
    twin.load_state(*result.state())
    assert (twin.loss, twin.kl, twin.seed) == (result.loss, {"w": [0.0, 2.0, 4.0, 6.0, 8.0]}, 3)
    assert (twin.validation, twin.epoch_loss) == ({"nll": [0.5]}, [2.0])
    assert twin.skipped == [[0, 1]]
    assert twin.kl_weight == []


def test_the_elbo_is_the_same_whatever_the_order_of_the_sites():
    sites = {"kl.b": 0.3, "kl.a": 0.2, "kl.c": 0.1}  # (0.3 + 0.2) + 0.1 < (0.1 + 0.3) + 0.2
    result, twin = FitResult(), FitResult()
    result.steps.append({"loss": 1.0, "expected_log_likelihood": 0.0, "kl_weight": 0.5, **sites})
    tensors, facts = result.state()
    twin.load_state(dict(sorted(tensors.items(), reverse=True)), facts)
    assert list(twin.kl) == ["c", "b", "a"]
    assert twin.elbo == result.elbo


def test_lost_rows_say_nothing_of_the_weight_of_the_kl():
    result = FitResult()  # of an ELBO that does not keep its parts
    for loss, weight in ((2.0, 1.0), (math.nan, math.nan), (1.0, 1.0)):
        result.steps.append({"loss": loss, "kl_weight": weight})
    assert result.kl_weight == []
    assert result.elbo == pytest.approx([-2.0, math.nan, -1.0], nan_ok=True)


def test_the_repr_says_what_came_of_the_run():
    result = FitResult(seed=3, wall_time=1.23456, skipped=[[0, 1], [0, 4]])
    assert repr(result) == (
        "FitResult(epochs=0, steps=0, stopped=None, skipped=2, seed=3, wall_time=1.23456)"
    )
    for k in range(4):
        result.steps.append({"loss": float(k)})
    for k in range(2):
        result.epochs.append({"loss": 0.123456789 - k, "nll": 0.5, "worst": math.nan})
    result.best_epoch, result.stopped, result.skipped = 0, "patience", []
    result.resumed_from = [1, 2]
    assert repr(result) == (
        "FitResult(epochs=2, steps=4, epoch_loss=-0.876543, validation['nll']=0.5, "
        "validation['worst']=nan, best_epoch=0, "
        "stopped='patience', resumed_from=[1, 2], seed=3, wall_time=1.23456)"
    )


def test_the_repr_is_short_whatever_the_number_of_scores_and_resumptions():
    result = FitResult(resumed_from=list(range(1000)))
    result.epochs.append({f"score {k}": 1.0 for k in range(100)})
    assert len(repr(result)) < 300
    assert "validation['score 3']=1, stopped=None, resumed_from=list of 1000" in repr(result)
