"""Checkpoints: the last few and the best are kept, a damaged one is skipped aloud."""

from __future__ import annotations

import json
import pickle
import warnings

import pytest
import torch

from pyro_vrnn.archives import DamagedArchiveError, sealed
from pyro_vrnn.infer import CheckpointFolder
from tests.test_archives import FILES, Bomb, bombs, cut, flip


def save(folder, *steps, best=()):
    for step in steps:
        folder.save(step, {"w": torch.full((3,), float(step))}, {"at": step}, best=step in best)
    return folder


def filled(tmp_path, *steps, keep_last=3, best=()):
    return save(CheckpointFolder(tmp_path / "run", keep_last=keep_last), *steps, best=best)


def is_step(found, step):
    return (found.step, found.facts, found.tensors["w"].tolist()) == (
        step, {"at": step}, [float(step)] * 3,
    )  # fmt: skip


def names(folder):
    return sorted(path.name for path in folder.path.iterdir())


def test_nothing_there(tmp_path):
    folder = CheckpointFolder(tmp_path / "run")
    assert folder.steps() == []
    assert folder.load_last() is None
    assert folder.load_best() is None
    assert not folder.path.exists()


def test_the_last_are_kept(tmp_path):
    folder = filled(tmp_path, 0, 7, 20, 100, 2**30, keep_last=2)
    assert names(folder) == ["step-000000100", "step-1073741824"]
    assert folder.steps() == [100, 2**30]
    assert is_step(folder.load_last(), 2**30)
    assert is_step(folder.load(100), 100)


def test_the_best_is_kept_beside_them(tmp_path):
    folder = filled(tmp_path, 1, 2, 3, 4, 5, keep_last=2, best=[1, 2])
    assert folder.steps() == [2, 4, 5]
    assert is_step(folder.load_best(), 2)
    save(folder, 6, best=[6])
    assert folder.steps() == [5, 6]
    assert is_step(folder.load_best(), 6)
    assert names(folder) == ["best.json", "step-000000005", "step-000000006"]


def test_a_run_that_went_back(tmp_path):
    """Later steps stay until they are saved again; they do not crowd out what is saved now."""
    folder = filled(tmp_path, 1, 2, 8, 9, keep_last=2)
    assert folder.steps() == [8, 9]
    assert save(folder, 3, 4, 5).steps() == [4, 5, 8, 9]
    assert save(folder, 8).steps() == [5, 8, 9]


def test_removed_only_after_the_new_one_is_whole(tmp_path, monkeypatch):
    folder = filled(tmp_path, 1, 2, keep_last=1)

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("pyro_vrnn.infer.checkpoints.write_archive", full)
    with pytest.raises(OSError, match="No space"):
        save(folder, 3)
    assert folder.steps() == [2]


def test_files_of_others_stay(tmp_path):
    folder = filled(tmp_path, 1, keep_last=1)
    (folder.path / "notes.txt").write_text("mine")
    (folder.path / "step-000000001" / "notes.txt").write_text("mine")
    (folder.path / "step-1").mkdir()
    save(folder, 2, 3)
    assert names(folder) == ["notes.txt", "step-000000001", "step-000000003", "step-1"]


def test_what_a_killed_process_left_is_cleared(tmp_path):
    folder = filled(tmp_path, 1)
    (folder.path / ".step-000000002-4194305-0123abcd.part").mkdir()
    assert folder.steps() == [1]
    save(folder, 3)
    assert names(folder) == ["step-000000001", "step-000000003"]


def test_a_step_that_was_moved_aside_when_it_was_killed(tmp_path):
    folder = filled(tmp_path, 1, 2)
    place = folder.path / "step-000000002"
    place.rename(folder.path / ".step-000000002-4194305-0123abcd.old")
    assert folder.steps() == [1, 2]
    assert is_step(folder.load_last(), 2)
    save(folder, 3)
    assert is_step(folder.load(2), 2)


@pytest.mark.parametrize(
    "damage",
    [lambda p: cut(p, 10), lambda p: flip(p, 77), lambda p: p.unlink()],
    ids=["cut", "bit", "gone"],
)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_last_one_is_skipped_aloud(name, damage, tmp_path):
    folder = filled(tmp_path, 1, 2, 3)
    damage(folder.path / "step-000000003" / name)
    message = rf"step 3 \(Expected '{name}' in .*, got .*\)\. Step 2 is used instead\."
    with pytest.warns(UserWarning, match=message) as found:
        assert is_step(folder.load_last(), 2)
    assert found[0].filename == __file__
    with pytest.raises(DamagedArchiveError, match=f"Expected '{name}' in"):
        folder.load(3)


