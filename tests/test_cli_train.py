"""Training and predicting from the command line, killed and run again."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import get_type_hints

import pytest

from pyro_vrnn import cli
from pyro_vrnn.experiments import train
from pyro_vrnn.experiments.train_config import LEAST_SAMPLES
from tests.experiments.cases import write_sequences, write_series

TINY = ["--hidden-size", "3", "--samples", "100", "--no-progress"]
LONG = [*TINY, "--epochs", "40", "--patience", "40", "--batch-size", "8", "--horizon", "2"]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process; return status, output lines and error lines."""
    monkeypatch.setattr(train, "EXPORTED_DRAWS", 5)

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["pyro-vrnn", *map(str, args)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return stopped.value.code, out.splitlines(), err.splitlines()

    return call


def started(*args):
    return subprocess.Popen(
        [sys.executable, "-m", "pyro_vrnn", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def signalling(collate, number, batches):
    """Return a collate function that sends this process a signal with its last batch."""
    count = itertools.count(1)

    def call(rows):
        if next(count) == batches:
            signal.raise_signal(number)
        return collate(rows)

    return call


def newest_step(folder):
    names = [p.name for p in folder.glob("checkpoints/step-*")]
    return max((int(name.removeprefix("step-")) for name in names), default=-1)


def wait_for_step(process, folder, step):
    until = time.monotonic() + 60
    while newest_step(folder) < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.005)


def test_stopped_runs_end_like_an_unbroken_one(run, tmp_path, monkeypatch):
    """SIGTERM and Ctrl-C inside an epoch, then a kill -9, one after another."""
    command = ["train", "series", write_series(tmp_path / "s.csv"), "--column", "value", *LONG]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(*command, "--out", whole)[0] == 0
    seen = [0]
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        with monkeypatch.context() as patch:
            patch.setattr(train, "_trimmed", signalling(train._trimmed, number, batches=9))
            assert run(*command, "--out", broken)[0] == status
        assert not (broken / "results.json").exists()
        seen.append(newest_step(broken))
    process = started(*command, "--out", broken)
    wait_for_step(process, broken, seen[-1] + 2)
    process.kill()
    process.communicate()
    seen.append(newest_step(broken))
    assert sorted(set(seen)) == seen
    assert seen[-1] < newest_step(whole)
    assert not (broken / "results.json").exists()
    status, out, _ = run(*command, "--out", broken)
    assert status == 0
    assert f"went on from step {seen[-1]}." in out[1]
    for name in ("predictions.csv", "posterior/tensors.safetensors"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    results = [json.loads((f / "results.json").read_text()) for f in (whole, broken)]
    assert results[0]["validation"] == results[1]["validation"]
    assert results[0]["training"]["held_out"] == results[1]["training"]["held_out"]
    assert [len(r["training"]["resumed_from"]) for r in results] == [0, 3]


def test_sequences_in_a_process_of_their_own(tmp_path):
    """Train and predict, as a user does; the numbers in the output are those of the files."""
    path = write_sequences(tmp_path / "s.csv", lambda n: "xyz"[n % 3])
    out = tmp_path / "out"
    process = started("train", "sequences", path, "--out", out, "--epochs", "1", *TINY)
    printed, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert "3 classes, 2 features; 19 rows to train on, 5 to validate." in printed
    accuracy = json.loads((out / "results.json").read_text())["validation"]["accuracy"]
    assert f"accuracy {accuracy:.4g}" in printed
    process = started("predict", out, path, "--samples", "100", "--no-progress")
    printed, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    table = (out / "predictions-s.csv").read_text().splitlines()
    assert printed.split()[:4] == table[0].split(",")[:4]
    assert "4 more" in printed


def test_numbers_and_their_names(run, tmp_path):
    """The columns may have other names; numbers are regressed."""
    path = write_sequences(tmp_path / "s.csv", lambda n: 5 * n)
    path.write_text(path.read_text().replace("sequence,a,b,label", "id,when,b,y"))
    names = ["--sequence", "id", "--label", "y", "--time", "when"]
    options = ["--epochs", "1", "--validation", "0.5", "--cell", "gru", *TINY]
    status, printed, _ = run("train", "sequences", path, *names, "--out", tmp_path / "o", *options)
    assert status == 0
    assert "labels as numbers, 1 features; 12 rows to train on, 12 to validate." in printed[0]
    status, printed, _ = run("predict", tmp_path / "o", path, "--out", tmp_path / "p.csv")
    assert status == 0
    assert printed[-1] == f"table: {tmp_path / 'p.csv'}"
    assert printed[-2].startswith("nll ")


SERIES = ["series", "{series}", "--column", "value"]
SEQUENCES = ["sequences", "{sequences}"]
BAD = {
    "no-file": (["series", "none.csv", "--column", "value"], r"Expected a file at none\.csv"),
    "column": ([*SERIES[:3], "price"], r"Expected column to be one of .*, got 'price'"),
    "short": ([*SERIES, "--horizon", "30"], r"Expected at least \d+ values .* got 60"),
    "lag": ([*SERIES, "--lag", "x"], r"'auto' or 'none', got 'x'"),
    "steps": ([*SERIES, "--steps", "0"], r"Expected --steps to be a positive int, got 0"),
    "both": ([*SERIES, "--steps", "9", "--epochs", "9"], r"one of --epochs and --steps, got 9"),
    "samples": ([*SERIES, "--samples", "50"], r"Expected --samples of at least 100, got 50\.$"),
    "quoted": ([*SERIES[:3], "num_steps"], r"Expected column to be one of .*, got 'num_steps'"),
    "device": ([*SERIES, "--device", "nowhere"], r"Expected a device that is here, got 'nowhere'"),
    "label": ([*SEQUENCES, "--label", "y"], r"Expected column to be one of .*, got 'y'"),
    "cell": ([*SEQUENCES, "--cell", "mlp"], r"Expected cell to be one of .*, got 'mlp'"),
    "scale": ([*SEQUENCES, "--scale", "-1"], r"Expected scale to be a number of at least 0"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_leaves_nothing(run, tmp_path, arguments, message):
    places = {
        "series": write_series(tmp_path / "series.csv"),
        "sequences": write_sequences(tmp_path / "sequences.csv", lambda n: n),
    }
    given = [argument.format(**places) for argument in arguments]
    status, printed, errors = run("train", *given, "--out", tmp_path / "out")
    assert (status, printed, len(errors)) == (2, [], 1)
    assert errors[0].startswith("pyro-vrnn: ")
    assert re.search(message, errors[0])
    assert not (tmp_path / "out").exists()


def test_out_that_is_a_file(run, tmp_path):
    path = write_series(tmp_path / "series.csv")
    status, _, errors = run("train", "series", path, "--column", "value", "--out", path)
    assert (status, len(errors)) == (2, 1)
    assert str(path) in errors[0]


def test_predict_without_a_training(run, tmp_path):
    path = write_series(tmp_path / "series.csv")
    status, printed, errors = run("predict", tmp_path / "none", path)
    assert (status, printed, len(errors)) == (2, [], 1)
    assert re.search(r"Expected an archive at .*none", errors[0])


def test_the_least_number_of_samples_is_in_the_help():
    option = get_type_hints(cli.predict, include_extras=True)["samples"].__metadata__[0]
    assert f"at least {LEAST_SAMPLES}" in option.help


def test_labels_of_0_and_1(tmp_path):
    """They are regressed as asked, but not without a word, one line as an error's."""
    path = write_sequences(tmp_path / "s.csv", lambda n: n % 2)
    process = started("train", "sequences", path, "--out", tmp_path / "o", "--epochs", "1", *TINY)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "labels as numbers" in printed
    assert errors.splitlines() == [
        "pyro-vrnn: Expected labels of more values than 0 and 1 to regress as numbers: if these "
        "are classes, give --classes (classes=True)."
    ]


def test_classes_of_0_and_1(run, tmp_path):
    path = write_sequences(tmp_path / "s.csv", lambda n: n % 2)
    given = ["--classes", "--epochs", "1", *TINY]
    status, printed, _ = run("train", "sequences", path, "--out", tmp_path / "o", *given)
    assert status == 0
    assert "2 classes" in printed[0]


def test_tables_of_two_files_of_one_name(run, tmp_path):
    """The second takes the place of the first, and says so; a folder's place is refused."""
    paths = [tmp_path / name / "n.csv" for name in ("one", "two")]
    for path in paths:
        path.parent.mkdir()
        write_series(path)
    out = tmp_path / "out"
    given = ["--epochs", "1", "--horizon", "2", *TINY]
    assert run("train", "series", paths[0], "--column", "value", "--out", out, *given)[0] == 0
    last = [run("predict", out, path, "--samples", "100")[1][-1] for path in paths]
    table = f"table: {out / 'predictions-n.csv'}"
    assert last == [table, f"{table}, in the place of another"]
    status, printed, errors = run("predict", out, paths[0], "--out", tmp_path)
    assert (status, printed) == (2, [])
    assert errors == [f"pyro-vrnn: Expected a file for the table at {tmp_path}, got a folder."]
