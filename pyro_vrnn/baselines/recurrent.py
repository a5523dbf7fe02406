"""RNN, LSTM and GRU of torch.nn with the dropout of the literature, no dropout included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from pyro_vrnn.baselines._dropping import ColumnDropping
from pyro_vrnn.baselines._stepwise import run_naive_layer
from pyro_vrnn.distributions.per_site import DEFAULT_DROP_PROB, PerSite
from pyro_vrnn.distributions.weight_site import RECURRENT_KINDS, WeightSite
from pyro_vrnn.ops.cells import GATES
from pyro_vrnn.ops.recurrent import recurrent
from pyro_vrnn.ops.weights import LayerWeights, MaskedWeight
from pyro_vrnn.shapes import (
    check_choice,
    check_dtype,
    check_last_dim,
    check_lengths,
    check_shape,
    check_state,
    shape_text,
)

State = Tensor | tuple[Tensor, Tensor]
States = tuple[Tensor, ...]


class DroppingRecurrent(ColumnDropping):
    """What :class:`RNN`, :class:`LSTM` and :class:`GRU` share; the other base is torch.nn's."""

    mode: str
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    bidirectional: bool

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        method: str = "variational",
        drop_prob: PerSite = DEFAULT_DROP_PROB,
        gates: str = "untied",
        scope: str = "sequence",
        parametrization: str = "non-inverted",
        **kwargs: Any,
    ) -> None:
        """
        Build torch's layers, in torch's order of arguments.

        :param int input_size: D, features of an input step.
        :param int hidden_size: H, units of a layer.
        :param int num_layers: L, layers stacked on each other.
        :param bool bias: whether the layers have ``bias_ih`` and ``bias_hh``.
        :param bool batch_first: ``(N, T, D)`` rather than ``(T, N, D)``; states are not affected.
        :param float dropout: must be 0; see ``drop_prob``.
        :param bool bidirectional: a second network per layer that reads the sequence backwards.
        :param int proj_size: must be 0.
        :param str method: ``"none"``, ``"naive"``, ``"non-recurrent"``, ``"variational"`` or
            ``"gaussian"``; see :class:`LSTM`.
        :param drop_prob: p, the probability of dropping, in [0, 1). A number goes to every weight
            but first-layer input weights with fewer than 8 inputs, which get 0. A mapping from
            weight (``"weight_hh_l1_reverse"``) or kind (``"weight_ih"``, ``"weight_hh"``) is taken
            as given, the weight before the kind; weights it does not name get 0.25 under the same
            exception. Weights that the method never drops have p = 0 whatever is given.
        :param str gates: ``"untied"`` (a mask for each gate) or ``"tied"`` (one for all); no
            matter to ``"non-recurrent"``.
        :param str scope: ``"sequence"`` (each sequence of a call has its masks) or ``"batch"`` (one
            set for all), of ``"variational"`` and ``"gaussian"``; the others draw for each
            sequence.
        :param str parametrization: ``"non-inverted"``: masks are 0 or 1, weights are multiplied by
            1 - p in evaluation. ``"inverted"``: masks are 0 or 1 / (1 - p).
        :param kwargs: ``device``, ``dtype``.
        :raises TypeError: if ``drop_prob`` is no number.
        :raises ValueError: if an argument is out of range, or ``dropout`` or ``proj_size`` is
            not 0.
        """
        for name, value in (("dropout", dropout), ("proj_size", proj_size)):
            if value != 0:
                raise ValueError(
                    f"Expected {name}=0, got {value}: what is dropped is said by drop_prob and "
                    "method, and projections have none."
                )
        super().__init__(
            input_size, hidden_size, num_layers,
            bias=bias, batch_first=batch_first, bidirectional=bidirectional, **kwargs,
        )  # fmt: skip
        sites = {
            kind + suffix: WeightSite(kind, GATES[self.mode], layer)
            for layer in range(num_layers)
            for suffix in self._suffixes(layer)
            for kind in RECURRENT_KINDS
        }
        self._set_dropping(sites, method, drop_prob, scope, parametrization, gates)
        if method == "non-recurrent":
            self._check_directions()

    def _check_directions(self) -> None:
        for layer in range(self.num_layers):
            given = [self.drop_probs["weight_ih" + suffix] for suffix in self._suffixes(layer)]
            if given[0] != given[-1]:
                raise ValueError(
                    "Expected one drop_prob of 'weight_ih' for both directions with method "
                    f"'non-recurrent', which masks their common input, got {given} in layer "
                    f"{layer}."
                )

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: self._directions]

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def forward(  # type: ignore[override,unused-ignore]
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        lengths: Tensor | None = None,
        *,
        masks: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor | PackedSequence, State]:
        """
        Run the network: with new masks in training, with the weights' means in evaluation.

        :param input: ``(T, N, D)``, ``(N, T, D)`` if ``batch_first``, ``(T, D)``, or a
            :class:`~torch.nn.utils.rnn.PackedSequence`.
        :param hx: initial state ``(L*R, N, H)``, a pair of them for an LSTM; zeros if not given.
        :param lengths: valid steps of each sequence, ``(N,)`` in any order; steps behind them
            give zeros and leave the state alone.
        :param masks: what :meth:`draw_masks` returns, to hold the masks; used in evaluation too.
        :returns: the output and the last state, as torch.nn's module gives them.
        :raises TypeError: if input or state has another dtype than the weights.
        :raises ValueError: if a shape does not fit.
        """
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("Expected no lengths beside a PackedSequence, got both.")
            return self._forward_packed(input, hx, masks)
        check_last_dim("input", input, self.input_size)
        if input.dim() not in (2, 3):
            raise ValueError(f"Expected input of 2 or 3 dims, got {shape_text(input.shape)}.")
        if input.dim() == 2:
            hx = _map_state(hx, lambda s: s.unsqueeze(1))
            output, state = self._run(input.unsqueeze(1), hx, lengths, masks)
            squeezed = _map_state(state, lambda s: s.squeeze(1))
            assert squeezed is not None
            return output.squeeze(1), squeezed
        x = input.transpose(0, 1) if self.batch_first else input
        output, state = self._run(x, hx, lengths, masks)
        return (output.transpose(0, 1) if self.batch_first else output), state

    def _forward_packed(
        self, packed: PackedSequence, hx: State | None, masks: Mapping[str, Tensor] | None
    ) -> tuple[PackedSequence, State]:
        check_last_dim("input", packed.data, self.input_size)
        x, lengths = pad_packed_sequence(packed)
        output, state = self._run(x, hx, lengths, masks)
        order = packed.sorted_indices
        if order is not None:
            output = output.index_select(1, order)
            lengths = lengths[order.cpu()]
        data = pack_padded_sequence(output, lengths).data
        return PackedSequence(data, packed.batch_sizes, order, packed.unsorted_indices), state

    def _run(
        self,
        x: Tensor,  # (T, N, D)
        hx: State | None,
        lengths: Tensor | None,
        masks: Mapping[str, Tensor] | None,
    ) -> tuple[Tensor, State]:
        num_steps, num_sequences = x.shape[:2]
        if num_steps == 0 or num_sequences == 0:
            raise ValueError(
                "Expected input of at least one time step of one sequence, "
                f"got shape {shape_text(x.shape)}."
            )
        if lengths is not None:
            lengths = check_lengths(lengths, num_sequences, num_steps)
        check_dtype("input", x, self._parameter("weight_hh_l0").dtype)
        state = self._initial_state(hx, x)
        used = self._masks_of_call(masks, num_sequences)
        if self.is_dropping and not self.has_tied_masks:
            output, last = self._run_layers(x, state, lengths)
        else:
            weights = list(self._weights(used))
            output, last = self._fixed(x, state, weights, lengths)
        return output, (last[0], last[1]) if len(last) == 2 else last[0]

    def _initial_state(self, hx: State | None, x: Tensor) -> States:
        shape = (self.num_layers * self._directions, x.shape[1], self.hidden_size)
        names = ("h_0", "c_0") if self.mode == "LSTM" else ("h_0",)
        if hx is None:
            return (x.new_zeros(shape),) * len(names)
        given = check_state(hx, names, shape)
        for name, part in zip(names, given, strict=True):
            check_dtype(name, check_shape(name, part, shape), x.dtype)
        return given

    def _weights(self, masks: Mapping[str, Tensor] | None) -> Iterator[LayerWeights]:
        """Yield the weights of each layer and direction: masked, or their means."""
        for layer in range(self.num_layers):
            for suffix in self._suffixes(layer):
                ih, hh = (self._masked(kind + suffix, masks) for kind in RECURRENT_KINDS)
                biases = ["bias_ih", "bias_hh"] if self.bias else []
                yield LayerWeights(ih, hh, *(self._parameter(name + suffix) for name in biases))

    def _masked(self, name: str, masks: Mapping[str, Tensor] | None) -> Tensor | MaskedWeight:
        if masks is None:
            return self._mean_weight(name)
        if name not in masks:
            return self._parameter(name)
        masked = MaskedWeight(self._parameter(name), masks[name])
        return masked.dense()[0] if len(masked.mask) == 1 else masked

    def _fixed(
        self, x: Tensor, state: States, weights: list[LayerWeights], lengths: Tensor | None
    ) -> tuple[Tensor, States]:
        return recurrent(
            self.mode, x, state, weights, bidirectional=self.bidirectional, lengths=lengths
        )

    def _run_layers(
        self, x: Tensor, state: States, lengths: Tensor | None
    ) -> tuple[Tensor, States]:
        """Run layer by layer with masks that change at every step."""
        run = self._run_naive if self.method == "naive" else self._run_non_recurrent
        weights, finals = list(self._weights({})), []
        for layer in range(self.num_layers):
            here = slice(layer * self._directions, (layer + 1) * self._directions)
            x, final = run(layer, x, tuple(s[here] for s in state), weights[here], lengths)
            finals.append(final)
        return x, tuple(torch.cat(parts) for parts in zip(*finals, strict=True))

    def _run_non_recurrent(
        self,
        layer: int,
        x: Tensor,
        state: States,
        weights: list[LayerWeights],
        lengths: Tensor | None,
    ) -> tuple[Tensor, States]:
        name = f"weight_ih_l{layer}"
        if self.drop_probs[name] > 0:
            x = x * self._scaled(name, self._draw(name, *x.shape))
        return self._fixed(x, state, weights, lengths)

    def _run_naive(
        self,
        layer: int,
        x: Tensor,
        state: States,
        weights: list[LayerWeights],
        lengths: Tensor | None,
    ) -> tuple[Tensor, States]:
        outputs, finals = [], []
        for direction, suffix in enumerate(self._suffixes(layer)):
            ih, hh = (self._step_masks(kind + suffix, x) for kind in RECURRENT_KINDS)
            initial = tuple(s[direction] for s in state)
            output, final = run_naive_layer(
                *(self.mode, x, initial, weights[direction], (ih, hh)),
                backward=direction == 1, lengths=lengths,
            )  # fmt: skip
            outputs.append(output)
            finals.append(final)
        x = torch.cat(outputs, dim=-1)
        return x, tuple(torch.stack(parts) for parts in zip(*finals, strict=True))

    def _step_masks(self, name: str, x: Tensor) -> Tensor | None:
        if self.drop_probs[name] == 0:
            return None
        columns = self._parameter(name).shape[1]
        return self._scaled(name, self._draw(name, *x.shape[:2], self._groups[name], columns))

    def extra_repr(self) -> str:
        """Show torch's arguments and the settings of the method."""
        return super().extra_repr() + self._dropping_repr()


