"""Where the guide starts, its mean and median, and its scale."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.infer.autoguide import init_to_value

import pyro_vrnn as vrnn
from tests.infer.cases import by_hand, classifier, small, standard_error

Guide = vrnn.infer.AutoSpikeAndSlab
drops = pytest.mark.parametrize("p", [0.0, 0.25, 0.75])


@drops
def test_mean_is_the_initial_weight(p):
    """E w = (1 - p) loc = W for a weight W given by name."""
    model, x, y = small()
    start = {
        "rnn.weight_hh_l0": torch.randn(20, 5).double(),
        "rnn.bias_hh_l0": torch.randn(20).double(),
    }
    guide = Guide(model, drop_prob=p, init_loc_fn=init_to_value(values=start))
    mean = guide.mean(x, y)
    for name, weight in start.items():
        torch.testing.assert_close(mean[name], weight, rtol=1e-14, atol=0)
        assert guide.distribution(name).loc.requires_grad
    loc = guide.distribution("rnn.weight_hh_l0").loc
    torch.testing.assert_close(loc, start["rnn.weight_hh_l0"] / (1 - p), rtol=1e-14, atol=0)
    assert torch.equal(guide.distribution("rnn.bias_hh_l0").loc, start["rnn.bias_hh_l0"])


@drops
def test_default_start_has_torchs_bound(p):
    """U(+-1/sqrt(H)) whatever p is: after the division by 1 - p it would be wider."""
    model = vrnn.models.SequenceRegression(vrnn.nn.LSTM(8, 16), 9)
    mean = Guide(model, drop_prob=p).mean(torch.zeros(2, 3, 8), torch.zeros(2, 9))
    for name, weight in mean.items():
        largest = float(weight.abs().max())
        assert 0.6 / 4 < largest <= 1 / 4 * (1 + 1e-6), name


def test_start_does_not_alias_what_was_given():
    given = torch.randn(5, 5)
    init = init_to_value(values={"w_hh": given})
    guide = Guide(by_hand, drop_prob=0.0, block_shapes={"head": (5,)}, init_loc_fn=init)
    guide(torch.zeros(4, 6, 8), torch.zeros(4))
    before = given.clone()
    with torch.no_grad():
        guide.locs.w_hh_unconstrained.add_(1.0)
    assert torch.equal(given, before)


def test_latent_without_a_record_starts_from_its_prior():
    guide = Guide(by_hand, drop_prob=0.0, block_shapes={"head": (5,)})
    starts = []
    for seed in range(2):
        pyro.set_rng_seed(seed)
        guide = Guide(by_hand, block_shapes={"head": (5,)})
        starts.append(guide.mean(torch.zeros(4, 6, 8), torch.zeros(4))["head"])
    assert not torch.equal(*starts)


def test_init_to_module_with_a_prefix():
    """The rnn starts from the trained one; the head, outside the prefix, from torch's law."""
    model, ids, y = classifier("gru", dtype=torch.float64)
    gru = torch.nn.GRU(8, 5, 2, bidirectional=True)  # float32: cast to the model's type
    init = vrnn.infer.init_to_module(gru, prefix="rnn.")
    mean = Guide(model, drop_prob=0.5, init_loc_fn=init).mean(ids, y)
    for name, value in gru.named_parameters():
        torch.testing.assert_close(mean[f"rnn.{name}"], value.detach().double())
    assert mean["head.weight"].abs().max() <= 10**-0.5 * (1 + 1e-6)


def test_init_to_module_is_a_snapshot():
    """The module may be trained on, or freed, after the call."""
    model, x, y = small("gru")
    gru = torch.nn.GRU(8, 5).double()
    before = gru.weight_hh_l0.detach().clone()
    guide = Guide(model, init_loc_fn=vrnn.infer.init_to_module(gru, prefix="rnn."))
    torch.nn.init.zeros_(gru.weight_hh_l0)
    mean = guide.mean(x, y)["rnn.weight_hh_l0"]
    torch.testing.assert_close(mean, before, rtol=1e-14, atol=0)


