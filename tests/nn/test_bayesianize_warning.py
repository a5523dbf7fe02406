"""What bayesianize leaves deterministic, what it says of it, and what it refuses."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

import pyro_vrnn as vrnn
from tests.nn.cases import assert_close, conditioned
from tests.nn.trees import sites, starts


class OwnLinear(nn.Linear):
    pass


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return x * self.scale


def hooked(layer):
    layer.register_forward_hook(lambda *_: None)
    return layer


def replaced(layer):
    layer.forward = torch.tanh
    return layer


STAYS = {
    "layer-norm": (lambda: nn.LayerNorm(4), "LayerNorm"),
    "frozen-layer-norm": (lambda: nn.LayerNorm(4).requires_grad_(False), "LayerNorm, frozen"),
    "cell": (lambda: nn.LSTMCell(4, 4), "LSTMCell"),
    "subclass": (lambda: OwnLinear(4, 4), "OwnLinear, a subclass of Linear"),
    "weight-norm": (
        lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
        "Linear under a parametrization",
    ),
    "all-parametrized": (
        lambda: parametrizations.weight_norm(nn.Linear(4, 4, bias=False)),
        "Linear under a parametrization",
    ),
    "older-spectral-norm": (
        lambda: spectral_norm(nn.Linear(4, 4)),
        "Linear under a parametrization",
    ),
    "hook": (lambda: hooked(nn.Linear(4, 4)), "Linear with hooks or a forward of its own"),
    "forward": (lambda: replaced(nn.Linear(4, 4)), "Linear with hooks or a forward of its own"),
    "frozen": (lambda: nn.LSTM(4, 4).requires_grad_(False), "LSTM, frozen"),
    "half": (lambda: nn.Linear(4, 4, dtype=torch.float16), "Linear of torch.float16"),
    "projection": (lambda: nn.LSTM(4, 4, proj_size=3), "LSTM with proj_size=3"),
    "max-norm": (lambda: nn.Embedding(4, 4, max_norm=1.0), "Embedding with max_norm=1.0"),
    "sparse": (
        lambda: nn.Embedding(4, 4, sparse=True, scale_grad_by_freq=True),
        "Embedding with scale_grad_by_freq=True, sparse=True",
    ),
    "own-parameter": (lambda: Scaled(nn.Parameter(torch.ones(1))), "Scaled"),
}


def message_of(net):
    with pytest.warns(UserWarning, match=r"\.$") as caught:
        model = vrnn.nn.bayesianize(net)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    return model, str(caught[0].message)


@pytest.mark.parametrize(("make", "reason"), STAYS.values(), ids=STAYS)
def test_what_stays_deterministic_is_said(make, reason):
    part = make()
    names = {name for name, _ in part.named_parameters()}
    model, message = message_of(nn.ModuleDict({"in": nn.Linear(4, 4), "part": part}))
    assert message == f"Deterministic, without a prior, are 'part' ({reason})."
    assert isinstance(model["part"], type(part))
    kept = {n for n in model.state_dict() if n.startswith("part.") and n[5:] in names}
    assert kept == {f"part.{name}" for name in names}


def test_a_parameter_of_a_container_is_named():
    net = nn.Sequential(nn.Linear(4, 4))
    net.gain = nn.Parameter(torch.ones(1))
    assert message_of(net)[1] == (
        "Deterministic, without a prior, are 'gain' (a parameter of Sequential)."
    )


def test_dropout_is_said():
    net = nn.ModuleDict(
        {
            "rnn": nn.GRU(4, 4, 2, dropout=0.3),
            "frozen": nn.GRU(4, 4, 2, dropout=0.4).requires_grad_(False),
            "drop": nn.Dropout(0.2),
            "off": nn.Dropout(0.0),
        }
    )
    model, message = message_of(net)
    assert message == (
        "Deterministic, without a prior, are 'frozen' (GRU, frozen). "
        "Left out, since dropping is the guide's drop_prob, is the dropout of "
        "'rnn' (dropout=0.3). Kept, active in train mode and no part of the guide, is the "
        "dropout of 'drop' (Dropout, p=0.2)."
    )
    assert model["frozen"].dropout == 0.4
    assert message_of(nn.LSTM(4, 4, 2, dropout=0.3))[1].endswith("the dropout of dropout=0.3.")


def test_a_layer_that_the_user_samples_is_left_alone_and_not_called_deterministic():
    linear = PyroModule[nn.Linear](4, 4, bias=False)
    linear.weight = PyroSample(dist.Laplace(0.0, 1.0).expand([4, 4]).to_event(2))
    model = vrnn.nn.bayesianize(nn.Sequential(nn.Linear(4, 4), linear))  # a warning would fail
    found = sites(model, torch.zeros(2, 4))
    assert list(found) == ["0.weight", "0.bias", "1.weight"]
    assert isinstance(found["1.weight"]["fn"].base_dist, dist.Laplace)


def test_frozen_parameters_stay_as_they_are_under_pyro():
    """Pyro would set requires_grad on a frozen parameter that a PyroModule reads."""
    frozen = nn.LSTM(4, 4).requires_grad_(False)
    partly = nn.LayerNorm(4)
    partly.bias.requires_grad_(False)
    net = nn.Sequential(nn.Linear(4, 4), partly, frozen)
    model, _ = message_of(net)
    trace = poutine.trace(model).get_trace(torch.zeros(5, 2, 4))
    assert list(trace.param_nodes) == ["1.weight"]
    assert {name for name, _ in model.named_parameters()} == {"1.weight"}
    weights = starts(model)
    x = torch.randn(5, 2, 4)
    assert_close(conditioned(model, weights)(x)[0], net(x)[0], torch.float32)
    half = model.double()[2]
    assert half(torch.zeros(5, 2, 4).double())[0].dtype == torch.float64


def test_partly_frozen_layers_stay():
    """What was frozen on purpose is not made uncertain."""
    tree = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tree[0].bias.requires_grad_(False)
    with pytest.warns(UserWarning, match=r"are '0' \(Linear, partly frozen \(bias\)\)\."):
        bayesian = vrnn.nn.bayesianize(tree)
    assert list(sites(bayesian, torch.zeros(4))) == ["1.weight", "1.bias"]
    assert [name for name, _ in bayesian.named_parameters()] == ["0.weight"]
    assert torch.equal(bayesian[0].bias, tree[0].bias)


def padded_badly():
    table = nn.Embedding(5, 4, padding_idx=3)
    nn.init.constant_(table.weight, 0.25)
    return nn.ModuleDict({"table": table})


TWO = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4))
ERRORS = {
    "no-module": (lambda: [nn.Linear(4, 4)], {}, TypeError, r"torch\.nn\.Module, got list"),
    "nothing": (
        lambda: nn.Sequential(nn.Conv1d(4, 4, 1), nn.ReLU()),
        {},
        ValueError,
        r"Embedding to replace, got none in a Sequential: '0' \(Conv1d\)\.$",
    ),
    "nothing-at-all": (nn.ReLU, {}, ValueError, r"to replace, got none in a ReLU\.$"),
    "all-frozen": (
        lambda: nn.Linear(4, 4).requires_grad_(False),
        {},
        ValueError,
        r"got none in a Linear: Linear, frozen\.$",
    ),
    "lazy": (
        lambda: nn.Sequential(nn.LazyLinear(4)),
        {},
        ValueError,
        r"parameters with values, got '0\.weight', a lazy one: call the module once",
    ),
    "meta": (
        lambda: nn.Linear(4, 4, device="meta"),
        {},
        ValueError,
        r"parameters with values, got 'weight', one on 'meta'",
    ),
    "padding-row": (
        padded_badly,
        {},
        ValueError,
        r"Expected row 3 \(the padding\) of 'table\.weight' to be 0, .* 0\.25: set it to 0",
    ),
    "unknown-scale": (
        lambda: TWO,
        {"prior_scale": {"embedding": 1.0, "1.weight_hh_l0": 1.0}},
        ValueError,
        r"names in prior_scale to be sites or kinds of weights \(0\.weight, .*1\.bias_hh_l0, "
        r"linear, bias, weight_ih, weight_hh\), got 'embedding'\.$",
    ),
    "unknown-loc": (
        lambda: TWO,
        {"prior_loc": {"weight": 1.0}},
        ValueError,
        r"names in prior_loc to be .*, got 'weight'\.$",
    ),
    "negative-scale": (
        lambda: TWO,
        {"prior_scale": {"1.bias_hh_l0": -1.0}},
        ValueError,
        r"prior_scale of 1\.bias_hh_l0 to be positive",
    ),
    "prior-shape": (
        lambda: TWO,
        {"prior_loc": torch.zeros(3)},
        ValueError,
        r"prior_loc of 0\.weight to broadcast to \(4, 4\), got \(3,\)",
    ),
    "prior-type": (lambda: TWO, {"prior_scale": "1"}, TypeError, r"prior_scale of 0\.weight to be"),
}


@pytest.mark.parametrize(("make", "kwargs", "error", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(make, kwargs, error, message):
    with pytest.raises(error, match=message):
        vrnn.nn.bayesianize(make(), **kwargs)


def test_a_module_that_cannot_be_copied():
    net = nn.Sequential(nn.Linear(4, 4))
    net.cached = net(torch.zeros(4))  # has a graph
    with pytest.raises(RuntimeError, match=r"copy\.deepcopy can copy, got a Sequential of which"):
        vrnn.nn.bayesianize(net)


COMPILED = {
    "whole": (
        lambda layer: torch.compile(layer),
        r"got a compiled one: give what is in it \(module\._orig_mod\), and compile what",
    ),
    "inside": (
        lambda layer: nn.ModuleDict({"a": torch.compile(nn.Sequential(layer))}),
        r"got 'a', a compiled one: give what is in it \(module\.a\._orig_mod\), and compile what",
    ),
}


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch.compile's imports
@pytest.mark.parametrize(("make", "message"), COMPILED.values(), ids=COMPILED)
def test_compiled_modules_are_refused(make, message):
    net = make(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="Expected modules that are not compiled, " + message):
        vrnn.nn.bayesianize(net)
