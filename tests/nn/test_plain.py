"""From our layers back to torch.nn's."""

from __future__ import annotations

import copy

import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

import pyro_vrnn as vrnn
from tests.nn.cases import TWINS, assert_close, conditioned, flat
from tests.nn.trees import Observed, Tagger, TiedLanguageModel, UsedTwice, ids, sites, starts

plain_torch = vrnn.nn.plain_torch


def assert_same_state(actual, expected):
    assert actual.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(v, actual.state_dict()[k]) for k, v in expected.state_dict().items())


TREES = {
    "tagger": (lambda: Tagger("gru"), ids),
    "tied": (TiedLanguageModel, ids),
    "used-twice": (UsedTwice, lambda: torch.randn(2, 4)),
    "layer": (lambda: nn.Linear(4, 2), lambda: torch.randn(2, 4)),
    "no-bias": (lambda: nn.Sequential(nn.Linear(4, 2, bias=False)), lambda: torch.randn(2, 4)),
    "padded": (lambda: nn.Embedding(11, 3, padding_idx=10), ids),
    "padded-first": (lambda: nn.Embedding(11, 3, padding_idx=0), ids),
}


@pytest.mark.parametrize(("make", "data"), TREES.values(), ids=TREES)
def test_there_and_back(make, data):
    net, x = make(), data()
    model = vrnn.nn.bayesianize(net)
    before = sites(model, x).keys()
    plain = plain_torch(model, starts(model))
    assert_same_state(plain, net)
    assert torch.equal(plain(x), net(x))
    assert repr(plain) == repr(net)
    assert [type(part) for part in plain.modules()] == [type(part) for part in net.modules()]
    assert {n for n, _ in plain.named_parameters()} == {n for n, _ in net.named_parameters()}
    assert sites(model, x).keys() == before  # the model is left as it was


@pytest.mark.parametrize("cell", list(TWINS))
def test_a_layer_equals_ours_under_the_same_weights(cell, dtype, device):
    ours = TWINS[cell][0](
        3, 5, 2, bidirectional=True, batch_first=True, dtype=dtype, device=device
    ).eval()
    weights = {  # not larger: relu's errors grow with its outputs
        n: torch.randn(s, dtype=dtype, device=device) / 3 for n, s in ours._weight_shapes.items()
    }
    x = torch.randn(4, 6, 3, dtype=dtype, device=device)
    plain = plain_torch(ours, weights)
    for actual, expected in zip(flat(plain(x)), flat(conditioned(ours, weights)(x)), strict=True):
        assert_close(actual, expected, dtype)
    assert not plain.training
    assert all(p.requires_grad for p in plain.parameters())
    plain.double()(x.double())  # its flat weights follow


def test_weights_are_copied_and_cast():
    weights = {"weight": torch.zeros(2, 3, dtype=torch.float64), "bias": torch.zeros(2)}
    plain = plain_torch(vrnn.nn.Linear(3, 2), weights)
    weights["bias"].fill_(1.0)
    assert plain.weight.dtype == torch.float32
    assert plain.bias.tolist() == [0.0, 0.0]


def test_no_random_numbers_are_used():
    model = vrnn.nn.bayesianize(Tagger())
    weights = starts(model)
    state = torch.get_rng_state()
    plain_torch(model, weights)
    assert torch.equal(torch.get_rng_state(), state)


def test_ties_and_padding():
    net = TiedLanguageModel()
    model = vrnn.nn.bayesianize(net)
    plain = plain_torch(model, starts(model))
    assert plain.decoder.weight is plain.encoder.weight
    padded = plain_torch(vrnn.nn.Embedding(4, 2, padding_idx=1), {"weight": torch.ones(3, 2)})
    assert padded.weight.tolist() == [[1, 1], [0, 0], [1, 1], [1, 1]]
    assert padded(torch.tensor([1])).tolist() == [[0, 0]]


def test_a_part_of_a_model_has_the_names_of_the_whole():
    model = Observed(vrnn.nn.bayesianize(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))))
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    x, y = torch.randn(5, 3), torch.randn(5, 1)
    mean = guide.mean(x, y)
    plain = plain_torch(model.net, mean)
    assert torch.equal(plain[0].weight, mean["net.0.weight"])
    assert type(plain) is nn.Sequential
    drawn = guide(x, y)
    expected = conditioned(model.net, drawn)(x)
    assert_close(plain_torch(model.net, drawn)(x), expected, torch.float32)


def test_frozen_parameters_are_parameters_again():
    net = nn.ModuleList([nn.Linear(4, 4), nn.LSTM(4, 4).requires_grad_(False), nn.LayerNorm(4)])
    net.append(nn.Linear(4, 4).requires_grad_(False))
    net.append(nn.Linear(4, 4).requires_grad_(False))
    net[4].weight = net[3].weight
    with pytest.warns(UserWarning, match="frozen"):
        model = vrnn.nn.bayesianize(net)
    plain = plain_torch(model, starts(model))
    assert_same_state(plain, net)
    assert plain[4].weight is plain[3].weight
    expected = {name: p.requires_grad for name, p in net.named_parameters()}
    assert {name: p.requires_grad for name, p in plain.named_parameters()} == expected
    assert copy.deepcopy(plain)[1].weight_hh_l0.requires_grad is False