def test_none_whole(tmp_path):
    folder = filled(tmp_path, 1, 2)
    for step in (1, 2):
        cut(folder.path / f"step-00000000{step}" / "facts.json", 3)
    with pytest.raises(DamagedArchiveError, match=r"got only damaged ones: step 2 .*; step 1 "):
        folder.load_last()


def test_no_warning_if_the_last_is_whole(tmp_path):
    folder = filled(tmp_path, 1, 2)
    cut(folder.path / "step-000000001" / "facts.json", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_step(folder.load_last(), 2)


def test_no_such_step(tmp_path):
    folder = filled(tmp_path, 1, 2)
    with pytest.raises(FileNotFoundError, match=rf"step 5 in {folder.path}, got steps \[1, 2\]"):
        folder.load(5)


def test_a_folder_under_another_step_s_name(tmp_path):
    folder = filled(tmp_path, 1, 2)
    (folder.path / "step-000000002").rename(folder.path / "step-000000009")
    with pytest.raises(DamagedArchiveError, match=r"Expected step 9 in .*, got step 2\."):
        folder.load(9)


def test_the_best_is_gone(tmp_path):
    folder = filled(tmp_path, 1, 2, best=[1])
    for path in (folder.path / "step-000000001").iterdir():
        path.unlink()
    with pytest.raises(DamagedArchiveError, match="to be a file, got none"):
        folder.load_best()
    (folder.path / "step-000000001").rmdir()
    with pytest.raises(FileNotFoundError, match=r"step 1 .*, got steps \[2\]"):
        folder.load_best()


@pytest.mark.parametrize("bit", range(0, 800, 13))
def test_a_flipped_bit_in_the_best_one_s_name(bit, tmp_path):
    folder = filled(tmp_path, 1, best=[1])
    flip(folder.path / "best.json", bit)
    with pytest.raises(DamagedArchiveError, match=r"Expected 'best\.json' in"):
        folder.load_best()


def test_nothing_is_removed_while_the_best_is_not_known(tmp_path):
    folder = filled(tmp_path, 1, 2, keep_last=1, best=[1])
    cut(folder.path / "best.json", 10)
    with pytest.warns(UserWarning, match="Nothing is removed until a best is saved"):
        save(folder, 3)
    assert folder.steps() == [1, 2, 3]
    save(folder, 4, best=[4])
    assert folder.steps() == [4]


def test_a_best_of_another_version(tmp_path):
    folder = filled(tmp_path, 1, best=[1])
    text = json.dumps(sealed({"version": 2, "step": 1}), indent=2) + "\n"
    (folder.path / "best.json").write_text(text)
    with pytest.raises(DamagedArchiveError, match=r"a step and version 1 in .*best\.json, got"):
        folder.load_best()


@pytest.mark.parametrize("place", [*(f"step-000000001/{name}" for name in FILES), "best.json"])
@pytest.mark.parametrize("index", range(10))
def test_a_pickle_is_refused_on_every_way(index, place, tmp_path):
    marker = tmp_path / "marker"
    folder = filled(tmp_path, 1, best=[1])
    (folder.path / place).write_bytes(bombs(marker)[index])
    if place != "best.json":
        for load in (folder.load_last, lambda: folder.load(1)):
            with pytest.raises(DamagedArchiveError):
                load()
    with pytest.raises(DamagedArchiveError):
        folder.load_best()
    assert not marker.exists()


def test_a_pickle_in_a_step_s_place(tmp_path):
    folder = filled(tmp_path, 1)
    (folder.path / "step-000000002").write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    assert folder.steps() == [1]
    assert is_step(folder.load_last(), 1)
    with pytest.raises(DamagedArchiveError, match="got the file"):
        folder.load(2)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("step", "error"), [(-1, ValueError), (True, TypeError), (1.0, TypeError), ("1", TypeError)]
)
def test_step_refused(step, error, tmp_path):
    folder = CheckpointFolder(tmp_path)
    with pytest.raises(error, match=f"Expected step to be an int of at least 0, got {step!r}"):
        folder.save(step, {}, {})


def test_keep_last_refused(tmp_path):
    with pytest.raises(ValueError, match="Expected keep_last to be a positive int, got 0"):
        CheckpointFolder(tmp_path, keep_last=0)
