"""Networks for a sequence without a likelihood or priors, under the Pyro models' names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from pyro_vrnn.baselines._dropping import ColumnDropping
from pyro_vrnn.baselines.recurrent import DroppingRecurrent
from pyro_vrnn.ops.forecast import base, changes, check_windows, min_window, standard_units
from pyro_vrnn.shapes import (
    check_dtype,
    check_lengths,
    check_positive_int,
    check_shape,
    shape_text,
)


class SequenceNetwork(torch.nn.Module):
    """
    A recurrent network and a head on its last valid state.

    The last state is the last layer's h_n, directions concatenated. The children ``rnn``, ``head``
    and ``embedding`` stand under the names of :class:`~pyro_vrnn.models.SequenceRegression`, so
    the names in the ``state_dict`` are the Bayesian model's sites.

    Example::

        >>> from pyro_vrnn.baselines import LSTM
        >>> network = SequenceNetwork(LSTM(9, 4, drop_prob=0.5), torch.nn.Linear(4, 1))
        >>> network(torch.zeros(5, 20, 9)).shape
        torch.Size([5, 1])

    :param rnn: an RNN, LSTM or GRU of torch.nn, or of this package's baselines.
    :param head: a module from ``(N, R*H)`` to the outputs.
    :param embedding: makes ``x`` token ids; its ``embedding_dim`` is the rnn's ``input_size``.
    :raises TypeError: if ``rnn`` is none.
    :raises ValueError: if the embedding does not fit.
    """

    def __init__(
        self,
        rnn: torch.nn.Module,
        head: torch.nn.Module,
        embedding: torch.nn.Embedding | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(rnn, torch.nn.RNNBase):
            raise TypeError(
                "Expected rnn to be an RNN, LSTM or GRU of torch.nn or pyro_vrnn.baselines, "
                f"got {type(rnn).__module__}.{type(rnn).__name__}."
            )
        if embedding is not None and embedding.embedding_dim != rnn.input_size:
            raise ValueError(
                f"Expected an embedding of {rnn.input_size} dims, the rnn's input_size, "
                f"got {embedding.embedding_dim}."
            )
        self.rnn = rnn
        self.head = head
        self.embedding = embedding

    def check_input(self, x: Tensor) -> None:
        """Refuse an ``x`` of the wrong shape or dtype, or an empty one."""
        tail = () if self.embedding is not None else (self.rnn.input_size,)
        check_shape("x", x, ("N", "T", *tail))
        if x.shape[0] == 0 or x.shape[1] == 0:
            raise ValueError(
                "Expected x of at least one sequence and one step, "
                f"got shape {shape_text(x.shape)}."
            )
        if self.embedding is None:
            check_dtype("x", x, next(self.rnn.parameters()).dtype)

    def last_state(
        self,
        x: Tensor,  # (N, T, D), or ids (N, T)
        lengths: Tensor | None = None,  # (N,)
        masks: Mapping[str, Tensor] | None = None,
    ) -> Tensor:  # (N, R*H)
        """Return the last layer's last valid h, directions concatenated."""
        self.check_input(x)
        if lengths is not None:
            lengths = check_lengths(lengths, *x.shape[:2])
        if self.embedding is not None:
            x = self.embedding(x)
        if not self.rnn.batch_first:
            x = x.transpose(0, 1)
        if isinstance(self.rnn, DroppingRecurrent):
            _, state = self.rnn(x, lengths=lengths, **_held(self.rnn, "rnn", masks))
        elif lengths is not None:
            packed = pack_padded_sequence(
                x, lengths, batch_first=self.rnn.batch_first, enforce_sorted=False
            )
            _, state = self.rnn(packed)
        else:
            _, state = self.rnn(x)
        h_n = state[0] if isinstance(state, tuple) else state
        return torch.cat(h_n[-(2 if self.rnn.bidirectional else 1) :].unbind(0), dim=-1)

    def draw_masks(self, num_sequences: int) -> dict[str, Tensor]:
        """Draw what ``masks=`` takes: those of rnn and head, by their names in the state dict."""
        masks: dict[str, Tensor] = {}
        for part, layer in self.named_children():
            if isinstance(layer, ColumnDropping) and layer.has_tied_masks:
                drawn = layer.draw_masks(num_sequences)
                masks |= {f"{part}.{name}": mask for name, mask in drawn.items()}
        return masks

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        *,
        masks: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """
        Run the network.

        :param x: ``(N, T, D)``, whatever ``rnn.batch_first`` says, or ids ``(N, T)``.
        :param lengths: valid steps, ``(N,)``.
        :param masks: what :meth:`draw_masks` returns, to hold the masks of rnn and head; those of
            an embedding are drawn in any case.
        :returns: the head's output, ``(N, out)``.
        :raises TypeError: if x has another dtype than the weights.
        :raises ValueError: if a shape does not fit.
        """
        state = self.last_state(x, lengths, masks)
        output: Tensor = self.head(state, **_held(self.head, "head", masks))
        return output


