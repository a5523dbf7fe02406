"""scope="sequence": what each sequence sees, in Pyro's terms, and that the gradient is unbiased."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.nn import PyroModule

import pyro_vrnn as vrnn
from pyro_vrnn.distributions.sequence_draw import SequenceDraw
from tests.infer.cases import CELLS, classifier

Z = 4.26
cells = pytest.mark.parametrize("cell", list(CELLS))
gates = pytest.mark.parametrize("gates", ["untied", "tied"])


def built(cell="lstm", *, dtype=torch.float64, device=None, **options):
    """Return the classifier of the guide's tests, its guide in sequence scope, and a batch."""
    model, ids, y = classifier(cell, device=device, dtype=dtype)
    options = {"drop_prob": 0.4, "scale": 0.05, "scope": "sequence", **options}
    guide = vrnn.infer.AutoSpikeAndSlab(model, **options)
    guide(ids, y)
    return model, guide, ids, y


def traces(model, guide, *args):
    guided = poutine.trace(guide).get_trace(*args)
    return guided, poutine.trace(poutine.replay(model, trace=guided)).get_trace(*args)


def dense(value, n, num_sequences):
    """Return the weight that sequence n sees, as a plain tensor."""
    if not isinstance(value, SequenceDraw):
        return value
    if value.q.block_shape[0] == 1:
        ids = torch.arange(value.shape[0], device=value.device)
        return value.rows(ids.expand(num_sequences, -1), 0)[n]
    return value.masked_weight(num_sequences).dense()[n]


@cells
@gates
@pytest.mark.parametrize("scale", [0.05, 0.0], ids=["noise", "masks-only"])
@pytest.mark.parametrize("lengths", [None, [6, 2, 4, 6]], ids=["full", "lengths"])
def test_each_sequence_sees_its_own_weights(cell, gates, scale, lengths, device):
    """Values and gradients are those of the model run on one sequence with its dense weights."""
    model, guide, ids, y = built(cell, gates=gates, scale=scale, device=device)
    lengths = None if lengths is None else torch.tensor(lengths)
    guided, replayed = traces(model, guide, ids, y, lengths)
    found = replayed.nodes["loc"]["value"]
    weights = {name: guided.nodes[name]["value"] for name in guide.sites}
    singly = []
    for n in range(len(ids)):
        data = {name: dense(value, n, len(ids)) for name, value in weights.items()}
        own = None if lengths is None else lengths[n : n + 1]
        alone = poutine.condition(model, data=data)
        singly.append(alone(ids[n : n + 1], y[n : n + 1], own))
    expected = torch.cat(singly)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    parameters = [p for p in guide.parameters() if p.requires_grad]
    into = torch.randn_like(found)
    ours, theirs = (
        torch.autograd.grad((out * into).sum(), parameters, allow_unused=True)
        for out in (found, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_learned_scales_get_their_gradient(device):
    model, guide, ids, y = built(learn_scale=True, device=device)
    _, replayed = traces(model, guide, ids, y)
    replayed.nodes["loc"]["value"].square().sum().backward()
    missing = [name for name, p in guide.named_parameters() if p.grad is None]
    assert missing == []


def test_a_trace_shows_which_sites_hold_a_draw_for_each_sequence(device):
    model, guide, ids, y = built(drop_prob={"weight_ih": 0.0}, device=device)
    guided, replayed = traces(model, guide, ids, y)
    held = {name for name in guide.sites if isinstance(guided.nodes[name]["value"], SequenceDraw)}
    assert held == {name for name, site in guide.sites.items() if site.scope == "sequence"}
    assert held == {name for name, site in guide.sites.items() if site.drop_prob > 0}
    assert {"embedding.weight", "rnn.weight_hh_l1_reverse", "head.weight"} <= held
    for name in guide.sites:  # the model holds the very values
        assert replayed.nodes[name]["value"] is guided.nodes[name]["value"]
        assert guided.nodes[name]["value"].shape == guide.sites[name].shape


def test_replay_keeps_the_masks_and_a_new_call_draws_new_ones(device):
    model, guide, ids, y = built(device=device)
    guided, first = traces(model, guide, ids, y)
    again = poutine.trace(poutine.replay(model, trace=guided)).get_trace(ids, y)
    assert torch.equal(first.nodes["loc"]["value"], again.nodes["loc"]["value"])
    _, other = traces(model, guide, ids, y)
    assert not torch.equal(first.nodes["loc"]["value"], other.nodes["loc"]["value"])
    with pytest.raises(ValueError, match=r"Expected 4 sequences for site .*, got 2"):
        poutine.replay(model, trace=guided)(ids[:2], y[:2])


@cells
@pytest.mark.parametrize(
    "elbo", [TraceMeanField_ELBO, vrnn.infer.TraceExactKL_ELBO], ids=["Pyro", "ours"]
)
def test_elbos_with_the_analytic_kl_train(cell, elbo, device):
    model, guide, ids, y = built(cell, dtype=torch.float32, device=device)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo(num_particles=2))
    losses = [svi.step(ids, y + 1) for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert svi.evaluate_loss(ids, y + 1) > 0


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceGraph_ELBO, RenyiELBO])
def test_elbos_that_would_score_the_site_name_it(elbo):
    model, guide, ids, y = built()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo())
    expected = r"Expected site '[\w.]+' to be scored .*TraceMeanField_ELBO, or scope='batch'"
    with pytest.raises(NotImplementedError, match=expected):
        svi.step(ids, y)
    with pytest.raises(NotImplementedError, match=expected):
        svi.evaluate_loss(ids, y)


