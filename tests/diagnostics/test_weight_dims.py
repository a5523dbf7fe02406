import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vrnn as vrnn
from pyro_vrnn import from_pyro_svi
from pyro_vrnn.diagnostics._weight_dims import weight_dims
from pyro_vrnn.distributions.weight_site import WeightSite


def dims_of(weights, taken=()):
    return {name: found.names for name, found in weight_dims(weights, taken).items()}


LSTM = {
    "rnn.weight_ih_l0": (WeightSite("weight_ih", gates=4), (20, 5)),
    "rnn.weight_hh_l0": (WeightSite("weight_hh", gates=4), (20, 5)),
    "rnn.bias_ih_l0": (WeightSite("bias", gates=4), (20,)),
    "head.weight": (WeightSite("linear"), (5, 5)),
    "head.bias": (WeightSite("bias"), (5,)),
    "embedding.weight": (WeightSite("embedding"), (9, 5)),
}


def test_dims_say_what_they_count():
    """Input, unit and output are of one size here: names must not go by it."""
    assert dims_of(LSTM) == {
        "rnn.weight_ih_l0": ("gate", "unit", "rnn.weight_ih_l0_input"),
        "rnn.weight_hh_l0": ("gate", "unit", "previous_unit"),
        "rnn.bias_ih_l0": ("gate", "unit"),
        "head.weight": ("head_output", "head_input"),
        "head.bias": ("head_output",),
        "embedding.weight": ("embedding_row", "embedding_feature"),
    }


def test_two_recurrent_modules_have_dims_of_their_own():
    weights = {
        "encoder.weight_hh_l0": (WeightSite("weight_hh", gates=4), (20, 5)),
        "decoder.weight_hh_l0": (WeightSite("weight_hh", gates=3), (15, 5)),
    }
    assert dims_of(weights) == {
        "encoder.weight_hh_l0": ("encoder_gate", "encoder_unit", "encoder_previous_unit"),
        "decoder.weight_hh_l0": ("decoder_gate", "decoder_unit", "decoder_previous_unit"),
    }


@pytest.mark.parametrize(
    ("bias", "expected"),
    [("rnn.bias_hh_l0", ("unit",)), ("head.bias", ("head_output",))],
    ids=["rnn", "head"],
)
def test_a_bias_without_gates_goes_by_its_module(bias, expected):
    weights = {
        "rnn.weight_hh_l0": (WeightSite("weight_hh"), (5, 5)),
        "head.weight": (WeightSite("linear"), (5, 5)),
        bias: (WeightSite("bias"), (5,)),
    }
    assert dims_of(weights)[bias] == expected


def test_names_that_do_not_fit_or_are_taken_are_the_sites_own():
    weights = {
        "u": (WeightSite("weight_hh", gates=4), (20, 5)),
        "v": (WeightSite("weight_hh", gates=4), (24, 6)),
    }
    assert dims_of(weights, taken=["gate"]) == {
        "u": ("u_gate", "u_unit", "u_previous_unit"),
        "v": ("v_gate", "v_unit", "v_previous_unit"),
    }


@pytest.mark.parametrize(
    ("record", "shape"),
    [(WeightSite("weight_hh", gates=4), (21, 5)), (WeightSite("linear"), (2, 3, 4))],
    ids=["gates", "dims"],
)
def test_a_weight_of_another_shape_than_its_kind_is_left_out(record, shape):
    assert dims_of({"w": (record, shape)}) == {}


@pytest.mark.parametrize(
    ("cell", "labels"), [("LSTM", list("ifgo")), ("GRU", list("rzn"))], ids=["LSTM", "GRU"]
)
def test_a_gate_is_selected_by_its_letter(cell, labels):
    """The forget gate's rows of torch's matrix, S = gates = units = inputs among the sizes."""
    torch.manual_seed(0)
    size = len(labels)
    model = vrnn.models.SequenceRegression(getattr(vrnn.nn, cell)(size, size), size)
    guide = vrnn.infer.AutoSpikeAndSlab(model, scale=1e-6, drop_prob=0.0)
    args = torch.randn(size, 3, size), torch.randn(size, size)
    guide(*args)
    data = from_pyro_svi(model, guide, model_args=args, num_samples=size)
    posterior = data["posterior"]
    for name in ("rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_hh_l0"):
        loc = guide.median()[name].detach().numpy()
        assert posterior[name]["gate"].values.tolist() == labels
        got = posterior[name].sel(gate=labels[1]).values[0, -1]
        np.testing.assert_allclose(got, loc[size : 2 * size], atol=1e-4)
    assert posterior["head.weight"].dims == ("chain", "draw", "head_output", "head_input")


