"""The recurrent layers and their torch.nn twins, and how to fill one with the other's weights."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from pyro import poutine

import pyro_vrnn as vrnn

TWINS = {
    "lstm": (vrnn.nn.LSTM, torch.nn.LSTM),
    "gru": (vrnn.nn.GRU, torch.nn.GRU),
    "rnn-tanh": (vrnn.nn.RNN, torch.nn.RNN),
    "rnn-relu": (
        partial(vrnn.nn.RNN, nonlinearity="relu"),
        partial(torch.nn.RNN, nonlinearity="relu"),
    ),
}
cells = pytest.mark.parametrize("cell", list(TWINS))

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def make_twins(cell, *args, device=None, dtype=torch.float64, **kwargs):
    """Return our module and torch's, of the same arguments."""
    ours, theirs = TWINS[cell]
    return (f(*args, device=device, dtype=dtype, **kwargs) for f in (ours, theirs))


def parameters(module):
    return dict(module.named_parameters())


def conditioned(module, weights):
    """Return ``module`` with its weight sites held at ``weights``."""
    return poutine.condition(module, data=weights)


def flat(output):
    """Flatten what an RNN returns to a list of tensors."""
    y, state = output
    return [y, *(state if isinstance(state, tuple) else (state,))]


def assert_close(actual, expected, dtype):
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
