"""Prediction: the model at each draw, whatever the strategy and the chunks; Predictive's law."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoMultivariateNormal, AutoNormal

import pyro_vrnn as vrnn
from pyro_vrnn.infer import _predict_job
from pyro_vrnn.infer.fit import fit
from tests.infer.cases import by_hand, classifier
from tests.models.cases import GUIDES, cells, forecaster, regression

MOMENTS = ("mean", "variance", "epistemic_variance", "aleatoric_variance")
Z = 4.26
predict = partial(vrnn.infer.predict, progress=False)
strategies = pytest.mark.parametrize("strategy", ["loop", "batched"])


def embedded(cell, device=None, dtype=torch.float32):
    return classifier(cell, device=device, dtype=dtype)


MODELS = {"regression": regression, "forecaster": forecaster, "embedding": embedded}
models = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def prepared(make=regression, guide="untied", cell="lstm", dtype=torch.float64, **kwargs):
    """Return a model, its built guide and x of 4 to 6 sequences."""
    model, x, y = make(cell, dtype=dtype, **kwargs)
    guide = GUIDES[guide](model)
    guide(x, y)
    return model, guide, x


class Recorder:
    """A guide that remembers each draw."""

    def __init__(self, guide):
        self.guide, self.drawn = guide, []

    def __call__(self, *args, **kwargs):
        trace = poutine.trace(self.guide).get_trace(*args, **kwargs)
        self.drawn.append({n: trace.nodes[n]["value"] for n in self.guide.sites})


def assert_close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def assert_same(a, b, names=MOMENTS):
    for name in names:
        assert_close(getattr(a, name), getattr(b, name))


class Spy:
    """Wrap the runners, and keep the numbers of draws and sequences of each run."""

    def __init__(self, monkeypatch):
        self.sizes, self.names = [], set()
        for name, runner in dict(_predict_job.RUNNERS).items():
            monkeypatch.setitem(_predict_job.RUNNERS, name, partial(self.run, runner))

    def run(self, runner, program, weights, arguments, first):
        self.names |= weights.keys()
        self.sizes.append((len(next(iter(weights.values()))), len(arguments[0])))
        return runner(program, weights, arguments, first)


# The model at each draw


@cells
@models
@strategies
def test_moments_are_those_of_the_model_at_each_draw(cell, make, strategy):
    model, guide, x = prepared(make, cell=cell)
    recorder = Recorder(guide)
    p = predict(
        model, recorder, x, num_samples=6, strategy=strategy, parallel_guide=False,
        return_draws="mean", max_bytes=10**6,
    )  # fmt: skip
    # The first call is for shapes; two more draws are for the check that batches are right.
    drawn = recorder.drawn[-6:]
    sites = [
        poutine.trace(poutine.condition(model, w)).get_trace(x).nodes["obs"]["fn"] for w in drawn
    ]
    means = torch.stack([fn.mean for fn in sites])
    variances = torch.stack([fn.variance for fn in sites])
    assert p.strategy == strategy
    assert_close(p.mean_draws, means)
    assert_close(p.mean, means.mean(0))
    assert_close(p.epistemic_variance, means.var(0, correction=0))
    assert_close(p.aleatoric_variance, variances.mean(0))
    assert_close(p.variance, means.var(0, correction=0) + variances.mean(0))
    assert p.draws is p.quantiles is p.probs is None


@cells
@models
def test_loop_and_batched_agree(cell, make):
    model, guide, x = prepared(make, cell=cell)
    a, b = (
        predict(model, guide, x, num_samples=40, strategy=s, seed=3, return_draws="mean")
        for s in ("loop", "batched")
    )
    assert_same(a, b, (*MOMENTS, "mean_draws"))
    assert (a.epistemic_variance > 0).all()


@strategies
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_all_sizes_equal(strategy, dtype):
    """S = N = T = D = H = outputs: dims that are mixed up would broadcast without an error."""
    n = 5
    model = vrnn.models.SequenceRegression(vrnn.nn.LSTM(n, n, dtype=dtype), n)
    guide = GUIDES["untied"](model)
    x = torch.randn(n, n, n, dtype=dtype)
    guide(x, torch.zeros(n, n, dtype=dtype))
    p = predict(model, guide, x, num_samples=n, strategy=strategy, seed=1, return_draws="mean")
    for i in range(n):
        alone = predict(
            model, guide, x[i : i + 1], num_samples=n, strategy="loop", seed=1, return_draws="mean"
        )
        tolerance = 1e-10 if dtype == torch.float64 else 1e-5
        assert_close(p.mean_draws[:, i], alone.mean_draws[:, 0], tolerance)
    assert p.mean.dtype == p.variance.dtype == dtype


@strategies
@models
def test_lengths(make, strategy):
    model, guide, x = prepared(make)
    steps = x.shape[1]
    lengths = torch.tensor([steps, steps - 1, steps - 2, steps])
    run = partial(predict, model, guide, x[:4], num_samples=7, strategy=strategy, seed=1)
    p = run(lengths=lengths)
    assert_same(p, run(lengths=lengths, max_bytes=1))  # one sequence at a time
    for i, length in enumerate(lengths.tolist()):
        alone = predict(
            model, guide, x[i : i + 1, :length], num_samples=7, strategy=strategy, seed=1
        )
        assert_close(p.mean[i], alone.mean[0])
        assert_close(p.variance[i], alone.variance[0])


@strategies
def test_deterministic_site(strategy):
    model, guide, x = prepared()
    p = predict(
        model, guide, x, num_samples=9, site="loc", strategy=strategy, seed=1, return_draws=True
    )
    obs = predict(model, guide, x, num_samples=9, strategy=strategy, seed=1)
    assert_close(p.mean, obs.mean)
    assert_close(p.variance, obs.epistemic_variance)
    assert torch.equal(p.draws, p.mean_draws)


# The law


def standard_error(draws):
    return draws.std(0) / len(draws) ** 0.5


@pytest.mark.parametrize(
    ("guide_name", "parallel"), [("untied", False), *((name, True) for name in GUIDES)]
)
@strategies
def test_moments_of_predictive(guide_name, parallel, strategy):
    model, guide, x = prepared(guide=guide_name, tau=4.0)
    num_samples = 800
    theirs = Predictive(model, guide=guide, num_samples=num_samples, parallel=parallel)(x)["obs"]
    p = predict(
        model, guide, x, num_samples=num_samples, strategy=strategy, seed=2, return_draws=True
    )
    for ours, estimate in ((p.mean_draws, p.mean), (p.draws, p.draws.mean(0))):
        error = (standard_error(theirs) ** 2 + standard_error(ours) ** 2).sqrt()
        assert ((theirs.mean(0) - estimate).abs() < Z * error).all()
    squares = (theirs - theirs.mean(0)) ** 2
    spread = (2 * standard_error(squares) ** 2).sqrt()
    assert ((squares.mean(0) - p.variance).abs() < Z * spread).all()
    assert (p.epistemic_variance > 0.01 * p.variance).any()


def test_draws_of_predictive():
    """Two-sample Kolmogorov-Smirnov, at the level of z = 4.26."""
    model, guide, x = prepared(tau=400.0)
    n = 2000
    theirs = Predictive(model, guide=guide, num_samples=n, parallel=True)(x)["obs"]
    ours = predict(model, guide, x, num_samples=n, seed=2, return_draws="observation").draws
    # 2 exp(-2 n D^2 / 2) = 2e-5
    bound = (np.log(2 / 2e-5) / n) ** 0.5
    for a, b in zip(theirs.reshape(n, -1).T, ours.reshape(n, -1).T, strict=True):
        both = torch.cat([a, b]).sort().values
        ranks = [torch.searchsorted(s.sort().values, both, right=True) / n for s in (a, b)]
        assert (ranks[0] - ranks[1]).abs().max() < bound


def linear(x, y=None, scale=0.5):
    w = pyro.sample("w", dist.Normal(torch.zeros(3, dtype=x.dtype), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        return pyro.sample("obs", dist.Normal(x @ w, scale), obs=y)


def posterior(x, y=None, scale=None):
    mean = torch.tensor([1.0, -2.0, 0.5], dtype=x.dtype)
    factor = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.2, -0.3, 0.1]], dtype=x.dtype)
    pyro.sample("w", dist.MultivariateNormal(mean, scale_tril=factor))


def test_known_posterior_predictive():
    x = torch.randn(5, 3, dtype=torch.float64)
    n = 4000
    p = predict(linear, posterior, x, num_samples=n, quantiles=(0.05, 0.5, 0.95), seed=1)
    w = poutine.trace(posterior).get_trace(x).nodes["w"]["fn"]
    mean, epistemic = x @ w.mean, (x @ w.covariance_matrix * x).sum(-1)
    assert ((p.mean - mean).abs() < Z * (epistemic / n).sqrt()).all()
    assert ((p.epistemic_variance / epistemic - 1).abs() < Z * (2 / n) ** 0.5).all()
    assert_close(p.aleatoric_variance, torch.full_like(mean, 0.25))
    for level, found in zip(p.quantile_levels, p.quantiles, strict=True):
        total = dist.Normal(mean, (epistemic + 0.25).sqrt())
        error = (level * (1 - level) / n) ** 0.5
        assert ((total.cdf(found) - level).abs() < Z * error).all()
    assert p.strategy == "loop"  # x @ w does not take draws together


def test_quantiles_are_those_of_the_draws():
    model, guide, x = prepared()
    levels = (0.0, 0.05, 0.5, 0.77, 1.0)
    p = predict(model, guide, x, num_samples=33, quantiles=levels, return_draws=True)
    np.testing.assert_allclose(p.quantiles, np.quantile(p.draws.numpy(), levels, axis=0))
    assert p.quantile_levels == levels


def test_variance_far_from_zero():
    """Chunks are merged about their means: a level of 1e6 costs no digits of a variance of 1e-4."""
    standard = dist.Normal(torch.zeros((), dtype=torch.float64), 1.0)

    def far(x, y=None):
        w = pyro.sample("w", standard)
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(1e6 + 1e-2 * w + x, 1e-3), obs=y)

    def guide(x, y=None):
        pyro.sample("w", standard)

    x = torch.zeros(2, dtype=torch.float64)
    p = predict(far, guide, x, num_samples=2000, max_bytes=32_000, return_draws="mean")
    relative = p.epistemic_variance / p.mean_draws.var(0, correction=0)
    assert_close(relative, torch.ones_like(relative), 1e-6)
    assert abs(float(p.epistemic_variance[0]) / 1e-4 - 1) < Z * (2 / 2000) ** 0.5


# Guides and models of other kinds


def auto_list(model):
    guide = AutoGuideList(model)
    guide.append(vrnn.infer.AutoSpikeAndSlab(poutine.block(model, hide=["obs", "head.bias"])))
    guide.append(AutoNormal(poutine.block(model, expose=["head.bias"])))
    return guide


AUTO = {
    "normal": AutoNormal,
    "delta": AutoDelta,
    "multivariate": AutoMultivariateNormal,
    "list": auto_list,
}


@pytest.mark.parametrize("make_guide", AUTO.values(), ids=AUTO)
@pytest.mark.parametrize("parallel_guide", [False, True])
@strategies
def test_autoguides(make_guide, parallel_guide, strategy, monkeypatch):
    model, x, y = regression(dtype=torch.float64)
    guide = make_guide(model)
    guide(x, y)
    spy = Spy(monkeypatch)
    p = predict(
        model, guide, x, num_samples=9, strategy=strategy, parallel_guide=parallel_guide,
        return_draws="mean",
    )  # fmt: skip
    different = len({float(v) for v in p.mean_draws[:, 0, 0]})
    assert different == (1 if make_guide is AutoDelta else 9)
    assert all(name.startswith(("rnn.", "head.")) for name in spy.names)  # no auxiliary sites


def test_model_and_guide_by_hand():
    x = torch.randn(4, 6, 8)
    guide = AutoNormal(by_hand)
    guide(x, torch.zeros(4))
    p = predict(by_hand, guide, x, num_samples=500, quantiles=(0.5,))
    theirs = Predictive(by_hand, guide=guide, num_samples=500)(x)["obs"]
    error = (standard_error(theirs) ** 2 + p.epistemic_variance / 500).sqrt()
    assert ((theirs.mean(0) - p.mean).abs() < Z * error).all()


def test_guide_runs_as_in_predictive():
    """Guides read from the mask whether their density is asked for."""
    seen = []

    def guide(x, y=None):
        seen.append((poutine.get_mask(), torch.is_grad_enabled()))
        posterior(x)

    predict(linear, guide, torch.randn(2, 3), num_samples=3)
    assert set(seen) == {(False, False)}


def test_a_guide_that_does_not_know_of_draws():
    def guide(x, y=None, scale=None):
        a = pyro.sample(
            "a", dist.Normal(torch.zeros(3, 3), 1.0).to_event(2), infer={"is_auxiliary": True}
        )
        pyro.sample("w", dist.Delta(torch.stack([a[0, 0], a[1, 1], a[2, 2]]), event_dim=1))

    x = torch.randn(2, 3)
    with pytest.raises(ValueError, match=r"draw several times in a plate.*parallel_guide=False"):
        predict(linear, guide, x, num_samples=4)
    p = predict(linear, guide, x, num_samples=400, parallel_guide=False)
    bound = Z * (2 / 400) ** 0.5
    assert ((p.epistemic_variance / (x * x).sum(-1) - 1).abs() < bound).all()


def first_only(x, y=None):
    """As the library's kernel does in float32: of several matrices, the first is used."""
    w = pyro.sample("w", dist.Normal(torch.zeros(1, 3), 1.0).to_event(2))
    with pyro.plate("data", len(x)):
        pyro.sample("obs", dist.Normal(x @ w.reshape(-1, 3)[0], 1.0), obs=y)


