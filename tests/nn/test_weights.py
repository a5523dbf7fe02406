"""Priors, records and reads of weight sites."""

from __future__ import annotations

import copy

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroSample

import pyro_vrnn as vrnn
from pyro_vrnn.distributions import WeightSite

x = torch.zeros(7, 4, 3)


def sample_sites(model, *args):
    trace = poutine.trace(model).get_trace(*args)
    return {k: v for k, v in trace.nodes.items() if v["type"] == "sample"}


def test_each_weight_is_one_site_with_its_record():
    sites = sample_sites(vrnn.nn.LSTM(3, 8, 2, bidirectional=True), x)
    records = {name: site["infer"]["weight_site"] for name, site in sites.items()}
    assert len(records) == 16
    kinds = {name: (r.kind, r.gates, r.layer) for name, r in records.items()}
    assert kinds["weight_ih_l1_reverse"] == ("weight_ih", 4, 1)
    assert kinds["weight_hh_l0"] == ("weight_hh", 4, 0)
    assert kinds["bias_hh_l0"] == ("bias", 4, 0)
    assert sites["weight_ih_l1_reverse"]["fn"].event_shape == (32, 16)


def test_one_draw_serves_all_time_steps():
    """Lightning UQ Box and bayesian-torch redraw the weights at every step."""
    gru = vrnn.nn.GRU(3, 8)
    assert len(sample_sites(gru, x)) == 4
    constant = torch.ones(300, 1, 3)
    with torch.no_grad():
        y, _ = poutine.condition(gru, {"weight_hh_l0": torch.zeros(24, 8)})(constant)
    # Without recurrence and with weights tied over time, a constant input has a fixed point.
    torch.testing.assert_close(y[-1], y[-2], rtol=0, atol=1e-4)


def test_two_reads_in_a_call_are_one_draw_and_outside_a_new_one():
    class Twice(vrnn.nn.Linear):
        def forward(self, x):
            return self.weight, self.weight

    layer = Twice(5, 3)
    a, b = layer(x)
    assert a is b
    assert not torch.equal(layer.weight, layer.weight)


def test_prior_scale_and_loc_by_name_and_kind(device):
    column = torch.arange(1.0, 9.0)
    lstm = vrnn.nn.LSTM(
        3,
        8,
        device=device,
        prior_scale={"weight_hh": column, "bias_ih_l0": 0.5},
        prior_loc={"bias": 2.0, "bias_hh_l0": -1.0},
    )
    scale = {n: lstm.prior(n).base_dist.scale for n in lstm._weight_sites}
    loc = {n: lstm.prior(n).base_dist.loc for n in lstm._weight_sites}
    assert torch.equal(scale["weight_hh_l0"], column.to(device).expand(32, 8))
    assert scale["bias_ih_l0"].unique().tolist() == [0.5]
    assert scale["weight_ih_l0"].unique().tolist() == [1.0]
    assert loc["bias_ih_l0"].unique().tolist() == [2.0]
    assert loc["bias_hh_l0"].unique().tolist() == [-1.0]
    assert loc["weight_ih_l0"].unique().tolist() == [0.0]


def test_two_biases_add_to_twice_the_variance():
    rnn = vrnn.nn.RNN(3, 8, prior_scale=0.5)
    variance = rnn.prior("bias_ih_l0").variance + rnn.prior("bias_hh_l0").variance
    assert variance.unique().tolist() == [0.5]


def test_priors_follow_the_module(device):
    lstm = vrnn.nn.LSTM(3, 8, prior_scale={"weight_hh": torch.ones(8)}).to(device).double()
    priors = [lstm.prior(name) for name in lstm._weight_sites]
    assert {p.mean.dtype for p in priors} == {torch.float64}
    assert {p.mean.device.type for p in priors} == {device.type}
    assert lstm(x.to(device).double())[0].dtype == torch.float64


def test_pyro_sample_may_replace_a_prior():
    lstm = vrnn.nn.LSTM(3, 8)
    lstm.weight_hh_l0 = PyroSample(dist.Laplace(0.0, 1.0).expand([32, 8]).to_event(2))
    site = sample_sites(lstm, x)["weight_hh_l0"]
    assert isinstance(site["fn"].base_dist, dist.Laplace)
    assert site["infer"]["weight_site"].kind == "weight_hh"


def test_a_hyperprior_is_no_weight():
    lstm = vrnn.nn.LSTM(3, 8)
    lstm.spread = PyroSample(dist.HalfNormal(1.0))
    lstm.weight_hh_l0 = PyroSample(
        lambda module: dist.Normal(0.0, module.spread).expand([32, 8]).to_event(2)
    )
    model = PyroModule()
    model.rnn = lstm
    model.forward = lambda x: model.rnn(x)
    sites = sample_sites(model, x)
    assert "weight_site" not in sites["rnn.spread"]["infer"]
    assert sites["rnn.weight_hh_l0"]["infer"]["weight_site"].kind == "weight_hh"
    assert len([s for s in sites.values() if "weight_site" in s["infer"]]) == 4
    assert lstm.weight_hh_l0.shape == (32, 8)  # outside a call too