def _held(
    layer: torch.nn.Module, part: str, masks: Mapping[str, Tensor] | None
) -> dict[str, dict[str, Tensor]]:
    """Return the argument that holds the masks of one part of a network."""
    if masks is None or not (isinstance(layer, ColumnDropping) and layer.has_tied_masks):
        return {}
    start = f"{part}."
    return {"masks": {k.removeprefix(start): m for k, m in masks.items() if k.startswith(start)}}


class ForecastNetwork(SequenceNetwork):
    """
    The next ``horizon`` values of a series: the means of :class:`~pyro_vrnn.models.Forecaster`.

    Windows and forecasts are in the series' own units, and the arithmetic of the lag is the
    model's.

    Example::

        >>> from pyro_vrnn.baselines import GRU
        >>> series = torch.arange(100.0)
        >>> network = ForecastNetwork(GRU(1, 8, drop_prob=0.1), horizon=4, lag=12)
        >>> network.fit_scaling(series)
        >>> network(series[None, :36, None]).shape
        torch.Size([1, 4])

    :param rnn: as in :class:`SequenceNetwork`; its ``input_size`` is 1 + the number of covariates.
    :param int horizon: values predicted.
    :param int lag: k, at least ``horizon``; None to work on the values themselves.
    :param head: from ``(N, R*H)`` to ``(N, horizon)``; a :class:`torch.nn.Linear` if not given. A
        :class:`~pyro_vrnn.baselines.Linear` drops its inputs as the guide does.
    :raises TypeError: if ``rnn`` is no recurrent network.
    :raises ValueError: if ``lag`` is less than ``horizon``, or an argument is not positive.
    """

    center: Tensor
    scale: Tensor

    def __init__(
        self,
        rnn: torch.nn.Module,
        horizon: int,
        lag: int | None = None,
        *,
        head: torch.nn.Module | None = None,
    ) -> None:
        super().__init__(rnn, torch.nn.Identity() if head is None else head)
        self.horizon = check_positive_int("horizon", horizon)
        if lag is not None and check_positive_int("lag", lag) < horizon:
            raise ValueError(f"Expected lag of at least horizon={horizon}, got {lag}.")
        self.lag = lag
        like = next(self.rnn.parameters())
        if head is None:
            features = self.rnn.proj_size or self.rnn.hidden_size
            features *= 2 if self.rnn.bidirectional else 1
            self.head = torch.nn.Linear(features, horizon, device=like.device, dtype=like.dtype)
        self.register_buffer("center", like.new_zeros(self.rnn.input_size))
        self.register_buffer("scale", like.new_ones(self.rnn.input_size))

    @property
    def min_window(self) -> int:
        """The fewest past values a window must hold."""
        return min_window(self.lag)

    @property
    def unit(self) -> Tensor:
        """What one standard unit of a forecast is in raw units."""
        return self.scale[0]

    def fit_scaling(self, values: Tensor) -> None:
        """
        Set the units of the network's inputs from training values: their mean and deviation.

        :param values: the series ``(n,)``, or with covariates ``(n, 1+C)``, n past the lag.
        :raises ValueError: if a value is not finite, or there are too few.
        """
        center, scale = standard_units(values, self.lag, self.rnn.input_size, self.center.device)
        self.center.copy_(center)
        self.scale.copy_(scale)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        *,
        masks: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """
        Forecast.

        :param x: windows of the past, ``(N, T, 1+C)``, the series first, raw units.
        :param lengths: valid steps of each window, ``(N,)``.
        :param masks: as in :class:`SequenceNetwork`.
        :returns: the means ``(N, horizon)``, raw units.
        :raises ValueError: if a shape does not fit, or a window is not longer than the lag.
        """
        self.check_input(x)
        lengths = check_windows(x, lengths, self.lag)
        inputs = (changes(x, self.lag) - self.center) / self.scale
        remaining = None if lengths is None else lengths - (self.lag or 0)
        start = base(x, lengths, lag=self.lag, horizon=self.horizon, center=self.center)
        return start + self.unit * super().forward(inputs, remaining, masks=masks)
