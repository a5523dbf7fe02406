"""RNN, LSTM and GRU with torch.nn's constructors, parameter names and results, and a prior."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from pyro_vrnn.distributions.weight_site import WeightSite, uniform_start
from pyro_vrnn.nn.weights import OWNER, Prior, WeightModule
from pyro_vrnn.ops.cells import GATES
from pyro_vrnn.ops.particles import flatten_particles, particle_shape
from pyro_vrnn.ops.recurrent import recurrent
from pyro_vrnn.ops.weights import LayerWeights
from pyro_vrnn.shapes import (
    check_choice,
    check_dtype,
    check_last_dim,
    check_lengths,
    check_positive_int,
    check_shape,
    check_state,
    shape_text,
)

State = Tensor | tuple[Tensor, Tensor]


class RecurrentModule(WeightModule):
    """What :class:`RNN`, :class:`LSTM` and :class:`GRU` share."""

    mode: str
    state_names: ClassVar[tuple[str, ...]] = ("h_0",)

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
        prior_scale: Prior = 1.0,
        prior_loc: Prior = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """
        Build the layers, in torch.nn's order of arguments.

        :param int input_size: D, features of an input step.
        :param int hidden_size: H, units of a layer.
        :param int num_layers: L, layers stacked on each other.
        :param bool bias: whether the layers have ``bias_ih`` and ``bias_hh``. The two add up, so
            with equal priors N(0, s^2) each gate's bias has prior variance 2 s^2.
        :param bool batch_first: ``(N, T, D)`` rather than ``(T, N, D)``; states are not affected.
        :param float dropout: must be 0; dropping belongs to the guide's ``drop_prob``.
        :param bool bidirectional: a second network per layer that reads the sequence backwards.
        :param int proj_size: must be 0.
        :param prior_scale: standard deviation s of the Gaussian priors: a number, a tensor, or a
            mapping from a weight's name or kind; see :class:`~pyro_vrnn.nn.weights.WeightModule`.
        :param prior_loc: mean of the Gaussian priors, likewise.
        :raises ValueError: if a size is not positive, a prior does not fit, or ``dropout`` or
            ``proj_size`` is not 0.
        """
        if dropout != 0:
            raise ValueError(
                f"Expected dropout=0, got {dropout}: dropping is the guide's part, as drop_prob of "
                "AutoSpikeAndSlab."
            )
        if proj_size != 0:
            raise ValueError(
                f"Expected proj_size=0, got {proj_size}: projections have no weight site, so no "
                "prior and no drop_prob."
            )
        super().__init__(prior_scale=prior_scale, prior_loc=prior_loc, device=device, dtype=dtype)
        self.input_size = check_positive_int("input_size", input_size)
        self.hidden_size = check_positive_int("hidden_size", hidden_size)
        self.num_layers = check_positive_int("num_layers", num_layers)
        self.bias = bool(bias)
        self.batch_first = bool(batch_first)
        self.dropout = 0.0
        self.bidirectional = bool(bidirectional)
        self.num_directions = 2 if bidirectional else 1
        for layer in range(self.num_layers):
            for suffix in self._suffixes(layer):
                self._add_layer(layer, suffix)
        self._check_prior_names()

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: self.num_directions]

    def _add_layer(self, layer: int, suffix: str) -> None:
        gates = GATES[self.mode]
        rows = gates * self.hidden_size
        inputs = self.input_size if layer == 0 else self.hidden_size * self.num_directions
        shapes = {"weight_ih": (rows, inputs), "weight_hh": (rows, self.hidden_size)}
        start = uniform_start(self.hidden_size)
        for kind, shape in shapes.items():
            self._add_weight(kind + suffix, shape, WeightSite(kind, gates, layer, start))
        if self.bias:
            for name in ("bias_ih", "bias_hh"):
                self._add_weight(name + suffix, (rows,), WeightSite("bias", gates, layer, start))

    def _read_weights(self) -> list[tuple[Tensor, ...]]:
        names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if self.bias else [])]
        return [
            tuple(getattr(self, name + suffix) for name in names)
            for layer in range(self.num_layers)
            for suffix in self._suffixes(layer)
        ]

    def flatten_parameters(self) -> None:
        """Do nothing: there are no parameters; programs written for torch.nn call this."""

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, State]:
        """
        Run the network on one draw of its weights, or on S of them.

        :param input: ``(T, N, D)``, ``(N, T, D)`` if ``batch_first``, ``(T, D)``, or a
            :class:`~torch.nn.utils.rnn.PackedSequence`. Dims in front of the three are particle
            dims.
        :param hx: initial state ``(L*R, N, H)``, a pair of them for an LSTM; zeros if not given.
        :param lengths: valid steps of each sequence, ``(N,)`` in any order; steps behind them
            give zeros and leave the state alone.
        :returns: the output and the last state, as torch.nn's module gives them. With S particles
            the output is ``(S, T, N, R*H)`` or ``(S, N, T, R*H)`` and a state ``(L*R, S, N, H)``,
            so that ``h_n[-1]`` and ``output[..., -1, :]`` mean the same with and without.
        :raises ValueError: if a shape does not fit; for a packed or ``(T, D)`` input together with
            particles.
        """
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("Expected no lengths beside a PackedSequence, got both.")
            return self._forward_packed(input, hx)
        check_last_dim("input", input, self.input_size)
        if input.dim() == 2:
            return self._forward_unbatched(input, hx, lengths)
        if input.dim() < 3:
            raise ValueError(f"Expected input of 2 or 3 dims, got {shape_text(input.shape)}.")
        x = input.transpose(-3, -2) if self.batch_first else input
        output, state = self._run(x, hx, lengths)
        return (output.transpose(-3, -2) if self.batch_first else output), state

    def _forward_unbatched(
        self, input: Tensor, hx: State | None, lengths: Tensor | None
    ) -> tuple[Tensor, State]:
        def add(s: Tensor) -> Tensor:
            return s.unsqueeze(1)

        if hx is not None:
            hx = (add(hx[0]), add(hx[1])) if isinstance(hx, tuple) else add(hx)
        output, state = self._run(add(input), hx, lengths)
        if output.dim() > 3:
            raise ValueError(
                "Expected input of 3 dims beside weights with particles, "
                f"got {shape_text(input.shape)}."
            )
        if isinstance(state, tuple):
            return output.squeeze(1), (state[0].squeeze(1), state[1].squeeze(1))
        return output.squeeze(1), state.squeeze(1)

    def _forward_packed(
        self, packed: PackedSequence, hx: State | None
    ) -> tuple[PackedSequence, State]:
        check_last_dim("input", packed.data, self.input_size)
        x, lengths = pad_packed_sequence(packed)
        output, state = self._run(x, hx, lengths)
        if output.dim() > 3:
            raise ValueError(
                "Expected a padded input with lengths= beside weights with particles, "
                "got a PackedSequence."
            )
        order = packed.sorted_indices
        if order is not None:
            output = output.index_select(1, order)
            lengths = lengths[order.cpu()]
        data = pack_padded_sequence(output, lengths).data
        return PackedSequence(data, packed.batch_sizes, order, packed.unsorted_indices), state

    def _run(
        self,
        x: Tensor,  # (*P, T, N, D)
        hx: State | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, State]:
        num_steps, num_sequences = x.shape[-3], x.shape[-2]
        if num_steps == 0:
            raise ValueError("Expected input of at least one time step, got none.")
        if lengths is not None:
            lengths = check_lengths(lengths, num_sequences, num_steps)
        weights = self._read_weights()
        dtype = weights[0][0].dtype
        check_dtype("input", x, dtype, owner=OWNER)
        ranks = (2, 2, 1, 1)
        events = [(w, k) for layer in weights for w, k in zip(layer, ranks, strict=False)]
        leading = _join_particles(particle_shape(events), x.shape[:-3])
        flat = [LayerWeights(*map(flatten_particles, layer, ranks)) for layer in weights]
        state = self._initial_state(hx, x, num_sequences)
        for name, part in zip(self.state_names, state, strict=True):
            check_dtype(name, part, dtype, owner=OWNER)
        output, last = recurrent(
            self.mode,
            flatten_particles(x, 3),
            state,
            flat,
            bidirectional=self.bidirectional,
            lengths=lengths,
        )
        if leading:
            output = output.unflatten(0, leading)
            last = tuple(s.unflatten(1, leading) for s in last)
        return output, (last[0], last[1]) if len(last) == 2 else last[0]

    def _initial_state(self, hx: State | None, x: Tensor, num_sequences: int) -> tuple[Tensor, ...]:
        layers = self.num_layers * self.num_directions
        shape = (layers, num_sequences, self.hidden_size)
        if hx is None:
            return (x.new_zeros(shape),) * len(self.state_names)
        given = check_state(hx, self.state_names, shape)
        state = []
        for name, part in zip(self.state_names, given, strict=True):
            if part.dim() > 3:
                part = part.flatten(1, -3)
                check_shape(name, part, (shape[0], "S", *shape[1:]))
            else:
                check_shape(name, part, shape)
            state.append(part)
        return tuple(state)

    def extra_repr(self) -> str:
        """Show the arguments that are not at their defaults, as torch.nn does."""
        parts = [f"{self.input_size}, {self.hidden_size}"]
        for name, default in (
            ("num_layers", 1),
            ("bias", True),
            ("batch_first", False),
            ("bidirectional", False),
        ):
            if getattr(self, name) != default:
                parts.append(f"{name}={getattr(self, name)}")
        return ", ".join(parts)


def _join_particles(from_weights: tuple[int, ...], from_input: torch.Size) -> torch.Size:
    """Return the leading dims of the output, given those of the weights and of the input."""
    weights, given = torch.Size(from_weights), torch.Size(from_input)
    if not weights or not given:
        return weights or given
    if weights.numel() != given.numel():
        raise ValueError(
            f"Expected input with particle dims {shape_text(weights)} like the weights', "
            f"got {shape_text(given)}."
        )
    return max(weights, given, key=len)


class RNN(RecurrentModule):
    """
    :class:`torch.nn.RNN` with a Gaussian prior on every weight.

    Example::

        >>> rnn = RNN(3, 8, batch_first=True)
        >>> output, h_n = rnn(torch.zeros(5, 20, 3))
        >>> output.shape, h_n.shape
        (torch.Size([5, 20, 8]), torch.Size([1, 5, 8]))
    """

    mode = "RNN_TANH"

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
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, **kwargs
        )
        self.nonlinearity = nonlinearity
        self.mode = f"RNN_{nonlinearity.upper()}"


class LSTM(RecurrentModule):
    """
    :class:`torch.nn.LSTM` with a Gaussian prior on every weight; gates in the order i, f, g, o.

    Example::

        >>> lstm = LSTM(3, 8, num_layers=2)
        >>> output, (h_n, c_n) = lstm(torch.zeros(20, 5, 3))
        >>> output.shape, h_n.shape
        (torch.Size([20, 5, 8]), torch.Size([2, 5, 8]))
    """

    mode = "LSTM"
    state_names = ("h_0", "c_0")


class GRU(RecurrentModule):
    """
    :class:`torch.nn.GRU` with a Gaussian prior on every weight; gates in the order r, z, n.

    The reset gate acts after the recurrent product, as in torch: n = tanh(W_in x + b_in +
    r (W_hn h + b_hn)). A dropped column of gate n in ``weight_hh`` therefore hides one unit of h
    from n alone, before b_hn and r; the carried z h is never masked, so outputs stay in [-1, 1]
    when h_0 does.

    Example::

        >>> gru = GRU(3, 8, bidirectional=True)
        >>> output, h_n = gru(torch.zeros(20, 5, 3))
        >>> output.shape, h_n.shape
        (torch.Size([20, 5, 16]), torch.Size([2, 5, 8]))
    """

    mode = "GRU"


CELLS: dict[str, type[RecurrentModule]] = {"lstm": LSTM, "gru": GRU, "rnn": RNN}  # by option
