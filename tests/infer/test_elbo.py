"""The objective: N/B times the log-likelihood, less the whole divergence, once."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    HMC,
    MCMC,
    SVI,
    Importance,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.nn import PyroModule

import pyro_vrnn as vrnn
from tests.infer.cases import CELLS, always_slab, small

Guide = vrnn.infer.AutoSpikeAndSlab
cells = pytest.mark.parametrize("cell", list(CELLS))


def mask_information(d, p):
    """I(d^2, p): entropy of p N(0,1) + (1-p) N(d,1) less a normal's, by the trapezoid rule."""
    u = torch.linspace(-12, 12, 2001, dtype=torch.float64) + d.unsqueeze(-1) * (
        torch.linspace(0, 1, 2001, dtype=torch.float64)
    )
    unit = dist.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    log_q = torch.logaddexp(
        unit.log_prob(u) + math.log(p), unit.log_prob(u - d.unsqueeze(-1)) + math.log1p(-p)
    )
    return torch.trapezoid(-log_q.exp() * log_q, u) - 0.5 * math.log(2 * math.pi * math.e)


def kl_by_hand(guide):
    """Return the divergence from N(0, 1) by the formula, block by block."""
    total = 0.0
    for name, site in guide.sites.items():
        loc, sigma, p = guide.distribution(name).loc, site.scale, site.drop_prob
        total += loc.numel() * 0.5 * (sigma**2 - 1 - math.log(sigma**2))
        total += 0.5 * (1 - p) * loc.square().sum()
        if p > 0:
            blocks = (
                loc.reshape(-1, *site.block_shape)
                if loc.dim() == 1
                else loc.unflatten(0, (-1, site.block_shape[0]))
            )  # (gates, H, columns): blocks here are columns
            total -= mask_information((blocks / sigma).square().sum(1).sqrt(), p).sum()
    return total


def drawn(guide, seed=7):
    pyro.set_rng_seed(seed)
    return guide()


def elbo_of(elbo, model, guide, *args, seed=7, **kwargs):
    pyro.set_rng_seed(seed)
    return -elbo.differentiable_loss(model, guide, *args, **kwargs)


def log_likelihood(model, weights, x, y):
    """Sum over the batch of log N(y; loc, 1), by hand."""
    loc = poutine.condition(model, weights)(x)
    return -0.5 * (y - loc).square().sum() - 0.5 * y.numel() * math.log(2 * math.pi)


def on(steps, *, layers=1, sequences=4, num_data=None, cell="lstm", **kwargs):
    rnn = CELLS[cell][0](8, 5, layers, dtype=torch.float64)
    model = vrnn.models.SequenceRegression(rnn, 1, num_data=num_data)
    x = torch.randn(sequences, steps, 8, dtype=torch.float64)
    y = torch.randn(sequences, 1, dtype=torch.float64)
    guide = Guide(model, **{"drop_prob": 0.3, "scale": 0.2, **kwargs})
    guide(x, y)
    return model, guide, x, y


@pytest.mark.parametrize("gates", ["tied", "untied"])
@pytest.mark.parametrize("num_data", [None, 4, 40])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("steps", [1, 12])
def test_elbo_is_scaled_log_likelihood_less_one_kl(steps, layers, num_data, gates):
    """bayesian-torch counts the KL once a step, or twice; edward2's notebook forgot N."""
    model, guide, x, y = on(steps, layers=layers, num_data=num_data, gates=gates)
    elbo = elbo_of(TraceMeanField_ELBO(), model, guide, x, y)
    scale = 1 if num_data is None else num_data / 4
    expected = scale * log_likelihood(model, drawn(guide), x, y) - kl_by_hand(guide)
    torch.testing.assert_close(elbo, expected, rtol=1e-8, atol=1e-6)


@cells
def test_sampled_elbo_scores_every_weight_once(cell):
    model, guide, x, y = on(6, cell=cell, num_data=40)
    elbo = elbo_of(Trace_ELBO(), model, guide, x, y)
    weights = drawn(guide)
    log_q = sum(guide.distribution(n).log_prob(w) for n, w in weights.items())
    log_p = sum(dist.Normal(0.0, 1.0).log_prob(w).sum() for w in weights.values())
    expected = 10 * log_likelihood(model, weights, x, y) + log_p - log_q
    torch.testing.assert_close(elbo, expected, rtol=1e-10, atol=1e-10)


ELBOS = {"Trace": Trace_ELBO, "MeanField": TraceMeanField_ELBO, "TraceGraph": TraceGraph_ELBO}
elbos = pytest.mark.parametrize("elbo", ELBOS.values(), ids=ELBOS)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO], ids=["Trace", "MeanField"])
def test_minibatches_average_to_the_whole(elbo):
    """With one draw of the weights, the mean over minibatches is the full-data ELBO."""
    model, guide, x, y = on(6, sequences=12, num_data=12)
    whole = elbo_of(elbo(), model, guide, x, y)
    parts = [elbo_of(elbo(), model, guide, x[k::3], y[k::3]) for k in range(3)]
    torch.testing.assert_close(sum(parts) / 3, whole, rtol=1e-12, atol=1e-10)


