"""A categorical distribution over many classes whose log density costs one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.utils import lazy_property


class Categorical(dist.Categorical):
    r"""
    Pyro's :class:`~pyro.distributions.Categorical` of unnormalised logits, for large vocabularies.

    .. math::
        \log p(y) = a_y - \log \sum_v \exp a_v .

    Pyro's normalises the whole table of logits when it is made, and checks it: with V = 10,000
    classes that costs more than the network. Here the table is normalised only if ``logits``,
    ``probs``, a sample or the entropy are asked for; ``log_prob`` is torch's cross entropy.

    Example::

        >>> q = Categorical(logits=torch.tensor([[0.0, 0.0], [0.0, 100.0]]))
        >>> q.log_prob(torch.tensor([0, 1]))
        tensor([-0.6931,  0.0000])

    :param torch.Tensor logits: :math:`a`, ``(*batch, V)``, in nats up to a constant.
    :param bool validate_args: whether values are checked to be classes.
    :raises ValueError: if ``logits`` has no dim.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, logits: Tensor, *, validate_args: bool | None = None) -> None:
        if not isinstance(logits, Tensor) or logits.dim() < 1:
            raise ValueError(f"Expected logits of shape (*, V), got {logits!r}.")
        self._param = logits
        self._num_events = logits.shape[-1]
        torch.distributions.Distribution.__init__(
            self, logits.shape[:-1], validate_args=validate_args
        )

    @lazy_property
    def logits(self) -> Tensor:
        """Normalised logits, ``(*batch, V)``."""
        return self._param.log_softmax(-1)

    @lazy_property
    def probs(self) -> Tensor:
        """Probabilities, ``(*batch, V)``."""
        return self._param.softmax(-1)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Categorical:
        """Return this distribution with a larger batch shape."""
        new = self._get_checked_instance(Categorical, _instance)
        batch_shape = torch.Size(batch_shape)
        new._param = self._param.expand(*batch_shape, self._num_events)
        new._num_events = self._num_events
        torch.distributions.Distribution.__init__(new, batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value), without the normalised table where shapes allow."""
        if value.shape != self.batch_shape:
            return super().log_prob(value)
        if self._validate_args:
            self._validate_sample(value)
        loss = torch.nn.functional.cross_entropy(
            self._param.reshape(-1, self._num_events), value.reshape(-1).long(), reduction="none"
        )
        return -loss.reshape(value.shape)
