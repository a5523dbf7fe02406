"""Rows of a CSV or JSON lines file, a few named cells of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyro_vrnn.data._csv import checked_records, find_column
from pyro_vrnn.data._text import lines, read_text

Rows = Iterator[tuple[int, list[Any]]]  # line of the file where a row starts; the cells asked for


def named_rows(path: Path, names: Sequence[str]) -> Rows:
    """
    Give the cells of these columns (values of these keys), row by row.

    Cells of a CSV file are text; values of JSON lines are what they are. Blank lines between
    objects are left out.

    :raises FileNotFoundError: if there is no such file.
    :raises ValueError: if it is no ``.csv`` or ``.jsonl`` file or lacks a column.
    """
    readers = {".csv": _csv_rows, ".jsonl": _json_rows}
    if path.suffix.lower() not in readers:
        raise ValueError(f"Expected a .csv or .jsonl file, got {path}.")
    return readers[path.suffix.lower()](path, names)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file to messages that do not name it."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{str(error).removesuffix('.')}: {path}.") from error


def shown(value: Any) -> str:
    """Write a JSON value, shortened."""
    written = json.dumps(value, ensure_ascii=False)
    return written if len(written) <= 40 else written[:37] + "..."


def _csv_rows(path: Path, names: Sequence[str]) -> Rows:
    header, rows = checked_records(path)
    places = [find_column(header, name) for name in names]
    for line, cells in rows:
        yield line, [cells[place] for place in places]


def _json_rows(path: Path, names: Sequence[str]) -> Rows:
    for number, line in enumerate(lines(read_text(path)), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"Expected a JSON object in line {number}, got {error.msg} at its character "
                f"{error.pos + 1}."
            ) from error
        if not isinstance(found, dict):
            raise ValueError(f"Expected a JSON object in line {number}, got {shown(found)}.")
        for name in names:
            if name not in found:
                raise ValueError(f"Expected a key {name!r} in line {number}, got none.")
        yield number, [found[name] for name in names]
