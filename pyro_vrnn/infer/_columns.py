"""Numbers that grow row by row, in named columns."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor

BLOCK = 4096  # rows


class Columns:
    """
    Numbers that grow row by row, 8 bytes each: a list of floats takes four times as much.

    They are kept in blocks: columns that are moved as they grow leave holes, which take as much.
    """

    def __init__(self) -> None:
        self.length = 0
        self._columns: dict[str, list[array[float]]] = {}

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row; a column that it lacks, or that is new, gets NaN in the places left open."""
        for name in row:
            if name not in self._columns:
                self._columns[name] = _blocks([math.nan] * self.length)
        for name, blocks in self._columns.items():
            if self.length % BLOCK == 0:
                blocks.append(array("d"))
            blocks[-1].append(row.get(name, math.nan))
        self.length += 1

    def __getitem__(self, name: str) -> list[float]:
        return self.since(name, 0)

    def since(self, name: str, start: int, stop: int | None = None) -> list[float]:
        """Return a column from one row on, or up to another, without writing out the rest."""
        stop = self.length if stop is None else stop
        blocks = self._columns.get(name, [])[start // BLOCK : -(-stop // BLOCK)]
        first = start - start % BLOCK
        return list(chain.from_iterable(blocks))[start - first : stop - first]

    def names(self) -> list[str]:
        """Return the names of the columns."""
        return list(self._columns)

    def part(self, start: int = 0, stop: int | None = None) -> dict[str, Tensor]:
        """Return rows of all columns as float64 tensors."""
        return {
            name: torch.tensor(self.since(name, start, stop), dtype=torch.float64)
            for name in self._columns
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the columns from tensors."""
        self._columns = {name: _blocks(values.tolist()) for name, values in tensors.items()}
        self.length = max((len(values) for values in tensors.values()), default=0)


def _blocks(values: list[float]) -> list[array[float]]:
    return [array("d", values[k : k + BLOCK]) for k in range(0, len(values), BLOCK)]
