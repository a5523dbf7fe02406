"""The network of a language model, without a likelihood or priors."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vrnn.baselines.recurrent import DroppingRecurrent, State
from pyro_vrnn.shapes import check_lengths, check_tokens

__all__ = ["LanguageNetwork"]


class LanguageNetwork(torch.nn.Module):
    """
    Embedding, recurrent layers and a head at every step: logits of the next token.

    The children stand under the names of :class:`~pyro_vrnn.models.LanguageModel`, so the names in
    the ``state_dict`` are the Bayesian model's sites. As there, a call starts from the ``state``
    it is given, zeros by default, and leaves its last one in :attr:`state`.

    Example::

        >>> from pyro_vrnn.baselines import LSTM, Embedding, Linear
        >>> network = LanguageNetwork(Embedding(100, 16), LSTM(16, 8), Linear(8, 100))
        >>> network(torch.zeros(3, 5, dtype=torch.int64)).shape
        torch.Size([3, 5, 100])

    :param embedding: an Embedding of torch.nn or of this package's baselines.
    :param rnn: an RNN, LSTM or GRU of either, one-directional.
    :param head: a linear layer of either. To tie it, give it the embedding's parameter.
    :ivar state: last state of the last call, detached; None before it.
    :raises TypeError: if ``rnn`` is no recurrent layer.
    :raises ValueError: if sizes do not fit, or the rnn reads backwards too.
    """

    state: State | None

    def __init__(
        self, embedding: torch.nn.Embedding, rnn: torch.nn.RNNBase, head: torch.nn.Linear
    ) -> None:
        super().__init__()
        if not isinstance(rnn, torch.nn.RNNBase):
            raise TypeError(
                "Expected rnn to be an RNN, LSTM or GRU of torch.nn or pyro_vrnn.baselines, "
                f"got {type(rnn).__module__}.{type(rnn).__name__}."
            )
        if rnn.bidirectional:
            raise ValueError(
                "Expected an rnn of one direction, got bidirectional=True: it would read the "
                "tokens that it predicts."
            )
        sizes = (embedding.embedding_dim, rnn.proj_size or rnn.hidden_size)
        if sizes != (rnn.input_size, head.in_features):
            raise ValueError(
                f"Expected an embedding of {rnn.input_size} dims and a head of {sizes[1]} inputs, "
                f"as the rnn has, got {sizes[0]} and {head.in_features}."
            )
        self.embedding, self.rnn, self.head = embedding, rnn, head
        self.reset_state()

    def reset_state(self) -> None:
        """Forget the last state."""
        self.state = None

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: State | None = None
    ) -> Tensor:
        """
        Run the network.

        :param x: token ids ``(N, T)``.
        :param lengths: valid steps, ``(N,)``; the state that is kept is the one after them.
        :param state: where to start, as the rnn takes it; zeros if not given.
        :returns: logits ``(N, T, V)``.
        :raises TypeError: if ids are not of an integer dtype.
        :raises ValueError: if a shape does not fit.
        """
        check_tokens("x", x)
        vectors = self.embedding(x)
        vectors = vectors if self.rnn.batch_first else vectors.transpose(0, 1)
        if lengths is None:
            output, last = self.rnn(vectors, state)
        elif isinstance(self.rnn, DroppingRecurrent):
            output, last = self.rnn(vectors, state, lengths=check_lengths(lengths, *x.shape))
        else:
            output, last = self._run_plain(vectors, state, check_lengths(lengths, *x.shape))
        self.state = detached(last)
        output = output if self.rnn.batch_first else output.transpose(0, 1)
        logits: Tensor = self.head(output)
        return logits

    def _run_plain(
        self, vectors: Tensor, state: State | None, lengths: Tensor
    ) -> tuple[Tensor, State]:
        """Run a layer of torch.nn on sequences of several lengths."""
        first = self.rnn.batch_first
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            vectors, lengths, batch_first=first, enforce_sorted=False
        )
        output, last = self.rnn(packed, state)
        num_steps = vectors.shape[1 if first else 0]
        padded, _ = torch.nn.utils.rnn.pad_packed_sequence(
            output, batch_first=first, total_length=num_steps
        )
        return padded, last


def detached(state: State) -> State:
    """Return a state without its graph."""
    if isinstance(state, tuple):
        return state[0].detach(), state[1].detach()
    return state.detach()
