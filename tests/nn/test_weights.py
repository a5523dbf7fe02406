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