def test_an_elbo_module_that_would_score_the_site_names_it():
    model, guide, ids, y = built()
    with pytest.raises(NotImplementedError, match=r"Expected site '[\w.]+' to be scored"):
        Trace_ELBO()(model, guide)(ids, y).backward()


def test_vectorised_particles_are_refused():
    model, guide, ids, y = built()
    elbo = TraceMeanField_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    with pytest.raises(NotImplementedError, match=r"use vectorize_particles=False, or scope="):
        elbo(model, guide)(ids, y)


def test_the_kl_is_that_of_one_weight(device):
    model, guide, ids, y = built(device=device)
    elbo = vrnn.infer.TraceExactKL_ELBO()
    elbo(model, guide)(ids, y)
    ours = elbo.parts.kl
    guide.sites = {k: vars(s) for k, s in guide.sites.items()}
    guide.sites = {
        name: vrnn.infer.GuideSite(**{**site, "scope": "batch"})
        for name, site in guide.sites.items()
    }
    elbo(model, guide)(ids, y)
    torch.testing.assert_close(elbo.parts.kl, ours, rtol=1e-12, atol=0)


@pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])
def test_predictive_gives_function_draws(parallel, device):
    """Two equal sequences have one prediction in a draw: the weights are the same for both."""
    model, guide, ids, _ = built(dtype=torch.float32, device=device)
    twins = ids[:1].expand(3, -1)
    draws = Predictive(model, guide=guide, num_samples=6, parallel=parallel)(twins)
    assert type(draws["rnn.weight_hh_l0"]) is torch.Tensor
    torch.testing.assert_close(draws["loc"][:, 0], draws["loc"][:, 2], rtol=1e-5, atol=1e-6)
    assert draws["loc"][:, 0].std(0).min() > 1e-3


def test_export_gives_function_draws():
    model, guide, ids, y = built(dtype=torch.float32)
    twins = ids[:1].expand(3, -1)
    data = vrnn.from_pyro_svi(model, guide, model_args=(twins, y[:3]), num_samples=4)
    loc = torch.tensor(data["posterior_predictive"]["loc"].values)
    torch.testing.assert_close(loc[:, :, 0], loc[:, :, 2], rtol=1e-5, atol=1e-6)
    assert torch.isfinite(torch.tensor(data["sample_stats"]["log_g__"].values)).all()


def test_twins_differ_in_training(device):
    model, guide, ids, y = built(device=device)
    _, replayed = traces(model, guide, ids[:1].expand(4, -1), y)
    loc = replayed.nodes["loc"]["value"]
    assert (loc[0] - loc[1]).abs().max() > 1e-3


REFUSED = {
    "single weights": {"rnn.weight_hh_l0": (1, 1)},
    "rows": {"rnn.weight_hh_l0": (1, 5)},
    "embedding by column": {"embedding.weight": (7, 1)},
}


@pytest.mark.parametrize("blocks", REFUSED.values(), ids=REFUSED)
def test_blocks_without_masks_of_inputs_are_refused(blocks):
    model, ids, y = classifier()
    guide = vrnn.infer.AutoSpikeAndSlab(model, scope="sequence", block_shapes=blocks)
    with pytest.raises(ValueError, match=rf"Expected blocks of '{next(iter(blocks))}' that are"):
        guide(ids, y)


