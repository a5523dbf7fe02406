"""A trained torch.nn tree as a Pyro model: values, sites, start, Pyro's tools."""

from __future__ import annotations

import copy
import pickle

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, TraceMeanField_ELBO
from pyro.nn import PyroModule
from torch import nn

import pyro_vrnn as vrnn
from tests.nn.cases import TWINS, assert_close, conditioned, flat
from tests.nn.trees import Observed, Tagger, UsedTwice, ids, sites, starts

OPTIONS = {
    "plain": {},
    "stacked": {"num_layers": 2, "bidirectional": True},
    "batch-first": {"batch_first": True},
    "no-bias": {"bias": False, "num_layers": 2},
}


@pytest.mark.parametrize("cell", list(TWINS))
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_layer_at_its_start_equals_the_trained_one(cell, options, dtype, device):
    theirs = TWINS[cell][1](3, 5, **options, dtype=dtype, device=device)
    ours = vrnn.nn.bayesianize(theirs)
    weights = {name: w.requires_grad_() for name, w in starts(ours).items()}
    x = torch.randn(6, 4, 3, dtype=dtype, device=device)
    outputs = flat(theirs(x)), flat(conditioned(ours, weights)(x))
    for output in outputs:
        sum(part.square().sum() for part in output).backward()
    for expected, actual in zip(*outputs, strict=True):
        assert_close(actual, expected, dtype)
    assert weights.keys() == dict(theirs.named_parameters()).keys()
    for name, parameter in theirs.named_parameters():
        assert_close(weights[name].grad, parameter.grad, dtype)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_tree_at_its_start_equals_the_trained_one(cell):
    net = Tagger(cell)
    model = vrnn.nn.bayesianize(net)
    weights = {name: w.requires_grad_() for name, w in starts(model).items()}
    expected, actual = net(ids()), conditioned(model, weights)(ids())
    assert_close(actual, expected, torch.float64)
    expected.square().sum().backward()
    actual.square().sum().backward()
    name = "head.3.weight"
    assert_close(weights[name].grad, net.get_parameter(name).grad, torch.float64)
    rows = torch.arange(11) != 2
    assert_close(weights["embedding.weight"].grad, net.embedding.weight.grad[rows], torch.float64)


def test_sites_are_the_paths_of_parameters():
    net = Tagger()
    model = vrnn.nn.bayesianize(net)
    found = sites(model, ids())
    assert sorted(found) == sorted(dict(net.named_parameters()))
    assert found["parts.rnn.weight_hh_l1_reverse"]["infer"]["weight_site"].kind == "weight_hh"
    assert found["embedding.weight"]["fn"].event_shape == (10, 6)
    assert sorted(sites(Observed(vrnn.nn.bayesianize(net)), ids())) == sorted(
        ["obs", *(f"net.{name}" for name in found)]
    )


def test_classes_and_order_are_kept():
    model = vrnn.nn.bayesianize(Tagger())
    assert isinstance(model, Tagger)
    assert isinstance(model, PyroModule)
    assert [type(part).__name__ for part in model.head] == ["ReLU", "Linear", "Tanh", "Linear"]
    assert isinstance(model.head[1], vrnn.nn.Linear)
    assert isinstance(model.parts["rnn"], vrnn.nn.LSTM)


def test_a_layer_alone_fits_a_model():
    rnn = vrnn.nn.bayesianize(nn.LSTM(3, 5, dtype=torch.float64))
    model = vrnn.models.SequenceRegression(rnn, 2)
    assert type(rnn) is vrnn.nn.LSTM
    found = sites(model, torch.zeros(4, 6, 3, dtype=torch.float64))
    assert "rnn.weight_hh_l0" in found
    assert found["head.weight"]["value"].dtype == torch.float64