def test_observing_by_a_handler_scales_alike():
    """`pyro.condition(model, {"obs": y})` is the same model as `model(x, y)`."""
    model, guide, x, y = on(6, num_data=40)
    conditioned = poutine.condition(model, {"obs": y})
    direct = elbo_of(TraceMeanField_ELBO(), model, guide, x, y)
    other = elbo_of(TraceMeanField_ELBO(), conditioned, guide, x)
    torch.testing.assert_close(other, direct, rtol=1e-12, atol=0)


@cells
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_gradient_of_loc(cell, bias):
    """
    Through the likelihood where the block is kept, and through the KL everywhere.

    In fastai2 issue 427 no gradient reached the dropped matrix; blitz fails without biases.
    """
    rnn = CELLS[cell][0](8, 5, bias=bias, dtype=torch.float64)
    model = vrnn.models.SequenceRegression(rnn, 1)
    x = torch.randn(4, 6, 8, dtype=torch.float64)
    y = torch.randn(4, 1, dtype=torch.float64)
    guide = Guide(model, drop_prob=0.5, scale=1e-3)
    guide(x, y)
    with torch.no_grad():
        for parameter in guide.locs.parameters():
            parameter.copy_(0.2 + 0.2 * torch.rand_like(parameter))
    elbo_of(TraceMeanField_ELBO(), model, guide, x, y, seed=8).backward()
    weights = {n: w.detach().requires_grad_() for n, w in drawn(guide, seed=8).items()}
    log_likelihood(model, weights, x, y).backward()
    kl_gradients = torch.autograd.grad(
        kl_by_hand(guide), [guide.distribution(n).loc for n in weights]
    )
    parameters = dict(guide.locs.named_parameters())
    for (name, weight), kl_gradient in zip(weights.items(), kl_gradients, strict=True):
        kept = (weight.detach().abs() > 0.1).double()
        expected = kept * weight.grad - kl_gradient
        actual = parameters[f"{name}_unconstrained"].grad
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
        assert name.startswith("head") or bool((kept * weight.grad).any()), name
    kept = weights["rnn.weight_hh_l0"].detach().abs() > 0.1
    assert kept.any()
    assert not kept.all()


@pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])
def test_gru_stays_in_bounds(parallel):
    """Keras issue 20276: with p = 0.5 the masked and rescaled state grew without bound."""
    gru = vrnn.nn.GRU(8, 5, 2)

    def model(x):
        return pyro.deterministic("output", gru(x)[0].unsqueeze(-4))

    x = 10 * torch.randn(200, 3, 8)
    guide = Guide(model, drop_prob=0.5)
    guide(x)
    with torch.no_grad():
        for parameter in guide.locs.parameters():
            parameter.mul_(30)
    draws = Predictive(model, guide=guide, num_samples=20, parallel=parallel)(x)["output"]
    assert draws.abs().max() <= 1.0
    assert draws.std() > 0.1


def test_one_mask_for_all_time_steps_and_sequences():
    """A sequence repeated gives itself: neither steps nor sequences have draws of their own."""
    model, guide, x, _y = on(6, drop_prob=0.5)
    same = x[:1].expand(4, 6, 8)
    loc = Predictive(model, guide=guide, num_samples=5)(same)["loc"].squeeze()
    torch.testing.assert_close(loc, loc[:, :1].expand(5, 4), rtol=1e-12, atol=1e-12)
    assert len({round(v, 9) for v in loc[:, 0].tolist()}) == 5


@pytest.mark.parametrize("vectorize", [False, True], ids=["loop", "vectorised"])
def test_renyi(vectorize):
    """With alpha -> 1 the Renyi bound of one draw is the ELBO; its gradient is finite."""
    model, guide, x, y = on(6)
    loss = RenyiELBO(alpha=0.5, num_particles=3, vectorize_particles=vectorize, max_plate_nesting=1)
    pyro.set_rng_seed(7)
    value = loss.loss_and_grads(model, guide, x, y)
    pyro.set_rng_seed(7)
    with pyro.plate("particles", 3, dim=-2):
        weights = {n: w.squeeze(1) for n, w in guide().items()}
    if not vectorize:
        pyro.set_rng_seed(7)
        draws = [guide() for _ in range(3)]
        weights = {n: torch.stack([w[n] for w in draws]) for n in weights}
    terms = []
    for i in range(3):
        single = {n: w[i] for n, w in weights.items()}
        log_q = sum(guide.distribution(n).log_prob(w) for n, w in single.items())
        log_p = sum(dist.Normal(0.0, 1.0).log_prob(w).sum() for w in single.values())
        terms.append(log_likelihood(model, single, x, y) + log_p - log_q)
    bound = 2 * (torch.stack(terms).mul(0.5).logsumexp(0) - math.log(3))
    assert value == pytest.approx(-bound.item(), rel=1e-9)
    assert all(torch.isfinite(p.grad).all() for p in guide.parameters())


