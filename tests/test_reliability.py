"""Small versions of what ``benchmarks/reliability.py`` measures, and the file that it has kept."""

from __future__ import annotations

import json
import os
import random

import pytest

from benchmarks import reliability_crashes, reliability_numbers, reliability_page
from benchmarks.reliability import PARTS, QUICK, RESULT, keep, measure, table
from benchmarks.reliability_child import RECIPES, checkpoint_digest, num_steps, train
from benchmarks.reliability_growth import slope
from pyro_vrnn.infer import CheckpointFolder

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
RECORD = json.loads(RESULT.read_text(encoding="utf-8"))
ROWS = [pytest.param(row, id=row["what"]) for part in RECORD.values() for row in part["rows"]]
KEYS = {"what", "often", "value", "target", "unit", "holds"}


@pytest.fixture
def in_this_process(monkeypatch, tmp_path):
    """The unbroken run, without a process of its own."""

    def unbroken(recipe):
        train(RECIPES[recipe](), tmp_path / "unbroken")
        return checkpoint_digest(tmp_path / "unbroken")

    def finish(recipe, folder):
        train(RECIPES[recipe](), folder)
        return checkpoint_digest(folder)

    monkeypatch.setattr(reliability_crashes, "unbroken", unbroken)
    monkeypatch.setattr(reliability_crashes, "finish", finish)


@posix
def test_killed_runs_go_on(in_this_process):
    found = measure("kills", 0, quick=True)
    assert len(found["kills"]) == QUICK["kills"]["count"]
    assert {row["value"] for row in found["rows"]} == {0}
    assert found["kills"][-1]["whole"] >= 1
    assert found["kills"][-1]["saved"] > 0


@posix
@pytest.mark.parametrize("case", reliability_crashes.CASES[1:3], ids=["SIGTERM-143", "SIGINT"])
def test_signalled_runs_end_with_a_checkpoint(case, tmp_path):
    found = reliability_crashes._signalled("list", case, tmp_path / "c", 5, random.Random(0))
    assert found["status"] == found["expected"]
    assert found["step"] >= 5
    assert found["late"] == 0


@pytest.mark.parametrize("what", ["data", "gradient", "parameter"])
@pytest.mark.parametrize("value", reliability_numbers.VALUES.values(), ids=str)
def test_numbers_that_go_wrong_are_named(what, value, tmp_path):
    job = RECIPES["list"]()
    good, steps, names = reliability_numbers._plan(what, value, job, random.Random(0), most=12)
    with pytest.raises(FloatingPointError) as error:
        train(job, tmp_path, [steps])
    assert names
    assert all(name in str(error.value) for name in names)
    assert steps.made == good
    assert good - 2 <= CheckpointFolder(tmp_path).load_last().step <= good


@pytest.mark.parametrize("part", ["memory", "repeats"])
def test_growth_is_measured(part):
    small = {"memory": {"steps": 400, "warm_up": 100}, "repeats": {"times": 4, "warm_up": 1}}
    found = PARTS[part](0, **small[part])
    assert all(mib > 50 for mib in found["mib"])
    assert all(row["value"] == 0 for row in found["rows"][1:])


def test_a_slope_and_what_is_left():
    found, spread = slope([0, 1, 2, 3], [1.0, 3.0, 5.0, 7.0])
    assert found == pytest.approx(2)
    assert spread == pytest.approx(0, abs=1e-12)


def test_whole_and_damaged_checkpoints_are_counted(tmp_path):
    train(RECIPES["list"](), tmp_path, [lambda result: True])
    kept = reliability_crashes.kept(tmp_path)
    assert kept == (3, 0, 12)
    (tmp_path / "step-000000012" / "facts.json").write_bytes(b"{}")
    assert reliability_crashes.kept(tmp_path) == (2, 1, 10)
    assert reliability_crashes.kept(tmp_path / "none") == (0, 0, -1)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_have_the_steps_they_say(recipe, tmp_path):
    job = RECIPES[recipe]()
    result = train(job, None, [lambda result: True])
    assert 10 * result.steps.length == num_steps(recipe)


def test_parts_are_kept_in_one_file(tmp_path):
    path = tmp_path / "r.json"
    keep(path, "signals", {"n": 1})
    keep(path, "kills", {"n": 2})
    keep(path, "signals", {"n": 3})
    assert list(json.loads(path.read_text()).items()) == [
        ("kills", {"n": 2}),
        ("signals", {"n": 3}),
    ]


def test_a_missed_target_is_shown_plainly():
    row = {"what": "w", "often": "3", "value": 2, "target": 0, "unit": "", "holds": False}
    assert reliability_page.table([row]).endswith("| w | 3 | 2 | ≤ 0 | **missed** |")
    assert table({"rows": [row]}).startswith("MISSED")


def test_the_committed_runs_are_whole():
    assert list(RECORD) == list(PARTS)
    assert not any(part["config"]["quick"] for part in RECORD.values())
    kills = RECORD["kills"]["kills"]
    assert len(kills) == 100
    assert sum(kill["landed"] == "save" for kill in kills) >= 20
    assert len(RECORD["signals"]["signals"]) == 20
    assert len(RECORD["numbers"]["faults"]) == 27


@pytest.mark.parametrize("row", ROWS)
def test_verdicts_follow_from_the_numbers(row):
    assert set(row) == KEYS
    assert row["holds"] is (row["value"] <= row["target"])
