"""The dropping layers and their torch.nn twins, at sizes where every weight may be dropped."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from pyro_vrnn import baselines

D, H, T, N = 9, 5, 6, 4
GATES = {"lstm": 4, "gru": 3, "rnn": 1, "rnn-relu": 1}
OURS = {
    "lstm": baselines.LSTM,
    "gru": baselines.GRU,
    "rnn": baselines.RNN,
    "rnn-relu": partial(baselines.RNN, nonlinearity="relu"),
}
THEIRS = {
    "lstm": torch.nn.LSTM,
    "gru": torch.nn.GRU,
    "rnn": torch.nn.RNN,
    "rnn-relu": partial(torch.nn.RNN, nonlinearity="relu"),
}
METHODS = ["none", "naive", "non-recurrent", "variational", "gaussian"]
DROPPING = METHODS[1:]
TIED = ["variational", "gaussian"]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}

cells = pytest.mark.parametrize("cell", list(OURS))
methods = pytest.mark.parametrize("method", METHODS)
dropping = pytest.mark.parametrize("method", DROPPING)
tied_methods = pytest.mark.parametrize("method", TIED)
scopes = pytest.mark.parametrize("scope", ["sequence", "batch"])
gate_masks = pytest.mark.parametrize("gates", ["tied", "untied"])
forms = pytest.mark.parametrize("parametrization", ["non-inverted", "inverted"])


def make(cell="lstm", *, layers=2, two_way=True, dtype=torch.float64, device=None, **kwargs):
    """Return a network in training mode."""
    return OURS[cell](D, H, layers, bidirectional=two_way, dtype=dtype, device=device, **kwargs)


def twin(net, cell="lstm", weights=None):
    """Return torch.nn's network with the same weights, or with those given."""
    like = net.weight_hh_l0
    other = THEIRS[cell](
        D, H, net.num_layers, bias=net.bias, batch_first=net.batch_first,
        bidirectional=net.bidirectional, dtype=like.dtype, device=like.device,
    )  # fmt: skip
    other.load_state_dict(net.state_dict() if weights is None else weights)
    return other


def flat(result):
    """Flatten what an RNN returns to a list of tensors."""
    output, state = result
    return [output, *(state if isinstance(state, tuple) else (state,))]


def assert_close(actual, expected, dtype=torch.float64):
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def sequences(dtype=torch.float64, device=None, steps=T):
    return torch.randn(steps, N, D, dtype=dtype, device=device)


def ones_masks(net, num_sequences=N):
    return {name: torch.ones_like(mask) for name, mask in net.draw_masks(num_sequences).items()}


def matrices(net):
    return [name for name, _ in net.named_parameters() if name.startswith("weight")]