def test_layers_and_kinds_are_coordinates_of_sites():
    model = vrnn.models.SequenceRegression(vrnn.nn.GRU(2, 3, num_layers=2, bidirectional=True), 1)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    args = torch.zeros(2, 4, 2), torch.zeros(2, 1)
    guide(*args)
    data = from_pyro_svi(model, guide, model_args=args, num_samples=4)
    norm = data["sample_stats"]["norm"]
    by_site = dict(zip(norm["site"].values, norm["layer"].values, strict=True))
    assert by_site["rnn.weight_ih_l1_reverse"] == "rnn.l1_reverse"
    assert by_site["rnn.bias_hh_l0"] == "rnn.l0"
    assert by_site["head.weight"] == by_site["head.bias"] == "head"
    kinds = dict(zip(norm["site"].values, norm["weight_kind"].values, strict=True))
    assert kinds["rnn.weight_ih_l1_reverse"] == "weight_ih"
    draw = data["posterior"]["rnn.weight_hh_l1"].values[0, 2]
    expected = np.linalg.norm(draw.astype(np.float64))
    np.testing.assert_allclose(norm.sel(site="rnn.weight_hh_l1").values[0, 2], expected)


def test_names_of_a_weight_given_by_the_caller_are_those_of_torchs_matrix():
    model = vrnn.models.SequenceRegression(vrnn.nn.LSTM(2, 3), 1)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    args = torch.zeros(2, 4, 2), torch.zeros(2, 1)
    guide(*args)
    name = "rnn.weight_hh_l0"
    data = from_pyro_svi(
        model, guide, model_args=args, num_samples=2, dims={name: ["row", "column"]}
    )
    assert dict(data["posterior"][name].sizes) == {"chain": 1, "draw": 2, "row": 12, "column": 3}


def test_event_dims_in_the_infer_dictionary_are_names():
    def model(y):
        prior = dist.Normal(torch.zeros(3), 1.0).to_event(1)
        w = pyro.sample("w", prior, infer={"event_dims": ["place"]})
        pyro.sample("obs", dist.Normal(w.sum(), 1.0), obs=y)

    guide = pyro.infer.autoguide.AutoNormal(model)
    data = from_pyro_svi(model, guide, model_args=(torch.tensor(0.0),), num_samples=2)
    assert data["posterior"]["w"].dims == ("chain", "draw", "place")


@pytest.mark.parametrize(
    ("make", "y", "expected"),
    [
        (
            lambda: vrnn.models.SequenceRegression(vrnn.nn.GRU(1, 3), 2),
            torch.zeros(5, 2),
            {"loc": ("sequence", "output"), "obs": ("sequence", "output")},
        ),
        (
            lambda: vrnn.models.SequenceClassification(vrnn.nn.GRU(1, 3), 2),
            torch.zeros(5, dtype=torch.int64),
            {"logits": ("sequence", "category"), "obs": ("sequence",)},
        ),
        (
            lambda: vrnn.models.Forecaster(vrnn.nn.GRU(1, 3), 2),
            torch.zeros(5, 2),
            {"loc": ("sequence", "horizon"), "obs": ("sequence", "horizon")},
        ),
    ],
    ids=["regression", "classification", "forecaster"],
)
def test_our_models_name_the_dims_of_their_data(make, y, expected):
    model = make()
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    args = torch.zeros(5, 4, 1), y
    guide(*args)
    data = from_pyro_svi(model, guide, model_args=args, num_samples=2, constant_data=True)
    found = {n: v.dims[2:] for n, v in data["posterior_predictive"].data_vars.items()}
    assert found == expected
    assert data["constant_data"]["x"].dims == ("sequence", "time", "feature")
    assert list(data["constant_data"].data_vars) == ["x"]


def test_the_caller_comes_before_the_model_and_none_keeps_its_name():
    model = vrnn.models.SequenceRegression(vrnn.nn.GRU(1, 3), 2)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    args = torch.zeros(5, 4, 1), torch.zeros(5, 2)
    guide(*args)
    data = from_pyro_svi(
        model, guide, model_args=args, num_samples=2, dims={"obs": [None, "quantity"]}
    )
    assert data["observed_data"]["obs"].dims == ("sequence", "quantity")
