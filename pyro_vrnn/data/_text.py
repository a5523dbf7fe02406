"""Text files, read without guessing their encoding."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file (a byte order mark is dropped)."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"Expected a file at {path}, got none.") from None
    except OSError as error:
        raise ValueError(f"Expected a readable file, got {path}: {error.strerror}.") from error
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in raw:
        raise ValueError(f"Expected {path} in UTF-8, got UTF-16 or binary data: save it as UTF-8.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        offset = error.start + len(raw) - len(error.object)
        row = raw[:offset].count(b"\n") + 1
        raise ValueError(
            f"Expected {path} in UTF-8, got byte 0x{raw[offset]:02x} in row {row} (Latin-1?): save "
            f"it as UTF-8. It is at byte offset {offset}."
        ) from error


def lines(text: str) -> Iterator[str]:
    r"""Give the lines without their ends, which are ``\n``, ``\r\n`` or ``\r`` and nothing else."""
    for line in io.StringIO(text, newline=None):
        yield line.removesuffix("\n")
