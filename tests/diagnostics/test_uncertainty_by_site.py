"""Variances with one part of the weights random: against linear models, and by hand."""

from __future__ import annotations

import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule

import pyro_vrnn as vrnn
from pyro_vrnn.diagnostics import elbo_anatomy, uncertainty_by_site


class Sum(PyroModule):
    """Two linear layers side by side: a prediction that is linear in each, and in both."""

    def __init__(self):
        super().__init__()
        self.one = vrnn.nn.Linear(8, 9, bias=False, dtype=torch.float64)
        self.other = vrnn.nn.Linear(8, 9, bias=False, dtype=torch.float64)

    def forward(self, x, y=None):
        loc = self.one(x) + self.other(x)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("obs", dist.Normal(loc, 1.0).to_event(1), obs=y)
        return loc


class PlainSum(torch.nn.Module):
    def __init__(self, one, other):
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x):
        return self.one(x) + self.other(x)


Sum.plain_twin = lambda self, children: PlainSum(**children)


def sums(**kwargs):
    pyro.set_rng_seed(0)
    model = Sum()
    guide = vrnn.infer.AutoSpikeAndSlab(model, **kwargs)
    x = torch.randn(4, 8, dtype=torch.float64)
    guide(x, torch.randn(4, 9, dtype=torch.float64))
    return model, guide, x


def regression(cell, layers=2, **kwargs):
    pyro.set_rng_seed(0)
    rnn = cell(8, 5, layers, dtype=torch.float64)
    model = vrnn.models.SequenceRegression(rnn, 9)
    guide = vrnn.infer.AutoSpikeAndSlab(model, **kwargs)
    x = torch.randn(4, 6, 8, dtype=torch.float64)
    guide(x, torch.randn(4, 9, dtype=torch.float64))
    return model, guide, x


def test_linear_sums_add_up():
    """Only there: parts that enter a linear prediction apart. Variances are those of q."""
    model, guide, x = sums(scale=0.1)
    count = 400
    found = uncertainty_by_site(model, guide, x, num_samples=count)
    assert found.names == ("one.weight", "other.weight")
    exact = torch.stack(
        [_linear_variance(guide.distribution(name), x) for name in found.names]
    ).detach()
    # Sums of 8 bounded terms and noise have a kurtosis of at most 3 + 2: Var s^2 <= 4 var^2 / S.
    bound = 4.26 * (4 / count) ** 0.5
    assert ((found.variance / exact - 1).abs() < bound).all()
    assert ((found.total / exact.sum(0) - 1).abs() < bound).all()
    total = sum(found.shares().values())
    assert total == pytest.approx(1.0, abs=bound)


def _linear_variance(q, x):
    """Var of x W^T where columns of W share a mask: columns are independent."""
    column = x.unsqueeze(1).square()  # (N, 1, D)
    return (column * q.variance).sum(-1)


def test_draws_are_shared_and_put_back_by_hand():
    """Draw s of a part is draw s of all weights, with the others at their means."""
    model, guide, x = regression(vrnn.nn.LSTM, scale=0.1)
    found = uncertainty_by_site(model, guide, x, num_samples=6, by="gate", seed=3, without=True)
    torch.manual_seed(3)
    means = guide.mean()
    draws = [{n: guide.distribution(n).sample() for n in guide.sites} for _ in range(6)]
    name, rows = "rnn.weight_hh_l1", slice(5, 10)  # gate f of i, f, g, o
    only, without, whole = [], [], []
    for draw in draws:
        weight = means[name].clone()
        weight[rows] = draw[name][rows]
        only.append(_run(model, {**means, name: weight}, x))
        weight = draw[name].detach().clone()
        weight[rows] = means[name][rows]
        without.append(_run(model, {**draw, name: weight}, x))
        whole.append(_run(model, draw, x))
    place = found.names.index(f"{name}[f]")
    torch.testing.assert_close(found.variance[place], torch.stack(only).var(0))
    torch.testing.assert_close(found.without[place], torch.stack(without).var(0))
    torch.testing.assert_close(found.total, torch.stack(whole).var(0))
    torch.testing.assert_close(found.mean, torch.stack(whole).mean(0))
    torch.testing.assert_close(found.at_means, _run(model, means, x))
    assert (found.variance[place] > 0).all()


