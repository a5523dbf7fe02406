"""The command line: one line and exit status 2 for bad input, files for good input."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from pyro_vrnn import cli


def write_csv(path, values, header="date,value"):
    rows = [f"{2000 + i // 12}-{i % 12 + 1:02}-01,{v}" for i, v in enumerate(values)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def series(n=150):
    time = np.arange(n)
    return (
        10 + time / 50 + np.sin(2 * np.pi * time / 12) + np.random.default_rng(0).normal(0, 0.1, n)
    )


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process; return status, output lines and error lines."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["pyro-vrnn", *map(str, args)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return stopped.value.code, out.splitlines(), err.splitlines()

    return call


def with_cell(values, row, cell):
    values = [f"{v:.3f}" for v in values]
    values[row] = cell
    return values


BAD = {
    "missing-file": (None, "value", r"Expected a file at .*, got none"),
    "missing-column": (series(), "price", r"price"),
    "nan": (with_cell(series(), 15, "nan"), "value", r"row 17"),
    "empty-cell": (with_cell(series(), 15, ""), "value", r"row 17"),
    "text": (with_cell(series(), 3, "n/a"), "value", r"row 5"),
    "too-short": (series(40), "value", r"Expected at least .* got 40"),
}


@pytest.mark.parametrize(("values", "column", "message"), BAD.values(), ids=BAD)
def test_bad_series(run, tmp_path, values, column, message):
    path = tmp_path / "series.csv"
    if values is not None:
        write_csv(path, values)
    out = tmp_path / "out"
    status, printed, errors = run("demo", "--csv", path, "--column", column, "--out", out)
    assert status == 2
    assert not printed
    assert len(errors) == 1
    assert errors[0].startswith("pyro-vrnn: ")
    assert re.search(message, errors[0])
    assert not out.exists()


ARGUMENTS = {
    "csv-alone": (["--csv", "x.csv"], r"Expected --csv and --column together"),
    "column-alone": (["--column", "x"], r"Expected --csv and --column together"),
    "cell": (["--cell", "mlp"], r"Expected cell to be one of"),
    "seed": (["--seed", "-1"], r"Expected seed to be a non-negative int"),
    "steps": (["--steps", "0"], r"Expected --steps to be a positive int"),
    "device": (["--device", "nowhere"], r"nowhere"),
}


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_bad_arguments(run, tmp_path, arguments, message):
    status, _, errors = run("demo", *arguments, "--out", tmp_path / "out")
    assert status == 2
    assert re.search(message, errors[-1])
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pyro-vrnn", "--debug", "demo", "--steps", "0"])
    with pytest.raises(ValueError, match=r"Expected num_steps to be a positive int, got 0"):
        cli.main()


def test_folder_that_is_a_file(run, tmp_path):
    path = write_csv(tmp_path / "series.csv", series())
    status, _, errors = run("demo", "--csv", path, "--column", "value", "--out", path)
    assert status == 2
    assert len(errors) == 1
    assert str(path) in errors[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(run, tmp_path):
    path = write_csv(tmp_path / "series.csv", series())
    tmp_path.chmod(0o500)
    status, _, errors = run("demo", "--csv", path, "--column", "value", "--out", tmp_path)
    assert status == 2
    assert len(errors) == 1


def test_own_series(tmp_path):
    """The whole command in a process of its own, on a small monthly series."""
    path = write_csv(tmp_path / "series.csv", series())
    series_options = ["--csv", str(path), "--column", "value"]
    options = ["--steps", "2", "--out", str(tmp_path / "out"), "--no-progress"]
    run = subprocess.run(
        [sys.executable, "-m", "pyro_vrnn", "demo", *series_options, *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "90% coverage" in run.stdout
    names = sorted(p.suffix for p in (tmp_path / "out").iterdir())
    assert names == [".json", ".nc", ".png"]
