"""Pyro's own tools work unchanged: SVI, both ELBOs, Predictive, vectorisation, render_model."""

from __future__ import annotations

import pyro
import pyro.optim
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from pyro.poutine.messenger import Messenger

import pyro_vrnn as vrnn
from tests.models.cases import (
    GUIDES,
    cells,
    elbos,
    guides,
    models,
    modes,
    output,
    regression,
)


def adam():
    return pyro.optim.ClippedAdam({"lr": 0.02})


def seeded(seed, function, *args):
    pyro.set_rng_seed(seed)
    return function(*args)


@cells
@models
@guides
@elbos
def test_svi_learns(cell, make, guide_name, elbo, device):
    dtype = torch.float32  # the type in which torch's own kernel goes wrong silently
    model, x, y = make(cell, device, dtype)
    guide = GUIDES[guide_name](model)
    svi = SVI(model, guide, adam(), elbo())
    svi.step(x, y)

    def losses():  # the same noise before and after, so that differences are paired
        return torch.tensor([seeded(seed, svi.evaluate_loss, x, y) for seed in range(6)])

    before = losses()
    for _ in range(25):
        svi.step(x, y)
    gain = (before - losses()).double()
    assert torch.isfinite(gain).all()
    assert gain.mean() > 4.26 * gain.std() / 6**0.5
    assert all(p.dtype == dtype and p.device.type == device.type for p in guide.parameters())


@cells
@models
@guides
@modes
def test_predictive(cell, make, guide_name, parallel, device, dtype):
    model, x, y = make(cell, device, dtype)
    guide = GUIDES[guide_name](model)
    guide(x, y)
    draws = Predictive(model, guide=guide, num_samples=7, parallel=parallel)(x)
    assert draws["obs"].shape == (7, *y.shape)
    assert output(draws).shape[:2] == (7, 6)
    assert (draws["obs"].dtype, output(draws).dtype) == (y.dtype, dtype)
    # A different draw of the weights gives a different mean, for every sequence.
    assert len({float(v) for v in output(draws)[:, 0, 0]}) == 7


@cells
@models
@modes
def test_predictive_is_the_model_at_each_draw(cell, make, parallel, device):
    """S = N = 6 here: particles mixed up with sequences would pass a test of shapes."""
    model, x, y = make(cell, device, torch.float64)
    guide = GUIDES["untied"](model)
    guide(x, y)
    draws = Predictive(model, guide=guide, num_samples=6, parallel=parallel)(x)
    weights = {k: v.reshape(6, *guide.sites[k].shape) for k, v in draws.items() if k in guide.sites}
    expected = [
        poutine.condition(model, {k: v[i] for k, v in weights.items()})(x) for i in range(6)
    ]
    torch.testing.assert_close(output(draws), torch.stack(expected), rtol=1e-10, atol=1e-10)


@cells
@models
@elbos
def test_vectorised_particles_are_the_average_of_single_ones(cell, make, elbo, device, dtype):
    """The same S draws give the same ELBO and gradient together and one by one."""
    model, x, y = make(cell, device, dtype)
    guide = GUIDES["untied"](model)
    guide(x, y)
    s = 6
    drawn = {name: guide.distribution(name).sample((s,)) for name in guide.sites}

    def loss_and_grad(weights, **kwargs):
        guide.zero_grad()
        fixed = Fixed(guide, weights)
        loss = elbo(max_plate_nesting=1, **kwargs).differentiable_loss(model, fixed, x, y)
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in guide.parameters()]

    together = loss_and_grad(
        {k: v.unsqueeze(1) for k, v in drawn.items()}, num_particles=s, vectorize_particles=True
    )
    single = [loss_and_grad({k: v[i] for k, v in drawn.items()}) for i in range(s)]
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    loss = sum(part[0] for part in single) / s
    torch.testing.assert_close(together[0], loss, rtol=tolerance, atol=tolerance)
    for k, gradient in enumerate(together[1]):
        expected = sum(part[1][k] for part in single) / s
        bound = tolerance * float(expected.abs().max())
        torch.testing.assert_close(gradient, expected, rtol=tolerance, atol=max(bound, 1e-9))