def test_copies_are_independent():
    """A shared storage that parts on .to("cuda"), and modules that cannot be copied (blitz)."""
    lstm = vrnn.nn.LSTM(3, 8)
    twin = copy.deepcopy(lstm).double()
    assert lstm.prior("weight_hh_l0").mean.dtype == torch.float32
    assert twin.prior("weight_hh_l0").mean.dtype == torch.float64


def test_a_forward_pass_leaves_the_module_alone():
    """Better_LSTM issue 7: a pass wrote the masked weights back onto the module."""
    lstm = vrnn.nn.LSTM(3, 8)
    before = {**lstm.state_dict()}
    lstm(x)
    assert all(torch.equal(before[k], v) for k, v in lstm.state_dict().items())
    assert not list(lstm.parameters())


class Pair(PyroModule):
    """A table and an output layer that reads the same weight."""

    def __init__(self):
        super().__init__()
        self.table = vrnn.nn.Embedding(9, 3, prior_scale=0.5)
        self.out = vrnn.nn.Linear(3, 9)
        self.out.tie("weight", self.table, "weight")

    def forward(self, ids):
        return self.out(self.table(ids))


def test_a_tied_weight_is_the_owners_site():
    pair, ids = Pair(), torch.arange(4)
    sites = sample_sites(pair, ids)
    assert list(sites) == ["table.weight", "out.bias"]
    assert sites["table.weight"]["infer"]["weight_site"].kind == "linear"
    assert pair.out.prior("weight").stddev.unique().tolist() == [0.5]
    assert pair.out.site_names == {"weight": "table.weight", "bias": "out.bias"}
    assert [name for name, _ in pair.out.named_modules()] == [""]
    table, bias = sites["table.weight"]["value"], sites["out.bias"]["value"]
    y = poutine.condition(pair, {"table.weight": table, "out.bias": bias})(ids)
    torch.testing.assert_close(y, table[ids] @ table.T + bias)
    assert not [name for name in pair.state_dict() if name.endswith("out._prior_scale_weight")]


def test_a_prior_may_be_put_in_the_place_of_a_tie():
    pair = Pair()
    pair.out.weight = PyroSample(dist.Laplace(0.0, 1.0).expand([9, 3]).to_event(2))
    assert list(sample_sites(pair, torch.arange(4))) == ["table.weight", "out.weight", "out.bias"]


def tie(name="weight", owner=None, owner_name="weight"):
    layer = vrnn.nn.Linear(3, 9)
    layer.tie(name, layer if owner is None else owner, owner_name)


TIE_ERRORS = {
    "name": (lambda: tie("w"), r"one of the weights weight, bias of a Linear, got 'w'"),
    "owner-name": (
        lambda: tie(owner=vrnn.nn.Embedding(9, 3), owner_name="w"),
        r"one of the weights weight of a Embedding, got 'w'",
    ),
    "itself": (tie, r"another weight to tie 'weight' to, got itself"),
    "shape": (
        lambda: tie(owner=vrnn.nn.Linear(9, 3)),
        r"one shape, kind and number of gates, got linear \(3, 9\) .* and linear \(9, 3\)",
    ),
    "kind": (
        lambda: tie("bias", vrnn.nn.LSTM(4, 9), "bias_hh_l0"),
        r"got bias \(36,\) of 4 gates and bias \(9,\) of 1 gates",
    ),
    "already-tied": (
        lambda: tie(owner=Pair().out),
        r"one of the weights bias of a Linear, got 'weight'",
    ),
}


@pytest.mark.parametrize(("make", "message"), TIE_ERRORS.values(), ids=TIE_ERRORS)
def test_tie_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_start_from_given_values():
    layer = vrnn.nn.Linear(3, 9)
    value = torch.randn(9, 3)
    layer.start_from({"weight": value})
    expected = value.clone()
    value.zero_()
    assert torch.equal(layer._weight_sites["weight"].initial(expected.shape), expected)
    assert not torch.equal(vrnn.nn.Linear(3, 9)._weight_sites["weight"].initial((9, 3)), expected)
    with pytest.raises(ValueError, match=r"Expected weight of shape \(9, 3\), got \(3, 9\)"):
        layer.start_from({"weight": expected.T})
    with pytest.raises(ValueError, match=r"one of the weights weight, bias of a Linear, got 'w'"):
        layer.start_from({"w": expected})


STATES = {
    "layer": (lambda: vrnn.nn.LSTM(3, 8), lambda: torch.nn.LSTM(3, 8), "weight_ih_l0"),
    "nested": (
        lambda: torch.nn.ModuleDict({"a": vrnn.nn.Linear(3, 8)}),
        lambda: torch.nn.ModuleDict({"a": torch.nn.Linear(3, 8)}),
        "a.weight, a.bias",
    ),
    "tied": (
        lambda: torch.nn.ModuleList([Pair().out]),
        lambda: torch.nn.ModuleList([torch.nn.Linear(3, 9)]),
        "0.bias, 0.weight",
    ),
}


