"""Linear and Embedding: torch.nn's values, particles, padding, errors."""

from __future__ import annotations

import pyro
import pytest
import torch

import pyro_vrnn as vrnn
from tests.nn.cases import assert_close, conditioned, parameters

LEADING = {"predictive": (6,), "vectorize": (6, 1), "two-plates": (6, 1, 1)}
leading = pytest.mark.parametrize("leading", LEADING.values(), ids=LEADING)
bias = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])


@bias
@pytest.mark.parametrize("shape", [(5,), (4, 5), (4, 7, 5)], ids=str)
def test_linear_equals_torch(bias, shape, device, dtype):
    theirs = torch.nn.Linear(5, 3, bias, device=device, dtype=dtype)
    ours = vrnn.nn.Linear(5, 3, bias, device=device, dtype=dtype)
    x = torch.randn(shape, device=device, dtype=dtype)
    assert_close(conditioned(ours, parameters(theirs))(x), theirs(x), dtype)
    assert repr(ours) == repr(theirs)


@leading
@bias
@pytest.mark.parametrize("carries", [False, True], ids=["plain-input", "input-with-particles"])
@pytest.mark.parametrize("inner", [(4,), (6,), (6, 6)], ids=["N", "N=S", "N=T=S"])
def test_linear_particles(bias, leading, carries, inner, device, dtype):
    weights = {"weight": torch.randn(6, 3, 5, device=device, dtype=dtype)}
    if bias:
        weights["bias"] = torch.randn(6, 3, device=device, dtype=dtype)
    batched = {k: v.reshape(*leading, *v.shape[1:]) for k, v in weights.items()}
    layer = vrnn.nn.Linear(5, 3, bias, device=device, dtype=dtype)
    x = torch.randn(6, *inner, 5, device=device, dtype=dtype)
    expected = torch.stack(
        [
            conditioned(layer, {k: v[i] for k, v in weights.items()})(x[i] if carries else x[0])
            for i in range(6)
        ]
    )
    y = conditioned(layer, batched)(x if carries else x[0], particles=int(carries))
    assert_close(y, expected.reshape(y.shape), dtype)
    assert y.shape == ((6, 1) if len(leading) == 3 else (6,)) + inner + (3,)


def test_linear_asks_for_the_particles_of_its_input():
    layer = conditioned(vrnn.nn.Linear(5, 3), {"weight": torch.zeros(6, 1, 3, 5)})
    with pytest.raises(ValueError, match=r"Expected particles=, .* input \(6, 6, 5\)"):
        layer(torch.zeros(6, 6, 5))


def test_linear_read_inside_a_plate():
    layer = vrnn.nn.Linear(5, 3)
    with pyro.plate("data", 6), pytest.raises(ValueError, match=r"read the weights before the pl"):
        pyro.nn.PyroModule.__call__(layer, torch.zeros(6, 5))


DTYPES = {
    "double": (
        torch.float64,
        r"input\.to\(torch.float32\), or the module and its guide with \.to\(torch.float64",
    ),
    "int": (torch.int64, r"torch.int64: convert it with input\.to\(torch.float32\)\.$"),
}


@pytest.mark.parametrize(("dtype", "message"), DTYPES.values(), ids=DTYPES)
def test_linear_dtype(dtype, message):
    with pytest.raises(TypeError, match=message):
        vrnn.nn.Linear(5, 3)(torch.zeros(6, 5, dtype=dtype))


def test_linear_compares_with_the_weights_it_was_given():
    layer = conditioned(vrnn.nn.Linear(5, 3, bias=False), {"weight": torch.zeros(3, 5).double()})
    assert layer(torch.zeros(6, 5).double()).dtype == torch.float64


def test_linear_under_autocast():
    layer = vrnn.nn.Linear(5, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.zeros(6, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("particles", [-1, 2])
def test_linear_particles_out_of_range(particles):
    with pytest.raises(ValueError, match=r"Expected particles in 0..1 for input \(6, 5\)"):
        vrnn.nn.Linear(5, 3)(torch.zeros(6, 5), particles=particles)


def test_linear_other_number_of_particles():
    layer = conditioned(vrnn.nn.Linear(5, 3), {"weight": torch.zeros(6, 1, 3, 5)})
    with pytest.raises(ValueError, match=r"Expected input with particle dims \(6,\) .* got \(4,\)"):
        layer(torch.zeros(4, 6, 5), particles=1)


def test_linear_features():
    with pytest.raises(ValueError, match=r"Expected input of shape \(\*, 5\), got \(6, 4\)"):
        vrnn.nn.Linear(5, 3)(torch.zeros(6, 4))


@pytest.mark.parametrize("padding_idx", [None, 0, 4, -1], ids=str)
def test_embedding_equals_torch(padding_idx, device, dtype):
    theirs = torch.nn.Embedding(9, 5, padding_idx, device=device, dtype=dtype)
    ours = vrnn.nn.Embedding(9, 5, padding_idx, device=device, dtype=dtype)
    table = theirs.weight.detach()
    if padding_idx is not None:
        keep = torch.arange(9, device=device) != padding_idx % 9
        table = table[keep]
    ids = torch.arange(9, device=device).repeat(3, 2)
    assert_close(conditioned(ours, {"weight": table})(ids), theirs(ids), dtype)
    assert repr(ours) == repr(theirs)


@leading
@pytest.mark.parametrize("padding_idx", [None, 0, 8], ids=str)
def test_embedding_particles(leading, padding_idx, device):
    rows = 9 - (padding_idx is not None)
    table = torch.randn(6, rows, 5, device=device)
    layer = vrnn.nn.Embedding(9, 5, padding_idx, device=device)
    ids = torch.randint(9, (6, 6), device=device)
    y = conditioned(layer, {"weight": table.reshape(*leading, rows, 5)})(ids)
    expected = torch.stack([conditioned(layer, {"weight": t})(ids) for t in table])
    assert torch.equal(y, expected.reshape(y.shape))
    assert y.shape == ((6, 1) if len(leading) == 3 else (6,)) + (6, 6, 5)


def test_padding_has_no_prior():
    layer = vrnn.nn.Embedding(9, 5, padding_idx=2)
    assert layer.prior("weight").event_shape == (8, 5)


def test_padding_gets_no_gradient(device):
    table = torch.randn(8, 5, device=device, requires_grad=True)
    layer = conditioned(vrnn.nn.Embedding(9, 5, padding_idx=2, device=device), {"weight": table})
    layer(torch.tensor([2, 3], device=device)).sum().backward()
    assert table.grad.sum(1).tolist() == [0, 0, 5, 0, 0, 0, 0, 0]


IDS = {
    "too-high": (torch.tensor([9]), ValueError, r"Expected ids in 0..8, got 9"),
    "negative": (torch.tensor([-1]), ValueError, r"Expected ids in 0..8, got -1"),
    "floats": (
        torch.zeros(2),
        TypeError,
        r"Expected ids of dtype int64 or int32, got torch.float32",
    ),
    "list": ([1], TypeError, r"Expected ids of dtype int64 or int32, got list"),
}


@pytest.mark.parametrize(("ids", "error", "message"), IDS.values(), ids=IDS)
def test_embedding_ids(ids, error, message):
    with pytest.raises(error, match=message):
        vrnn.nn.Embedding(9, 5)(ids)


def test_embedding_padding_out_of_range():
    with pytest.raises(ValueError, match=r"Expected padding_idx in -9..8, got 9"):
        vrnn.nn.Embedding(9, 5, padding_idx=9)
