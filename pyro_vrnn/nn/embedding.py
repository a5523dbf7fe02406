"""An embedding table with a Gaussian prior."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vrnn.distributions.weight_site import WeightSite
from pyro_vrnn.nn.weights import Prior, WeightModule
from pyro_vrnn.ops.particles import embedding, flatten_particles, particle_shape
from pyro_vrnn.shapes import check_positive_int, check_range


class Embedding(WeightModule):
    """
    :class:`torch.nn.Embedding` with a Gaussian prior on its table.

    One row is one word type: under :class:`~pyro_vrnn.infer.AutoSpikeAndSlab` a row is dropped
    whole, so all occurrences of a word go together.

    Example::

        >>> table = Embedding(100, 16, padding_idx=0)
        >>> table(torch.tensor([[3, 7, 0]])).shape
        torch.Size([1, 3, 16])

    :param int num_embeddings: V, number of ids.
    :param int embedding_dim: E, length of a vector.
    :param int padding_idx: an id whose vector is 0. It has no row in the site ``weight``, which
        then is ``(V-1, E)``: no prior, no KL, no draws; ids above it stand one row higher.
    :param prior_scale: standard deviation of the prior; see
        :class:`~pyro_vrnn.nn.weights.WeightModule`.
    :param prior_loc: mean of the prior, likewise.
    :raises ValueError: if a size is not positive, a prior does not fit, or ``padding_idx`` is not
        an id.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        prior_scale: Prior = 1.0,
        prior_loc: Prior = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(prior_scale=prior_scale, prior_loc=prior_loc, device=device, dtype=dtype)
        self.num_embeddings = check_positive_int("num_embeddings", num_embeddings)
        self.embedding_dim = check_positive_int("embedding_dim", embedding_dim)
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(
                    f"Expected padding_idx in {-num_embeddings}..{num_embeddings - 1}, "
                    f"got {padding_idx}."
                )
            padding_idx %= num_embeddings
        self.padding_idx = padding_idx
        rows = self.num_embeddings - (padding_idx is not None)
        self._add_weight("weight", (rows, self.embedding_dim), WeightSite("embedding"))
        self._check_prior_names()

    def forward(self, input: Tensor, *, batch_dim: int | None = None) -> Tensor:
        """
        Look ids up in one draw of the table, or in S of them.

        In training under :class:`~pyro_vrnn.infer.AutoSpikeAndSlab` only the rows that are looked
        up are drawn.

        :param input: ids of any shape ``(*)``, int64 or int32, in 0..V-1. (The range is checked on
            the CPU; a GPU would have to be waited for, and stops at a wrong id by itself.)
        :param int batch_dim: the dim of ``input`` that counts the sequences. Needed only under
            ``scope="sequence"`` (a draw for each sequence) for ids of more than one dim.
        :returns: ``(*, E)``, or ``(S, *, E)`` with S particles.
        :raises TypeError: if the ids are not integers.
        :raises ValueError: if an id is out of range.
        """
        if not isinstance(input, Tensor) or input.dtype not in (torch.int64, torch.int32):
            got = input.dtype if isinstance(input, Tensor) else type(input).__name__
            raise TypeError(f"Expected ids of dtype int64 or int32, got {got}.")
        if input.device.type == "cpu":
            check_range("ids", input, 0, self.num_embeddings - 1)
        weight = self.weight
        leading = particle_shape([(weight, 2)])
        output = embedding(
            input.long(), flatten_particles(weight, 2), self.padding_idx, batch_dim=batch_dim
        )
        return output.unflatten(0, leading) if leading else output

    def extra_repr(self) -> str:
        """Show the constructor's arguments."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