@pytest.mark.parametrize(("ours", "theirs", "names"), STATES.values(), ids=STATES)
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not-strict"])
def test_a_state_dict_of_parameters_is_refused(ours, theirs, names, strict):
    message = (
        f"Expected a state dict without {names}.* are sample sites, not parameters.*"
        r"bayesianize\(module\), or pyro_vrnn\.infer\.init_to_module\(module\)"
    )
    with pytest.raises(RuntimeError, match=message):
        ours().load_state_dict(theirs().state_dict(), strict=strict)


def test_a_state_dict_of_ours_loads():
    layer, other = vrnn.nn.Linear(3, 8, prior_scale=0.5), vrnn.nn.Linear(3, 8)
    other.load_state_dict(layer.state_dict())
    assert other.prior("weight").stddev.unique().tolist() == [0.5]
    layer.weight = torch.nn.Parameter(torch.ones(8, 3))  # not a site any more
    other.weight = torch.nn.Parameter(torch.zeros(8, 3))
    other.load_state_dict(layer.state_dict())
    assert other.weight.unique().tolist() == [1.0]


BLOCKS = {
    "weight_ih-untied": (WeightSite("weight_ih", 4), (80, 3), "untied", (20, 1)),
    "weight_ih-tied": (WeightSite("weight_ih", 4), (80, 3), "tied", (80, 1)),
    "weight_hh-untied": (WeightSite("weight_hh", 3), (60, 20), "untied", (20, 1)),
    "weight_hh-tied": (WeightSite("weight_hh", 3), (60, 20), "tied", (60, 1)),
    "one-gate": (WeightSite("weight_hh", 1), (20, 20), "untied", (20, 1)),
    "linear": (WeightSite("linear"), (7, 5), "untied", (7, 1)),
    "embedding": (WeightSite("embedding"), (9, 5), "untied", (1, 5)),
    "bias": (WeightSite("bias"), (9,), "untied", (9,)),
    "given": (WeightSite("linear", block_shape=(1, 1)), (7, 5), "tied", (1, 1)),
}


@pytest.mark.parametrize(("record", "shape", "gates", "expected"), BLOCKS.values(), ids=BLOCKS)
def test_blocks(record, shape, gates, expected):
    assert record.blocks(shape, gates) == expected


DEFAULTS = {
    "series-input": (WeightSite("weight_ih", 4, layer=0), (80, 7), 0.0),
    "eight-inputs": (WeightSite("weight_ih", 4, layer=0), (80, 8), 0.3),
    "second-layer": (WeightSite("weight_ih", 4, layer=1), (12, 3), 0.3),
    "recurrent": (WeightSite("weight_hh", 4), (12, 3), 0.3),
    "small-head": (WeightSite("linear"), (7, 90), 0.0),
    "head": (WeightSite("linear"), (8, 90), 0.3),
    "bias": (WeightSite("bias"), (90,), 0.0),
    "embedding": (WeightSite("embedding"), (90, 2), 0.3),
}


@pytest.mark.parametrize(("record", "shape", "expected"), DEFAULTS.values(), ids=DEFAULTS)
def test_default_drop_prob(record, shape, expected):
    assert record.default_drop_prob(shape, 0.3) == expected


RECORD_ERRORS = {
    "kind": (lambda: WeightSite("weight"), r"Expected kind to be one of 'weight_ih'"),
    "gates": (lambda: WeightSite("weight_hh", gates=0), r"Expected gates to be a positive int"),
    "dims": (
        lambda: WeightSite("linear").blocks((3,)),
        r"Expected a linear site of 2 dims, got shape \(3,\)",
    ),
    "rows": (
        lambda: WeightSite("weight_hh", 4).blocks((6, 2)),
        r"multiple of 4 gates, got shape \(6, 2\)",
    ),
}


@pytest.mark.parametrize(("make", "message"), RECORD_ERRORS.values(), ids=RECORD_ERRORS)
def test_record_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn", "linear", "embedding"])
def test_initialisation_has_torchs_law(kind):
    """Same bounds (uniform) or deviation (normal) as torch.nn's own initialisation."""
    makers = {
        "lstm": (vrnn.nn.LSTM, torch.nn.LSTM, (40, 50)),
        "gru": (vrnn.nn.GRU, torch.nn.GRU, (40, 50)),
        "rnn": (vrnn.nn.RNN, torch.nn.RNN, (40, 50)),
        "linear": (vrnn.nn.Linear, torch.nn.Linear, (500, 50)),
        "embedding": (vrnn.nn.Embedding, torch.nn.Embedding, (500, 50)),
    }
    ours, theirs, args = makers[kind]
    module = ours(*args)
    for name, parameter in theirs(*args).named_parameters():
        parameter = parameter.detach()
        start = module._weight_sites[name].initial(parameter.shape)
        n = parameter.numel()
        # Standard error of a standard deviation, at most that of a normal: sd / sqrt(2 n).
        bound = 4.26 * 2 * float(parameter.std()) / (2 * n) ** 0.5
        assert abs(float(start.std()) - float(parameter.std())) < bound, name
        if kind != "embedding":
            # Bounded by the same 1/sqrt(fan).
            assert abs(float(start.abs().max() / parameter.abs().max()) - 1) < 0.2, name
