"""
What earlier versions wrote can be read, and what is written now is the version that it says.

A changed format needs a new version, and a new folder beside those of ``data_formats``::

    python -m tests.test_data_formats tests/data_formats

If a test here fails because a format was changed by accident, change it back.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pyro
import pytest
import torch

import pyro_vrnn as vrnn
from pyro_vrnn.archives import read_archive, write_archive
from pyro_vrnn.infer import (
    CheckpointFolder,
    _history_files,
    _run_state,
    checkpoints,
    load_posterior,
    posterior_facts,
    posterior_files,
    save_posterior,
)
from pyro_vrnn.infer.training_state import flatten_state, restore_state
from tests.infer.test_training_state import equal

FOLDER = Path(__file__).parent / "data_formats"
TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor([1, 2], dtype=torch.int16),
    "c": torch.empty(0, 2, dtype=torch.float64),
}
FACTS = {"n": 3, "list": [0.1, None, "é"], "inner": {"yes": True}}


def write_plain(folder):
    write_archive(folder, TENSORS, FACTS, format="plain", version=1)


def state():
    """Return a state in the form of an optimiser's, whatever torch's own has today."""
    moments = {"step": torch.tensor(1.0), "exp_avg": torch.ones(3, dtype=torch.float64)}
    group = {"lr": 0.5, "betas": (0.5, 0.75), "best": math.inf, "fused": None, "params": [0]}
    return {"state": {0: moments}, "param_groups": [group], "milestones": Counter({4: 2})}


def write_checkpoints(folder):
    tensors, facts = flatten_state("state", state())
    CheckpointFolder(folder).save(7, tensors, {"optimizer": facts}, best=True)


def fit_run(folder, num_epochs):
    """Train a tiny model with what a checkpoint of fit can hold: schedule, history, held-out."""
    pyro.set_rng_seed(0)
    model = vrnn.models.SequenceRegression(vrnn.nn.RNN(1, 2, bias=False), 1, num_data=4)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    batches = [(torch.full((2, 3, 1), float(k)), torch.full((2, 1), 1.0)) for k in range(2)]
    return vrnn.infer.fit(
        model, guide, batches, num_epochs=num_epochs, validation=batches[:1], seed=0,
        optimizer=partial(torch.optim.Adam, lr=0.125), checkpoint_dir=folder, keep_last=1,
        scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1), progress=False,
    )  # fmt: skip


def posterior():
    """Return a model and its guide with all means 1, learned scales 1/2 and precision 4."""
    model = vrnn.models.Forecaster(
        vrnn.nn.GRU(1, 2, bias=False, dtype=torch.float64), 2, lag=3, tau=4.0, num_data=5
    )
    model.center.fill_(0.25)
    guide = vrnn.infer.AutoSpikeAndSlab(
        model, drop_prob={"weight_hh": 0.5}, scale=0.5, learn_scale=True
    )
    guide(torch.zeros(1, 6, 1, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64))
    with torch.no_grad():
        for parameter in guide.locs.parameters():
            parameter.fill_(1.0)
    return model, guide


def write_posterior(folder):
    model, guide = posterior()
    save_posterior(folder, model, guide, facts={"note": "for a test"})


WRITERS = {
    "archive-1": write_plain,
    "checkpoints-1": write_checkpoints,
    "posterior-1": write_posterior,
}


def shape_of(value):
    """Return names and types of facts, not their values."""
    if isinstance(value, dict):
        return {key: shape_of(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape_of(item) for item in value]
    return type(value).__name__


@pytest.mark.parametrize("name", ["archive-1", "checkpoints-1"])
def test_written_today_byte_for_byte(name, tmp_path):
    WRITERS[name](tmp_path / name)
    files = sorted(path.relative_to(FOLDER / name) for path in (FOLDER / name).rglob("*.*"))
    assert files == sorted(p.relative_to(tmp_path / name) for p in (tmp_path / name).rglob("*.*"))
    assert len(files) >= 3
    for file in files:
        assert (tmp_path / name / file).read_bytes() == (FOLDER / name / file).read_bytes(), file


def test_a_posterior_has_the_same_names_today(tmp_path):
    """Not the same bytes: it holds the packages' versions."""
    write_posterior(tmp_path / "p")
    kind = {"format": posterior_files.FORMAT, "max_version": posterior_files.VERSION}
    then, now = (read_archive(p, **kind) for p in (FOLDER / "posterior-1", tmp_path / "p"))
    assert shape_of(now.facts) == shape_of(then.facts)
    same = {name: (v.shape, v.dtype) for name, v in now.tensors.items()}
    assert same == {name: (v.shape, v.dtype) for name, v in then.tensors.items()}


