"""Linear and Embedding: which masks are shared by what, means, and torch.nn where nothing drops."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_vrnn import baselines
from tests.baselines.cases import TOLERANCE, dropping, forms, methods, scopes, tied_methods

Z = 4.26
double = {"dtype": torch.float64}


def close(actual, expected, dtype=torch.float64):
    torch.testing.assert_close(actual, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def linear(columns=9, rows=8, **kwargs):
    """Return a layer whose output is the sum of the columns that are kept."""
    layer = baselines.Linear(columns, rows, bias=False, drop_prob=0.5, **kwargs, **double)
    torch.nn.init.ones_(layer.weight)
    return layer


@dropping
@forms
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_linear_evaluation(method, parametrization, bias, dtype, device):
    layer = baselines.Linear(
        9, 8, bias, method=method, drop_prob=0.4, parametrization=parametrization,
        dtype=dtype, device=device,
    ).eval()  # fmt: skip
    x = torch.randn(3, 5, 9, dtype=dtype, device=device)
    scaled = parametrization == "non-inverted" and method != "gaussian"
    weight = layer.weight * (0.6 if scaled else 1.0)
    close(layer(x), torch.nn.functional.linear(x, weight, layer.bias), dtype)


@methods
def test_linear_without_dropping(method):
    layer = baselines.Linear(9, 8, method=method, drop_prob=0.0 if method != "none" else 0.5)
    twin = torch.nn.Linear(9, 8)
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(3, 9)
    assert torch.equal(layer(x), twin(x))


@tied_methods
@pytest.mark.parametrize("batch_dim", [0, 1, -2])
def test_linear_mask_of_a_sequence(method, batch_dim):
    """Equal rows: alike within a sequence, apart between sequences."""
    x = torch.ones(6, 7, 40, **double)
    output = linear(40, method=method)(x, batch_dim=batch_dim)[..., 0]
    output = output if batch_dim == 0 else output.T  # (sequence, other)
    close(output, output[:, :1].expand_as(output))
    assert len(set(output[:, 0].tolist())) > 1


@tied_methods
def test_linear_mask_of_a_batch(method):
    output = linear(method=method, scope="batch")(torch.ones(6, 7, 9, **double))
    close(output, output[:1, :1].expand_as(output))


@pytest.mark.parametrize("method", ["naive", "non-recurrent"])
def test_linear_mask_of_a_row(method):
    output = linear(40, method=method)(torch.ones(6, 7, 40, **double))[..., 0]
    assert len(set(output[0].tolist())) > 1
    assert len(set(output[:, 0].tolist())) > 1


@dropping
def test_linear_drops_columns(method):
    """All outputs lose the same inputs."""
    output = linear(method=method)(torch.rand(6, 7, 9, **double))
    close(output, output[..., :1].expand_as(output))


@scopes
@forms
@tied_methods
def test_linear_takes_masks(scope, parametrization, method):
    layer = linear(scope=scope, parametrization=parametrization, method=method)
    mask = layer.draw_masks(6)["weight"]
    assert mask.shape == (6 if scope == "sequence" else 1, 1, 9)
    scale = 2.0 if parametrization == "inverted" and method == "variational" else 1.0
    expected = (mask[:, 0] * scale).sum(-1).expand(6)
    close(layer(torch.ones(6, 9, **double), masks={"weight": mask})[:, 0], expected)


@dropping
@forms
def test_linear_mean_is_that_of_evaluation(method, parametrization):
    layer = linear(method=method, parametrization=parametrization)
    x = torch.rand(9, **double).expand(4000, 9)
    outputs = layer(x)[:, 0].detach()
    error = float(outputs.std()) / math.sqrt(len(outputs))
    expected = layer.eval()(x)[0, 0].item()
    assert outputs.mean().item() == pytest.approx(expected, abs=Z * error)


def test_heads_with_few_outputs_are_kept_by_default():
    assert baselines.Linear(9, 7).drop_probs == {"weight": 0.0}
    assert baselines.Linear(9, 8).drop_probs == {"weight": 0.25}
    assert baselines.Linear(9, 1, drop_prob={"linear": 0.5}).drop_probs == {"weight": 0.5}
    assert baselines.Linear(9, 1, drop_prob={"weight_hh": 0.5}).drop_probs == {"weight": 0.0}


def table(ids=50, **kwargs):
    layer = baselines.Embedding(ids, 3, drop_prob=0.5, **kwargs, **double)
    torch.nn.init.ones_(layer.weight)
    return layer


IDS = torch.randint(0, 50, (6, 200), generator=torch.Generator().manual_seed(1))


@tied_methods
@scopes
@pytest.mark.parametrize("batch_dim", [0, 1, -1])
def test_embedding_factor_of_a_type(method, scope, batch_dim):
    """All occurrences of a type in a sequence (in the call) have one factor; types differ."""
    ids = IDS if batch_dim == 0 else IDS.T
    output = table(method=method, scope=scope)(ids, batch_dim=batch_dim)
    close(output, output[..., :1].expand_as(output))  # whole rows
    factors = output[..., 0] if batch_dim == 0 else output[..., 0].T
    sequences = torch.arange(6).unsqueeze(1) if scope == "sequence" else torch.zeros(6, 1)
    keys = (sequences * 50 + IDS).flatten().tolist()
    by_key = {}
    for key, factor in zip(keys, factors.flatten().tolist(), strict=True):
        by_key.setdefault(key, set()).add(factor)
    assert all(len(values) == 1 for values in by_key.values())
    assert len({values.pop() for values in by_key.values()}) > 1
    of_one_type = factors[IDS[0, 0] == IDS]
    assert (len(set(of_one_type.tolist())) > 1) == (scope == "sequence")


@forms
def test_embedding_frequency(parametrization):
    layer = table(200_000, parametrization=parametrization)
    factors = layer(torch.arange(200_000).reshape(1, -1))[0, :, 0].detach()
    kept = 1.0 if parametrization == "non-inverted" else 2.0
    assert set(factors.tolist()) == {0.0, kept}
    assert float(factors.mean()) / kept == pytest.approx(0.5, abs=Z * 0.5 / math.sqrt(200_000))


@pytest.mark.parametrize("method", ["none", "naive", "non-recurrent"])
def test_embedding_leaves_dropping_to_the_next_layer(method):
    layer = table(method=method)
    assert layer.drop_probs == {"weight": 0.0}
    assert torch.equal(layer(IDS), torch.nn.functional.embedding(IDS, layer.weight))


@tied_methods
@forms
def test_embedding_evaluation(method, parametrization):
    layer = table(method=method, parametrization=parametrization).eval()
    scaled = parametrization == "non-inverted" and method == "variational"
    close(layer(IDS), torch.full((6, 200, 3), 0.5 if scaled else 1.0, **double))


@tied_methods
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_padding_is_zero_and_learns_nothing(method, training):
    layer = baselines.Embedding(50, 3, padding_idx=0, method=method).train(training)
    output = layer(torch.tensor([[0, 3, 0]]))
    assert not output[0, [0, 2]].any()
    output.sum().backward()
    assert not layer.weight.grad[0].any()


def test_embedding_loads_torch():
    layer, twin = baselines.Embedding(50, 3, padding_idx=2), torch.nn.Embedding(50, 3, 2)
    layer.load_state_dict(twin.state_dict())
    assert torch.equal(layer.weight, twin.weight)


def test_repr():
    assert repr(baselines.Linear(9, 8, method="none")) == (
        "Linear(in_features=9, out_features=8, bias=True, method='none')"
    )
    assert repr(baselines.Embedding(5, 3)) == (
        "Embedding(5, 3, method='variational', drop_probs={'weight': 0.25}, "
        "parametrization='non-inverted')"
    )
