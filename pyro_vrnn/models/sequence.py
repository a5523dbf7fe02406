"""What the models of one output a sequence share: network, head, checks of x, data plate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, ClassVar

import pyro
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_vrnn.baselines.networks import SequenceNetwork
from pyro_vrnn.nn.embedding import Embedding
from pyro_vrnn.nn.linear import Linear
from pyro_vrnn.nn.own_params import OwnParamsModule
from pyro_vrnn.nn.recurrent import RecurrentModule
from pyro_vrnn.nn.weights import OWNER, Prior
from pyro_vrnn.shapes import (
    check_dtype,
    check_finite,
    check_positive_int,
    check_shape,
    shape_text,
)

_any_size: ContextVar[bool] = ContextVar("any_batch_size", default=False)


@contextlib.contextmanager
def any_batch_size() -> Iterator[None]:
    """Let models observe more sequences than their ``num_data``, as held-out data may be."""
    token = _any_size.set(True)
    try:
        yield
    finally:
        _any_size.reset(token)


def observed_share(num_data: int | None, count: int, what: str, *, observed: bool) -> float:
    """
    Return N / B, what a batch's log-likelihood is multiplied by; 1 for predictions of more than N.

    :raises ValueError: if the observed batch is larger than ``num_data``.
    """
    if num_data is None:
        return 1.0
    if count <= num_data:
        return num_data / count
    if observed and not _any_size.get():
        raise ValueError(f"Expected a batch of at most num_data={num_data} {what}, got {count}.")
    return 1.0


class SequenceModel(OwnParamsModule):
    """
    A recurrent network, a linear head on its last valid state, and a plate over sequences.

    :param int out_features: size of the head's output.
    :param prior_scale: prior of the head, as in :class:`~pyro_vrnn.nn.Linear`.
    :cvar dict dim_names: site or argument -> names of its dims, for
        :func:`~pyro_vrnn.from_pyro_svi`.
    """

    dim_names: ClassVar[dict[str, tuple[str, ...]]] = {
        "x": ("sequence", "time", "feature"),
        "lengths": ("sequence",),
    }

    def __init__(
        self,
        rnn: RecurrentModule,
        out_features: int,
        *,
        num_data: int | None,
        prior_scale: Prior,
        embedding: Embedding | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(rnn, RecurrentModule):
            raise TypeError(
                "Expected rnn to be a pyro_vrnn.nn RNN, LSTM or GRU (its weights need priors), "
                f"got {type(rnn).__module__}.{type(rnn).__name__}."
            )
        if embedding is not None and not isinstance(embedding, Embedding):
            raise TypeError(
                "Expected embedding to be a pyro_vrnn.nn.Embedding (its table needs a prior), "
                f"got {type(embedding).__module__}.{type(embedding).__name__}."
            )
        if embedding is not None and embedding.embedding_dim != rnn.input_size:
            raise ValueError(
                f"Expected an embedding of {rnn.input_size} dims, the rnn's input_size, "
                f"got {embedding.embedding_dim}."
            )
        self.rnn = rnn
        self.embedding = embedding
        self.num_data = None if num_data is None else check_positive_int("num_data", num_data)
        self.head = Linear(
            self.num_features, out_features, prior_scale=prior_scale, **rnn.factory_kwargs
        )

    @property
    def num_features(self) -> int:
        """Size of the last state: H times the number of directions."""
        return self.rnn.hidden_size * self.rnn.num_directions

    def check_input(self, x: Tensor, lengths: Tensor | None = None) -> Tensor | None:
        """
        Refuse an ``x`` of the wrong shape or dtype, an empty one, or one that is not finite.

        :returns: ``lengths``, which the network will look at.
        """
        tail = () if self.embedding is not None else (self.rnn.input_size,)
        check_shape("x", x, ("N", "T", *tail))
        if len(x) == 0:
            raise ValueError(
                f"Expected x of at least one sequence, got shape {shape_text(x.shape)}."
            )
        if self.embedding is None:
            check_dtype("x", x, self.rnn.factory_kwargs["dtype"], owner=OWNER)
            if is_validation_enabled():
                check_finite("x", x)
        return lengths

    def output(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """
        Return the head of the last layer's last valid h, directions concatenated.

        :param x: ``(N, T, D)``, or ids ``(N, T)`` with an embedding.
        :returns: ``(*P, N, out_features)``.
        """
        if self.embedding is not None:
            x = self.embedding(x, batch_dim=0)
        if not self.rnn.batch_first:
            x = x.transpose(-3, -2)
        _, state = self.rnn(x, lengths=lengths)
        h_n = state[0] if isinstance(state, tuple) else state  # (L*R, *P, N, H)
        last = torch.cat(h_n[-self.rnn.num_directions :].unbind(0), dim=-1)  # (*P, N, R*H)
        return self.head(last, particles=last.dim() - 2)

    def plain_twin(self, children: dict[str, Any]) -> torch.nn.Module:
        """Return the network without Pyro that has these children, for ``guide.to_torch``."""
        return SequenceNetwork(**children)

    def data_plate(self, batch_size: int, device: torch.device, observed: bool) -> pyro.plate:
        """
        Return the plate over sequences, which scales a minibatch's likelihood by N / B.

        It does so without ``observed`` too: a handler around the model may observe ``"obs"``.

        :raises ValueError: if the observed batch is larger than ``num_data``.
        """
        observed_share(self.num_data, batch_size, "sequences", observed=observed)  # or refuse it
        size = max(batch_size, self.num_data or 0)
        subsample = torch.arange(batch_size, device=device)
        return pyro.plate("data", size, subsample=subsample, dim=-1)
