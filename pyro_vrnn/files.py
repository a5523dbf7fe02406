"""Files that are either whole or not there: written aside, flushed to disk, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def write_atomic(path: str | Path, write: Callable[[Path], Any]) -> Path:
    """
    Let ``write`` fill a file beside ``path``, then move it to ``path`` in one step.

    A crash or an error in ``write`` leaves whatever stood at ``path`` before.

    :param path: where the file shall stand; its folder must exist.
    :param write: called with the path of an empty file (same suffix) to fill.
    :returns: ``path`` as a :class:`~pathlib.Path`.
    :raises OSError: if the folder cannot be written.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    aside = Path(name)
    try:
        write(aside)
        _sync(aside)
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o666 & ~umask)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return path


def _sync(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def write_json(path: str | Path, value: Any) -> Path:
    """
    Write ``value`` as indented JSON, atomically.

    :raises ValueError: if ``value`` holds NaN or infinity, which JSON cannot say.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    return write_atomic(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def writable_folder(path: str | Path) -> Path:
    """
    Make ``path`` a folder that can be written, and return it.

    :raises OSError: if it is a file, cannot be made, or cannot be written.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"Expected a folder at {path}, got a file.")
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
        pass
    return path


@contextlib.contextmanager
def staged(folder: str | Path) -> Iterator[Path]:
    """
    Give a folder to fill, and move its files to ``folder`` when the block ends without an error.

    After an error nothing is left, not even ``folder`` where it was not there before.

    :raises OSError: if the folder cannot be written.
    """
    folder = Path(folder)
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    writable_folder(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".staged-") as aside:
            yield Path(aside)
            for path in sorted(Path(aside).iterdir()):
                _sync(path)
                path.replace(folder / path.name)
    except BaseException:
        for made in missing:
            with contextlib.suppress(OSError):
                made.rmdir()
        raise
