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
        self.keys: Tensor | None = None  # those of the draws so far
        self._rows = draw(0)

    def __call__(self, keys: Tensor) -> Tensor:  # (n,) -> (n, ...)
        """Return the draws of the keys."""
        new = self._draw(len(keys))
        known = 0
        if self.keys is not None:
            known = len(self.keys)
            keys, new = torch.cat([self.keys, keys]), torch.cat([self._rows, new])
        self.keys, self._rows = keys, new.index_select(0, representatives(keys))
        return self._rows[known:]

    def into(self, table: Tensor) -> Tensor:  # (V, ...)
        """Put the draws so far into their rows of a table of fresh ones."""
        return table if self.keys is None else table.index_copy_(0, self.keys, self._rows)
