"""Random rows drawn when they are first asked for, and kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_vrnn.ops.rows import representatives


class RowBank:
    """
    Draws that belong to integer keys: equal keys get equal draws, in one call and the next.

    As many are drawn as there are keys, since the number of distinct ones is known to a GPU only.

    :param draw: n -> n independent draws, ``(n, ...)``.
    """

    def __init__(self, draw: Callable[[int], Tensor]) -> None:
        self._draw = draw
        self._known: tuple[Tensor, Tensor] | None = None  # keys and rows of the draws so far

    @property
    def used(self) -> bool:
        """Whether anything was drawn."""
        return self._known is not None

    def __call__(self, keys: Tensor) -> Tensor:  # (n,) -> (n, ...)
        """Return the draws of the keys."""
        count, rows = len(keys), self._draw(len(keys))
        if self._known is not None:
            keys, rows = (torch.cat(pair) for pair in zip(self._known, (keys, rows), strict=True))
        rows = rows.index_select(0, representatives(keys))
        self._known = keys, rows
        return rows[len(rows) - count :]

    def into(self, table: Tensor) -> Tensor:  # (V, ...)
        """Put the draws so far into their rows of a table of fresh ones."""
        return table if self._known is None else table.index_copy_(0, *self._known)
