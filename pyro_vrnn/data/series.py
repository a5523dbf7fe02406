"""One regular time series: read from a CSV file, or the weekly CO2 that statsmodels ships."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyro_vrnn.shapes import shape_text

_MOST_LISTED = 20


@dataclass(frozen=True, eq=False)
class Series:
    """
    A regular time series in its own units.

    :param values: (n,) float64, finite, in time order.
    :param labels: the n times as text, or None.
    :param name: of what was measured.
    :param filled: how many of the values were missing and are interpolated.
    :param source: where it was read.
    :raises ValueError: if values is not (n,) or holds NaN, or labels are not n.
    """

    values: NDArray[np.float64]
    labels: tuple[str, ...] | None
    name: str
    filled: int
    source: str

    def __post_init__(self) -> None:
        if self.values.ndim != 1:
            raise ValueError(f"Expected values of shape (n,), got {shape_text(self.values.shape)}.")
        if not np.isfinite(self.values).all():
            raise ValueError("Expected values to be finite, got NaN or infinity.")
        if self.labels is not None and len(self.labels) != len(self.values):
            raise ValueError(f"Expected {len(self.values)} labels, got {len(self.labels)}.")


def co2_weekly() -> Series:
    """
    Weekly atmospheric CO2 at Mauna Loa, 1958 to 2001, in ppm, as shipped in statsmodels' wheel.

    2,284 weeks, of which 59 are missing; they are interpolated linearly and counted in ``filled``.

    :raises ImportError: if statsmodels is missing.
    """
    try:
        from statsmodels.datasets import co2
    except ImportError as error:
        raise ImportError(
            "Expected the package statsmodels, got no such module: pip install 'pyro-vrnn[demo]'."
        ) from error
    column = co2.load_pandas().data["co2"]
    raw = column.to_numpy(dtype=np.float64)
    missing = np.isnan(raw)
    weeks = np.arange(len(raw))
    values = raw.copy()
    values[missing] = np.interp(weeks[missing], weeks[~missing], raw[~missing])
    return Series(
        values=values,
        labels=tuple(column.index.strftime("%Y-%m-%d")),
        name="co2",
        filled=int(missing.sum()),
        source="statsmodels.datasets.co2",
    )


def read_csv(path: str | Path, column: str) -> Series:
    """
    Read one column of a comma-separated UTF-8 file with a header row.

    Nothing is guessed and nothing is filled: a cell that is no finite number, a row with more or
    fewer cells than the header, or a blank row inside the file is refused with its row number.

    :param path: the file.
    :param column: its name in the header; spaces around names are ignored where no name fits as is.
    :returns: the series; its labels are the first column, unless that is the one read.
    :raises TypeError: if column is no str.
    :raises FileNotFoundError: if there is no such file.
    :raises ValueError: if it cannot be read, is no such CSV file, or lacks the column.
    """
    if not isinstance(column, str):
        raise TypeError(f"Expected column to be a name in the header, got {column!r}.")
    path = Path(path)
    rows = _rows(_text(path), path)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"Expected a CSV file with a header, got an empty file: {path}.")
    header = first[1]
    place = _find_column(header, column)
    values: list[float] = []
    labels: list[str] = []
    for row, cells in rows:
        if len(cells) != len(header):
            raise ValueError(
                f"Expected {_cells(len(header))} in row {row} of the file (header = row 1), "
                f"got {len(cells)}."
            )
        values.append(_number(cells[place], column, row))
        labels.append(cells[0].strip())
    if not values:
        raise ValueError(f"Expected rows below the header, got none: {path}.")
    return Series(
        values=np.array(values),
        labels=tuple(labels) if place > 0 else None,
        name=header[place].strip(),
        filled=0,
        source=str(path),
    )


def _text(path: Path) -> str:
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
        row = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        raise ValueError(
            f"Expected {path} in UTF-8, got byte 0x{byte:02x} in row {row} (Latin-1?): save it as "
            "UTF-8."
        ) from error


def _rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
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


def _find_column(header: list[str], column: str) -> int:
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


def _number(cell: str, column: str, row: int) -> float:
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


def _cells(count: int) -> str:
    """Write a number of cells."""
    return "1 cell" if count == 1 else f"{count} cells"