def test_batches_are_checked_against_single_draws():
    x = torch.randn(2, 3)
    guide = AutoNormal(first_only)
    guide(x, torch.zeros(2))
    with pytest.raises(ValueError, match=r"means that differ by .*use strategy='loop'"):
        predict(first_only, guide, x, num_samples=4, strategy="batched")
    p = predict(first_only, guide, x, num_samples=4, return_draws="mean")
    assert p.strategy == "loop"
    assert len({float(v) for v in p.mean_draws[:, 0]}) == 4


def test_local_latents_of_the_model_come_from_their_prior():
    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 2.0))
            pyro.sample("obs", dist.Normal(x @ w + z, 1.0), obs=y)

    n = 3000
    x = torch.zeros(2, 3)
    p = predict(model, posterior, x, num_samples=n, max_bytes=10_000)
    assert ((p.epistemic_variance / 4 - 1).abs() < Z * (2 / n) ** 0.5).all()


@strategies
def test_given_observations_are_drawn_anew(strategy):
    model, guide, x = prepared()
    y = torch.full((6, 2), 1e6, dtype=torch.float64)
    p = predict(
        model, guide, x, num_samples=5, model_kwargs={"y": y}, strategy=strategy, seed=1,
        return_draws=True, quantiles=(0.5,),
    )  # fmt: skip
    assert p.draws.abs().max() < 1e5
    assert p.quantiles.abs().max() < 1e5


