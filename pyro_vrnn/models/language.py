"""A language model: the next token at every step."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro
import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_vrnn.baselines.language import LanguageNetwork, detached
from pyro_vrnn.distributions.categorical import Categorical
from pyro_vrnn.models.sequence import observed_share
from pyro_vrnn.nn.embedding import Embedding
from pyro_vrnn.nn.linear import Linear
from pyro_vrnn.nn.own_params import OwnParamsModule
from pyro_vrnn.nn.recurrent import CELLS, State
from pyro_vrnn.nn.weights import Prior
from pyro_vrnn.shapes import (
    check_choice,
    check_lengths,
    check_positive_int,
    check_token_targets,
    check_tokens,
)


class LanguageModel(OwnParamsModule):
    r"""
    A Pyro model of text: a softmax over the vocabulary at every step, given the tokens before.

    .. math::
        w \sim N(m_0, s^2), \qquad
        p(y_{nt} = v \mid x_{n, \le t}, w) = \operatorname{softmax}(A\, h_t(x_n; w) + b)_v .

    Calling it runs the program: weights are sampled outside the plates, one draw for all sequences
    and steps; inside the plates ``"data"`` (sequences) and ``"time"`` is ``"obs"``. The logits are
    returned and not recorded: at V = 10,000 a trace that kept them would be mostly logits.

    Long texts are read in windows. A call starts from ``state``, zeros if it is not given, and
    leaves its last state, detached, in :attr:`state`, where the next call can start::

        for x, y in windows:
            svi.step(x, y, state=model.state)

    It is an argument and not taken up by itself, so that several particles of one step, a guide's
    first call and :class:`~pyro.infer.Predictive` all start where they are told to. In training
    every window draws new weights, and the state it starts from is treated as data: the objective
    is a sum over windows, not the ELBO of the stream (``docs/design/scope.md``).

    Example::

        >>> from pyro.infer import Predictive
        >>> model = LanguageModel(100, 16, 8, num_layers=2, cell="gru")
        >>> tokens = torch.zeros(3, 5, dtype=torch.int64)
        >>> model(tokens).shape, model.state.shape
        (torch.Size([3, 5, 100]), torch.Size([2, 3, 8]))
        >>> Predictive(model, num_samples=4)(tokens)["obs"].shape
        torch.Size([4, 3, 5])

    :param int vocab_size: V, number of token ids.
    :param int embedding_dim: E, length of a word's vector.
    :param int hidden_size: H, units of a layer.
    :param int num_layers: L, layers stacked on each other.
    :param str cell: ``"lstm"``, ``"gru"`` or ``"rnn"``.
    :param bool tie_weights: use the embedding as the output matrix. Its site is then of kind
        ``"linear"`` with blocks (V, 1), a dimension of all words: there is no word-type dropout.
    :param int num_data: N, number of target tokens in the data, so that a batch of n counts N / n
        times; None if every batch is all of it.
    :param prior_scale: standard deviation of the priors: a number, or a mapping from
        ``"embedding"``, ``"rnn"`` and ``"head"`` to what their layers take.
    :param device: as torch.nn's.
    :param dtype: as torch.nn's.
    :ivar state: last state of the last call, detached: ``(L, N, H)``, a pair for an LSTM; None
        before the first call and after :meth:`reset_state`. It is not part of the state dict.
    :raises ValueError: if a size is not positive, the cell is unknown, or ``tie_weights`` goes with
        E other than H.
    """

    state: State | None
    dim_names: ClassVar[dict[str, tuple[str, ...]]] = {
        "x": ("sequence", "time"),
        "lengths": ("sequence",),
        "obs": ("sequence", "time"),
    }

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        cell: str = "lstm",
        tie_weights: bool = False,
        num_data: int | None = None,
        prior_scale: Prior = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice("cell", cell, tuple(CELLS))
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        scales = _by_part(prior_scale)
        self.embedding = Embedding(
            vocab_size, embedding_dim, prior_scale=scales["embedding"], **place
        )
        self.rnn = CELLS[cell](
            embedding_dim, hidden_size, num_layers,
            batch_first=True, prior_scale=scales["rnn"], **place,
        )  # fmt: skip
        self.head = Linear(hidden_size, vocab_size, prior_scale=scales["head"], **place)
        if tie_weights:
            if embedding_dim != hidden_size:
                raise ValueError(
                    "Expected embedding_dim equal to hidden_size with tie_weights=True, "
                    f"got {embedding_dim} and {hidden_size}."
                )
            self.head.tie("weight", self.embedding, "weight")
        self.num_data = None if num_data is None else check_positive_int("num_data", num_data)
        self.reset_state()

    @property
    def vocab_size(self) -> int:
        """V, the number of token ids."""
        return self.embedding.num_embeddings

    def reset_state(self) -> None:
        """Forget the last state."""
        self.state = None

    def plain_twin(self, children: dict[str, Any]) -> torch.nn.Module:
        """Return the network without Pyro that has these children, for ``guide.to_torch``."""
        return LanguageNetwork(**children)

    def check_input(self, x: Tensor, lengths: Tensor | None = None) -> Tensor | None:
        """Refuse what are no token ids, or lengths that do not fit; return lengths."""
        check_tokens("x", x)
        return None if lengths is None else check_lengths(lengths, *x.shape)

    def forward(
        self,
        x: Tensor,
        y: Tensor | None = None,
        lengths: Tensor | None = None,
        state: State | None = None,
    ) -> Tensor:
        """
        Run the program.

        :param x: token ids ``(N, T)``, int64 or int32.
        :param y: the tokens that follow, ``(N, T)``; sampled if not given. (Their range is checked
            on the CPU, and elsewhere under Pyro's validation: a GPU would have to be waited for.)
        :param lengths: valid steps, ``(N,)``; targets behind them do not count.
        :param state: where to start, as the rnn takes it; zeros if not given.
        :returns: the unnormalised logits ``(*P, N, T, V)``, particle dims first.
        :raises TypeError: if ids are not of an integer dtype.
        :raises ValueError: if a shape does not fit, an id is out of range, or there are more
            targets than ``num_data``.
        """
        lengths = self.check_input(x, lengths)
        if y is not None:
            check_token_targets(y, x.shape, self.vocab_size, wait=is_validation_enabled())
        vectors = self.embedding(x, batch_dim=0)
        output, last = self.rnn(vectors, state, lengths)
        self.state = detached(last)
        particles = output.dim() - 3
        logits = self.head(output, particles=particles, batch_dim=particles)
        if particles > 1 and logits.shape[particles - 1] == 1:
            # One plate more than the particle dims of weights are made for: that of time.
            logits = logits.squeeze(particles - 1)
        self._observe(logits, y, lengths)
        return logits

    def _observe(self, logits: Tensor, y: Tensor | None, lengths: Tensor | None) -> None:
        num_sequences, num_steps = logits.shape[-3:-1]
        count = num_sequences * num_steps if lengths is None else int(lengths.sum())
        scale = observed_share(self.num_data, count, "target tokens", observed=y is not None)
        mask: bool | Tensor = True
        if lengths is not None:
            steps = torch.arange(num_steps, device=lengths.device)
            mask = (steps < lengths.unsqueeze(-1)).to(logits.device, non_blocking=True)
        with (
            pyro.plate("data", num_sequences, dim=-2),
            pyro.plate("time", num_steps, dim=-1),
            poutine.mask(mask=mask),
            poutine.scale(scale=scale),
        ):
            pyro.sample("obs", Categorical(logits=logits), obs=y)


def _by_part(prior_scale: Prior) -> dict[str, Any]:
    parts = ("embedding", "rnn", "head")
    if not isinstance(prior_scale, dict):
        return dict.fromkeys(parts, prior_scale)
    unknown = [name for name in prior_scale if name not in parts]
    if unknown:
        raise ValueError(
            f"Expected the names in prior_scale to be among {', '.join(parts)}, "
            f"got {', '.join(map(repr, unknown))}."
        )
    return {name: prior_scale.get(name, 1.0) for name in parts}
