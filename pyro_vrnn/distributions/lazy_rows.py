r"""
A draw of an embedding table whose rows are drawn when they are looked up.

Rows are independent under q, so a call needs a draw only for the word types that occur in it. That
is exact within the call: rows drawn once are kept, and whatever else reads the table, such as a
sampled log density, gets all of it, with these rows in their places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pyro_vrnn.distributions.block_factor import BlockFactorNormal
from pyro_vrnn.distributions.drawn import Drawn, draw_rows, has_options, noise_of_rows
from pyro_vrnn.distributions.row_bank import RowBank
from pyro_vrnn.ops import particles as ops


class LazyRows(Drawn):
    """
    One weight (V, E) as the value of a site, drawn row by row.

    Row look-ups (:func:`~pyro_vrnn.ops.particles.take_rows`, our
    :class:`~pyro_vrnn.nn.Embedding`, :func:`torch.nn.functional.embedding`) draw what they need;
    any other operation sees the whole tensor.

    :param BlockFactorNormal q: the table's distribution, whose blocks are rows or single weights.
    """

    def __init__(self, q: BlockFactorNormal) -> None:
        self.q = q
        self._whole: Tensor | None = None
        self._mask_rows = RowBank(lambda n: q.draw_factors((n, q.grid_shape[1])))
        self._noise_rows = noise_of_rows(q)

    def __repr__(self) -> str:  # type: ignore[override]
        drawn = "drawn" if self._whole is not None else "drawn row by row"
        return f"LazyRows(shape: {tuple(self.q.event_shape)}, {drawn})"

    def rows(self, ids: Tensor) -> Tensor:  # (*) -> (*, E)
        """Return some rows of the draw."""
        flat = ids.reshape(-1)
        if self._whole is not None:
            rows = self._whole.index_select(0, flat)
        else:
            kept = self._mask_rows(flat) if self.q.has_factor else None
            rows = draw_rows(self.q, flat, kept, self._noise_rows)
        return rows.reshape(*ids.shape, -1)

    def whole(self) -> Tensor:
        """Return all of the draw."""
        if self._whole is None:
            table = self.q.loc
            if self.q.has_factor:
                table = table * self._mask_rows.into(self.q.draw_factors(self.q.grid_shape))
            if self.q.has_noise:
                table = table + self.q.scale * self._noise_rows.into(torch.randn_like(table))
            self._whole = table
        return self._whole

    @classmethod
    def _other(
        cls, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        def read(value: Any) -> Any:
            return value.whole() if isinstance(value, LazyRows) else value

        return func(*tree_map(read, tuple(args)), **tree_map(read, dict(kwargs)))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        raise TypeError(f"Expected a tensor that was read whole in {func}, got {args}.")


def _take_rows(weight: LazyRows, ids: Tensor, *, batch_dim: int | None = None) -> Tensor:
    return weight.rows(ids)


def _embedding(input: Tensor, weight: LazyRows, **options: Any) -> Tensor:
    if has_options(options):
        return torch.nn.functional.embedding(input, weight.whole(), **options)
    return weight.rows(input)


LazyRows.handlers = {
    ops.take_rows: _take_rows,
    torch.nn.functional.embedding: _embedding,
}