def test_model_kwargs():
    x = torch.randn(5, 3, dtype=torch.float64)
    scale = torch.arange(1.0, 6.0, dtype=torch.float64)
    run = partial(predict, linear, posterior, x, num_samples=4, max_bytes=1)
    p = run(model_kwargs={"scale": scale})
    assert_close(p.aleatoric_variance, scale**2)
    p = run(model_kwargs={"scale": scale[:1]}, shared={"scale"})
    assert_close(p.aleatoric_variance, torch.ones_like(scale))
    p = run(model_kwargs={"scale": 3.0})
    assert_close(p.aleatoric_variance, torch.full_like(scale, 9.0))


def test_parameters_trained_by_fit():
    """A namesake's values in Pyro's store are not taken for the guide's own."""
    model, x, y = regression(dtype=torch.float64)
    guide, other = AutoDelta(model), AutoDelta(model)
    adam = partial(torch.optim.Adam, lr=0.05)
    fit(model, guide, [(x, y)], num_epochs=3, optimizer=adam, elbo=Trace_ELBO(), progress=False)
    other(x, y)  # leaves its parameters in the store
    own = {n.removesuffix("_unconstrained"): p.detach() for n, p in guide.named_parameters()}
    p = predict(model, guide, x, num_samples=2)
    assert_close(p.mean, poutine.condition(model, own)(x).detach())


