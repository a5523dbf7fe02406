"""How a folder appears, is replaced and goes in one step, and what killed writers leave aside."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_ASIDE = re.compile(r"\.(?P<name>.+)-(?P<pid>\d+)-[0-9a-f]{8}\.(?P<kind>part|old)")
_in_use: set[str] = set()  # names aside that a thread of this process is writing


@contextlib.contextmanager
def aside_of(target: Path, kind: str) -> Iterator[Path]:
    """Give a name beside ``target``; what stands there at the end is removed."""
    aside = target.with_name(f".{target.name}-{os.getpid()}-{secrets.token_hex(4)}.{kind}")
    _in_use.add(aside.name)
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        _in_use.discard(aside.name)


def swap(aside: Path, target: Path) -> None:
    """Move ``aside`` to ``target``; what stood there moves aside first and is removed last."""
    with aside_of(target, "old") as old:
        if target.exists():
            target.rename(old)
        try:
            aside.rename(target)
            sync_folder(target.parent)
        except BaseException:
            if not aside.exists():
                target.rename(aside)
            if old.exists():
                old.rename(target)
            raise


def sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # has no such call
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def standing(folder: Path) -> Path:
    """Return where an archive is: in its place, or aside if its writer was killed in between."""
    if folder.exists():
        return folder
    target = folder.resolve()
    matches = [(entry, _ASIDE.fullmatch(entry.name)) for entry in _entries(target.parent)]
    olds = [e for e, m in matches if m and (m["name"], m["kind"]) == (target.name, "old")]
    if olds:
        return max(olds, key=_moved)
    if target.exists():  # the writer was not killed and has finished
        return folder
    raise FileNotFoundError(f"Expected an archive at {folder}, got nothing there.")


def archive_names(parent: str | Path) -> set[str]:
    """Return the names of folders in ``parent``, one that a killed writer moved aside included."""
    found = set()
    for entry in _entries(Path(parent)):
        if entry.is_dir():
            match = _ASIDE.fullmatch(entry.name)
            if match is None:
                found.add(entry.name)
            elif match["kind"] == "old":
                found.add(match["name"])
    return found


def clear_leftovers(
    parent: str | Path, wanted: Callable[[str], bool], *, before: float | None = None
) -> None:
    """
    Remove what killed writers left aside; put an old archive back whose place is empty.

    :param parent: the folder that archives stand in.
    :param wanted: name of an archive -> whether its leftovers are meant.
    :param float before: seconds since the epoch; younger folders are left alone. Default: now.
    """
    before = time.time() if before is None else before
    for entry in _entries(Path(parent)):
        match = _ASIDE.fullmatch(entry.name)
        if match is None or not wanted(match["name"]):
            continue
        with contextlib.suppress(FileNotFoundError):  # another writer does the same
            if not _is_dead(int(match["pid"]), entry.name) or entry.stat().st_mtime > before:
                continue
            place = entry.with_name(match["name"])
            if match["kind"] == "old" and not place.exists():
                standing(place).rename(place)
            shutil.rmtree(entry, ignore_errors=True)


def _is_dead(pid: int, name: str) -> bool:
    if pid == os.getpid():  # in a container the killed writer's may be ours again
        return name not in _in_use
    if os.name == "nt":
        return False  # os.kill would end the process there
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    return False


def _entries(parent: Path) -> list[Path]:
    return sorted(parent.iterdir()) if parent.is_dir() else []


def _moved(entry: Path) -> int:
    """Return when a folder was renamed; 0 if it is gone."""
    try:
        return entry.stat().st_ctime_ns
    except FileNotFoundError:
        return 0