def test_versions_are_those_of_the_newest_folders():
    assert (checkpoints.VERSION, posterior_files.VERSION) == (1, 1)
    assert (_run_state.LAYOUT, _history_files.VERSION) == (2, 1)


def test_archive_1():
    found = read_archive(FOLDER / "archive-1", format="plain", max_version=1)
    assert found.facts == FACTS
    assert list(found.tensors) == list(TENSORS)
    assert all(torch.equal(found.tensors[name], TENSORS[name]) for name in TENSORS)
    assert [v.dtype for v in found.tensors.values()] == [v.dtype for v in TENSORS.values()]


def test_checkpoints_1():
    run = CheckpointFolder(FOLDER / "checkpoints-1")
    found = run.load_best()
    assert found.step == run.load_last().step == 7
    assert equal(restore_state(found.tensors, found.facts["optimizer"]), state())


def test_posterior_1():
    model, guide = load_posterior(FOLDER / "posterior-1")
    assert (type(model).__name__, model.rnn.hidden_size, model.lag) == ("Forecaster", 2, 3)
    assert (model.center.item(), model.num_data) == (0.25, 5)
    assert model.tau.tolist() == pytest.approx([4.0, 4.0], abs=1e-12)
    assert guide.mean()["rnn.weight_hh_l0"].unique().tolist() == [0.5]
    assert guide.mean()["head.bias"].tolist() == [1.0, 1.0]
    scale = guide.distribution("head.weight").scale
    assert scale.flatten().tolist() == pytest.approx([0.5] * 4, abs=1e-12)
    assert posterior_facts(FOLDER / "posterior-1")["facts"] == {"note": "for a test"}


@pytest.mark.parametrize("name", ["fit-1", "fit-2"])
def test_a_run_of_an_earlier_version_goes_on(name, tmp_path):
    """The first held all of the history; the second has it in blocks, here of two rows."""
    shutil.copytree(FOLDER / name, tmp_path / "run")
    result = fit_run(tmp_path / "run", num_epochs=2)
    assert result.resumed_from == [2]
    assert (len(result.loss), len(result.epoch_loss)) == (4, 2)
    assert result.learning_rate == [0.125, 0.125, 0.0125, 0.0125]
    assert set(result.validation) == {"expected_log_likelihood", "nll"}
    assert result.loss[:2] == [44.57422590255737, 43.83603477478027]


def test_a_run_has_the_same_names_today(tmp_path, monkeypatch):
    monkeypatch.setattr(_history_files, "ROWS", 2)
    fit_run(tmp_path / "run", num_epochs=1)
    kind = {"format": checkpoints.FORMAT, "max_version": checkpoints.VERSION}
    then, now = (
        read_archive(p / "step-000000002", **kind) for p in (FOLDER / "fit-2", tmp_path / "run")
    )
    leave_out = {"versions", "machine"}  # of the machine and its packages
    for found in (then, now):
        found.facts["facts"]["result"] = {
            k: v for k, v in found.facts["facts"]["result"].items() if k not in leave_out
        }
    assert now.facts["facts"]["result"].keys() == then.facts["facts"]["result"].keys()
    assert now.facts["facts"]["result"]["blocks"].keys() == {"rows", "step", "epoch"}
    same = {name: v.dtype for name, v in now.tensors.items()}
    assert same == {name: v.dtype for name, v in then.tensors.items()}
    assert (tmp_path / "run" / "history-step-000000").is_dir()


def test_a_run_of_another_layout_is_refused(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(2, {}, {"layout": 3})
    with pytest.raises(ValueError, match=r"checkpoint of fit \(layout 1 to 2\).*got layout 3"):
        fit_run(tmp_path, num_epochs=1)


def test_another_layout_is_refused_before_the_model_is_called(tmp_path):
    CheckpointFolder(tmp_path).save(2, {}, {"layout": 3})

    class Loss(torch.nn.Module):
        def forward(self, *args):
            raise AssertionError("called")

    with pytest.raises(ValueError, match="got layout 3"):
        vrnn.infer.fit_loss(
            Loss(), [()], num_epochs=1, optimizer=partial(torch.optim.SGD, lr=0.1),
            checkpoint_dir=tmp_path, progress=False,
        )  # fmt: skip


if __name__ == "__main__":
    for writer_name, writer in WRITERS.items():
        writer(Path(sys.argv[1]) / writer_name)
    _history_files.ROWS = 2
    fit_run(Path(sys.argv[1]) / "fit-2", num_epochs=1)
