"""Labelled sequences of numbers, read from one long CSV file: a row for each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vrnn.data._csv import checked_records, find_column, finite_number
from pyro_vrnn.reprs import short_repr
from pyro_vrnn.shapes import FloatArray, check_path


@dataclass(frozen=True, eq=False)
class Sequences:
    """
    N sequences of D features, of different lengths.

    :param ids: the N names.
    :param features: the D names.
    :param values: for each sequence its steps, ``(T_n, D)`` float64.
    :param labels: for each sequence its label as text, ``""`` where the file has none; None if it
        has no column of labels.
    """

    ids: tuple[str, ...]
    features: tuple[str, ...]
    values: tuple[FloatArray, ...]
    labels: tuple[str, ...] | None

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.ids)

    def padded(self, center: FloatArray, scale: FloatArray) -> tuple[Tensor, Tensor]:
        """
        Return ``(value - center) / scale`` with zeros behind the end, and the lengths.

        >>> one, two = np.array([[4.0], [6.0]]), np.array([[8.0]])
        >>> s = Sequences(("a", "b"), ("f",), (one, two), None)
        >>> x, lengths = s.padded(np.array([4.0]), np.array([2.0]))
        >>> x[..., 0].tolist(), lengths.tolist()
        ([[0.0, 1.0], [2.0, 0.0]], [2, 1])

        :param center: ``(D,)``, and ``scale`` too.
        :returns: x ``(N, T, D)``, float32, and lengths ``(N,)``.
        """
        lengths = torch.tensor([len(value) for value in self.values])
        x = torch.zeros(len(self), int(lengths.max()), len(self.features), dtype=torch.float32)
        for row, value in zip(x, self.values, strict=True):
            row[: len(value)] = torch.from_numpy((value - center) / scale)
        return x, lengths


def read_sequences(
    path: str | Path,
    *,
    sequence: str = "sequence",
    label: str = "label",
    time: str | None = None,
    features: Sequence[str] | None = None,
    labelled: bool = True,
) -> Sequences:
    """
    Read sequences from a comma-separated UTF-8 file with a header row and a row for each step.

    Rows of one sequence need not stand together. Every column but those of names, labels and times
    is a feature. Nothing is guessed and nothing is filled: a cell that is no finite number is
    refused with its row.

    :param path: the file.
    :param sequence: the column that says which sequence a row belongs to.
    :param label: the column of labels, the same in all rows of a sequence.
    :param time: a column of numbers or ISO dates to order the steps by; default: the file's order.
    :param features: the names that the features must have, whatever their order in the file.
    :param labelled: whether every sequence must have a label; otherwise the column may be missing
        and cells may be empty.
    :raises FileNotFoundError: if there is no such file.
    :raises ValueError: if it cannot be read or is no such CSV file, if a column is missing, a cell
        is no finite number, a sequence has two labels or one time twice.
    """
    header, rows = checked_records(check_path("path", path))
    place = find_column(header, sequence)
    has_label = labelled or label.strip() in (name.strip() for name in header)
    label_place = find_column(header, label) if has_label else None
    time_place = None if time is None else find_column(header, time)
    columns = _feature_columns(header, {place, label_place, time_place}, features)
    steps: dict[str, list[list[float]]] = {}
    times: dict[str, dict[float, int]] = {}
    labels: dict[str, str] = {}
    for row, cells in rows:
        name = cells[place].strip()
        if not name:
            raise ValueError(
                f"Expected the name of a sequence in column {sequence!r}, got an empty cell in row "
                f"{row} of the file (header = row 1)."
            )
        values = [finite_number(cells[k], feature, row) for feature, k in columns.items()]
        steps.setdefault(name, []).append(values)
        if label_place is not None:
            _keep_label(labels, name, cells[label_place].strip(), row, label, labelled)
        if time is not None and time_place is not None:
            _keep_time(times.setdefault(name, {}), cells[time_place], time, name, row)
    if not steps:
        raise ValueError(f"Expected rows below the header, got none: {path}.")
    for name, at in times.items():
        steps[name] = [steps[name][at[moment]] for moment in sorted(at)]
    return Sequences(
        ids=tuple(steps),
        features=tuple(columns),
        values=tuple(np.array(value, dtype=np.float64) for value in steps.values()),
        labels=None if label_place is None else tuple(labels[name] for name in steps),
    )


def _feature_columns(
    header: list[str], others: set[int | None], features: Sequence[str] | None
) -> dict[str, int]:
    """Return name -> place of the features, in the file's order or that of ``features``."""
    found = {name.strip(): k for k, name in enumerate(header) if k not in others}
    if not found:
        raise ValueError(f"Expected at least one column of features, got {_listed(header)} alone.")
    if len(found) < len(header) - len(others - {None}):
        raise ValueError(f"Expected features of different names, got {_listed(header)}.")
    if features is None:
        return found
    if set(features) != set(found):
        raise ValueError(
            f"Expected the {len(features)} features {_listed(features)}, got {len(found)}: "
            f"{_listed(list(found))}."
        )
    return {name: found[name] for name in features}


def _keep_label(
    labels: dict[str, str], name: str, value: str, row: int, label: str, labelled: bool
) -> None:
    """Keep the label of a sequence, the same in each of its rows."""
    if labelled and not value:
        raise ValueError(
            f"Expected a label in column {label!r}, got an empty cell in row {row} of the file "
            "(header = row 1)."
        )
    if labels.setdefault(name, value) != value:
        raise ValueError(
            f"Expected one label for each sequence, got {labels[name]!r} and, in row {row} of the "
            f"file (header = row 1), {value!r} for {name!r}."
        )


def _keep_time(times: dict[float, int], cell: str, column: str, name: str, row: int) -> None:
    """Add the time of the next step, a number or the seconds of a date."""
    try:
        value = _seconds(cell.strip()) if _is_date(cell) else float(cell)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ValueError(
            f"Expected a number or an ISO date in column {column!r}, got {cell!r} in row {row} of "
            "the file (header = row 1)."
        )
    if value in times:
        raise ValueError(
            f"Expected each time once in a sequence, got {cell.strip()!r} again for {name!r} in "
            f"row {row} of the file (header = row 1)."
        )
    times[value] = len(times)


def _is_date(cell: str) -> bool:
    return "-" in cell.strip()[1:] and "e" not in cell.lower()


def _seconds(cell: str) -> float:
    moment = datetime.fromisoformat(cell)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
