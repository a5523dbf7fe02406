"""A history in blocks beside its checkpoints: written once, read exactly; damage costs rows."""

from __future__ import annotations

import math
import shutil
import warnings

import pytest
import torch

from pyro_vrnn.infer import CheckpointFolder, _history_files
from pyro_vrnn.infer._history_files import HistoryFiles
from pyro_vrnn.infer.fit_result import FitResult
from tests.infer.test_resume import DATA, KillAt, Killed, assert_same, loader, resumed, run
from tests.test_archives import flip


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(_history_files, "ROWS", 2)


def blocks(folder, table="step"):
    return sorted(path.name for path in folder.glob(f"history-{table}-*"))


def history(steps, epochs=0):
    result = FitResult()
    for k in range(steps):
        result.steps.append({"loss": float(k), **({"kl.w": 2.0 * k} if k >= 3 else {})})
    for k in range(epochs):
        result.epochs.append({"loss": float(k), "nll": -float(k)})
    return result


@pytest.mark.parametrize("steps", range(6))
@pytest.mark.parametrize("epochs", [0, 2, 3])
def test_stored_and_loaded(steps, epochs, tmp_path):
    result, twin = history(steps, epochs), FitResult()
    tensors, facts = HistoryFiles(tmp_path).state(result)
    assert [len(v) for name, v in tensors.items() if name == "step.loss"] == [steps % 2] * (
        steps > 0
    )
    assert (len(blocks(tmp_path)), len(blocks(tmp_path, "epoch"))) == (steps // 2, epochs // 2)
    HistoryFiles(tmp_path).load(twin, tensors, facts)
    assert (twin.loss, twin.kl) == (result.loss, result.kl)
    assert (twin.epoch_loss, twin.validation) == (result.epoch_loss, result.validation)


def test_a_block_is_written_once(tmp_path, monkeypatch):
    written, write = [], _history_files.write_archive

    def noted(place, *args, **kwargs):
        written.append(place.name)
        return write(place, *args, **kwargs)

    monkeypatch.setattr(_history_files, "write_archive", noted)
    resumed(loader, tmp_path, (5, 2))
    assert sorted(written) == [*blocks(tmp_path, "epoch"), *blocks(tmp_path)]
    assert (len(blocks(tmp_path, "epoch")), len(blocks(tmp_path))) == (1, 4)


def test_what_a_checkpoint_holds_does_not_grow(tmp_path):
    run(loader(), tmp_path, checkpoint_every=1, keep_last=20)
    folder = CheckpointFolder(tmp_path)
    rows = [len(folder.load(k).tensors.get("result/step.loss", ())) for k in folder.steps()]
    assert rows == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
@pytest.mark.parametrize("cuts", [(1,), (4,), (5, 1, 2)], ids=str)
def test_resume_is_the_unbroken_run(data, cuts, tmp_path):
    options = dict(validation=DATA["list"](), validation_draws=2)
    assert_same(resumed(data, tmp_path, cuts, **options), run(data(), **options))


@pytest.mark.parametrize("where", ["_history_files", "checkpoints"])
def test_a_crash_before_or_after_a_block(where, tmp_path, monkeypatch):
    """A block that no checkpoint counts on is written again, whatever stands in it."""
    write = _history_files.write_archive

    def crash(folder, tensors, facts, **kwargs):
        if facts.get("first") == 2 or facts.get("step") == 4:
            raise Killed
        return write(folder, tensors, facts, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(f"pyro_vrnn.infer.{where}.write_archive", crash)
        with pytest.raises(Killed):
            run(loader(), tmp_path, checkpoint_every=1)
    assert CheckpointFolder(tmp_path).steps()[-1] == 3
    second = tmp_path / "history-step-000001"
    assert second.is_dir() == (where == "checkpoints")
    if second.is_dir():
        flip(second / "tensors.safetensors", 999)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(run(loader(), tmp_path, checkpoint_every=1), run(loader()))
        run(loader(), tmp_path)  # reads the block


def test_a_run_that_went_back_writes_its_blocks_again(tmp_path):
    run(loader(), tmp_path, epochs=2)
    folder = CheckpointFolder(tmp_path)
    before = folder.load(6).facts["result"]["blocks"]["step"]
    flip(tmp_path / "step-000000006" / "facts.json", 99)
    with pytest.warns(UserWarning, match=r"Step 3 is used instead\."):
        assert_same(run(loader(), tmp_path), run(loader()))
    assert folder.load(6).facts["result"]["blocks"]["step"] == before


def replace(place):
    HistoryFiles(place.parent / "other").state(history(4))
    shutil.rmtree(place)
    (place.parent / "other" / place.name).rename(place)


DAMAGES = {
    "a bit": (lambda place: flip(place / "tensors.safetensors", 999), "tensors.safetensors"),
    "gone": (shutil.rmtree, "got nothing there"),
    "of another run": (replace, "got others"),
}


@pytest.mark.parametrize(("damage", "got"), DAMAGES.values(), ids=DAMAGES)
def test_damage_costs_its_rows_alone(damage, got, tmp_path):
    run(loader(), tmp_path, epochs=2)
    damage(tmp_path / "history-step-000001")
    message = rf"{got}.* The history of steps 2 to 3 is lost \(NaN\) and the run goes on"
    with pytest.warns(UserWarning, match=message):
        result, state = run(loader(), tmp_path)
    whole, whole_state = run(loader())
    pairs = [(kl, whole.kl[site]) for site, kl in result.kl.items()]
    for found, expected in ((result.loss, whole.loss), *pairs):
        assert [math.isnan(value) for value in found] == [k in (2, 3) for k in range(9)]
        assert (found[:2], found[4:]) == (expected[:2], expected[4:])
    assert result.epoch_loss == whole.epoch_loss
    assert result.kl_weight == whole.kl_weight == []
    assert all(torch.equal(state[name], whole_state[name]) for name in whole_state)


def test_a_run_keeps_its_size_of_a_block(tmp_path, monkeypatch):
    with pytest.raises(Killed):
        run(loader(), tmp_path, callbacks=[KillAt(6)], checkpoint_every=1)
    monkeypatch.setattr(_history_files, "ROWS", 3)
    assert_same(run(loader(), tmp_path), run(loader()))
    assert len(blocks(tmp_path)) == 4
