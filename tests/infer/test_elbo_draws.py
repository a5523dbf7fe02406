"""Draws of an ELBO, and the pointwise scores of held-out data."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyro_vrnn as vrnn
from pyro_vrnn.infer import TraceExactKL_ELBO, elbo_draws, held_out, held_out_log_likelihood
from pyro_vrnn.runs import lent_generators
from tests.infer.cases import small

Guide = vrnn.infer.AutoSpikeAndSlab


def test_their_mean_is_the_estimate_of_as_many_particles():
    model, x, y = small(num_data=9)
    guide = Guide(model, drop_prob=0.3, scale=0.1)
    guide(x, y)
    pyro.set_rng_seed(1)
    draws = list(elbo_draws(model, guide, (x,), {"y": y}, num_samples=3))
    pyro.set_rng_seed(1)
    loss = TraceExactKL_ELBO(num_particles=3).loss(model, guide, x, y)
    assert sum(float(draw.parts.elbo) for draw in draws) / 3 == pytest.approx(-loss, abs=1e-9)
    assert draws[0].exact == set(guide.sites)
    values = [draw.guide_trace.nodes["rnn.weight_hh_l0"]["value"] for draw in draws]
    assert not torch.equal(values[0], values[1])
    assert not any(value.requires_grad for value in values)


def test_they_are_function_draws():
    model, x, y = small()
    guide = Guide(model, scope="sequence")
    guide(x, y)
    (draw,) = elbo_draws(model, guide, (x, y), num_samples=1)
    assert type(draw.model_trace.nodes["rnn.weight_hh_l0"]["value"]) is torch.Tensor


def masked(y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 4), poutine.mask(mask=torch.tensor([True, False, True, True])):
        pyro.sample("obs", dist.Normal(w, 1.0), obs=y)


def point(y):
    pyro.sample("w", dist.Delta(torch.tensor(2.0)))


def test_held_out_observations_one_by_one_without_masked_ones():
    y = torch.arange(4.0)
    (each,) = held_out_log_likelihood(masked, point, [((y),)], num_draws=2)
    expected = -0.5 * math.log(2 * math.pi) - 0.5 * torch.tensor([4.0, 0.0, 1.0]).double()
    torch.testing.assert_close(each, expected.expand(2, 3), rtol=1e-6, atol=1e-6)
    scored = held_out(masked, point, [((y),)], num_draws=2)
    assert scored.num_observations == 3
    assert scored.nll == pytest.approx(-float(expected.mean()), rel=1e-6)


def masked_inside(y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 4):
        fn = dist.Normal(w, 1.0).expand((4,)).mask(torch.tensor([True, False, True, True]))
        pyro.sample("obs", fn, obs=y)


def masked_events(y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    mask = torch.tensor([[True, False], [False, False], [True, False], [False, True]])
    with pyro.plate("data", 4):
        pyro.sample("obs", dist.Normal(w, 1.0).expand((4, 2)).mask(mask).to_event(1), obs=y)


@pytest.mark.parametrize("model", [masked_inside, masked_events])
def test_held_out_leaves_out_what_the_distribution_masks(model):
    """An event, if all of it is masked."""
    y = torch.arange(4.0)
    (expected,) = held_out_log_likelihood(masked, point, [((y),)], num_draws=2)
    data = [(y if model is masked_inside else y.unsqueeze(-1).expand(4, 2),)]
    (each,) = held_out_log_likelihood(model, point, data, num_draws=2)
    torch.testing.assert_close(each, expected)


def test_batches_share_their_draws():
    model, x, y = small()
    guide = Guide(model, scale=0.1)
    guide(x, y)
    halves = held_out_log_likelihood(model, guide, [(x[:1], y[:1]), (x[1:], y[1:])], num_draws=3)
    (whole,) = held_out_log_likelihood(model, guide, [(x, y)], num_draws=3)
    torch.testing.assert_close(torch.cat(list(halves), dim=1), whole)


def test_no_batch_is_refused():
    with pytest.raises(ValueError, match="Expected held-out data of at least one batch, got none"):
        list(held_out_log_likelihood(masked, point, []))


def test_generators_are_lent():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    first = torch.rand(1)
    with lent_generators():
        torch.rand(5)
    assert torch.equal(torch.cat([first, torch.rand(1)]), expected)