def _run(model, weights, x):
    """Run the Pyro model, not its plain twin."""
    with torch.no_grad():
        return pyro.condition(model, data=weights)(x)


def test_parts_of_a_network_do_not_add_up():
    model, guide, x = regression(vrnn.nn.LSTM, scale=0.0, drop_prob=0.5)
    found = uncertainty_by_site(model, guide, x, num_samples=40)
    # One part is enough for a share far from what the sum would say.
    assert abs(sum(found.shares().values()) - 1) > 0.1


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("layer", ("rnn.l0", "rnn.l1", "head")),
        (
            "site",
            (
                "rnn.weight_ih_l0", "rnn.weight_hh_l0",
                "rnn.weight_ih_l1", "rnn.weight_hh_l1", "head.weight",
            ),
        ),
        (
            "gate",
            (
                *(f"rnn.weight_{k}_l{layer}[{g}]" for layer in (0, 1) for k in ("ih", "hh")
                  for g in "rzn"),
                "head.weight",
            ),
        ),
    ],
    ids=["layer", "site", "gate"],
)  # fmt: skip
def test_names(by, names):
    """Biases have neither mask nor noise here, so they are no part."""
    model, guide, x = regression(vrnn.nn.GRU, scale=0.0)
    found = uncertainty_by_site(model, guide, x, num_samples=2, by=by)
    assert set(found.names) == set(names)
    assert found.variance.shape == (len(names), 4, 9)
    assert found.without is None


def test_layers_are_those_of_the_anatomy_and_of_the_export():
    """The directions of a bidirectional net apart in all three."""
    pyro.set_rng_seed(0)
    model = vrnn.models.SequenceRegression(vrnn.nn.LSTM(8, 5, 2, bidirectional=True), 9)
    guide = vrnn.infer.AutoSpikeAndSlab(model, scale=0.1)
    args = torch.randn(4, 6, 8), torch.randn(4, 9)
    guide(*args)
    expected = ["rnn.l0", "rnn.l0_reverse", "rnn.l1", "rnn.l1_reverse", "head"]
    found = uncertainty_by_site(model, guide, args[0], num_samples=4, by="layer")
    assert list(found.names) == expected
    anatomy = elbo_anatomy(model, guide, model_args=args, num_samples=2)
    assert [layer.name for layer in anatomy.layers] == expected
    data = vrnn.from_pyro_svi(model, guide, model_args=args, num_samples=2)
    assert list(dict.fromkeys(data["sample_stats"]["layer"].values)) == expected
    assert (found.variance.flatten(1).sum(1) > 0).all()


def by_hand(x, y=None):
    """Sites that are named otherwise than modules name them, and have records."""

    def weight(name, shape, record):
        fn = dist.Normal(x.new_zeros(()), 1.0).expand(shape).to_event(len(shape))
        return pyro.sample(name, fn, infer={"weight_site": record})

    w = weight("net.w_hh", (4, 4), vrnn.distributions.WeightSite("weight_hh", layer=1))
    v = weight("net.weight", (1, 4), vrnn.distributions.WeightSite("linear"))
    with pyro.plate("data", len(x)):
        pyro.sample("obs", dist.Normal((x @ w @ v.T).squeeze(-1), 1.0), obs=y)


def test_layers_of_other_names_are_the_same_in_tables_and_exports():
    guide = vrnn.infer.AutoSpikeAndSlab(by_hand, scale=0.1)
    args = torch.randn(4, 4), torch.randn(4)
    anatomy = elbo_anatomy(by_hand, guide, model_args=args, num_samples=2)
    data = vrnn.from_pyro_svi(by_hand, guide, model_args=args, num_samples=2)
    layers = ["net.w_hh", "net"]
    assert [layer.name for layer in anatomy.layers] == layers
    assert data["sample_stats"]["layer"].values.tolist() == layers
    assert data["sample_stats"]["weight_kind"].values.tolist() == ["weight_hh", "linear"]


