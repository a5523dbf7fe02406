"""The cells against torch.nn's, and the pointwise half of each by itself."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from pyro_vrnn.ops.cells import CELLS, GATES, POINTWISE, affine

TORCH = {
    "RNN_TANH": torch.nn.RNNCell,
    "RNN_RELU": partial(torch.nn.RNNCell, nonlinearity="relu"),
    "LSTM": torch.nn.LSTMCell,
    "GRU": torch.nn.GRUCell,
}
modes = pytest.mark.parametrize("mode", list(CELLS))
biases = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])


@modes
@biases
def test_one_step_is_torchs(mode, bias):
    theirs = TORCH[mode](3, 5, bias=bias, dtype=torch.float64)
    x = torch.randn(4, 3, dtype=torch.float64)
    state = tuple(torch.randn(4, 5, dtype=torch.float64) for _ in range(1 + (mode == "LSTM")))
    bias_ih, bias_hh = (theirs.bias_ih, theirs.bias_hh) if bias else (None, None)
    gates_x = affine(x, theirs.weight_ih, bias_ih)
    expected = theirs(x, state if mode == "LSTM" else state[0])
    expected = expected if mode == "LSTM" else (expected,)
    actual = CELLS[mode](gates_x, state, theirs.weight_hh, bias_hh)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    gates_h = affine(state[0], theirs.weight_hh, bias_hh)
    apart = POINTWISE[mode](gates_x, gates_h, state)
    torch.testing.assert_close(apart, expected, rtol=1e-10, atol=1e-10)


@modes
def test_pointwise_takes_each_place_by_itself(mode):
    """A unit's new state depends on its own gates and state only."""
    gates = [torch.randn(4, GATES[mode] * 5, dtype=torch.float64) for _ in range(2)]
    state = tuple(torch.randn(4, 5, dtype=torch.float64) for _ in range(1 + (mode == "LSTM")))
    unit = [g.unflatten(-1, (-1, 5))[..., 2] for g in gates]
    expected = POINTWISE[mode](*unit, tuple(s[:, 2:3] for s in state))
    actual = POINTWISE[mode](*gates, state)
    torch.testing.assert_close([a[:, 2:3] for a in actual], list(expected), rtol=1e-12, atol=0)
