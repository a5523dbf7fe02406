"""One regular time series: read from a CSV file, or the weekly CO2 that statsmodels ships."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyro_vrnn.data._csv import checked_records, find_column, finite_number
from pyro_vrnn.reprs import short_repr
from pyro_vrnn.shapes import check_path, shape_text


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

    __repr__ = short_repr

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
    path = check_path("path", path)
    header, rows = checked_records(path)
    place = find_column(header, column)
    values: list[float] = []
    labels: list[str] = []
    for row, cells in rows:
        values.append(finite_number(cells[place], column, row))
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
