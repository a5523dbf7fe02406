"""An embedding table with dropout of word types."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.baselines._dropping import Dropping
from pyro_vrnn.distributions.per_site import DEFAULT_DROP_PROB, PerSite
from pyro_vrnn.distributions.weight_site import WeightSite
from pyro_vrnn.ops.rows import representatives
from pyro_vrnn.shapes import shape_text


class Embedding(Dropping, torch.nn.Embedding):
    """
    :class:`torch.nn.Embedding` with dropout of word types, on in ``.train()`` mode only.

    ``"variational"`` and ``"gaussian"`` drop (or scale) rows of the table: all occurrences of a
    word in a sequence go together, never one by one. A type has one factor for each sequence, or
    for the call with ``scope="batch"``; only those of the types that occur are drawn. The other
    methods drop nothing here, as the layer behind drops its input. In ``.eval()`` mode the table is
    its mean. The vector of ``padding_idx`` is 0.

    Example::

        >>> table = Embedding(100, 16, padding_idx=0, drop_prob=0.5)
        >>> words = table(torch.tensor([[3, 7, 3], [3, 7, 0]]))
        >>> torch.equal(words[0, 0], words[0, 2])
        True

    :param int num_embeddings: V, number of ids.
    :param int embedding_dim: E, length of a vector.
    :param int padding_idx: an id whose vector is 0 and stays so.
    :param str method: as in :class:`~pyro_vrnn.baselines.LSTM`.
    :param drop_prob: p in [0, 1): a number, or a mapping from ``"weight"`` or ``"embedding"``.
    :param str scope: ``"sequence"`` or ``"batch"``.
    :param str parametrization: ``"non-inverted"`` or ``"inverted"``.
    :param kwargs: torch's other arguments.
    :raises ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        method: str = "variational",
        drop_prob: PerSite = DEFAULT_DROP_PROB,
        scope: str = "sequence",
        parametrization: str = "non-inverted",
        **kwargs: Any,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, **kwargs)
        sites = {"weight": WeightSite("embedding")}
        self._set_dropping(sites, method, drop_prob, scope, parametrization)

    def forward(self, input: Tensor, batch_dim: int = 0) -> Tensor:
        """
        Look ids up.

        :param input: ids of any shape ``(*)``.
        :param int batch_dim: the dim of ``input`` that counts the sequences.
        :returns: ``(*, E)``.
        :raises ValueError: if ``batch_dim`` is no dim of the ids.
        """
        vectors = super().forward(input)
        if not self.is_dropping:
            factor = self._mean_factor("weight")
            return vectors if factor == 1 else vectors * factor
        factors = self._draw("weight", input.numel())
        keys = self._keys(input, batch_dim)
        factors = self._scaled("weight", factors.index_select(0, representatives(keys)))
        return vectors * factors.reshape(*input.shape, 1)

    def _keys(self, input: Tensor, batch_dim: int) -> Tensor:
        """Return what has a factor of its own at each place: the type, or type and sequence."""
        if self.scope == "batch":
            return input.reshape(-1).long()
        if not -input.dim() <= batch_dim < input.dim():
            raise ValueError(
                f"Expected batch_dim to be a dim of the ids, got {batch_dim} for "
                f"{shape_text(input.shape)}."
            )
        shape = [1] * input.dim()
        shape[batch_dim] = -1
        sequences = torch.arange(input.shape[batch_dim], device=input.device).reshape(shape)
        return (sequences * self.num_embeddings + input).reshape(-1)

    def extra_repr(self) -> str:
        """Show torch's arguments and the settings of the method."""
        return super().extra_repr() + self._dropping_repr()
