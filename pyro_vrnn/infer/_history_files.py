"""
A history beside its checkpoints, so that a checkpoint costs what is new and not what is long.

After 10,000 epochs of 10 steps (11 columns, an LSTM of 32 units) a checkpoint with all of the
history took 9.2 MB and 94 ms; without its full blocks it takes 0.3 MB and 8 ms. At the first step
both take 0.1 MB and 5 ms. A checkpoint an epoch wrote 46 GB in all, and now writes 3.5.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.archives import DamagedArchiveError, read_archive, write_archive
from pyro_vrnn.infer.fit_result import FitResult

FORMAT, VERSION = "pyro_vrnn history", 1
ROWS = 4096  # of a block
Part = dict[str, Tensor]


class HistoryFiles:
    """
    Rows of a history in blocks that are written once, each an archive.

    The n-th block of steps is ``history-step-00000n``, that of epochs ``history-epoch-00000n``. A
    checkpoint holds the rows after the last full block, and the SHA-256 of each block's numbers. A
    block is whole before a checkpoint counts on it; one that no checkpoint counts on, after a
    crash or of a run that went back, is written again when it is full.

    A damaged block costs its rows and no more: they are NaN, and a warning names it.

    :param folder: that of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = ROWS
        self._sums: dict[str, list[str]] = {"step": [], "epoch": []}

    def state(self, result: FitResult) -> tuple[Part, dict[str, Any]]:
        """Write the blocks that are full, and return the rest of a history for a checkpoint."""
        for table, columns in (("step", result.steps), ("epoch", result.epochs)):
            sums = self._sums[table]
            for k in range(len(sums), columns.length // self.rows):
                part = columns.part(k * self.rows, (k + 1) * self.rows)
                facts = {"table": table, "first": k * self.rows}
                write_archive(self._place(table, k), part, facts, format=FORMAT, version=VERSION)
                sums.append(_sum(part))
        after = self.rows * len(self._sums["step"]), self.rows * len(self._sums["epoch"])
        tensors, facts = result.state(after)
        blocks = {table: list(sums) for table, sums in self._sums.items()}
        return tensors, {**facts, "blocks": {"rows": self.rows, **blocks}}

    def load(self, result: FitResult, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
        """Give a history what a checkpoint holds of it and what its blocks do."""
        blocks = facts.get("blocks", {"rows": ROWS, "step": [], "epoch": []})  # layout 1 had none
        self.rows = blocks["rows"]
        whole: Part = {}
        for table in self._sums:
            start = f"{table}."
            last = {n.removeprefix(start): v for n, v in tensors.items() if n.startswith(start)}
            self._sums[table] = list(blocks[table])
            parts = [self._read(table, k) for k in range(len(blocks[table]))]
            whole |= {start + name: v for name, v in _stacked([*parts, last]).items()}
        result.load_state(whole, facts)

    def _place(self, table: str, block: int) -> Path:
        return self.folder / f"history-{table}-{block:06d}"

    def _read(self, table: str, block: int) -> Part:
        place = self._place(table, block)
        try:
            part = read_archive(place, format=FORMAT, max_version=VERSION).tensors
            if _sum(part) != self._sums[table][block]:
                raise DamagedArchiveError(
                    f"Expected the {table}s that the checkpoint counts on in {place}, got others."
                )
        except (DamagedArchiveError, FileNotFoundError) as error:
            first = block * self.rows
            warnings.warn(
                f"{error} The history of {table}s {first} to {first + self.rows - 1} is lost (NaN) "
                "and the run goes on.",
                stacklevel=2,
            )
            return {"loss": torch.full((self.rows,), math.nan, dtype=torch.float64)}
        return part


def _sum(part: Part) -> str:
    """Return the SHA-256 of columns: their names and numbers."""
    found = hashlib.sha256()
    for name in sorted(part):
        found.update(f"{name} {len(part[name])} ".encode())
        found.update(part[name].numpy().astype("<f8").tobytes())
    return found.hexdigest()


def _stacked(parts: Sequence[Part]) -> Part:
    """Put rows below each other; a column that a part lacks is NaN there."""

    def rows(part: Part) -> int:
        return max((len(values) for values in part.values()), default=0)

    def column(name: str) -> Tensor:
        missing = ((p, torch.full((rows(p),), math.nan, dtype=torch.float64)) for p in parts)
        return torch.cat([part.get(name, nothing) for part, nothing in missing])

    return {name: column(name) for name in dict.fromkeys(chain.from_iterable(parts))}
