"""No crash, full disk or second process leaves half an archive, or loses the old one."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from pyro_vrnn.archives import (
    archive_names,
    clear_leftovers,
    read_archive,
    remove_archive,
    write_archive,
)

DEAD = 2**22 + 1  # above the greatest process id of Linux
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and limits")


def write(folder, step, size=4):
    return write_archive(
        folder, {"w": torch.full((size,), float(step))}, {"step": step}, format="t", version=1
    )


def read(folder):
    found = read_archive(folder, format="t", max_version=1)
    assert torch.equal(found.tensors["w"], torch.full_like(found.tensors["w"], found.facts["step"]))
    return found.facts["step"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("existed", [True, False], ids=["over-an-archive", "new"])
@pytest.mark.parametrize("number", range(1, 6))
def test_a_full_disk_at_each_flush(number, existed, monkeypatch, tmp_path):
    """Three files, their folder, and the folder above: the last after the move."""
    if existed:
        write(tmp_path / "a", 1)
    calls, fsync = [], os.fsync

    def fail(handle):
        calls.append(handle)
        if len(calls) == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "a", 2)
    assert len(calls) == number
    assert names(tmp_path) == (["a"] if existed else [])
    assert not existed or read(tmp_path / "a") == 1


@pytest.mark.parametrize("existed", [True, False], ids=["over-an-archive", "new"])
@pytest.mark.parametrize(
    ("call", "number"), [("open", 1), ("open", 3), ("mkdir", 2), ("rename", 1)]
)
def test_no_space_at_a_call(call, number, existed, monkeypatch, tmp_path):
    if existed:
        write(tmp_path / "a", 1)
    calls, method = [], getattr(Path, call)

    def fail(path, *args, **kwargs):
        calls.append(path)
        if len(calls) == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        return method(path, *args, **kwargs)

    monkeypatch.setattr(Path, call, fail)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "a", 2)
    monkeypatch.undo()
    assert names(tmp_path) == (["a"] if existed else [])
    assert not existed or read(tmp_path / "a") == 1


def test_an_interrupt_between_the_moves(monkeypatch, tmp_path):
    write(tmp_path / "a", 1)
    calls, rename = [], Path.rename

    def fail(path, target):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a", 2)
    assert names(tmp_path) == ["a"]
    assert read(tmp_path / "a") == 1


RUN = """
import resource, sys, torch
from pyro_vrnn.archives import write_archive
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_archive(sys.argv[1], {"w": torch.zeros(10_000)}, {}, format="t", version=1)
except OSError as error:
    print(error.strerror)
"""


@posix
def test_a_real_write_that_fails(tmp_path):
    """The system's limit on a file's size, which needs no small disk."""
    write(tmp_path / "a", 1)
    run = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "a")], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "File too large"
    assert names(tmp_path) == ["a"]
    assert read(tmp_path / "a") == 1


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_a_folder_that_nobody_can_write():
    with pytest.raises(OSError, match="/proc"):
        write("/proc/a", 1)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder(tmp_path):
    write(tmp_path / "a", 1)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            write(tmp_path / "a", 2)
        assert read(tmp_path / "a") == 1
    finally:
        tmp_path.chmod(0o700)


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077], ids=oct)
def test_permissions_are_those_of_any_new_folder(umask, tmp_path):
    before = os.umask(umask)
    try:
        folder = write(tmp_path / "a", 1)
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "file").touch()
    finally:
        os.umask(before)
    assert folder.stat().st_mode == (tmp_path / "other").stat().st_mode
    assert (folder / "facts.json").stat().st_mode == (tmp_path / "other" / "file").stat().st_mode


def left(folder, step, kind, pid=DEAD, key="0123abcd"):
    """Leave a folder aside as a killed writer of ``folder`` would."""
    aside = folder.with_name(f".{folder.name}-{pid}-{key}.{kind}")
    return write(folder.with_name("x"), step).rename(aside)


def test_a_reader_finds_the_old_one_that_was_moved_aside(tmp_path):
    folder = tmp_path / "a"
    left(folder, 1, "old")
    left(folder, 2, "part")
    left(folder.with_name("ab"), 3, "old")
    assert read(folder) == 1
    assert archive_names(tmp_path) == {"a", "ab"}


def test_the_next_writer_puts_it_back_and_clears_the_rest(tmp_path):
    folder = tmp_path / "a"
    left(folder, 1, "old")
    left(folder, 2, "part")
    other = left(folder.with_name("b"), 3, "part")
    clear_leftovers(tmp_path, lambda name: name == "a")
    assert names(tmp_path) == sorted(["a", other.name])
    assert read(folder) == 1
    left(folder, 4, "old")
    assert read(write(folder, 5)) == 5
    assert names(tmp_path) == sorted(["a", other.name])


@pytest.mark.parametrize(
    ("pid", "goes"), [(DEAD, True), (os.getppid(), False), (os.getpid(), True), (10**30, True)],
    ids=["dead", "alive", "own-of-an-earlier-life", "no-pid"],
)  # fmt: skip
def test_only_what_the_dead_left_is_cleared(pid, goes, tmp_path):
    aside = left(tmp_path / "a", 1, "part", pid=pid)
    write(tmp_path / "a", 2)
    assert aside.exists() is not goes


def test_what_is_younger_than_the_writer_stays(tmp_path):
    aside = left(tmp_path / "a", 1, "part")
    clear_leftovers(tmp_path, lambda name: True, before=aside.stat().st_mtime - 1)
    assert aside.exists()


def test_a_removed_archive_does_not_come_back(tmp_path):
    left(tmp_path / "a", 1, "old")
    write(tmp_path / "a", 2)
    left(tmp_path / "a", 3, "old")
    remove_archive(tmp_path / "a")
    assert names(tmp_path) == []


def test_readers_beside_a_writer(tmp_path):
    """While one thread replaces it, the other reads the old or the new one, never half of one."""
    folder = write(tmp_path / "a", 0)
    seen, stop = [], threading.Event()

    def look():
        while not stop.is_set():
            seen.append(read(folder))

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for step in range(1, 60):
            write(folder, step)
    finally:
        stop.set()
        reader.join()
    assert seen == sorted(seen)
    assert len(set(seen)) > 3


LOOP = """
import itertools, sys, torch
from pyro_vrnn.archives import write_archive
print("ready", flush=True)
for step in itertools.count(1):
    w = {"w": torch.full((200_000,), float(step))}
    write_archive(sys.argv[1], w, {"step": step}, format="t", version=1)
    print(step, flush=True)
"""


def kills(folder, count, seed):
    """Kill a process that writes on and on, ``count`` times; return the steps read and printed."""
    rng, found = random.Random(seed), []
    write(folder, 0, size=200_000)
    for _ in range(count):
        run = subprocess.Popen(
            [sys.executable, "-c", LOOP, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert run.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.0, 0.1))
        run.send_signal(signal.SIGKILL)
        done = [int(line) for line in run.communicate()[0].split()]
        last = done[-1] if done else 0
        found.append((read(folder), last))
        write(folder, 0, size=200_000)
        assert names(folder.parent) == [folder.name]
    return found


@posix
@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_at_any_moment(count, tmp_path):
    for read_step, last in kills(tmp_path / "a", count, seed=count):
        assert read_step in (last, last + 1)