def test_trace_graph_is_the_sampled_elbo():
    model, guide, x, y = on(6)
    values = []
    for elbo in (Trace_ELBO(), TraceGraph_ELBO()):
        pyro.set_rng_seed(7)
        values.append(elbo.loss(model, guide, x, y))
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_importance_weights():
    model, guide, x, y = on(6)
    posterior = Importance(model, guide, num_samples=4)
    posterior.run(x, y)
    for trace, log_weight in zip(posterior.exec_traces, posterior.log_weights, strict=True):
        weights = {n: trace.nodes[n]["value"] for n in guide.sites}
        log_q = sum(guide.distribution(n).log_prob(w) for n, w in weights.items())
        log_p = sum(dist.Normal(0.0, 1.0).log_prob(w).sum() for w in weights.values())
        expected = log_likelihood(model, weights, x, y) + log_p - log_q
        torch.testing.assert_close(log_weight, expected.detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("learn_tau", [False, True], ids=["fixed-tau", "learned-tau"])
def test_hmc(learn_tau):
    """Hamiltonian Monte Carlo on the same model; Predictive takes its samples both ways."""
    rnn = vrnn.nn.RNN(1, 2, dtype=torch.float64)
    model = vrnn.models.SequenceRegression(rnn, 1, learn_tau=learn_tau, num_data=10)
    x = torch.randn(5, 4, 1, dtype=torch.float64)
    y = torch.randn(5, 1, dtype=torch.float64)
    kernel = HMC(model, step_size=0.05, num_steps=3)
    chain = MCMC(kernel, num_samples=4, warmup_steps=4, disable_progbar=True)
    chain.run(x, y)
    samples = chain.get_samples()
    assert samples["rnn.weight_hh_l0"].shape == (4, 2, 2)
    loop = Predictive(model, samples)(x)["loc"]
    together = Predictive(model, samples, parallel=True)(x)["loc"]
    torch.testing.assert_close(loop, together, rtol=1e-12, atol=1e-12)
    assert loop.shape == (4, 5, 1)


def test_lift_makes_a_learned_precision_a_latent():
    model, x, y = small(learn_tau=True)
    lifted = poutine.lift(model, prior=dist.Gamma(1.0, 1.0))
    nodes = poutine.trace(lifted).get_trace(x, y).nodes
    (name,) = [name for name in nodes if name.startswith("tau")]
    assert nodes[name]["type"] == "sample"


class Composed(PyroModule):
    """What a user writes: two of our layers, and a deterministic one that is learned."""

    def __init__(self):
        super().__init__()
        self.before = PyroModule[torch.nn.Linear](8, 8)
        self.lstm = vrnn.nn.LSTM(8, 5)
        self.head = vrnn.nn.Linear(5, 1)

    def forward(self, x, y=None):
        last = self.lstm(self.before(x))[0][..., -1, :, :]
        loc = self.head(last, particles=last.dim() - 2).squeeze(-1)
        with pyro.plate("data", x.shape[1]):
            return pyro.sample("obs", dist.Normal(loc, 1.0), obs=y)


class Plain(torch.nn.Module):
    """The same by `to_pyro_module_`: torch's classes around ours."""

    def __init__(self):
        super().__init__()
        self.before = torch.nn.Linear(8, 8)
        self.lstm = vrnn.nn.LSTM(8, 5)
        self.head = vrnn.nn.Linear(5, 1)

    forward = Composed.forward


def converted():
    module = Plain()
    pyro.nn.module.to_pyro_module_(module)
    return module


@elbos
@pytest.mark.parametrize("vectorize", [False, True], ids=["loop", "vectorised"])
@pytest.mark.parametrize("make", [Composed, converted], ids=["PyroModule", "to_pyro_module_"])
def test_composed_model(make, elbo, vectorize):
    model = make()
    x, y = torch.randn(6, 4, 8), torch.randn(4)
    guide = Guide(model)
    before = model.before.weight.detach().clone()
    loss = elbo(num_particles=2, vectorize_particles=vectorize, max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), loss)
    assert all(math.isfinite(svi.step(x, y)) for _ in range(3))
    assert set(guide.sites) == {
        *(f"lstm.{kind}_{part}_l0" for kind in ("weight", "bias") for part in ("ih", "hh")),
        "head.weight",
        "head.bias",
    }
    assert not torch.equal(model.before.weight, before)
    always_slab(guide)
    for parallel in (False, True):
        draws = Predictive(model, guide=guide, num_samples=5, parallel=parallel)(x)
        assert draws["obs"].shape == (5, 4)
