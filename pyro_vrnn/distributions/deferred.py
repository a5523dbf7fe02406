r"""
Distributions of weights whose draws wait for their first use.

They wrap a :class:`~pyro_vrnn.distributions.block_factor.BlockFactorNormal` and have its moments
and its divergence from a diagonal normal; only what a draw is differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent, kl_divergence
from torch.distributions.kl import register_kl

from pyro_vrnn.distributions.block_factor import BlockFactorNormal
from pyro_vrnn.distributions.lazy_rows import LazyRows
from pyro_vrnn.distributions.sequence_draw import SequenceCount, SequenceDraw, unscored_message
from pyro_vrnn.distributions.unscored import Unscored


class Deferred(TorchDistribution):
    """
    What the distributions here share.

    :param BlockFactorNormal base: the distribution of one weight, without a batch.
    """

    has_rsample = True
    arg_constraints: dict[str, Any] = {}

    def __init__(self, base: BlockFactorNormal) -> None:
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base!r})"

    @property
    def support(self) -> Any:
        """That of the base."""
        return self.base.support

    @property
    def mean(self) -> Tensor:
        """The mean of the base."""
        return self.base.mean

    @property
    def variance(self) -> Tensor:
        """The variance of the base."""
        return self.base.variance


class RowByRow(Deferred):
    """
    A table of independent rows; a draw is a :class:`~pyro_vrnn.distributions.lazy_rows.LazyRows`.

    Expanded to particles it is the base, whose draws are whole.
    """

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> TorchDistribution:
        """Return the base, expanded, or itself for no batch."""
        return self if tuple(batch_shape) == self.batch_shape else self.base.expand(batch_shape)

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Return a draw that is made when its rows are read."""
        return self.base.rsample(sample_shape) if sample_shape else LazyRows(self.base)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the base's log density, which needs all rows."""
        return self.base.log_prob(value.whole() if isinstance(value, LazyRows) else value)


class PerSequence(Deferred):
    """
    A weight for each sequence; a draw is a
    :class:`~pyro_vrnn.distributions.sequence_draw.SequenceDraw`.

    It is scored by its analytic divergence, which is that of one weight, and by nothing else.

    :param str name: name of its site.
    :param SequenceCount count: shared by the sites of one call.
    """

    def __init__(self, base: BlockFactorNormal, name: str, count: SequenceCount) -> None:
        super().__init__(base)
        self.name, self.count = name, count

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> PerSequence:
        """Return itself; there are no particles of draws for each sequence."""
        if tuple(batch_shape) != self.batch_shape:
            raise NotImplementedError(
                f"Expected no plate around site '{self.name}' of scope='sequence', got batch shape "
                f"{tuple(batch_shape)}: use vectorize_particles=False, or scope='batch'."
            )
        return self

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Return a draw that is made when the number of sequences is known."""
        if sample_shape:
            raise NotImplementedError(
                f"Expected one draw of site '{self.name}' of scope='sequence', "
                f"got sample shape {tuple(sample_shape)}."
            )
        return SequenceDraw(self.base, self.name, self.count)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return a stand-in that cannot be read."""
        return Unscored(
            (),
            dtype=self.base.loc.dtype,
            device=self.base.loc.device,
            message=unscored_message(self.name),
        )


def _kl_deferred_normal(q: Deferred, prior: Independent[Any]) -> Tensor:
    return kl_divergence(q.base, prior)


register_kl(Deferred, Independent)(_kl_deferred_normal)
