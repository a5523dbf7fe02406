"""A file is whole or not there: errors and crashes while writing leave what was there before."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest

from pyro_vrnn.files import writable_folder, write_atomic, write_json


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "result.json"
    assert write_json(path, {"a": [1, 0.5, None, "é"]}) == path
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1, 0.5, None, "é"]}
    write_json(str(path), {"b": 2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": 2}
    assert list(tmp_path.iterdir()) == [path]


def test_writer_gets_a_file_of_the_same_kind_in_the_same_folder(tmp_path):
    seen = []
    path = write_atomic(tmp_path / "plot.png", lambda aside: seen.append(aside))
    assert seen[0].suffix == ".png"
    assert seen[0].parent == tmp_path
    assert seen[0] != path
    assert path.read_bytes() == b""


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt], ids=["error", "interrupt"])
@pytest.mark.parametrize("existed", [True, False], ids=["over-a-file", "new"])
def test_error_in_the_writer_leaves_the_old_file(error, existed, tmp_path):
    path = tmp_path / "result.txt"
    if existed:
        path.write_text("old")

    def write(aside):
        aside.write_text("half of the ne")
        raise error

    with pytest.raises(error):
        write_atomic(path, write)
    assert [p.read_text() for p in tmp_path.iterdir()] == (["old"] if existed else [])


def test_crash_in_the_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    code = (
        "import os, sys; from pyro_vrnn.files import write_atomic\n"
        "def write(aside):\n"
        "    aside.write_text('half of the ne'); os._exit(3)\n"
        "write_atomic(sys.argv[1], write)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert run.returncode == 3
    assert path.read_text() == "old"


def test_error_while_replacing_leaves_no_rubbish(tmp_path):
    """The path is a folder: nothing can be moved onto it."""
    folder = tmp_path / "result"
    folder.mkdir()
    with pytest.raises(OSError, match="result"):
        write_atomic(folder, lambda aside: aside.write_text("x"))
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_it_cannot_say(bad, tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"elbo": [1.0, bad]})
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002], ids=oct)
def test_permissions_are_those_of_any_new_file(umask, tmp_path):
    """Not the 600 of a temporary file: a result in a shared folder can be read."""
    before = os.umask(umask)
    try:
        path = write_json(tmp_path / "result.json", 1)
        (tmp_path / "other").touch()
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_json(tmp_path / "missing" / "result.json", 1)


def test_writable_folder_is_made(tmp_path):
    folder = writable_folder(str(tmp_path / "a" / "b"))
    assert folder.is_dir()
    assert writable_folder(folder) == folder
    assert list(folder.iterdir()) == []


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(FileExistsError):
        writable_folder(tmp_path / "a")
    with pytest.raises(OSError, match="a"):
        writable_folder(tmp_path / "a" / "b")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_folder_that_cannot_be_written():
    """A folder that nobody can write, not even root."""
    with pytest.raises(OSError, match="/proc"):
        writable_folder("/proc")
