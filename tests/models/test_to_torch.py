"""A trained guide's weights as a plain network: the same outputs, torch.nn's names, no Pyro."""

from __future__ import annotations

from functools import partial

import pyro
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule

import pyro_vrnn as vrnn
from pyro_vrnn import baselines
from tests.models.cases import forecaster, regression


def classification(**options):
    rnn = vrnn.nn.GRU(8, 4, **options)
    embedding = vrnn.nn.Embedding(9, 8, padding_idx=0, **options)
    model = vrnn.models.SequenceClassification(rnn, 3, embedding=embedding)
    return model, torch.arange(30).reshape(6, 5) % 9, torch.tensor([0, 1, 2, 0, 1, 2])


MODELS = {
    "regression": (regression, baselines.SequenceNetwork),
    "forecaster": (forecaster, baselines.ForecastNetwork),
    "classification": (classification, baselines.SequenceNetwork),
}
models = pytest.mark.parametrize(("make", "Network"), MODELS.values(), ids=MODELS)
hows = pytest.mark.parametrize("weights", ["mean", "sample"])
GUIDES = {
    "spike-and-slab": partial(vrnn.infer.AutoSpikeAndSlab, scope="sequence"),
    "multiplicative": vrnn.infer.AutoMultiplicativeNormal,
    "mean-field": vrnn.infer.AutoMeanFieldNormal,
}


@models
@hows
@pytest.mark.parametrize("Guide", GUIDES.values(), ids=GUIDES)
def test_a_model_becomes_a_network_of_the_same_outputs(make, Network, weights, Guide):
    model, x, y = make(dtype=torch.float64)
    guide = Guide(model)
    guide(x, y)
    pyro.set_rng_seed(2)
    network = guide.to_torch(model, weights)
    assert type(network) is Network
    assert not [m for m in network.modules() if isinstance(m, PyroModule)]
    assert type(network.head) is torch.nn.Linear
    held = {name: p.detach() for name, p in network.named_parameters()}
    if "embedding.weight" in held:  # torch's has the padding row
        held["embedding.weight"] = held["embedding.weight"][1:]
    if weights == "mean":
        torch.testing.assert_close(held, guide.mean())
    expected = poutine.condition(model, data=held)(x)
    torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=1e-10)
    lengths = torch.full((len(x),), x.shape[1] - 1)
    short = poutine.condition(model, data=held)(x, lengths=lengths)
    torch.testing.assert_close(network(x, lengths), short, rtol=1e-10, atol=1e-10)


def test_samples_are_draws_of_the_guide():
    model, x, y = regression()
    guide = vrnn.infer.AutoSpikeAndSlab(model, drop_prob={"weight_hh": 0.5}, scale=1e-3)
    guide(x, y)
    first, second = (guide.to_torch(model, "sample").rnn.weight_hh_l0 for _ in range(2))
    assert not torch.equal(first, second)
    dropped = (first.unflatten(0, (4, 4)).abs() < 0.01).all(1)  # whole columns of a gate
    assert dropped.any()


def test_a_part_of_a_model():
    model, x, y = regression(dtype=torch.float64)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    guide(x, y)
    lstm = guide.to_torch(model.rnn)
    assert type(lstm) is torch.nn.LSTM
    torch.testing.assert_close(lstm.weight_hh_l1, guide.mean()["rnn.weight_hh_l1"])


def test_the_copy_is_apart_from_the_guide():
    model, x, y = regression()
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    guide(x, y)
    before = guide.mean()["head.weight"].clone()
    with torch.no_grad():
        guide.to_torch(model).head.weight.zero_()
    assert torch.equal(guide.mean()["head.weight"], before)


def test_errors():
    model, x, y = regression()
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    with pytest.raises(RuntimeError, match=r"first call the guide once"):
        guide.to_torch(model)
    guide(x, y)
    with pytest.raises(ValueError, match=r"Expected weights to be one of 'mean', 'sample', got 1"):
        guide.to_torch(model, 1)
    with pytest.raises(ValueError, match=r"got none for 'weight_ih_l0'"):
        guide.to_torch(vrnn.nn.GRU(3, 4))