def test_noise_alone_makes_biases_parts():
    model, guide, x = regression(vrnn.nn.RNN, layers=1, scale={"bias": 0.1, "linear": 0.0},
                                 drop_prob=0.0)  # fmt: skip
    names = uncertainty_by_site(model, guide, x, num_samples=2, by="gate").names
    assert {"rnn.bias_ih_l0", "rnn.bias_hh_l0", "head.bias"} <= set(names)
    assert "head.weight" not in names
    assert not any("[" in name for name in names)  # an RNN has no gates


def test_classes_are_probabilities_and_run_is_taken():
    pyro.set_rng_seed(0)
    model = vrnn.models.SequenceClassification(vrnn.nn.GRU(8, 5), 9)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    x, lengths = torch.randn(4, 6, 8), torch.tensor([6, 2, 3, 6])
    guide(x, torch.zeros(4, dtype=torch.int64))
    found = uncertainty_by_site(model, guide, x, lengths=lengths, num_samples=3)
    torch.testing.assert_close(found.mean.sum(-1), torch.ones(4, dtype=torch.float64))
    logits = guide.to_torch(model)(x, lengths).detach()
    torch.testing.assert_close(found.at_means, logits.softmax(-1).double())
    states = uncertainty_by_site(
        model, guide, x, num_samples=3, run=lambda network: network.rnn(x.transpose(0, 1))[0]
    )
    assert states.total.shape == (6, 4, 5)


def test_same_seed_and_generators_left_alone():
    model, guide, x = sums()
    state = torch.get_rng_state()
    one, again, other = (uncertainty_by_site(model, guide, x, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.variance, again.variance)
    assert not torch.equal(one.variance, other.variance)
    assert one.num_samples == 100


def test_every_generator_is_given_back():
    """Python's and NumPy's too, of which ``run`` may take numbers."""
    model, guide, x = sums()

    def noisy(network):
        return network(x) + random.random() + np.random.random()  # noqa: NPY002

    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1:3]  # noqa: NPY002
    uncertainty_by_site(model, guide, x, num_samples=2, run=noisy)
    assert random.getstate() == before[0]
    now = np.random.get_state()[1:3]  # noqa: NPY002
    assert (now[0] == before[1][0]).all()
    assert now[1] == before[1][1]


@pytest.mark.gpu
def test_a_device_that_holds_no_weight_keeps_its_generator():
    model, guide, x = sums()
    state = torch.cuda.get_rng_state()
    uncertainty_by_site(model, guide, x, num_samples=2)
    assert torch.equal(torch.cuda.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_samples": 1}, ValueError, "Expected num_samples of at least 2, for a variance"),
        ({"num_samples": 0}, ValueError, "Expected num_samples to be a positive int, got 0"),
        ({"by": "row"}, ValueError, "Expected by to be one of 'layer', 'site', 'gate', got 'row'"),
        ({"seed": -1}, ValueError, "Expected seed to be a non-negative int, got -1"),
        ({"run": lambda network: 1.0}, TypeError, "Expected a prediction that is a Tensor, got f"),
    ],
    ids=["one", "none", "by", "seed", "run"],
)
def test_errors(change, error, message):
    model, guide, x = sums()
    with pytest.raises(error, match=message):
        uncertainty_by_site(model, guide, x, **change)


def test_guide_errors():
    model, guide, x = sums(drop_prob=0.0, scale=0.0)
    with pytest.raises(ValueError, match="Expected a guide under which some weight varies"):
        uncertainty_by_site(model, guide, x)
    with pytest.raises(TypeError, match=r"Expected guide to be one of pyro_vrnn.infer's, got Sum"):
        uncertainty_by_site(model, model, x)
    fresh = vrnn.infer.AutoSpikeAndSlab(model)
    with pytest.raises(RuntimeError, match="Expected a guide that has its sites"):
        uncertainty_by_site(model, fresh, x)