def test_the_module_given_is_not_changed():
    class Net(nn.Sequential):
        pass

    net = Net(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    net[0].train()
    before = copy.deepcopy(net.state_dict())
    with pytest.warns(UserWarning, match="BatchNorm1d"):
        model = vrnn.nn.bayesianize(net)
    assert [part.training for part in model] == [True, False, False]
    assert not model.training
    with torch.no_grad():
        model[1].weight.fill_(7.0)
        model[1].running_mean.fill_(7.0)
        starts(model)["0.weight"].fill_(7.0)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    start = starts(model)["0.weight"]
    with torch.no_grad():
        net[0].weight.fill_(9.0)
    assert torch.equal(starts(model)["0.weight"], start)
    assert type(net) is Net
    assert type(net[1]) is nn.BatchNorm1d


@pytest.mark.parametrize("drop_prob", [0.0, 0.5], ids=["no-drop", "drop"])
@pytest.mark.parametrize("prepare", [lambda m: m, copy.deepcopy], ids=["itself", "copy"])
def test_the_guide_starts_at_the_trained_weights(drop_prob, prepare):
    net = Tagger()
    model = prepare(Observed(vrnn.nn.bayesianize(net)))
    guide = vrnn.infer.AutoSpikeAndSlab(model, drop_prob=drop_prob)
    mean = guide.mean(ids(), net(ids()).detach())
    for name in ("parts.rnn.weight_hh_l1", "head.1.weight", "head.3.bias"):
        assert_close(mean[f"net.{name}"], net.get_parameter(name).detach(), torch.float64)


@pytest.mark.parametrize("scale", [0.0, 1e-12], ids=["no-noise", "little-noise"])
def test_without_drop_and_noise_it_predicts_as_before(scale):
    net = Tagger()
    model = Observed(vrnn.nn.bayesianize(net))
    guide = vrnn.infer.AutoSpikeAndSlab(model, drop_prob=0.0, scale=scale)
    guide(ids(), net(ids()).detach())
    drawn = poutine.condition(model.net, guide())(ids())
    torch.testing.assert_close(drawn, net(ids()), rtol=0, atol=1e-9)


def test_the_start_is_cast_to_the_model():
    model = vrnn.nn.bayesianize(nn.Sequential(nn.Linear(3, 9))).double()
    x = torch.zeros(4, 3, dtype=torch.float64)
    mean = vrnn.infer.AutoSpikeAndSlab(model).mean(x)["0.weight"]
    assert mean.dtype == torch.float64
    assert_close(mean.float(), starts(model)["0.weight"], torch.float32)


def test_copies_and_pickles_keep_sites_and_start():
    model = vrnn.nn.bayesianize(Tagger())
    expected = starts(model)
    again = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert sites(again, ids()).keys() == expected.keys()
    assert all(torch.equal(expected[name], value) for name, value in starts(again).items())


def test_a_layer_used_twice_is_one_with_the_first_name():
    model = vrnn.nn.bayesianize(UsedTwice())
    assert model.first[0] is model.second[0] is model.unregistered[0]
    assert list(sites(model, torch.zeros(2, 4))) == ["first.0.weight", "first.0.bias"]
    around = Observed(vrnn.nn.bayesianize(UsedTwice()))
    assert list(sites(around, torch.zeros(2, 4)))[:2] == ["net.first.0.weight", "net.first.0.bias"]


def test_layers_that_are_ours_stay():
    ours = vrnn.nn.Linear(4, 2, prior_scale=3.0)
    ours(torch.zeros(4))  # a layer that has run as the root of its own calls
    model = vrnn.nn.bayesianize(nn.Sequential(nn.Linear(3, 4), ours), prior_scale=0.5)
    found = sites(model, torch.zeros(2, 3))
    assert list(found) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    deviations = [site["fn"].stddev.unique().tolist() for site in found.values()]
    assert deviations == [[0.5], [0.5], [3.0], [3.0]]
    assert model[1] is not ours
    whole = Observed(vrnn.nn.bayesianize(UsedTwice()))
    whole(torch.zeros(2, 4))
    assert list(sites(vrnn.nn.bayesianize(whole.net), torch.zeros(2, 4))) == [
        "first.0.weight",
        "first.0.bias",
    ]
    again = vrnn.nn.bayesianize(vrnn.models.SequenceRegression(vrnn.nn.GRU(3, 4), 1))
    assert "rnn.weight_hh_l0" in sites(again, torch.zeros(2, 5, 3))


PRIORS = {
    "number": (0.5, [0.5, 0.5, 0.5, 0.5]),
    "kind": ({"bias": 2.0}, [None, 2.0, None, 2.0]),
    "site-before-kind": ({"bias": 2.0, "2.bias": 3.0}, [None, 2.0, None, 3.0]),
    "tensor": ({"0.weight": torch.full((1, 3), 4.0)}, [4.0, None, None, None]),
}


@pytest.mark.parametrize(("prior", "expected"), PRIORS.values(), ids=PRIORS)
@pytest.mark.parametrize(("part", "default"), [("scale", 1.0), ("loc", 0.0)], ids=["scale", "loc"])
def test_priors_by_kind_and_site(prior, expected, part, default):
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    model = vrnn.nn.bayesianize(net, **{f"prior_{part}": prior})
    found = [
        getattr(site["fn"].base_dist, part) for site in sites(model, torch.zeros(2, 3)).values()
    ]
    assert [v.unique().item() for v in found] == [default if e is None else e for e in expected]


@pytest.mark.parametrize(
    "elbo", [vrnn.infer.TraceExactKL_ELBO, TraceMeanField_ELBO], ids=lambda e: e.__name__
)
def test_a_step_of_svi_trains_weights_and_point_estimates(elbo):
    net = nn.Sequential(nn.Linear(3, 9), nn.LayerNorm(9), nn.Linear(9, 1).requires_grad_(False))
    with pytest.warns(UserWarning, match=r"'1' \(LayerNorm\), '2' \(Linear, frozen\)"):
        model = Observed(vrnn.nn.bayesianize(net))
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    before = guide.mean(x, y)["net.0.weight"]
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo())
    svi.step(x, y)
    assert not torch.equal(guide.mean()["net.0.weight"], before)
    assert not torch.equal(model.net[1].weight, net[1].weight)
    assert torch.equal(model.net[2].weight, net[2].weight)
    assert "net.2.weight" in model.state_dict()
    assert not model.net[2].weight.requires_grad
    assert Predictive(model, guide=guide, num_samples=3)(x)["obs"].shape == (3, 8, 1)


def test_fit_and_predict():
    model = Observed(vrnn.nn.bayesianize(nn.Sequential(nn.Linear(3, 9), nn.Linear(9, 1))))
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    vrnn.infer.fit(
        model, guide, [(x, y)], num_epochs=1, optimizer=torch.optim.Adam, seed=0, progress=False
    )
    prediction = vrnn.infer.predict(model, guide, x, num_samples=4, progress=False)
    assert prediction.mean.shape == (8, 1)
