"""The paper's claim: the SVI gradient goes to that of dropout with weight decay, and where not."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from functools import cache

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

import pyro_vrnn as vrnn
from pyro_vrnn import baselines
from pyro_vrnn.distributions import SpikeAndSlab
from pyro_vrnn.distributions.sequence_draw import SequenceDraw
from pyro_vrnn.experiments.dropout_limit import (
    CELLS,
    DropoutLimitConfig,
    HeldDraw,
    Problem,
    block_errors,
    distance,
    gradient_errors,
    random_start_errors,
    run_dropout_limit,
    slope,
)
from pyro_vrnn.ops.mutual_information import binary_entropy

SMALL = DropoutLimitConfig(
    hidden_size=12, num_layers=2, num_sequences=6, num_steps=5, blocks=4000, prior_scale=0.2
)
cells = pytest.mark.parametrize("cell", list(CELLS))


@cache
def measured(cell):
    return gradient_errors(Problem(replace(SMALL, cell=cell)))


@cells
def test_slope_is_1_for_one_noise_and_2_for_the_antithetic_pair(cell):
    found = measured(cell)
    assert min(found["min_distance"]) >= 12
    assert found["slope"]["fixed_noise"] == pytest.approx(1.0, abs=0.1)
    assert found["slope"]["antithetic"] == pytest.approx(2.0, abs=0.2)
    assert found["error"]["fixed_noise"][-1] < 1e-2


@cells
def test_sampled_kl_goes_to_the_decay_of_the_kept_blocks(cell):
    found = measured(cell)
    assert found["slope"]["sampled_kl_to_kept_decay"] == pytest.approx(1.0, abs=0.1)
    apart, converged = found["limits_apart"], found["error"]["sampled_kl_to_kept_decay"][-1]
    assert apart > 10 * converged
    error = found["error"]["sampled_kl_to_dropout"][-1]
    assert error == pytest.approx(apart, abs=2 * converged)


def test_sampled_kl_s_limit_is_dropout_s_in_mean():
    """Over all masks of two blocks, weighted by their probability, and the noise and -noise."""
    loc = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    p, sigma, s = 0.3, 1e-4, 0.7
    noise = torch.randn(5, 2, dtype=torch.float64)
    prior = dist.Normal(torch.zeros_like(loc), s).to_event(2)
    mean = torch.zeros_like(loc)
    for mask in itertools.product((0.0, 1.0), repeat=2):
        weight = math.prod(1 - p if z else p for z in mask)
        for sign in (1.0, -1.0):
            held = HeldDraw(
                SpikeAndSlab(loc, sigma, p, (5, 1)), torch.tensor([mask]).double(), sign * noise
            )
            loss = Trace_ELBO().differentiable_loss(
                lambda: pyro.sample("w", prior), lambda held=held: pyro.sample("w", held)
            )
            mean += weight / 2 * torch.autograd.grad(loss, loc)[0]
    expected = (1 - p) * loc.detach() / s**2
    torch.testing.assert_close(mean, expected, rtol=1e-6, atol=1e-6)


def plain_twin(cell, model, guide, scope="sequence", gates="untied"):
    """Return the plain loss with the same means, dropped in the same way."""
    options = {"drop_prob": 0.25, "scope": scope, "gates": gates}
    rnn = CELLS[cell][1](16, 9, 2, bidirectional=True, dtype=torch.float64, **options)
    head = baselines.Linear(18, 8, dtype=torch.float64, drop_prob=0.25, scope=scope)
    network = baselines.SequenceNetwork(rnn, head)
    network.load_state_dict({name: guide.distribution(name).loc for name in guide.sites})
    return baselines.GaussianLoss(network, num_data=60, prior_scale=0.6)


def gradients_of(cell, scale, gates="untied"):
    """Return the gradients of the ELBO and of dropout at the masks that the guide drew."""
    pyro.set_rng_seed(4)
    rnn = CELLS[cell][0](16, 9, 2, bidirectional=True, dtype=torch.float64, prior_scale=0.6)
    model = vrnn.models.SequenceRegression(rnn, 8, num_data=60, prior_scale=0.6)
    x, y = torch.randn(5, 7, 16).double(), torch.randn(5, 8).double()
    guide = vrnn.infer.AutoSpikeAndSlab(model, scale=scale, scope="sequence", gates=gates)
    guide(x, y)
    loss = plain_twin(cell, model, guide, gates=gates)
    values = {}

    def recorded(*args):
        values.update(guide(*args))

    pyro.set_rng_seed(8)
    svi = vrnn.infer.TraceExactKL_ELBO().differentiable_loss(model, recorded, x, y)
    locs = {name: guide.distribution(name).loc for name in guide.sites}
    ours = dict(zip(locs, torch.autograd.grad(svi, list(locs.values())), strict=True))
    masks = {
        name: value.masked_weight(len(x)).mask
        for name, value in values.items()
        if isinstance(value, SequenceDraw)
    }
    named = dict(loss.network.named_parameters())
    plain = loss(x, y, masks=masks)
    theirs = dict(zip(named, torch.autograd.grad(plain, list(named.values())), strict=True))
    return ours, theirs


@cells
@pytest.mark.parametrize("gates", ["untied", "tied"])
def test_the_dropout_limit_is_dropout_with_weight_decay(cell, gates):
    """With scale=0 nothing is left to converge: the two are the same, by sequence."""
    ours, theirs = gradients_of(cell, 0, gates)
    assert ours.keys() == theirs.keys()
    assert distance(ours, theirs) < 1e-12


@cells
def test_slope_of_the_guide_itself_by_sequence(cell):
    """As trained: masks of each sequence, the noise shared, drawn from one seed at each scale."""
    sigmas = (1e-2, 1e-3, 1e-4)
    errors = [distance(*gradients_of(cell, sigma)) for sigma in sigmas]
    assert slope(sigmas, errors) == pytest.approx(1.0, abs=0.1)


def test_the_gradient_of_one_block_fails_near_the_spike():
    found = block_errors(SMALL)
    d, error, bound = (torch.tensor(found[name]) for name in ("d", "error", "bound"))
    assert (error <= bound * (1 + 1e-9)).all()
    near = int((d - 2).abs().argmin())
    assert error[near] == pytest.approx(0.183, rel=0.02)  # 18 at sigma = 0.01
    assert error[d > 12].max() < 1e-8


def test_single_weights_do_not_converge_and_columns_do():
    found = random_start_errors(replace(SMALL, blocks=40000))
    p = torch.tensor(SMALL.drop_prob).double()
    limit = float(binary_entropy(p)) / found["reach"]
    assert found["single"]["limit"] == pytest.approx(limit)
    at = found["sigma"].index(3e-3)
    for k in (at, at - 1):
        error = abs(found["single"]["mean"][k] - limit)
        assert error < 4.26 * found["single"]["standard_error"][k]
    assert found["column"]["mean"][at] < 1e-12


def test_whole_run_is_json_and_reports_the_sites_near_the_spike():
    parts = []
    found = run_dropout_limit(replace(SMALL, blocks=200), on_part=parts.append)
    assert json.loads(json.dumps(found, allow_nan=False))["config"]["cell"] == "lstm"
    assert parts == ["gradients", "one block", "random starts"]
    assert found["sites_near_spike"]["columns"] == {}
    near = found["sites_near_spike"]["single_weights"]
    assert {"rnn.weight_hh_l0", "rnn.weight_ih_l1_reverse", "head.weight"} <= set(near)
    assert not [name for name in near if "bias" in name]


ERRORS = {
    "cell": (dict(cell="mlp"), r"Expected cell to be one of 'lstm', 'gru', 'rnn'"),
    "sigmas": (dict(sigmas=(0.1,)), r"Expected at least two sigmas above 0, got \(0.1,\)"),
    "size": (dict(blocks=0), r"Expected blocks to be a positive int, got 0"),
}


@pytest.mark.parametrize(("changes", "message"), ERRORS.values(), ids=ERRORS)
def test_config_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        DropoutLimitConfig(**changes)
