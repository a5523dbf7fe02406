"""Bad arguments are refused at the door, in one voice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

import pyro_vrnn as vrnn
from pyro_vrnn.ops.recurrent import LayerWeights, recurrent
from tests.nn.cases import conditioned

CONSTRUCTOR = {
    "dropout": (dict(dropout=0.3), ValueError, r"Expected dropout=0, got 0.3: .*drop_prob"),
    "projection": (dict(proj_size=2), ValueError, r"Expected proj_size=0, got 2: .*drop_prob"),
    "no-units": (
        dict(hidden_size=0),
        ValueError,
        r"Expected hidden_size to be a positive int, got 0",
    ),
    "half-a-layer": (
        dict(num_layers=1.5),
        TypeError,
        r"Expected num_layers to be a positive int, got 1.5",
    ),
    "prior-scale-0": (
        dict(prior_scale=0.0),
        ValueError,
        r"Expected prior_scale of weight_ih_l0 to be positive",
    ),
    "prior-nan": (
        dict(prior_loc=float("nan")),
        ValueError,
        r"Expected prior_loc of weight_ih_l0 to be finite, got nan",
    ),
    "prior-shape": (
        dict(prior_scale={"weight_hh": torch.ones(3, 2)}),
        ValueError,
        r"Expected prior_scale of weight_hh_l0 to broadcast to \(32, 8\), got \(3, 2\)",
    ),
    "prior-name": (
        dict(prior_scale={"weight_xy": 1.0}),
        ValueError,
        r"names in prior_scale .* got 'weight_xy'",
    ),
    "prior-type": (dict(prior_scale="1"), TypeError, r"to be a number or a Tensor, got '1'"),
}


@pytest.mark.parametrize(("kwargs", "error", "message"), CONSTRUCTOR.values(), ids=CONSTRUCTOR)
def test_constructor(kwargs, error, message):
    with pytest.raises(error, match=message):
        vrnn.nn.LSTM(**{"input_size": 3, "hidden_size": 8, **kwargs})


def test_nonlinearity():
    with pytest.raises(ValueError, match=r"Expected nonlinearity to be one of 'tanh', 'relu'"):
        vrnn.nn.RNN(3, 8, 1, "sigmoid")


x = torch.zeros(7, 4, 3)
CALL = {
    "features": (
        dict(input=torch.zeros(7, 4, 2)),
        ValueError,
        r"Expected input of shape \(\*, 3\), got \(7, 4, 2\)",
    ),
    "one-dim": (dict(input=torch.zeros(3)), ValueError, r"Expected input of 2 or 3 dims"),
    "no-steps": (dict(input=torch.zeros(0, 4, 3)), ValueError, r"at least one time step"),
    "not-a-tensor": (dict(input=[1.0]), TypeError, r"Expected input to be a Tensor, got list"),
    "length-0": (
        dict(input=x, lengths=torch.tensor([0, 1, 2, 3])),
        ValueError,
        r"Expected lengths in 1..7, got 0",
    ),
    "length-long": (
        dict(input=x, lengths=torch.tensor([8, 1, 2, 3])),
        ValueError,
        r"Expected lengths in 1..7, got 8",
    ),
    "length-shape": (
        dict(input=x, lengths=torch.tensor([3])),
        ValueError,
        r"Expected lengths of shape \(4,\), got \(1,\)",
    ),
    "length-float": (
        dict(input=x, lengths=torch.ones(4)),
        TypeError,
        r"Expected lengths of an integer dtype",
    ),
    "state-shape": (
        dict(input=x, hx=(torch.zeros(1, 5, 8), torch.zeros(1, 5, 8))),
        ValueError,
        r"Expected h_0 of shape \(1, 4, 8\), got \(1, 5, 8\)",
    ),
    "state-single": (
        dict(input=x, hx=torch.zeros(1, 4, 8)),
        TypeError,
        r"Expected hx to be a pair \(h_0, c_0\)",
    ),
    "dtype": (
        dict(input=x.double()),
        TypeError,
        r"Expected input of dtype torch.float32 \(the weights'\), got torch.float64: convert it",
    ),
    "state-dtype": (
        dict(input=x, hx=(torch.zeros(1, 4, 8), torch.zeros(1, 4, 8).double())),
        TypeError,
        r"Expected c_0 of dtype torch.float32 \(the weights'\), got torch.float64",
    ),
    "packed-and-lengths": (
        dict(input=pack_sequence([x[:, 0]]), lengths=torch.tensor([7])),
        ValueError,
        r"Expected no lengths beside a PackedSequence",
    ),
}


@pytest.mark.parametrize(("kwargs", "error", "message"), CALL.values(), ids=CALL)
def test_call(kwargs, error, message):
    with pytest.raises(error, match=message):
        vrnn.nn.LSTM(3, 8)(**kwargs)


def test_sizes_from_numpy():
    lstm = vrnn.nn.LSTM(np.int64(3), np.int64(8), np.int32(2))
    assert lstm(x)[0].shape == (7, 4, 8)
    assert vrnn.nn.Linear(np.int64(3), np.int64(2))(x).shape == (7, 4, 2)
    table = vrnn.nn.Embedding(np.int64(9), np.int64(5), padding_idx=0)
    assert table(torch.zeros(2, dtype=torch.int64)).shape == (2, 5)


PARTICLES = {
    "packed": (
        pack_sequence([x[:, 0]]),
        r"padded input with lengths= beside weights with particles",
    ),
    "unbatched": (x[:, 0], r"Expected input of 3 dims beside weights with particles"),
    "other-number": (
        x.expand(3, 7, 4, 3),
        r"Expected input with particle dims \(5,\) .* got \(3,\)",
    ),
}


@pytest.mark.parametrize(("input", "message"), PARTICLES.values(), ids=PARTICLES)
def test_call_with_particles(input, message):
    module = conditioned(vrnn.nn.LSTM(3, 8), {"weight_hh_l0": torch.zeros(5, 32, 8)})
    with pytest.raises(ValueError, match=message):
        module(input)


def test_two_numbers_of_particles():
    weights = {"weight_hh_l0": torch.zeros(5, 32, 8), "weight_ih_l0": torch.zeros(6, 1, 32, 3)}
    with pytest.raises(ValueError, match=r"one number of particles.*\(6, 1\), \(5,\)"):
        conditioned(vrnn.nn.LSTM(3, 8), weights)(x)


def test_fused_path_refuses_particles():
    weights = [LayerWeights(torch.zeros(5, 24, 3), torch.zeros(24, 8))]
    with pytest.raises(ValueError, match=r"Expected two-dimensional weights on the fused path"):
        recurrent("GRU", x, (torch.zeros(1, 4, 8),), weights, path="fused")
