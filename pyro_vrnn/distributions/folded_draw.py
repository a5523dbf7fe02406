r"""
Several draws of a weight, each for a sequence of its own, as one value of a Pyro site.

The weights :math:`W_n = M\, \mathrm{diag}(z_n) + \sigma E_n` share M alone: the N sequences of the
batch are one sequence under N draws of the whole network. Their normals are given, as many as are
used: those of a matrix by the vectors that it is multiplied with, those of a table by look-ups.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.distributions.block_factor import BlockFactorNormal
from pyro_vrnn.distributions.row_bank import RowBank
from pyro_vrnn.distributions.sequence_draw import SequenceCount, SequenceDraw
from pyro_vrnn.ops.blocks import scale_blocks
from pyro_vrnn.ops.spanned import SpannedNoise
from pyro_vrnn.ops.weights import MaskedWeight, SequenceBias
from pyro_vrnn.shapes import check_shape


class FoldedDraw(SequenceDraw):
    """
    N draws of a weight with noise.

    :param BlockFactorNormal q: distribution of one weight; its noise has one scale.
    :param str name: the site's name.
    :param masks: the factors, ``(N, *grid)``, if q has any.
    :param torch.Tensor normals: the noise's numbers, ``(N, *numbers)``, see :meth:`numbers`; their
        scale is that of q.
    """

    def __init__(
        self, q: BlockFactorNormal, name: str, masks: Tensor | None, normals: Tensor
    ) -> None:
        super().__init__(q, name, SequenceCount())
        self._count.agree(name, len(normals))
        self._normals = normals
        if q.has_factor:
            assert masks is not None
            self._mask = check_shape(f"masks of site '{name}'", masks, ("N", *q.grid_shape))

    @staticmethod
    @abstractmethod
    def numbers(q: BlockFactorNormal, uses: int) -> tuple[int, ...]:
        """Return the shape of the normals of one draw that is used this often."""

    @property
    @abstractmethod
    def uses(self) -> int:
        """How often it was used so far."""

    def masked_weight(self, num_sequences: int) -> MaskedWeight:
        """Return the weights of a linear map, which not every draw is."""
        raise self._refusal("a linear map")

    def rows(self, ids: Tensor, batch_dim: int) -> Tensor:
        """Return rows of a table, which not every draw is."""
        raise self._refusal("a table")

    def written(self) -> Tensor:
        """Write out N weights ``(N, *shape)`` that give what was made of them so far."""
        loc = self.q.loc
        if self._mask is not None and self.q.has_factor:
            loc = scale_blocks(loc, self._mask, self.q.block_shape)
        return loc + self._written_noise()

    @abstractmethod
    def _written_noise(self) -> Tensor: ...


class FoldedMatrix(FoldedDraw):
    """N draws of a matrix (F, D)."""

    def __init__(self, q: BlockFactorNormal, *args: Any) -> None:
        super().__init__(q, *args)
        if self._mask is None:
            self._mask = q.loc.new_ones(()).expand(len(self._normals), 1, q.event_shape[1])
        self._spanned = SpannedNoise(self._normals, q.event_shape[1])

    @staticmethod
    def numbers(q: BlockFactorNormal, uses: int) -> tuple[int, ...]:
        """Return the shape of normals for this many products."""
        rows, columns = q.event_shape
        return min(uses, columns), rows

    @property
    def uses(self) -> int:
        """The number of products."""
        return self._spanned.used

    def masked_weight(self, num_sequences: int) -> MaskedWeight:
        """Return the weights, for blocks that are columns."""
        self._count.agree(self.site_name, num_sequences)
        assert self._mask is not None
        if self.q.has_factor and self.q.block_shape[1] != 1:
            raise self._refusal("a linear map, its blocks are rows")
        return MaskedWeight(self.q.loc, self._mask, self._spanned)

    def rows(self, ids: Tensor, batch_dim: int) -> Tensor:
        """Return rows, for blocks that are whole columns; all of the noise is drawn then."""
        if self.q.has_factor and self.q.block_shape != (self.q.event_shape[0], 1):
            raise self._refusal("a table, its blocks are no columns")
        return self._rows_of_columns(ids, batch_dim % ids.dim())

    def _written_noise(self) -> Tensor:
        return self._spanned.drawn()


class FoldedTable(FoldedDraw):
    """N draws of a table (V, E) of independent rows."""

    def __init__(self, q: BlockFactorNormal, *args: Any) -> None:
        super().__init__(q, *args)
        self._uses = 0
        self._bank = RowBank(self._next)

    def _next(self, n: int) -> Tensor:
        start, self._uses = self._uses, self._uses + n // len(self._normals)
        if self._uses > self._normals.shape[1]:
            raise ValueError(
                f"Expected at most {self._normals.shape[1]} look-ups in site '{self.site_name}', "
                f"got {self._uses}."
            )
        return self._normals[:, start : self._uses].flatten(0, 1)

    @staticmethod
    def numbers(q: BlockFactorNormal, uses: int) -> tuple[int, ...]:
        """Return the shape of normals for this many look-ups."""
        return uses, q.event_shape[1]

    @property
    def uses(self) -> int:
        """The number of look-ups."""
        return self._uses

    def rows(self, ids: Tensor, batch_dim: int) -> Tensor:  # (*) -> (*, E)
        """Return rows: equal ids of a sequence have one row."""
        each = ids.movedim(batch_dim, 0)  # (N, *)
        self._count.agree(self.site_name, len(each))
        flat = each.reshape(len(each), -1)  # (N, M)
        sequence = torch.arange(len(each), device=ids.device).unsqueeze(1)
        rows = self.q.loc[flat]
        if self._mask is not None:
            rows = rows * self._mask[sequence, flat]
        noise = self._bank((sequence * len(self.q.loc) + flat).reshape(-1))
        rows = rows + noise.view_as(rows)
        return rows.reshape(*each.shape, -1).movedim(0, batch_dim)

    def _written_noise(self) -> Tensor:
        table = self.q.loc.new_zeros(len(self._normals), *self.q.event_shape)
        return self._bank.into(table.flatten(0, 1)).view_as(table)


class FoldedBias(FoldedDraw):
    """N draws of a bias (F,)."""

    uses = 1

    @staticmethod
    def numbers(q: BlockFactorNormal, uses: int) -> tuple[int, ...]:
        """Return the shape of the bias."""
        return tuple(q.event_shape)

    def part(self, num_sequences: int) -> SequenceBias:
        """Return the biases."""
        self._count.agree(self.site_name, num_sequences)
        return SequenceBias(self.written())

    def _written_noise(self) -> Tensor:
        return self._normals