@pytest.mark.parametrize("options", [{}, {"proj_size": 3}], ids=["frozen", "projection"])
def test_a_recurrent_layer_left_out_works_on(options):
    """torch's recurrent layers keep a second list of their weights."""
    layer = nn.LSTM(4, 4, **options).requires_grad_(bool(options))
    with pytest.warns(UserWarning, match="LSTM"):
        model = vrnn.nn.bayesianize(nn.ModuleList([nn.Linear(4, 4), layer])).double()
    plain = plain_torch(model, starts(model))[1].requires_grad_(True)
    output, _ = plain(torch.ones(2, 1, 4, dtype=torch.float64))
    output.sum().backward()
    assert plain.weight_hh_l0.grad is not None


class Hooked(PyroModule):
    """A model that says what its plain twin is."""

    def __init__(self, dtype=None):
        super().__init__()
        self.net = vrnn.nn.bayesianize(nn.Sequential(nn.Linear(3, 3), nn.Tanh()))
        self.head = vrnn.nn.Linear(3, 2)
        self.missing = None

    def plain_twin(self, children):
        assert [type(child) for child in children.values()] == [nn.Sequential, nn.Linear]
        return nn.Sequential(*children.values())


def test_a_container_may_say_what_it_becomes():
    model = PyroModule()
    model.inner = Hooked().eval()
    weights = {
        name: torch.randn(shape)
        for name, shape in {
            "inner.net.0.weight": (3, 3),
            "inner.net.0.bias": (3,),
            "inner.head.weight": (2, 3),
            "inner.head.bias": (2,),
        }.items()
    }
    plain = plain_torch(model, weights)
    assert type(plain) is nn.Module
    assert [part.training for part in plain.modules()] == [True, *[False] * 5]
    assert repr(plain.inner) == repr(
        nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), nn.Linear(3, 2))
    )
    assert torch.equal(plain.inner[1].bias, weights["inner.head.bias"])
    assert not [part for part in plain.modules() if isinstance(part, PyroModule)]
    assert torch.equal(plain_torch(model.inner, weights)[0][0].bias, weights["inner.net.0.bias"])


def test_a_users_pyro_module_stays_one():
    model = Observed(vrnn.nn.bayesianize(nn.Sequential(nn.Linear(3, 1))))
    model(torch.zeros(2, 3))
    plain = plain_torch(model, starts(model))
    assert type(plain) is Observed
    assert type(plain.net) is nn.Sequential
    assert list(sites(plain, torch.zeros(2, 3))) == ["obs"]
    assert list(sites(model, torch.zeros(2, 3))) == ["net.0.weight", "net.0.bias", "obs"]


def test_containers_with_sites_or_constrained_parameters_stay_pyro_modules():
    net = vrnn.nn.bayesianize(nn.ModuleDict({"a": nn.Sequential(nn.Linear(3, 1))}))
    net["a"].noise = PyroSample(dist.LogNormal(0.0, 1.0))
    other = copy.deepcopy(net)
    other["a"].noise = PyroParam(torch.ones(()), dist.constraints.positive)
    kept = [plain_torch(tree, starts(tree)) for tree in (net, other)]
    assert [type(tree) for tree in kept] == [nn.ModuleDict, nn.ModuleDict]
    assert [isinstance(tree["a"], PyroModule) for tree in kept] == [True, True]
    assert kept[1]["a"].noise == 1.0


class OwnLinear(vrnn.nn.Linear):
    pass


ERRORS = {
    "no-module": (lambda: plain_torch({}, {}), TypeError, r"torch\.nn\.Module, got dict"),
    "missing": (
        lambda: plain_torch(vrnn.nn.Linear(3, 2), {"weight": torch.zeros(2, 3)}),
        ValueError,
        r"a weight for each site, got none for 'bias' \(given: weight\)",
    ),
    "none": (
        lambda: plain_torch(vrnn.nn.Linear(3, 2), {}),
        ValueError,
        r"got none for 'weight' \(given: none\)",
    ),
    "shape": (
        lambda: plain_torch(vrnn.nn.Linear(3, 2, bias=False), {"weight": torch.zeros(5, 2, 3)}),
        ValueError,
        r"site 'weight' of shape \(2, 3\), got \(5, 2, 3\)",
    ),
    "subclass": (
        lambda: plain_torch(nn.Sequential(OwnLinear(3, 2)), {}),
        TypeError,
        r"own classes, got a OwnLinear: give it a method plain_twin\(children\)",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