class Tagger(PyroModule):
    """A label at every step, written by hand: the layers' inputs have two dims in front."""

    def __init__(self, batch_dim):
        super().__init__()
        self.batch_dim = batch_dim
        self.embedding = vrnn.nn.Embedding(20, 8)
        self.lstm = vrnn.nn.LSTM(8, 6, batch_first=True)
        self.head = vrnn.nn.Linear(6, 9)

    def forward(self, ids, y=None):
        h, _ = self.lstm(self.embedding(ids, batch_dim=self.batch_dim))
        logits = self.head(h, particles=h.dim() - 3, batch_dim=self.batch_dim)
        with pyro.plate("data", len(ids)):
            return pyro.sample("tags", dist.Categorical(logits=logits).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("batch_dim", "message"),
    [(None, "Expected batch_dim=, the dim of the sequences"), (1, "Expected 5 .*, got 7|got 5")],
    ids=["not said", "wrong"],
)
def test_the_dim_of_the_sequences_is_asked_for(batch_dim, message):
    model = Tagger(batch_dim)
    guide = vrnn.infer.AutoSpikeAndSlab(model, scope="sequence")
    ids = torch.zeros(7, 5, dtype=torch.long)
    with pytest.raises(ValueError, match=message):
        TraceMeanField_ELBO()(model, guide)(ids, ids)


def test_a_model_written_by_hand():
    model, ids = Tagger(0), torch.zeros(7, 5, dtype=torch.long)
    guide = vrnn.infer.AutoSpikeAndSlab(model, scope="sequence")
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), TraceMeanField_ELBO())
    losses = [svi.step(ids, ids) for _ in range(20)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("scale", [0.3, 0.0], ids=["noise", "masks-only"])
def test_the_gradient_is_unbiased(scale):
    """Mean gradients of the expected log-likelihood over many draws, against batch scope."""
    torch.manual_seed(1)
    model = vrnn.models.SequenceRegression(
        vrnn.nn.GRU(8, 3, dtype=torch.float64), 1, num_data=12, prior_scale=0.5
    )
    x = torch.randn(4, 5, 8, dtype=torch.float64)
    y = torch.randn(4, 1, dtype=torch.float64)
    grads = {}
    start = None
    for scope in ("batch", "sequence"):
        guide = vrnn.infer.AutoSpikeAndSlab(
            model, drop_prob={"linear": 0.5, "weight_ih": 0.5}, scale=scale, scope=scope
        )
        guide(x, y)
        parameters = [p for p in guide.parameters() if p.requires_grad]
        start = start or [3 * p.detach().clone() for p in parameters]
        with torch.no_grad():
            for p, value in zip(parameters, start, strict=True):
                p.copy_(value)
        draws = []
        for _ in range(600):
            _, replayed = traces(model, guide, x, y)
            log_likelihood = replayed.nodes["obs"]["fn"].log_prob(y).sum()
            draws.append(
                torch.cat([g.flatten() for g in torch.autograd.grad(log_likelihood, parameters)])
            )
        grads[scope] = torch.stack(draws)
    mean = {scope: g.mean(0) for scope, g in grads.items()}
    error = sum(g.var(0) / len(g) for g in grads.values()).sqrt()
    z = (mean["batch"] - mean["sequence"]) / error.clamp_min(1e-12)
    # Bonferroni: as many comparisons as parameters.
    bound = -dist.Normal(0.0, 1.0).icdf(torch.tensor(1e-5 / z.numel())).item()
    assert z.abs().max() < bound
    assert mean["batch"].abs().max() > 5 * error.max()  # there is something to see
    assert grads["sequence"].var(0).sum() != pytest.approx(grads["batch"].var(0).sum().item())


@pytest.mark.gpu
@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_a_step_does_not_wait_for_the_gpu(scope):
    model, ids, y = classifier(device="cuda")
    guide = vrnn.infer.AutoSpikeAndSlab(model, scope=scope)
    with pyro.validation_enabled(False):
        loss = vrnn.infer.TraceExactKL_ELBO()(model, guide)
        loss(ids, y).backward()
        torch.cuda.set_sync_debug_mode("error")
        try:
            loss(ids, y).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
