"""Pickles in the place of every file that the command line reads: none is executed."""

from __future__ import annotations

import shutil
import sys

import pytest

from pyro_vrnn import cli
from pyro_vrnn.experiments import train
from tests.experiments.cases import write_series
from tests.test_archives import bombs

OPTIONS = ["--hidden-size", "3", "--samples", "100", "--epochs", "2", "--no-progress"]
READ_BY_PREDICT = [f"posterior/{n}" for n in ("tensors.safetensors", "facts.json", "manifest.json")]
bomb_indices = pytest.mark.parametrize("index", range(10))


def call(*args):
    """Run the command line in this process and return its exit status."""
    before, sys.argv = sys.argv, ["pyro-vrnn", *map(str, args)]
    try:
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    finally:
        sys.argv = before
    return stopped.value.code


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder with a finished run in ``run`` and its series."""
    folder = tmp_path_factory.mktemp("pickles")
    series = write_series(folder / "series.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "EXPORTED_DRAWS", 5)
        command = ["train", "series", series, "--column", "value", "--out", folder / "run"]
        assert call(*command, *OPTIONS) == 0
    return folder


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


@bomb_indices
@pytest.mark.parametrize("name", READ_BY_PREDICT)
def test_predict_refuses_it(index, name, run, tmp_path, capsys):
    marker = tmp_path / "marker"
    (run / "run" / name).write_bytes(bombs(marker)[index])
    assert call("predict", run / "run", run / "series.csv", "--no-progress") == 2
    assert capsys.readouterr().err.startswith("pyro-vrnn: Expected ")
    assert not marker.exists()


@bomb_indices
def test_predict_refuses_it_as_data(index, run, tmp_path, capsys):
    marker = tmp_path / "marker"
    (run / "series.csv").write_bytes(bombs(marker)[index])
    assert call("predict", run / "run", run / "series.csv", "--no-progress") == 2
    assert capsys.readouterr().err.startswith("pyro-vrnn: ")
    assert not marker.exists()


@bomb_indices
def test_train_refuses_it(index, run, tmp_path, capsys):
    marker = tmp_path / "marker"
    (run / "run" / "config.json").write_bytes(bombs(marker)[index])
    command = ["train", "series", run / "series.csv", "--column", "value", "--out", run / "run"]
    assert call(*command, *OPTIONS) == 2
    assert capsys.readouterr().err.startswith("pyro-vrnn: ")
    assert not marker.exists()


@bomb_indices
def test_train_does_without_it(index, run, tmp_path, monkeypatch):
    """The name of the best checkpoint is lost: the last parameters are kept, with a warning."""
    monkeypatch.setattr(train, "EXPORTED_DRAWS", 5)
    marker = tmp_path / "marker"
    (run / "run" / "checkpoints" / "best.json").write_bytes(bombs(marker)[index])
    command = ["train", "series", run / "series.csv", "--column", "value", "--out", run / "run"]
    with pytest.warns(UserWarning, match=r"The last parameters are kept"):
        assert call(*command, *OPTIONS) == 0
    assert not marker.exists()
