"""What a guide has decided for one weight of a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class GuideSite:
    """
    What a guide decided for one site: shape of a block, how it is dropped or scaled, noise, scope.

    :ivar float drop_prob: probability of the spike; 0 where nothing is dropped.
    :ivar float scale: of the noise, where it starts if it is learned.
    :ivar str scope: ``"sequence"`` if a draw in training has factors for each sequence.
    :ivar float alpha: variance of normal factors; 0 where there are none.
    :ivar str parametrization: ``"inverted"`` if the parameter ``loc`` is (1 - p) m.
    :ivar bool suits_sequences: whether each sequence can have factors of its own: the blocks are
        input columns, or the rows of an embedding.
    """

    name: str
    kind: str
    shape: torch.Size
    block_shape: tuple[int, ...]
    drop_prob: float
    scale: float
    scope: str
    alpha: float = 0.0
    suits_sequences: bool = True
    parametrization: str = "non-inverted"

    @property
    def has_independent_rows(self) -> bool:
        """Whether the site is a table whose rows can be drawn one by one."""
        columns = self.block_shape[-1] in (1, self.shape[-1])
        return self.kind == "embedding" and self.block_shape[0] == 1 and columns
