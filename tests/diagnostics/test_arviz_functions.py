"""ArviZ's own functions run on an export, whichever ArviZ is installed."""

import json
from pathlib import Path

import arviz as az
import matplotlib as mpl
import pytest

mpl.use("Agg")

from benchmarks import arviz_functions, arviz_page

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
FILES = sorted(RESULTS.glob("arviz_functions_*.json"))
CORE = (
    "means, intervals, ESS",
    "R-hat over runs",
    "draws of one gate",
    "PSIS-LOO",
    "PSIS-LOO by sequence",
    "two models compared",
    "LOO-PIT",
    "traces",
    "forest of the sites' norms",
    "posterior predictive check",
    "prior predictive check",
)
CALLS = dict(arviz_functions.calls(az.__version__))


@pytest.fixture(scope="module")
def objects():
    return arviz_functions.exports(quick=True)


@pytest.mark.parametrize("what", CORE)
def test_runs(objects, what):
    outcome = arviz_functions.run_call(CALLS[what], objects)
    assert outcome["ran"], outcome["error"]


def test_a_call_that_fails_is_said_to(objects):
    outcome = arviz_functions.run_call("az.summary(plain, var_names=['nothing'])", objects)
    assert not outcome["ran"]
    assert "nothing" in outcome["error"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_committed_tables_are_of_these_calls(path):
    found = json.loads(path.read_text())
    assert not found["config"]["quick"]
    made = [(row["what"], row["call"]) for row in found["rows"]]
    assert made == arviz_functions.calls(found["arviz"])
    ran = {row["what"] for row in found["rows"] if row.get("ran")}
    assert set(CORE) <= ran


def test_both_versions_are_there():
    found = [json.loads(path.read_text())["arviz"].split(".")[0] for path in FILES]
    assert found == ["0", "1"]


def test_a_failure_is_shown_plainly():
    rows = [
        {"what": "a", "call": "f()", "ran": False, "error": "E: a|b", "warnings": []},
        {"what": "b", "call": None},
        {"what": "c", "call": "g()", "ran": True, "warnings": ["w"]},
    ]
    lines = arviz_page.table(rows).splitlines()[2:]
    assert lines == [
        "| a | `f()` | **failed**: E: a\\|b |  |",
        "| b | not in this version |  |  |",
        "| c | `g()` | ran | w |",
    ]
