"""Archives: tensors as safetensors, facts as JSON, and a manifest of both."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from pyro_vrnn.archives.aside import aside_of, clear_leftovers, standing, swap, sync_folder
from pyro_vrnn.archives.sealing import (
    DamagedArchiveError,
    check_json,
    damaged,
    json_bytes,
    parse_json,
    read_sealed,
    sealed,
    sha256,
)

TENSORS, FACTS, MANIFEST = "tensors.safetensors", "facts.json", "manifest.json"
FILES = (FACTS, MANIFEST, TENSORS)
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
)
_UNREADABLE = (SafetensorError, AssertionError, KeyError, RuntimeError, TypeError, ValueError)


class Archive(NamedTuple):
    """
    What :func:`read_archive` returns.

    :param dict tensors: name -> tensor, on the CPU, in the order of their names.
    :param dict facts: what JSON makes of the facts: tuples have become lists.
    :param int version: the format's version that the archive was written in.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    version: int


def write_archive(
    folder: str | Path,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    *,
    format: str,
    version: int,
) -> Path:
    """
    Write tensors and facts into a new folder, which appears when it is whole.

    All is written and flushed to disk aside, then moved in one step. An archive that stands there
    is moved aside before and removed last: after a crash at any moment :func:`read_archive` finds
    the old one or the new one. What killed writers left aside is removed by the next one. Tensors
    are copied: views and tensors on one storage come back apart.

    Example::

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as scratch:
        ...     w = {"w": torch.ones(2)}
        ...     path = write_archive(f"{scratch}/a", w, {"n": 3}, format="mine", version=1)
        ...     read_archive(path, format="mine", max_version=1)
        Archive(tensors={'w': tensor([1., 1.])}, facts={'n': 3}, version=1)

    :param folder: made, with its parents; an archive there is replaced.
    :param tensors: name -> dense tensor of a dtype that safetensors knows.
    :param facts: what JSON can say, without NaN and infinity.
    :param str format: what the archive is, such as ``"my checkpoint"``; a reader asks for it.
    :param int version: of the format, from 1.
    :returns: ``folder`` as a :class:`~pathlib.Path`.
    :raises TypeError: if a value is no plain tensor, or a fact is nothing that JSON can say.
    :raises ValueError: if a fact is NaN or infinite.
    :raises FileExistsError: if something that is no archive stands there.
    :raises OSError: if it cannot be written; what stood there still stands.
    """
    started = time.time()
    for name, value in tensors.items():
        check_plain_tensor(name, value)
    dense = torch.contiguous_format
    copies = {n: t.detach().cpu().clone(memory_format=dense) for n, t in tensors.items()}
    contents = {
        TENSORS: safetensors.torch.save(copies),
        FACTS: json_bytes(check_json("facts", facts)),
    }
    files = {name: {"sha256": sha256(b), "bytes": len(b)} for name, b in contents.items()}
    contents[MANIFEST] = json_bytes(sealed({"format": format, "version": version, "files": files}))
    target = Path(folder).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(target.parent, lambda name: name == target.name, before=started)
    check_replaceable(target)
    with aside_of(target, "part") as aside:
        aside.mkdir()
        for name, content in contents.items():
            _write_synced(aside / name, content)
        sync_folder(aside)
        swap(aside, target)
    return Path(folder)


def read_archive(folder: str | Path, *, format: str, max_version: int) -> Archive:
    """
    Read an archive, or refuse it: every byte is hashed before it is parsed.

    :param folder: what :func:`write_archive` wrote.
    :param str format: the format it must be of.
    :param int max_version: the newest version of it that the caller can read.
    :raises FileNotFoundError: if nothing is there.
    :raises DamagedArchiveError: if a file is missing, unknown or changed, or the archive is of
        another format or a newer version.
    """
    while True:
        place = standing(Path(folder))
        with _pinned(place) as identity:
            try:
                return _read(place, format, max_version)
            except (DamagedArchiveError, FileNotFoundError):
                # A writer may have replaced it meanwhile.
                same = identity is not None and _identity(place) == identity
                if same and standing(Path(folder)) == place:
                    raise