class Twin(torch.nn.Module):
    """The plain network of the small model, under the same names."""

    def __init__(self, inputs=8, bias=True):
        super().__init__()
        self.rnn = torch.nn.LSTM(inputs, 5, bias=bias)
        self.head = torch.nn.Linear(5, 1)


def test_init_to_module_without_a_prefix():
    model, x, y = small(dtype=torch.float32)
    twin = Twin()
    guide = Guide(model, drop_prob=0.5, init_loc_fn=vrnn.infer.init_to_module(twin))
    mean = guide.mean(x, y)
    with torch.no_grad():
        _, (h, _) = twin.rnn(x.transpose(0, 1))
        expected = twin.head(h[-1])
    actual = pyro.poutine.condition(model, mean)(x)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


INITIAL = {
    "missing": (Twin(bias=False), "", r"parameter 'rnn.bias_ih_l0' for site .*got a module with"),
    "other-size": (
        Twin(inputs=3),
        "",
        r"value of 'rnn.weight_ih_l0' of shape \(20, 8\), .*\(20, 3",
    ),
    "unused-prefix": (
        Twin(),
        "lstm.",
        r"Expected a site under prefix 'lstm.', got sites rnn.weight_ih_l0, ",
    ),
    "wrong-prefix": (Twin(), "rnn.", r"Expected a parameter 'weight_ih_l0' for site 'rnn.weight_i"),
}


@pytest.mark.parametrize(("module", "prefix", "message"), INITIAL.values(), ids=INITIAL)
def test_init_to_module_errors(module, prefix, message):
    model, x, y = small()
    guide = Guide(model, init_loc_fn=vrnn.infer.init_to_module(module, prefix))
    with pytest.raises(ValueError, match=message):
        guide(x, y)


def test_initial_value_that_is_not_finite():
    model, x, y = small()
    init = init_to_value(values={"head.bias": torch.tensor([float("nan")])})
    with pytest.raises(ValueError, match=r"initial value of 'head.bias' to be finite, got nan"):
        Guide(model, init_loc_fn=init)(x, y)


def test_median_is_not_the_mean_and_halves_the_draws():
    """P(w < median) = 1/2 for every weight: near the spike, between, and at the slab."""
    p, draws = 0.4, 20_000
    start = {"w_hh": (1 - p) * torch.linspace(-3, 3, 25).reshape(5, 5)}
    guide = Guide(
        by_hand,
        drop_prob=p,
        scale=0.5,
        block_shapes={"head": (1,)},
        init_loc_fn=init_to_value(values=start),
    )
    args = torch.zeros(4, 6, 8), torch.zeros(4)
    median, mean = guide.median(*args)["w_hh"], guide.mean()["w_hh"]
    sample = guide.distribution("w_hh").sample((draws,))
    below = (sample < median).double().mean(0)
    assert (below - 0.5).abs().max() < 4.26 * standard_error(0.5, draws)
    assert (median - mean).abs().max() > 0.3
    assert not median.requires_grad


def step(model, guide, *args):
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), TraceMeanField_ELBO())
    return [svi.step(*args) for _ in range(3)]


def test_learned_scale_is_elementwise_and_moves():
    model, x, y = small()
    guide = Guide(model, learn_scale=True, scale={"weight_hh": 0.3})
    guide(x, y)
    start = {name: guide.distribution(name).scale.detach().clone() for name in guide.sites}
    for name, scale in start.items():
        assert scale.shape == guide.sites[name].shape
        expected = 0.3 if "weight_hh" in name else 0.01
        torch.testing.assert_close(scale, torch.full_like(scale, expected))
    step(model, guide, x, y)
    for name, scale in start.items():
        moved = guide.distribution(name).scale.detach()
        assert (moved > 0).all()
        assert (moved != scale).all()


def test_fixed_scale_is_no_parameter_and_stays():
    model, x, y = small()
    guide = Guide(model, scale=0.03)
    guide(x, y)
    assert sorted(n for n, _ in guide.named_parameters()) == sorted(
        f"locs.{name}_unconstrained" for name in guide.sites
    )
    step(model, guide, x, y)
    for name in guide.sites:
        assert guide.distribution(name).scale.tolist() == 0.03