def _map_state(state: State | None, function: Any) -> State | None:
    if isinstance(state, (tuple, list)):
        return function(state[0]), function(state[1])
    return None if state is None else function(state)


class RNN(DroppingRecurrent, torch.nn.RNN):  # type: ignore[misc]
    """
    :class:`torch.nn.RNN` with dropout; methods as in :class:`LSTM`.

    Example::

        >>> rnn = RNN(9, 4, batch_first=True, drop_prob=0.5)
        >>> output, h_n = rnn(torch.zeros(5, 20, 9))
        >>> output.shape, h_n.shape
        (torch.Size([5, 20, 4]), torch.Size([1, 5, 4]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Build the layers; arguments as :class:`LSTM`'s, with one more in fourth place.

        :param str nonlinearity: ``"tanh"`` or ``"relu"``.
        """
        check_choice("nonlinearity", nonlinearity, ("tanh", "relu"))
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            nonlinearity=nonlinearity, **kwargs,
        )  # fmt: skip


class LSTM(DroppingRecurrent, torch.nn.LSTM):  # type: ignore[misc]
    r"""
    :class:`torch.nn.LSTM` with dropout, on in ``.train()`` mode only.

    Constructor, parameter names, initialisation and ``state_dict`` are torch's. With z = 0 where
    something is dropped (probability p) and 1 elsewhere, for each layer and direction:

    ``"none"``
        the plain network.
    ``"naive"``
        :math:`W_{ih} (z_t \odot x_t)` and :math:`W_{hh} (z'_t \odot h_{t-1})` with new masks at
        every step. No posterior over weights has this as its draws.
    ``"non-recurrent"``
        Zaremba et al. [1]: :math:`W_{ih} (z_t \odot x_t)` with new masks at every step, the same
        for both directions, and h untouched; ``torch.nn.LSTM(dropout=p)`` for the layers behind
        the first.
    ``"variational"``
        Gal & Ghahramani [2]: :math:`W_{ih} (z \odot x_t)` and :math:`W_{hh} (z' \odot h_{t-1})`
        with masks that stay for all steps: input **columns** of the weights are dropped.
    ``"gaussian"``
        the same with :math:`z \sim N(1, \alpha)`, :math:`\alpha = p / (1 - p)`, the variance of
        inverted dropout. Its mean is 1, so that nothing is scaled.

    In ``.eval()`` mode weights are their means, (1 - p) M (or M: ``parametrization``).

    Example::

        >>> lstm = LSTM(16, 8, num_layers=2, drop_prob={"weight_hh": 0.5})
        >>> output, (h_n, c_n) = lstm(torch.zeros(20, 5, 16))
        >>> lstm.drop_probs["weight_ih_l0"], lstm.drop_probs["weight_hh_l1"]
        (0.25, 0.5)
        >>> lstm.draw_masks(5)["weight_hh_l0"].shape
        torch.Size([5, 4, 8])

    **References**

    [1] Zaremba, Sutskever, Vinyals (2014), https://arxiv.org/abs/1409.2329

    [2] Gal, Ghahramani (2016), https://arxiv.org/abs/1512.05287
    """


class GRU(DroppingRecurrent, torch.nn.GRU):  # type: ignore[misc]
    """
    :class:`torch.nn.GRU` with dropout; methods as in :class:`LSTM`.

    The mask of gate n acts on the h that enters W_hn only, before b_hn and the reset gate; the
    carried z h is never masked, so outputs stay in [-1, 1] when h_0 does.

    Example::

        >>> gru = GRU(9, 4, bidirectional=True, method="naive")
        >>> output, h_n = gru(torch.zeros(20, 5, 9))
        >>> output.shape, h_n.shape
        (torch.Size([20, 5, 8]), torch.Size([2, 5, 4]))
    """


CELLS = {"lstm": LSTM, "gru": GRU, "rnn": RNN}  # by option
