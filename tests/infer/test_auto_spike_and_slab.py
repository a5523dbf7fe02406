"""What the guide drops together, how often, and what it refuses."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vrnn as vrnn
from pyro_vrnn.distributions import WeightSite
from tests.infer.cases import (
    CELLS,
    always_slab,
    by_hand,
    classifier,
    dropped,
    small,
    standard_error,
    weight,
)

Guide = vrnn.infer.AutoSpikeAndSlab
GATES = ("tied", "untied")
cells = pytest.mark.parametrize("cell", list(CELLS))
gates = pytest.mark.parametrize("gates", GATES)
RECURRENT = ["weight_ih_l0", "weight_hh_l0", "weight_ih_l1_reverse", "weight_hh_l1_reverse"]


def built(model, *args, **kwargs):
    guide = Guide(model, **kwargs)
    guide(*args)
    return guide


@cells
@gates
def test_block_of_each_site(cell, gates):
    model, ids, y = classifier(cell)
    sites = built(model, ids, y, gates=gates, drop_prob=0.3).sites
    g = CELLS[cell][1]
    column = (5, 1) if gates == "untied" else (5 * g, 1)
    for layer in ("l0", "l0_reverse", "l1", "l1_reverse"):
        for kind in ("weight_ih", "weight_hh"):
            site = sites[f"rnn.{kind}_{layer}"]
            assert (site.block_shape, site.drop_prob) == (column, 0.3)
        for kind in ("bias_ih", "bias_hh"):
            site = sites[f"rnn.{kind}_{layer}"]
            assert (site.block_shape, site.drop_prob) == ((5 * g,), 0.0)
    assert sites["rnn.weight_ih_l1_reverse"].shape == (5 * g, 10)
    assert (sites["embedding.weight"].block_shape, sites["embedding.weight"].drop_prob) == (
        (1, 8),
        0.3,
    )
    assert (sites["head.weight"].block_shape, sites["head.weight"].drop_prob) == ((9, 1), 0.3)
    assert (sites["head.bias"].block_shape, sites["head.bias"].drop_prob) == ((9,), 0.0)
    assert len(sites) == 16 + 3


@cells
@gates
@pytest.mark.parametrize("name", RECURRENT)
def test_columns_of_recurrent_weights_are_dropped(cell, gates, name):
    """
    Salesforce's weight_drop and SuperNNova drop rows; fastai and PyTorch-NLP forget `_reverse`.

    A column goes whole (in a gate, or in all), at rate p, apart from other columns and gates.
    """
    g, p, draws = CELLS[cell][1], 0.3, 300
    model, ids, y = classifier(cell)
    guide = always_slab(built(model, ids, y, gates=gates, drop_prob=p))
    zeros = dropped(guide, f"rnn.{name}", draws).unflatten(1, (g, 5))  # (draws, G, H, columns)
    assert torch.equal(zeros.all(2), zeros.any(2))  # no part of a column by itself
    columns = zeros[:, :, 0].double()  # (draws, G, columns)
    blocks = columns if gates == "untied" else columns[:, :1]
    assert abs(columns.mean() - p) < 4.26 * standard_error(p, blocks.numel())
    if g > 1:
        both = (columns[:, 0] * columns[:, 1]).mean()
        expected = p if gates == "tied" else p * p
        assert abs(both - expected) < 4.26 * standard_error(expected, draws * columns.shape[-1])
    neighbours = (blocks[..., :-1] * blocks[..., 1:]).mean()
    count = draws * blocks.shape[1] * (blocks.shape[2] // 2)
    assert abs(neighbours - p * p) < 4.26 * standard_error(p * p, count)


def test_the_two_directions_and_layers_have_masks_of_their_own():
    p, draws = 0.5, 400
    model, ids, y = classifier("rnn")
    guide = always_slab(built(model, ids, y, drop_prob=p))
    with pyro.plate("draws", draws):
        values = guide()
    masks = [values[f"rnn.weight_hh_{layer}"][:, 0] < 50 for layer in ("l0", "l0_reverse", "l1")]
    for other in masks[1:]:
        both = (masks[0] & other).double().mean()
        assert abs(both - p * p) < 4.26 * standard_error(p * p, draws * 5)


def test_rows_of_an_embedding_are_dropped():
    """The AWD family masks by token: here each word type goes whole, in all its occurrences."""
    p, draws = 0.3, 400
    model, ids, y = classifier()
    zeros = dropped(always_slab(built(model, ids, y, drop_prob=p)), "embedding.weight", draws)
    assert torch.equal(zeros.all(2), zeros.any(2))
    assert not zeros.all(1).all()
    assert abs(zeros[..., 0].double().mean() - p) < 4.26 * standard_error(p, draws * 7)


def test_columns_of_a_linear_layer_are_dropped():
    p, draws = 0.3, 400
    model, ids, y = classifier()
    zeros = dropped(always_slab(built(model, ids, y, drop_prob=p)), "head.weight", draws)
    assert torch.equal(zeros.all(1), zeros.any(1))
    assert abs(zeros[:, 0].double().mean() - p) < 4.26 * standard_error(p, draws * 10)


def test_biases_are_never_dropped():
    model, ids, y = classifier()
    guide = always_slab(built(model, ids, y, drop_prob=0.9))
    for name in (n for n in guide.sites if "bias" in n):
        assert not dropped(guide, name, 30).any()


OPTIONS = {
    "no-bias": {"bias": False},
    "batch-first": {"batch_first": True},
    "one-way": {"bidirectional": False},
    "one-layer": {"num_layers": 1},
}


@gates
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_gate_sharing_depends_on_gates_alone(gates, options):
    """TensorFlow issue 35724: another argument of the layer switched the sharing."""
    kwargs = {"num_layers": 2, "bidirectional": True, **options}
    model = vrnn.models.SequenceRegression(vrnn.nn.LSTM(8, 5, **kwargs), 9)
    guide = built(model, torch.zeros(4, 6, 8), torch.zeros(4, 9), gates=gates, drop_prob=0.5)
    always_slab(guide)
    for name in (n for n in guide.sites if "weight_hh" in n or "weight_ih" in n):
        mask = dropped(guide, name, 30)[:, ::5]  # the first row of each of four gates
        assert bool((mask == mask[:, :1]).all()) == (gates == "tied")
    assert any("bias_ih" in name for name in guide.sites) == kwargs.get("bias", True)


def test_masks_are_fresh_at_each_call():
    """TensorFlow issue 29391: a layer kept the mask of the call before."""
    model, ids, y = classifier()
    guide = always_slab(built(model, ids, y, drop_prob=0.5))
    masks = [guide()["rnn.weight_hh_l0"] < 50 for _ in range(20)]
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 20


@pytest.mark.parametrize("outputs", [7, 8])
@pytest.mark.parametrize("inputs", [7, 8])
def test_few_inputs_or_outputs_are_not_dropped_by_a_float(inputs, outputs):
    model = vrnn.models.SequenceRegression(vrnn.nn.GRU(inputs, 3, 2), outputs)
    args = torch.zeros(2, 4, inputs), torch.zeros(2, outputs)
    sites = built(model, *args, drop_prob=0.4).sites
    assert sites["rnn.weight_ih_l0"].drop_prob == (0.4 if inputs == 8 else 0.0)
    assert sites["rnn.weight_ih_l1"].drop_prob == 0.4
    assert sites["rnn.weight_hh_l0"].drop_prob == 0.4
    assert sites["head.weight"].drop_prob == (0.4 if outputs == 8 else 0.0)


def test_drop_prob_by_site_before_kind_before_default():
    model = vrnn.models.SequenceRegression(vrnn.nn.GRU(1, 3, 2), 1)
    given = {"weight_ih": 0.1, "weight_hh": 0.2, "rnn.weight_hh_l1": 0.6}
    sites = built(model, torch.zeros(2, 4, 1), torch.zeros(2, 1), drop_prob=given).sites
    assert sites["rnn.weight_ih_l0"].drop_prob == 0.1  # as given, though there is one input
    assert sites["rnn.weight_hh_l0"].drop_prob == 0.2
    assert sites["rnn.weight_hh_l1"].drop_prob == 0.6
    assert sites["head.weight"].drop_prob == 0.0  # not named: 0.25, but for one output
    assert sites["head.bias"].drop_prob == 0.0


def test_drop_prob_of_sites_not_named():
    model, ids, y = classifier()
    sites = built(model, ids, y, drop_prob={"rnn.weight_hh_l0": 0.0, "bias": 0.0}).sites
    assert sites["rnn.weight_hh_l0"].drop_prob == 0.0
    assert {sites[n].drop_prob for n in ("rnn.weight_hh_l1", "head.weight")} == {0.25}


def test_scale_by_site_and_kind():
    model, ids, y = classifier()
    guide = built(model, ids, y, scale={"weight_hh": 0.1, "rnn.weight_hh_l1": 0.2})
    scales = {name: float(guide.distribution(name).scale) for name in guide.sites}
    assert scales["rnn.weight_hh_l0_reverse"] == pytest.approx(0.1)
    assert scales["rnn.weight_hh_l1"] == pytest.approx(0.2)
    assert scales["head.weight"] == pytest.approx(0.01)
    assert all(guide.sites[n].scale == pytest.approx(s) for n, s in scales.items())


def test_model_written_by_hand():
    x, y = torch.randn(4, 6, 8), torch.randn(4)
    guide = built(by_hand, x, y, block_shapes={"head": (1,)}, drop_prob=0.5)
    blocks = {n: (s.kind, s.block_shape, s.drop_prob) for n, s in guide.sites.items()}
    assert blocks == {
        "w_ih": ("weight_ih", (5, 1), 0.5),
        "w_hh": ("weight_hh", (5, 1), 0.5),
        "head": ("", (1,), 0.5),
    }
    zeros = dropped(always_slab(guide), "head", 40)
    assert zeros.any(0).all()
    assert not zeros.all(0).any()
    svi = pyro.infer.SVI(
        by_hand, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.TraceMeanField_ELBO()
    )
    assert svi.step(x, y) < 1e6
    assert pyro.infer.Predictive(by_hand, guide=guide, num_samples=3)(x)["obs"].shape == (3, 4)


def test_block_shapes_replace_the_records():
    """DropConnect: every weight a block."""
    model, ids, y = classifier()
    guide = built(model, ids, y, block_shapes={"rnn.weight_hh_l0": (1, 1)}, drop_prob=0.5)
    zeros = dropped(always_slab(guide), "rnn.weight_hh_l0", 20)
    assert not torch.equal(zeros.all(1), zeros.any(1))
    frequency = zeros.double().mean()
    assert abs(frequency - 0.5) < 4.26 * standard_error(0.5, zeros.numel())


ARGUMENTS = {
    "p=1": ({"drop_prob": 1.0}, ValueError, r"Expected drop_prob in \[0, 1\), got 1"),
    "p>1": ({"drop_prob": 1.3}, ValueError, r"Expected drop_prob in \[0, 1\), got 1.3"),
    "p<0": ({"drop_prob": -0.1}, ValueError, r"Expected drop_prob in \[0, 1\), got -0.1"),
    "p-nan": ({"drop_prob": float("nan")}, ValueError, r"Expected drop_prob in \[0, 1\), got nan"),
    "p-text": ({"drop_prob": "0.2"}, TypeError, r"Expected drop_prob to be a number.*'0.2'"),
    "p-in-dict": (
        {"drop_prob": {"bias": 1.5}},
        ValueError,
        r"Expected drop_prob\['bias'\] in \[0, 1\), got 1.5",
    ),
    "scale=0": (
        {"scale": 0, "learn_scale": True},
        ValueError,
        r"Expected scale, which is learned, to be a positive number, got 0",
    ),
    "scale<0": ({"scale": {"bias": -1.0}}, ValueError, r"Expected scale\['bias'\] .*, got -1.0"),
    "scale-inf": ({"scale": float("inf")}, ValueError, r"Expected scale .*at least 0, got inf"),
    "gates": ({"gates": "both"}, ValueError, r"Expected gates to be one of 'tied', 'untied'"),
    "scope": ({"scope": "step"}, ValueError, r"Expected scope to be one of 'batch', 'sequence'"),
}


@pytest.mark.parametrize(("kwargs", "error", "message"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments(kwargs, error, message):
    with pytest.raises(error, match=message):
        Guide(by_hand, **kwargs)


NAMES = {
    "drop_prob": ({"drop_prob": {"rnn.weight_xx": 0.1}}, r"names in drop_prob .* 'rnn.weight_xx'"),
    "scale": ({"scale": {"weights": 0.1}}, r"names in scale .* got 'weights'"),
    "block_shapes": ({"block_shapes": {"bias": (1,)}}, r"names in block_shapes .* got 'bias'"),
    "tiles": (
        {"block_shapes": {"head.weight": (2, 1)}},
        r"Expected a block shape of 'head.weight' that tiles \(9, 10\), got \(2, 1\)",
    ),
    "dims": ({"block_shapes": {"head.weight": (10,)}}, r"'head.weight' .* \(9, 10\), got \(10,\)"),
    "no-tuple": ({"block_shapes": {"head.weight": 3}}, r"'head.weight' .* \(9, 10\), got 3"),
    "empty": ({"block_shapes": {"head.weight": (0, 1)}}, r"\(9, 10\), got \(0, 1\)"),
}


@pytest.mark.parametrize(("kwargs", "message"), NAMES.values(), ids=NAMES)
def test_names_and_blocks_are_checked_at_the_first_call(kwargs, message):
    model, ids, y = classifier()
    with pytest.raises(ValueError, match=message):
        Guide(model, **kwargs)(ids, y)


def unknown_latent(x, y=None):
    pyro.sample("rate", dist.Gamma(1.0, 1.0))
    return by_hand(x, y)


def read_in_a_plate(x, y=None):
    with pyro.plate("data", len(x)):
        weight("w", (3,), WeightSite("bias"))


def no_event(x, y=None):
    weights = pyro.plate("rows", 3, dim=-2), pyro.plate("columns", 2, dim=-1)
    with weights[0], weights[1]:
        pyro.sample("w", dist.Normal(0.0, 1.0), infer={"weight_site": WeightSite("linear")})


def batched(x, y=None):
    prior = dist.Normal(0.0, 1.0).expand([3, 2]).to_event(1).mask(False)
    pyro.sample("w", prior, infer={"weight_site": WeightSite("bias"), "is_auxiliary": True})


def wrong_record(x, y=None):
    pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1), infer={"weight_site": "bias"})


def nested_names(x, y=None):
    weight("w", (3,), WeightSite("bias"))
    weight("w.b", (3,), WeightSite("bias"))


def name_of_a_method(x, y=None):
    weight("forward", (3,), WeightSite("bias"))


def positive(x, y=None):
    prior = dist.HalfNormal(1.0).expand([3]).to_event(1)
    pyro.sample("w", prior, infer={"weight_site": WeightSite("bias")})


LATENTS = {
    "positive": (
        positive,
        ValueError,
        r"'w' to have a prior on all real numbers, got support .*: guide it .* AutoGuideList",
    ),
    "unknown": (unknown_latent, ValueError, r"every latent to be a known weight, got 'rate'"),
    "in-a-plate": (read_in_a_plate, ValueError, r"weight 'w' outside any plate, .* inside 'data'"),
    "in-two-plates": (no_event, ValueError, r"weight 'w' outside any plate, .* 'rows', 'columns'"),
    "record": (wrong_record, TypeError, r"of site 'w' to be a WeightSite, got str"),
    "nested": (nested_names, ValueError, r"no other site or attribute .* got 'w.b' \('w' is taken"),
    "method": (name_of_a_method, ValueError, r"got 'forward' \('forward' is taken\)"),
}


@pytest.mark.parametrize(("model", "error", "message"), LATENTS.values(), ids=LATENTS)
def test_latents_are_refused_by_name(model, error, message):
    with pytest.raises(error, match=message):
        Guide(model, block_shapes={"head": (5,)} if model is unknown_latent else None)(
            torch.zeros(4, 6, 8), torch.zeros(4)
        )


def test_weight_that_is_not_one_event():
    with (
        pyro.validation_enabled(False),
        pytest.raises(ValueError, match=r"'w' to be one event \(use .to_event\), .* shape \(3,\)"),
    ):
        Guide(batched)(torch.zeros(4, 6, 8), torch.zeros(4))


def test_our_layers_inside_a_plate_are_refused():
    layer = vrnn.nn.LSTM(8, 5)

    def model(x):
        with pyro.plate("data", x.shape[1]):
            layer(x)

    with (
        pyro.validation_enabled(False),
        pytest.raises(ValueError, match=r"'weight_ih_l0' outside any plate.*before the data plate"),
    ):
        Guide(model)(torch.zeros(6, 4, 8))


def test_observations_left_out_at_the_first_call():
    """They would count as a latent. The next call, with them, builds the guide."""
    model, x, y = small()
    guide = Guide(model)
    with pytest.raises(ValueError, match=r"'obs' to be observed.*: is y missing\?"):
        guide(x)
    assert set(guide(x, y)) == set(guide.sites)
    assert len(guide.sites) == 6


def test_distribution():
    model, x, y = small()
    guide = Guide(model, drop_prob=0.4, scale=0.2)
    with pytest.raises(RuntimeError, match=r"got a guide without sites: first call the guide once"):
        guide.distribution("head.bias")
    guide(x, y)
    with pytest.raises(KeyError, match=r"Expected one of the sites \['rnn.*, got 'head.bais'"):
        guide.distribution("head.bais")
    q = guide.distribution("rnn.weight_hh_l0")
    assert isinstance(q, vrnn.distributions.SpikeAndSlab)
    assert (q.event_shape, q.batch_shape, q.block_shape) == ((20, 5), (), (5, 1))
    assert q.drop_prob == 0.4
    assert torch.equal(q.scale, torch.tensor(0.2, dtype=torch.float64))
    assert q.loc.requires_grad
    assert isinstance(guide, pyro.infer.autoguide.AutoGuide)