class Fixed:
    """A guide whose draws were made before: each site's value is given, with loc's gradient."""

    def __init__(self, guide, weights):
        self.guide, self.weights = guide, weights

    def __call__(self, *args):
        locs = {name: self.guide.distribution(name).loc for name in self.weights}
        held = {k: w + (locs[k] - locs[k].detach()) for k, w in self.weights.items()}
        with Hold(held):
            self.guide(*args)


class Hold(Messenger):
    def __init__(self, values):
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg):
        msg["value"] = self.values.get(msg["name"], msg["value"])


@cells
def test_vectorised_elbo_steps(cell, device, dtype):
    model, x, y = regression(cell, device, dtype)
    guide = GUIDES["untied"](model)
    elbo = TraceMeanField_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, adam(), elbo)
    losses = [svi.step(x, y) for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_two_plates_around_the_model(device):
    """Weights of shape (S, 1, 1, out, in): particles outside a second plate."""
    model, x, _ = regression(device=device, dtype=torch.float64)

    def program():
        with pyro.plate("particles", 6, dim=-3):
            return model(x)

    trace = poutine.trace(program).get_trace()
    weights = {k: v["value"] for k, v in trace.nodes.items() if k.startswith(("rnn.", "head."))}
    assert weights["rnn.weight_hh_l0"].shape == (6, 1, 1, 16, 4)
    loc = trace.nodes["loc"]["value"]
    assert loc.shape == (6, 1, 6, 2)
    for i in range(6):
        single = {k: v[i, 0, 0] for k, v in weights.items()}
        torch.testing.assert_close(loc[i, 0], poutine.condition(model, single)(x))


def test_render_model(device):
    model, x, y = regression(device=device)
    relations = pyro.infer.inspect.get_model_relations(model, (x, y))
    assert set(relations["sample_param"]) >= {"rnn.weight_hh_l0_reverse", "head.bias", "obs"}
    assert "obs" in relations["observed"]
    assert "obs" in relations["plate_sample"]["data"]
    assert {"rnn.weight_hh_l1", "head.weight"} <= set(relations["sample_sample"]["obs"])
    graph = pyro.infer.inspect.generate_graph_specification(relations, render_params=True)
    assert graph["node_data"]["rnn.weight_hh_l0"]["distribution"] == "Normal"


def test_replay_gives_the_same_weights(device):
    model, x, _ = regression(device=device)
    first = poutine.trace(model).get_trace(x)
    second = poutine.trace(poutine.replay(model, first)).get_trace(x)
    assert torch.equal(first.nodes["loc"]["value"], second.nodes["loc"]["value"])


def test_autoguidelist_takes_the_other_latents(device):
    """A model with one more latent: its own guide beside ours."""
    base, x, y = regression(device=device)

    class WithScale(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.base = base

        def forward(self, x, y=None):
            pyro.sample("extra", pyro.distributions.Normal(torch.zeros((), device=device), 1.0))
            return self.base(x, y)

    model = WithScale()
    guide = AutoGuideList(model)
    guide.append(vrnn.infer.AutoSpikeAndSlab(poutine.block(model, hide=["extra"])))
    guide.append(AutoNormal(poutine.block(model, expose=["extra"])))
    svi = SVI(model, guide, adam(), Trace_ELBO())
    assert all(abs(svi.step(x, y)) < float("inf") for _ in range(3))
    draws = Predictive(model, guide=guide, num_samples=4, parallel=True)(x)
    assert draws["extra"].numel() == 4


@pytest.mark.parametrize("per_parameter", [False, True])
def test_optimiser_arguments_by_parameter(per_parameter, device):
    """Pyro's optimisers may choose arguments by a parameter's name."""
    model, x, y = regression(device=device, learn_tau=True)
    seen = []

    def arguments(name):
        seen.append(name)
        return {"lr": 0.01}

    optim = pyro.optim.Adam(arguments if per_parameter else {"lr": 0.01})
    guide = GUIDES["untied"](model)
    SVI(model, guide, optim, TraceMeanField_ELBO()).step(x, y)
    if per_parameter:
        assert any("locs.rnn.weight_hh_l0" in name for name in seen)
        assert any("tau" in name for name in seen)