def test_a_plate_of_units_is_no_plate_of_sequences():
    def model(x, y=None):
        with pyro.plate("units", 3):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(x @ w + b, 1.0), obs=y)

    x = torch.randn(4, 3)
    guide = AutoNormal(model)
    guide(x, torch.zeros(4))
    p = predict(model, guide, x, num_samples=5, return_draws="mean")
    assert p.mean_draws.shape == (5, 4)
    assert len({float(v) for v in p.mean_draws[:, 0]}) == 5


@strategies
@pytest.mark.parametrize("scale", [0.0, 0.1])
@models
def test_scope_of_training_does_not_matter(make, scale, strategy):
    results = []
    for scope in ("batch", "sequence"):
        pyro.set_rng_seed(0)
        model, x, y = make("gru", dtype=torch.float64)
        guide = vrnn.infer.AutoSpikeAndSlab(
            model, drop_prob={"weight_hh": 0.3}, scale=scale, scope=scope
        )
        guide(x, y)
        x = torch.cat([x, x[:1]])
        results.append(
            predict(model, guide, x, num_samples=20, strategy=strategy, seed=1, return_draws="mean")
        )
    assert_same(*results)
    draws = results[1].mean_draws
    assert_close(draws[:, 0], draws[:, -1])
    assert len({float(v) for v in draws[:, 0, 0]}) > 5