def remove_archive(folder: str | Path) -> None:
    """Remove an archive in one step, so that none is ever there in part."""
    target = Path(folder).resolve()
    check_replaceable(target)
    clear_leftovers(target.parent, lambda name: name == target.name)
    with aside_of(target, "part") as aside:
        target.rename(aside)


def check_plain_tensor(name: str, value: Any) -> None:
    """Refuse what an archive cannot keep: tensor subclasses, sparse tensors, some dtypes."""
    if name == "__metadata__":
        raise ValueError(f"Expected another name of a tensor, got {name!r}: safetensors keeps it.")
    if type(value) not in (Tensor, torch.nn.Parameter):
        raise TypeError(f"Expected {name} to be a plain Tensor, got {type(value).__name__}.")
    if value.layout != torch.strided or value.is_meta or value.dtype not in DTYPES:
        raise TypeError(
            f"Expected {name} to be a dense tensor with values, of a dtype that safetensors knows, "
            f"got {value.dtype}, {value.layout}, on {value.device}."
        )


def _read(folder: Path, format: str, max_version: int) -> Archive:
    if not folder.is_dir():
        raise DamagedArchiveError(f"Expected an archive, which is a folder, got the file {folder}.")
    entries = {entry.name: entry for entry in os.scandir(folder)}
    for name in sorted({*entries, *FILES}):
        if name not in FILES:
            raise damaged(folder, name, "to be absent: an archive has no such file", "it")
        if name not in entries or not entries[name].is_file(follow_symlinks=False):
            got = "none" if name not in entries else "something else"
            raise damaged(folder, name, "to be a file", got)
    manifest = read_sealed(folder / MANIFEST)
    files = _check_manifest(folder, manifest, format, max_version)
    data = {name: (folder / name).read_bytes() for name in files}
    for name, recorded in files.items():
        for what, found in (("bytes", len(data[name])), ("sha256", sha256(data[name]))):
            if found != recorded[what]:
                raise damaged(folder, name, f"of {what} {recorded[what]}", found)
    try:
        tensors = safetensors.torch.load(data[TENSORS])
    except _UNREADABLE as error:
        got = f"{type(error).__name__}: {error}"
        raise damaged(folder, TENSORS, "to be safetensors", got) from error
    facts = parse_json(folder, FACTS, data[FACTS])
    return Archive({name: tensors[name] for name in sorted(tensors)}, facts, manifest["version"])


def _check_manifest(
    folder: Path, manifest: dict[str, Any], format: str, max_version: int
) -> dict[str, Any]:
    """Return the record of the files, if format and version can be read."""
    if manifest.get("format") != format:
        got = repr(manifest.get("format"))
        raise damaged(folder, MANIFEST, f"of an archive of format {format!r}", got)
    version = manifest.get("version")
    if type(version) is not int or not 1 <= version <= max_version:
        expected = f"of version 1..{max_version} of {format!r}"
        raise damaged(folder, MANIFEST, expected, f"{version} (written by a newer package?)")
    files = manifest.get("files")
    if not isinstance(files, dict) or set(files) != {TENSORS, FACTS}:
        raise damaged(folder, MANIFEST, f"to name {TENSORS} and {FACTS}", repr(files))
    for name, recorded in files.items():
        if not isinstance(recorded, dict) or set(recorded) != {"sha256", "bytes"}:
            raise damaged(folder, MANIFEST, f"to hold size and SHA-256 of {name}", repr(recorded))
    return files


@contextlib.contextmanager
def _pinned(place: Path) -> Iterator[tuple[int, int] | None]:
    """Give the identity of a folder, which no other folder gets meanwhile."""
    handle = None
    with contextlib.suppress(OSError):  # gone, or a system that opens no folders
        handle = os.open(place, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        yield _identity(place if handle is None else handle)
    finally:
        if handle is not None:
            os.close(handle)


def _identity(place: Path | int) -> tuple[int, int] | None:
    try:
        found = os.stat(place)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def check_replaceable(target: Path) -> None:
    """Refuse to replace what is no archive: a file, or a folder with other files in it."""
    if not target.exists():
        return
    other = sorted({e.name for e in target.iterdir()} - {*FILES}) if target.is_dir() else []
    if other or not target.is_dir():
        got = f"a folder with {other[0]!r} in it" if other else "a file"
        raise FileExistsError(f"Expected an archive or nothing at {target}, got {got}.")


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
