"""CSV files, read without guessing: what is wrong is refused with its row."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

from pyro_vrnn.data._text import read_text

_MOST_LISTED = 20

Records = Iterator[tuple[int, list[str]]]  # (row of the file, cells); the header is row 1


def checked_records(path: Path) -> tuple[list[str], Records]:
    """
    Return the header of a CSV file and its other records, each of as many cells.

    :raises FileNotFoundError: if there is no such file.
    :raises ValueError: if it cannot be read or is no such CSV file.
    """
    rows = records(read_text(path), path)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"Expected a CSV file with a header, got an empty file: {path}.")
    header = first[1]

    def checked() -> Records:
        for row, cells in rows:
            if len(cells) != len(header):
                raise ValueError(
                    f"Expected {cells_text(len(header))} in row {row} of the file (header = row "
                    f"1), got {len(cells)}."
                )
            yield row, cells

    return header, checked()


def records(text: str, path: Path) -> Records:
    """Give each record with the file row it starts in; blank rows at the end are left out."""
    reader = csv.reader(io.StringIO(text.rstrip() + "\n", newline=""), strict=True)
    if not text.strip():
        return
    start = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"Expected a CSV file, got one that cannot be parsed from row {start} on "
                f"({error}): {path}."
            ) from error
        yield start, cells or [""]
        start = reader.line_num + 1


def find_column(header: list[str], column: str) -> int:
    """Return where ``column`` stands in the header: as written, else without outer spaces."""
    places = [i for i, name in enumerate(header) if name == column]
    places = places or [i for i, name in enumerate(header) if name.strip() == column.strip()]
    if len(places) == 1:
        return places[0]
    if places:
        raise ValueError(f"Expected one column named {column!r}, got {len(places)}.")
    listed = ", ".join(repr(name) for name in header[:_MOST_LISTED])
    if len(header) > _MOST_LISTED:
        listed += f" and {len(header) - _MOST_LISTED} more"
    hint = ""
    for text, separator in (("semicolon", ";"), ("tab", "\t")):
        if len(header) == 1 and separator in header[0]:
            hint = f" The header is one column with a {text}: separate the columns by commas."
    raise ValueError(f"Expected column to be one of {listed}, got {column!r}.{hint}")


def finite_number(cell: str, column: str, row: int) -> float:
    """Return ``cell`` as a finite float."""
    try:
        value = float(cell) if "_" not in cell else math.nan  # float() reads "1_0" as 10
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        shown = cell if len(cell) <= 40 else cell[:37] + "..."
        raise ValueError(
            f"Expected a finite number in column {column!r}, got {shown!r} in row {row} of the "
            "file (header = row 1)."
        )
    return value


def cells_text(count: int) -> str:
    """Write a number of cells."""
    return "1 cell" if count == 1 else f"{count} cells"
