"""One parameter in two layers is one site, one draw and one KL."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

import pyro_vrnn as vrnn
from tests.nn.cases import assert_close, conditioned
from tests.nn.trees import Observed, TiedLanguageModel, ids, sites, starts

PREPARE = {
    "itself": lambda model: model,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "double": lambda model: model.float().double(),
    "inside-a-model": lambda model: Observed(model).net,
}
prepared = pytest.mark.parametrize("prepare", PREPARE.values(), ids=PREPARE)


class Both(TiedLanguageModel):
    def forward(self, ids):
        return self.encoder.weight, self.decoder.weight


@prepared
def test_one_site_and_one_draw(prepare):
    model = prepare(vrnn.nn.bayesianize(Both()))
    first, second = model(ids())
    assert first is second
    assert first.dtype == torch.float64
    assert not torch.equal(model.decoder.weight, first)  # outside a call, a new draw
    assert model.decoder.site_names["weight"] == model.encoder.site_names["weight"]
    assert model.decoder.prior("weight").event_shape == (11, 6)


def test_the_site_is_of_columns_and_has_the_first_name():
    found = sites(vrnn.nn.bayesianize(TiedLanguageModel()), ids())
    assert "encoder.weight" in found
    assert "decoder.weight" not in found
    record = found["encoder.weight"]["infer"]["weight_site"]
    assert (record.kind, record.blocks((11, 6))) == ("linear", (11, 1))


def test_a_linear_layer_before_the_embedding_owns_the_site():
    net = nn.ModuleDict({"out": nn.Linear(6, 11), "table": nn.Embedding(11, 6)})
    net["table"].weight = net["out"].weight
    model = vrnn.nn.bayesianize(net)
    assert model["table"].site_names == {"weight": "out.weight"}
    assert model["out"]._weight_sites["weight"].kind == "linear"


@prepared
def test_values_equal_the_trained_module(prepare):
    net = TiedLanguageModel()
    model = prepare(vrnn.nn.bayesianize(net))
    weights = starts(model)
    assert len(weights) == 6
    assert_close(conditioned(model, weights)(ids()), net(ids()), torch.float32)


def test_the_kl_counts_once():
    model = Observed(vrnn.nn.bayesianize(TiedLanguageModel()))
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    elbo = vrnn.infer.TraceExactKL_ELBO()
    elbo(model, guide)(ids(), torch.zeros(4, 5, 11, dtype=torch.float64))
    names = [name for name in elbo.parts.kl if "coder" in name]
    assert names == ["net.encoder.weight", "net.decoder.bias"]
    q, p = guide.distribution(names[0]), model.net.encoder.prior("weight")
    expected = kl_divergence(q, p).sum().detach()
    assert_close(elbo.parts.kl[names[0]], expected, torch.float64)


def test_recurrent_weights_may_be_tied():
    net = nn.ModuleList([nn.LSTM(3, 5), nn.LSTM(5, 5)])
    net[1].weight_hh_l0 = net[0].weight_hh_l0
    net[1].bias_ih_l0 = net[1].bias_hh_l0  # within one layer
    model = vrnn.nn.bayesianize(net)
    names = model[1].site_names
    assert names["weight_hh_l0"] == "0.weight_hh_l0"
    assert names["weight_ih_l0"] == "1.weight_ih_l0"
    assert names["bias_hh_l0"] == names["bias_ih_l0"]


def refused(change):
    net = nn.ModuleDict({"a": nn.LSTM(5, 5), "b": nn.GRU(5, 5), "c": nn.Linear(5, 20)})
    change(net)
    return net


def tie_kinds(net):
    net["c"].weight = net["a"].weight_hh_l0


def tie_input_and_state(net):
    net["a"].weight_hh_l0 = net["a"].weight_ih_l0


ERRORS = {
    "padding": (
        lambda: TiedLanguageModel(padding_idx=3),
        r"tied weights \('encoder.weight' and 'decoder.weight'\) of an Embedding without "
        r"padding_idx, got padding_idx=3: .* Set padding_idx = None .*, or give the Linear a",
    ),
    "recurrent-and-linear": (
        lambda: refused(tie_kinds),
        r"'a.weight_hh_l0' and 'c.weight' are tied: Expected tied weights of one shape, kind and "
        r"number of gates, got weight_hh \(20, 5\) of 4 gates and linear \(20, 5\) of 1 gates",
    ),
    "input-and-state": (
        lambda: refused(tie_input_and_state),
        r"'a.weight_ih_l0' and 'a.weight_hh_l0' are tied: .*weight_ih .* and weight_hh",
    ),
}


@pytest.mark.parametrize(("make", "message"), ERRORS.values(), ids=ERRORS)
def test_ties_that_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        vrnn.nn.bayesianize(make())


def test_a_layer_tied_to_what_stays_deterministic_stays_too():
    class Own(nn.Linear):
        pass

    net = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "own": Own(4, 4)})
    net["a"].bias = net["b"].bias
    net["own"].weight = net["b"].weight
    net["free"] = nn.Linear(4, 4)
    expected = (
        r"'a' \(Linear, its bias is tied to 'b.bias'\), "
        r"'b' \(Linear, its weight is tied to 'own.weight'\), "
        r"'own' \(Own, a subclass of Linear\)\.$"
    )
    with pytest.warns(UserWarning, match=expected):
        model = vrnn.nn.bayesianize(net)
    assert model["own"].weight is model["b"].weight
    assert isinstance(model["free"], vrnn.nn.Linear)


def test_a_part_taken_out_of_its_model_says_so():
    decoder = copy.deepcopy(vrnn.nn.bayesianize(TiedLanguageModel()).decoder)
    model = Observed(decoder)
    with pytest.raises(RuntimeError, match=r"'weight' is tied to in the same model, got a Linear"):
        model(torch.zeros(2, 6, dtype=torch.float64))


def test_the_way_out_of_a_padding_row_that_is_tied():
    net = TiedLanguageModel(padding_idx=3)
    net.encoder.padding_idx = None
    model = vrnn.nn.bayesianize(net)
    assert sites(model, ids())["encoder.weight"]["value"].shape == net.encoder.weight.shape
