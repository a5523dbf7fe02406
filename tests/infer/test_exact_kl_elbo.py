"""
TraceExactKL_ELBO: Pyro's values and gradients, without the scores that an exact KL spares.

Over 400 lines because values, parts and refusals share the programs below.
"""

from __future__ import annotations

import math
import re
from contextlib import nullcontext
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.testing.rejection_gamma import ShapeAugmentedGamma
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.infer.autoguide import (
    AutoDelta,
    AutoGuideList,
    AutoMultivariateNormal,
    AutoNormal,
    AutoNormalMessenger,
)
from torch.distributions.kl import kl_divergence, register_kl

import pyro_vrnn as vrnn
from pyro_vrnn.distributions import SpikeAndSlab
from pyro_vrnn.infer import TraceExactKL_ELBO
from tests.infer.cases import CELLS, small
from tests.models.cases import MODELS

Guide = vrnn.infer.AutoSpikeAndSlab
Z = 4.26
MODES = {
    "one": dict(num_particles=1),
    "loop": dict(num_particles=3),
    "vectorised": dict(num_particles=3, vectorize_particles=True),
    "vectorised-nesting": dict(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
}
modes = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
validation = pytest.mark.parametrize("validate", [False, True], ids=["unchecked", "checked"])


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def estimate(elbo, model, guide, *args, seed=3):
    """Return the loss and the gradient of every parameter in Pyro's store."""
    pyro.set_rng_seed(seed)
    with poutine.trace(param_only=True) as capture:
        loss = elbo.loss_and_grads(model, guide, *args)
    params = {n: site["value"].unconstrained() for n, site in capture.trace.nodes.items()}
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in params.items()}
    for p in params.values():
        p.grad = None
    assert grads
    return loss, grads


def assert_alike(one, other, rtol=1e-10):
    """Compare two estimates."""
    assert one[0] == pytest.approx(other[0], rel=rtol, abs=1e-10)
    assert one[1].keys() == other[1].keys()
    for name, grad in one[1].items():
        torch.testing.assert_close(grad, other[1][name], rtol=rtol, atol=1e-10, msg=name)


# What the value and gradient are.


@modes
@pytest.mark.parametrize("learn_scale", [False, True], ids=["scale", "learn-scale"])
@pytest.mark.parametrize("num_data", [None, 40], ids=["all", "minibatch"])
@pytest.mark.parametrize("cell", CELLS)
def test_equals_mean_field_elbo(cell, num_data, learn_scale, mode):
    model, x, y = small(cell, num_data=num_data, learn_tau=True)
    guide = Guide(model, drop_prob=0.3, scale=0.1, learn_scale=learn_scale)
    guide(x, y)
    ours = estimate(TraceExactKL_ELBO(**mode), model, guide, x, y)
    assert_alike(ours, estimate(TraceMeanField_ELBO(**mode), model, guide, x, y))


@modes
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_equals_mean_field_elbo_in_float32(make, mode):
    model, x, y = make()
    guide = Guide(model, drop_prob=0.3, scale=0.1)
    guide(x, y)
    loss, grads = estimate(TraceExactKL_ELBO(**mode), model, guide, x, y)
    expected, others = estimate(TraceMeanField_ELBO(**mode), model, guide, x, y)
    assert loss == pytest.approx(expected, rel=1e-5)
    for name, grad in grads.items():
        assert grad.dtype == torch.float32
        torch.testing.assert_close(grad, others[name], rtol=1e-5, atol=1e-4)


def constrained(y):
    """Latents on four supports, two of them with events, one in a plate."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 3.0))
    p = pyro.sample("p", dist.Beta(2.0, 2.0).expand([3]).to_event(1))
    mix = pyro.sample("mix", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("data", 40, subsample=torch.arange(len(y))):
        shift = pyro.sample("shift", dist.Normal(0.0, 2.0))
        pyro.sample("obs", dist.Normal(shift + (p * mix).sum(-1), rate), obs=y)


NAMES = ["rate", "p", "mix", "shift"]
SAMPLED = {"all": True, "names": [*NAMES, *(f"{n}_unconstrained" for n in NAMES)]}


@modes
@pytest.mark.parametrize("sampled", SAMPLED.values(), ids=SAMPLED)
def test_sampled_sites_equal_trace_elbo(sampled, mode):
    """Also through the Jacobians of constrained sites, which TraceMeanField_ELBO drops."""
    y = torch.randn(5)
    guide = AutoNormal(constrained)
    guide(y)
    expected = estimate(Trace_ELBO(**mode), constrained, guide, y)
    assert_alike(
        estimate(TraceExactKL_ELBO(**mode, sampled=sampled), constrained, guide, y), expected
    )
    other = estimate(TraceMeanField_ELBO(**mode), constrained, guide, y)
    name = "AutoNormal.locs.rate"
    assert not torch.allclose(other[1][name], expected[1][name], rtol=1e-3)


def log_likelihood(model, latents, *args):
    """Return log p(y | latents) of one draw."""
    fixed = {name: value.squeeze(0) for name, value in latents.items()}
    trace = poutine.trace(poutine.condition(model, data=fixed)).get_trace(*args)
    return trace.log_prob_sum(lambda name, site: name == "obs")


vectorised = pytest.mark.parametrize(
    "mode", [MODES["vectorised"], MODES["vectorised-nesting"]], ids=["guessed", "given"]
)


@vectorised
def test_vectorised_particles_count_the_likelihood_once(mode):
    """The same as each particle scored by itself."""
    y, draws = torch.randn(5), []
    guide = AutoNormal(constrained)
    guide(y)
    elbo = TraceExactKL_ELBO(**mode, sampled=True)
    elbo.loss(constrained, lambda y: draws.append(guide(y)), y)
    assert draws[-1]["shift"].shape == (3, 5)
    each = [
        log_likelihood(
            constrained, {name: value[s : s + 1] for name, value in draws[-1].items()}, y
        )
        for s in range(3)
    ]
    torch.testing.assert_close(elbo.parts.log_likelihood["obs"], sum(each) / 3)


class Words(pyro.nn.PyroModule):
    """A step's plate inside the data's; its weights' outputs are (S, 1, N, T, ...)."""

    def __init__(self, *, mended):
        super().__init__()
        self.rnn = vrnn.nn.GRU(3, 4, batch_first=True)
        self.head = vrnn.nn.Linear(4, 2)
        self.mended = mended

    def forward(self, x, y=None):
        h, _ = self.rnn(x)
        particles = h.dim() - x.dim()
        logits = self.head(h, particles=particles)
        if self.mended and particles:
            logits = logits.flatten(0, particles - 1)
        with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("time", x.shape[1], dim=-1):
            return pyro.sample("obs", dist.Categorical(logits=logits), obs=y)


@validation
@pytest.mark.parametrize("nesting", [math.inf, 2], ids=["guessed", "given"])
def test_likelihoods_of_every_particle_with_every_particle(nesting, validate):
    """They were summed, S times the likelihood, without a word."""
    x, y = torch.randn(6, 5, 3), torch.randint(2, (6, 5))
    mode = dict(num_particles=4, vectorize_particles=True, max_plate_nesting=nesting)
    message = (
        r"at most 3 dims in the log density of site 'obs', its plates' and the particles', "
        r"got shape \(4, 4, 6, 5\): .*logits.flatten\(0, particles - 1\)"
    )
    model = Words(mended=False)
    guide = Guide(model)
    guide(x, y)
    with pyro.validation_enabled(validate), pytest.raises(ValueError, match=message):
        TraceExactKL_ELBO(**mode).loss(model, guide, x, y)
    assert TraceExactKL_ELBO().loss(model, guide, x, y) > 0


def test_step_plates_inside_the_data_plate():
    x, y, draws = torch.randn(6, 5, 3), torch.randint(2, (6, 5)), []
    model = Words(mended=True)
    guide = Guide(model, scale=0.3)
    guide(x, y)
    elbo = TraceExactKL_ELBO(4, vectorize_particles=True)
    elbo.loss(model, lambda *args: draws.append(guide(*args)), x, y)
    each = [
        log_likelihood(model, {n: w[s].flatten(0, 1) for n, w in draws[-1].items()}, x, y)
        for s in range(4)
    ]
    torch.testing.assert_close(elbo.parts.log_likelihood["obs"], sum(each) / 4)
    samples = Predictive(model, guide=guide, num_samples=7, parallel=True)(x)
    assert samples["obs"].shape == (7, 6, 5)


@pytest.mark.parametrize("make", [AutoMultivariateNormal, AutoDelta, AutoNormalMessenger])
def test_pyro_autoguides(make):
    y = torch.randn(5)
    model = partial(constrained, y)
    guide = make(model)
    guide()
    expected = estimate(Trace_ELBO(), model, guide)
    assert_alike(estimate(TraceExactKL_ELBO(sampled=True), model, guide), expected)


class WithNoise(pyro.nn.PyroModule):
    """A SequenceRegression beside a positive latent."""

    def __init__(self):
        super().__init__()
        self.base, self.x, self.y = small(num_data=12)

    def forward(self):
        pyro.sample("noise", dist.LogNormal(0.0, 1.0))
        return self.base(self.x, self.y)


@pytest.mark.parametrize("sampled", [True, ["noise", "noise_unconstrained"]], ids=["all", "names"])
def test_exact_and_sampled_sites_together(sampled):
    """Permission to sample does not stop the use of an exact KL."""
    model = WithNoise()
    guide = AutoGuideList(model)
    guide.append(AutoNormal(poutine.block(model, expose=["noise"])))
    guide.append(Guide(poutine.block(model, hide=["noise"])))
    guide()
    elbo = TraceExactKL_ELBO(sampled=sampled)
    loss, _ = estimate(elbo, model, guide)
    assert loss == pytest.approx(-elbo.parts.elbo.item(), rel=1e-12)
    pyro.set_rng_seed(3)
    trace = poutine.trace(guide).get_trace()
    trace.compute_log_prob()
    log_p = dist.LogNormal(0.0, 1.0).log_prob(trace.nodes["noise"]["value"])
    scores = {n: trace.nodes[n]["log_prob"].detach() for n in ("noise_unconstrained", "noise")}
    scores["noise"] -= log_p.detach()
    for name, score in scores.items():
        torch.testing.assert_close(elbo.parts.kl[name], score)
    weights = guide[1]
    for name in weights.sites:
        prior = poutine.trace(model).get_trace().nodes[name]["fn"]
        exact = torch.distributions.kl_divergence(weights.distribution(name), prior)
        torch.testing.assert_close(elbo.parts.kl[name], exact.detach())
    assert elbo.parts.kl.keys() == {*scores, *weights.sites}


def test_at_the_exact_posterior():
    """Conjugate: y_i ~ N(w, 1), w ~ N(0, 1); there the ELBO is the evidence, up to its noise."""
    y, num = torch.randn(7), 400
    variance = 1 / (1 + len(y))
    mean = variance * y.sum()

    def model():
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("obs", dist.Normal(w, 1.0), obs=y)

    def guide():
        pyro.sample("w", dist.Normal(pyro.param("mean", mean), math.sqrt(variance)))

    elbo = TraceExactKL_ELBO(num, vectorize_particles=True)
    loss, grads = estimate(elbo, model, guide)
    cov = torch.eye(len(y)) + 1
    evidence = dist.MultivariateNormal(torch.zeros(len(y)), cov).log_prob(y)
    total = (y - mean).sum()
    spread = variance * total**2 + (len(y) * variance) ** 2 / 2  # of the log-likelihood at a draw
    assert abs(-loss - evidence) < Z * (spread / num).sqrt()
    kl = (variance + mean**2 - 1 - math.log(variance)) / 2
    torch.testing.assert_close(elbo.parts.kl["w"], kl, rtol=1e-12, atol=0)
    assert abs(grads["mean"]) < Z * len(y) * math.sqrt(variance / num)


# Plates, scales and masks.


def local_latents(y, size=40):
    with pyro.plate("data", size, subsample=torch.arange(len(y))):
        z = pyro.sample("z", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
        pyro.sample("obs", dist.Normal(z.sum(-1), 1.0), obs=y)


def local_guide(y, size=40):
    with pyro.plate("data", size, subsample=torch.arange(len(y))):
        loc = pyro.param("loc", 0.1 * torch.arange(3 * size).reshape(size, 3), event_dim=1)
        pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))


def local_kl(y, size=40, weight=1.0):
    """Return N / B times the divergences of the batch, by the formula."""
    loc = 0.1 * torch.arange(3 * size).reshape(size, 3)[: len(y)]
    each = 0.5 * (0.25 / 4 + loc**2 / 4 - 1 - math.log(0.25 / 4))
    return size / len(y) * (each.sum(-1) * weight).sum()


@modes
def test_minibatch_of_local_latents(mode):
    y = torch.randn(5)
    elbo = TraceExactKL_ELBO(**mode)
    ours = estimate(elbo, local_latents, local_guide, y)
    assert_alike(ours, estimate(TraceMeanField_ELBO(**mode), local_latents, local_guide, y))
    torch.testing.assert_close(elbo.parts.kl["z"], local_kl(y))


MASK = torch.tensor([True, False, True, True, False])
SCALES = torch.tensor([0.1, 2.0, 3.0, 4.0, 5.0])
HANDLERS = {  # a handler, the weights it gives, and what is different where it is missing
    "scale": (partial(poutine.scale, scale=0.3), 0.3, "scale"),
    "tensor-scale": (partial(poutine.scale, scale=SCALES), SCALES, "scale"),
    "mask": (partial(poutine.mask, mask=MASK), MASK, "mask"),
    "mask-false": (partial(poutine.mask, mask=False), 0.0, "mask"),
    "mask-true": (partial(poutine.mask, mask=True), 1.0, None),
    "both": (lambda fn: poutine.scale(poutine.mask(fn, mask=MASK), scale=3.0), 3.0 * MASK, "scale"),
}
handlers = pytest.mark.parametrize(("handler", "weight", "what"), HANDLERS.values(), ids=HANDLERS)


@modes
@handlers
def test_scale_and_mask_on_both(handler, weight, what, mode):
    y = torch.randn(5)
    model, guide, elbo = handler(local_latents), handler(local_guide), TraceExactKL_ELBO(**mode)
    ours = estimate(elbo, model, guide, y)
    assert_alike(ours, estimate(TraceMeanField_ELBO(**mode), model, guide, y))
    torch.testing.assert_close(elbo.parts.kl["z"], local_kl(y, weight=torch.as_tensor(weight)))


@handlers
@pytest.mark.parametrize("side", ["model", "guide"])
def test_scale_or_mask_on_one(side, handler, weight, what):
    """Pyro's TraceMeanField_ELBO takes the guide's and says nothing."""
    model = handler(local_latents) if side == "model" else local_latents
    guide = handler(local_guide) if side == "guide" else local_guide
    if what is None:
        estimate(TraceExactKL_ELBO(), model, guide, torch.randn(5))
        return
    message = rf"one {what} for site 'z'.* in the guide and .* in the model: apply poutine.{what}"
    with pytest.raises(ValueError, match=message):
        estimate(TraceExactKL_ELBO(), model, guide, torch.randn(5))


@pytest.mark.parametrize("mask", [False, True, MASK], ids=["false", "true", "tensor"])
@modes
def test_masked_distributions(mask, mode):
    """Pyro has their KL, of the elements in both masks."""
    mode = {**mode, "max_plate_nesting": 1} if "vectorize_particles" in mode else mode

    def masked(name, loc, own):
        with pyro.plate("data", 5):
            pyro.sample(name, dist.Normal(loc * torch.ones(5), 1.0).mask(own))

    elbo = TraceExactKL_ELBO(**mode)
    loss = elbo.loss(partial(masked, "z", 1.0, mask), partial(masked, "z", 0.0, mask))
    assert loss == elbo.parts.kl["z"] == 0.5 * torch.as_tensor(mask).expand(5).sum()
    if mask is not True:
        with pytest.raises(ValueError, match="one mask for site 'z'"):
            elbo.loss(partial(masked, "z", 1.0, True), partial(masked, "z", 0.0, mask))


def test_scales_that_are_equal_up_to_rounding():
    def scaled(*scales):
        program = local_guide if len(scales) == 2 else local_latents
        for scale in scales:
            program = poutine.scale(program, scale=scale)
        return program

    assert 0.1 * 0.7 != 0.07
    loss, _ = estimate(TraceExactKL_ELBO(), scaled(0.07), scaled(0.1, 0.7), torch.randn(5))
    assert math.isfinite(loss)


# What is scored, and what is not.


class Unscored(dist.Normal):
    """A normal with a registered KL, whose log_prob raises."""

    def log_prob(self, value):
        raise AssertionError("log_prob of an exact site")


class Wrapped(dist.TorchDistribution):
    """The same without an ``expand``: Pyro wraps it, and knows no KL of the wrapper."""

    arg_constraints = {}
    support = dist.constraints.real
    has_rsample = True
    log_prob = Unscored.log_prob

    def __init__(self, loc, scale):
        self.base = dist.Normal(loc, scale)
        super().__init__(self.base.batch_shape)

    def rsample(self, sample_shape=()):
        return self.base.rsample(sample_shape)


@register_kl(Unscored, Unscored)
def _kl_unscored(q, p):
    return torch.distributions.kl_divergence(
        dist.Normal(q.loc, q.scale), dist.Normal(p.loc, p.scale)
    )


@register_kl(Wrapped, Wrapped)
def _kl_wrapped(q, p):
    return torch.distributions.kl_divergence(q.base, p.base)


def pair(q, p, size=None):
    """Return the model z ~ p, y = 1 ~ N(z, 1) and the guide z ~ q, in a plate if ``size``."""

    def model():
        with pyro.plate("data", size) if size else nullcontext():
            z = pyro.sample("z", p)
            pyro.sample("obs", dist.Normal(z, 1.0), obs=torch.ones(size or ()))

    def guide():
        with pyro.plate("data", size) if size else nullcontext():
            pyro.sample("z", q(pyro.param("loc", torch.tensor(0.5))))

    return model, guide


@modes
@validation
@pytest.mark.parametrize("size", [None, 4], ids=["no-plate", "plate"])
@pytest.mark.parametrize("family", [Unscored, Wrapped])
def test_exact_sites_are_never_scored(family, size, validate, mode):
    zero = torch.zeros(())
    pairs = [
        pair(lambda m, f=f: f(m, zero + 0.3), f(zero, zero + 2.0), size)
        for f in (family, dist.Normal)
    ]
    with pyro.validation_enabled(validate):
        ours = estimate(TraceExactKL_ELBO(**mode), *pairs[0])
        assert_alike(ours, estimate(TraceMeanField_ELBO(**mode), *pairs[1]))


class Sealed(torch.Tensor):
    """A value that no operation may touch."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} of the value of an exact site")


class Sealing(dist.Normal):
    def __call__(self, *args, **kwargs):
        return torch.zeros(3).as_subclass(Sealed)


@pytest.mark.parametrize("num_particles", [1, 2])
def test_values_of_exact_sites_are_not_read(num_particles):
    def model():
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("f", torch.tensor(-2.0))

    elbo = TraceExactKL_ELBO(num_particles)
    assert elbo.loss(model, lambda: pyro.sample("z", Sealing(1.0, 1.0))) == pytest.approx(2.5)
    assert {n: v.item() for n, v in elbo.parts.log_likelihood.items()} == {"f": -2.0}


# The parts.


@modes
@pytest.mark.parametrize("call", ["loss", "differentiable_loss", "loss_and_grads"])
@pytest.mark.parametrize("cell", ["lstm"])
def test_parts_sum_to_the_elbo(cell, call, mode):
    """In float32 too; they keep no graph, and pyro.deterministic is no part."""
    model, x, y = small(cell, num_data=40, dtype=torch.float32)
    guide = Guide(model, drop_prob=0.3, scale=0.1)
    guide(x, y)
    elbo = TraceExactKL_ELBO(**mode)
    assert elbo.parts is None
    pyro.set_rng_seed(3)
    loss = torch.as_tensor(getattr(elbo, call)(model, guide, x, y)).item()
    parts = elbo.parts
    assert parts.elbo.item() == pytest.approx(-loss, rel=1e-12)
    total = math.fsum(kl.item() for kl in parts.kl.values())
    assert parts.expected_log_likelihood.item() - total == pytest.approx(-loss, rel=1e-6)
    assert parts.expected_log_likelihood.item() == parts.log_likelihood["obs"].item()
    assert list(parts.log_likelihood) == ["obs"]
    assert list(parts.kl) == list(guide.sites)
    tensors = [parts.expected_log_likelihood, *parts.log_likelihood.values(), *parts.kl.values()]
    assert all(t.shape == () and t.dtype == torch.float64 for t in tensors)
    assert not any(t.requires_grad for t in tensors)
    pyro.set_rng_seed(3)
    assert TraceMeanField_ELBO(**mode).loss(model, guide, x, y) == pytest.approx(loss, rel=1e-5)


def test_parts_are_means_over_particles():
    model, x, y = small(num_data=40)
    guide = Guide(model)
    guide(x, y)
    single, loop = TraceExactKL_ELBO(), TraceExactKL_ELBO(3)
    pyro.set_rng_seed(3)
    terms = []
    for _ in range(3):
        single.loss(model, guide, x, y)
        terms.append(single.parts)
    pyro.set_rng_seed(3)
    loop.loss(model, guide, x, y)
    mean = sum(t.expected_log_likelihood for t in terms) / 3
    torch.testing.assert_close(loop.parts.expected_log_likelihood, mean, rtol=1e-12, atol=0)
    assert loop.parts.kl.keys() == single.parts.kl.keys()
    torch.testing.assert_close(loop.parts.kl, single.parts.kl, rtol=1e-12, atol=1e-12)


# Pyro's and torch's ways of training.


@pytest.mark.parametrize("local", [False, True], ids=["global-store", "module-local"])
def test_svi_step(local):
    """The same trajectory as with Pyro's own."""
    runs = []
    for make in (TraceExactKL_ELBO, TraceMeanField_ELBO):
        pyro.set_rng_seed(1)
        with pyro.settings.context(module_local_params=local):
            model, x, y = small(num_data=40, learn_tau=True)
            svi = SVI(model, Guide(model), pyro.optim.Adam({"lr": 0.05}), make())
            losses = [svi.step(x, y) for _ in range(5)]
            assert all(isinstance(loss, float) for loss in losses)
            runs.append([*losses, svi.evaluate_loss(x, y)])
    assert runs[0] == pytest.approx(runs[1], rel=1e-9)


def test_elbo_module():
    with pyro.settings.context(module_local_params=True):
        model, x, y = small(num_data=40, learn_tau=True)
        guide = Guide(model)
        module = TraceExactKL_ELBO(2)(model, guide)
        module(x, y)
        pyro.set_rng_seed(3)
        loss = module(x, y)
        assert loss.shape == ()
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        pyro.set_rng_seed(3)
        other = TraceMeanField_ELBO(2)(model, guide)(x, y)
        expected = torch.autograd.grad(other, list(module.parameters()))
    torch.testing.assert_close(loss, other, rtol=1e-10, atol=0)
    torch.testing.assert_close(gradients, expected, rtol=1e-10, atol=1e-10)


def test_retain_graph():
    """Of a graph that two steps share, made outside of the model."""
    shared = torch.tensor(0.5, requires_grad=True).exp()
    model, guide = pair(lambda m: dist.Normal(m + shared, 0.3), dist.Normal(0.0, 2.0))
    for _ in range(2):
        TraceExactKL_ELBO(retain_graph=True).loss_and_grads(model, guide)
    TraceExactKL_ELBO().loss_and_grads(model, guide)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        TraceExactKL_ELBO().loss_and_grads(model, guide)


QUIET = dict(validate_distributions_pyro=False, validate_distributions_torch=False)


@modes
def test_no_value_is_read(mode):
    """A tensor on the meta device has none; Pyro's checks of models and guides are on."""
    mode = {**mode, "max_plate_nesting": 1} if "vectorize_particles" in mode else mode
    loc = torch.zeros(3, device="meta", requires_grad=True)
    mask = torch.ones(3, dtype=torch.bool, device="meta")

    def guide():
        with pyro.plate("rows", 3), poutine.mask(mask=mask):
            pyro.sample("z", dist.Normal(loc, 1.0))

    def model():
        with pyro.plate("rows", 3):
            with poutine.mask(mask=mask):
                z = pyro.sample("z", dist.Normal(torch.zeros(3, device="meta"), 1.0))
            pyro.sample("obs", dist.Normal(z, 1.0), obs=torch.zeros(3, device="meta"))

    elbo = TraceExactKL_ELBO(**mode)
    with pyro.settings.context(**QUIET):
        loss = elbo.differentiable_loss(model, guide)
        with pytest.raises(RuntimeError, match="meta"):
            loss.item()
    loss.backward()
    assert loss.device.type == elbo.parts.elbo.device.type == "meta"
    assert loc.grad.shape == (3,)


@pytest.mark.gpu
@modes
def test_no_synchronisation_in_a_step(mode):
    model, x, y = MODELS["regression"](device="cuda")
    guide = Guide(model)
    guide(x, y)
    elbo = TraceExactKL_ELBO(**mode)
    with pyro.validation_enabled(False):
        elbo.differentiable_loss(model, guide, x, y)
        torch.cuda.set_sync_debug_mode("error")
        try:
            elbo.differentiable_loss(model, guide, x, y).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


# What is refused, and what is warned of.


def program(*, auxiliary=False, **sites):
    """Return a program with these sites; a number makes a factor."""

    def run():
        for name, fn in sites.items():
            if isinstance(fn, float):
                pyro.factor(name, torch.tensor(fn))
            else:
                pyro.sample(name, fn, infer={"is_auxiliary": auxiliary})

    return run


NORMAL = dist.Normal(0.0, 1.0)
FIVE = dist.Normal(torch.zeros(5), 1.0)
EVENT = FIVE.to_event(1)
SLAB = SpikeAndSlab(torch.ones(2, 3), 0.1, 0.5, block_shape=(2, 1))
LAPLACE = dist.Laplace(0.0, 1.0).expand([2, 3]).to_event(2)
DELTA = dist.Delta(torch.tensor(0.3), log_density=-1.0)
NO_KL = {  # the model's site, the guide's, and the reason
    "pair": (dist.StudentT(3.0), NORMAL, r"No KL\(p \|\| q\) is implemented"),
    "ours": (LAPLACE, SLAB, "Expected a Normal prior with 2 event dims"),
    "one-masked": (NORMAL.mask(False), NORMAL, "No KL"),
    "delta": (NORMAL, DELTA, "A Delta has no density"),
    "delta-event": (EVENT, dist.Delta(torch.ones(5)).to_event(1), "A Delta has no density"),
    "guide-only": (None, EVENT, "The model has no such latent"),
}
no_kl = pytest.mark.parametrize(("p", "q", "reason"), NO_KL.values(), ids=NO_KL)


def against(p, q):
    """Return a model with z ~ p, or nothing, and a guide with z ~ q."""
    return program() if p is None else program(z=p), program(auxiliary=p is None, z=q)


@no_kl
def test_no_exact_kl(p, q, reason):
    """The site, both distributions and what to do are named."""
    model, guide = against(p, q)
    name = "nothing" if p is None else type(p).__name__
    message = (
        rf"exact KL at site 'z', got {type(q).__name__}\(.* in the guide and {name}.* in the "
        rf"model\. {reason}.*register_kl, .*TraceExactKL_ELBO\(sampled=\['z'\]\).*"
        r"elbo=Trace_ELBO\(\)"
    )
    with pytest.raises(NotImplementedError, match=re.compile(message, re.DOTALL)):
        TraceExactKL_ELBO().loss(model, guide)


@no_kl
@pytest.mark.parametrize("sampled", [True, {"z"}], ids=["all", "named"])
def test_no_exact_kl_and_sampled(p, q, reason, sampled):
    model, guide = against(p, q)
    losses = []
    for elbo in (TraceExactKL_ELBO(sampled=sampled), Trace_ELBO()):
        pyro.set_rng_seed(3)
        losses.append(elbo.loss(model, guide))
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    assert losses[0] != 0.0


@register_kl(Unscored, dist.Normal)
def _kl_of_wrong_shape(q, p):
    return q.loc.new_zeros(7)


COIN = dist.Bernoulli(0.5)
GAMMA = ShapeAugmentedGamma(torch.tensor(2.0), torch.tensor(1.0))  # reparametrised in part
REPARAMETRISED = "'{}' of the guide to be fully reparametrised, got {}"
REFUSED = {  # the model's sites, the guide's, sampled, and the message
    "discrete": ({"z": COIN}, {"z": COIN}, False, REPARAMETRISED.format("z", "Bernoulli")),
    "discrete-sampled": ({"z": COIN}, {"z": COIN}, True, REPARAMETRISED.format("z", "Bernoulli")),
    "in-part": (
        {"z": dist.Gamma(1.0, 1.0)},
        {"z": GAMMA},
        False,
        REPARAMETRISED.format("z", "ShapeAugmentedGamma"),
    ),
    "missing": (
        {"z": NORMAL, "w": NORMAL},
        {"z": NORMAL},
        False,
        r"Expected every latent of the model in the guide, got none of 'w' in .* sites \(z\)",
    ),
    "unknown-names": (
        {"z": NORMAL},
        {"z": NORMAL},
        ["y", "z", "x"],
        r"Expected the names in sampled to be sites of the guide \(z\), got 'x', 'y'\.",
    ),
    "kl-shape": (
        {"z": NORMAL},
        {"z": Unscored(0.0, 1.0)},
        False,
        r"one shape of site 'z', got batch shape \(\) in .*, \(\) in the model, \(7,\) of the KL",
    ),
    "no-plate": ({"z": FIVE}, {"z": FIVE}, False, 'at site "z", invalid log_prob shape'),
}


@pytest.mark.parametrize(("model", "guide", "sampled", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(model, guide, sampled, message):
    error = NotImplementedError if "reparametrised" in message else ValueError
    with pytest.raises(error, match=message):
        TraceExactKL_ELBO(sampled=sampled).loss(program(**model), program(**guide))


@pytest.mark.parametrize("has_rsample", [False, True])
def test_factor_in_the_guide(has_rsample):
    """Counts as log q, as in Trace_ELBO."""

    def guide():
        pyro.sample("z", NORMAL)
        pyro.factor("aux", torch.tensor(2.0), has_rsample=has_rsample)

    elbo = TraceExactKL_ELBO(sampled=["aux"])
    if has_rsample:
        assert elbo.loss(program(z=NORMAL), guide) == 2.0
    else:
        with pytest.raises(NotImplementedError, match=REPARAMETRISED.format("aux", "Unit")):
            elbo.loss(program(z=NORMAL), guide)


def test_one_site_named_and_another_without_a_kl():
    sites = {"z": NORMAL, "w": NORMAL}
    model = program(z=dist.StudentT(3.0), w=dist.StudentT(3.0))
    with pytest.raises(NotImplementedError, match="exact KL at site 'w'"):
        TraceExactKL_ELBO(sampled=["z"]).loss(model, program(**sites))


@pytest.mark.parametrize("num_particles", [1, 2])
def test_guess_of_plate_nesting(num_particles):
    guesses = []
    for make in (TraceExactKL_ELBO, TraceMeanField_ELBO):
        elbo = make(num_particles, vectorize_particles=True)
        elbo.loss(local_latents, local_guide, torch.randn(5))
        guesses.append(elbo.max_plate_nesting)
    assert guesses[0] == guesses[1] == num_particles


@pytest.mark.parametrize("num_particles", [1, 2])
def test_missing_plate_is_seen_before_particles_take_its_dim(num_particles):
    elbo = TraceExactKL_ELBO(num_particles, vectorize_particles=True)
    with pytest.raises(ValueError, match='at site "z", invalid log_prob shape'):
        elbo.loss(program(z=FIVE), program(z=FIVE))


def test_shapes_that_differ():
    """Also where Pyro does not check them: the KL would broadcast."""
    model, guide = program(z=NORMAL), program(z=FIVE)
    message = r"one shape of site 'z', got batch shape \(5,\) in the guide, \(\) in the model"
    with pyro.validation_enabled(False), pytest.raises(ValueError, match=message):
        TraceExactKL_ELBO().loss(model, guide)


@pytest.mark.parametrize("in_guide", [False, True], ids=["model", "guide"])
def test_enumerated_sites(in_guide):
    model = config_enumerate(program(z=COIN), "parallel")
    guide = config_enumerate(program(z=COIN), "sequential") if in_guide else program()
    message = r"Expected no enumerated site, got 'z': use pyro.infer.TraceEnum_ELBO"
    with pytest.raises(NotImplementedError, match=message):
        TraceExactKL_ELBO(sampled=True).loss(model, guide)


ARGUMENTS = {
    "name": (dict(sampled="z"), TypeError, "a bool or a collection of names, got 'z'"),
    "numbers": (dict(sampled=[1]), TypeError, r"a bool or a collection of names, got \[1\]"),
    "none": (dict(sampled=None), TypeError, "a bool or a collection of names, got None"),
    "particles": (dict(num_particles=0), ValueError, "num_particles to be a positive int, got 0"),
}


@pytest.mark.parametrize(("kwargs", "error", "message"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments(kwargs, error, message):
    with pytest.raises(error, match=message):
        TraceExactKL_ELBO(**kwargs)


def test_observation_out_of_support():
    def model():
        pyro.sample("obs", dist.Gamma(1.0, 1.0), obs=torch.tensor(-1.0))

    with pytest.raises(ValueError, match="within the support") as caught:
        TraceExactKL_ELBO().loss(model, program())
    assert "While scoring site 'obs'" in caught.value.__notes__[0]


def test_sites_of_the_guide_that_the_model_lacks():
    """Pyro's check of model and guide is made."""
    with pytest.warns(UserWarning, match=r"non-auxiliary vars in guide .*\n\{'w'\}"):
        TraceExactKL_ELBO(sampled=["w"]).loss(program(z=NORMAL), program(z=NORMAL, w=NORMAL))


ORDERS = {
    "two": ("ab", "ba", NORMAL, "'b'"),
    "three": ("abc", "cab", NORMAL, "'c'"),
    "same": ("ab", "ab", NORMAL, None),
    "sampled": ("ab", "ba", dist.StudentT(3.0), None),
}


@pytest.mark.parametrize(("model", "guide", "last", "named"), ORDERS.values(), ids=ORDERS)
def test_order_of_sites(model, guide, last, named):
    """A guide may not let a parent of an exact site depend on it."""
    priors = {**dict.fromkeys(model, NORMAL), model[-1]: last}
    message = f"model's order, got {named} before sites that precede"
    with pytest.warns(UserWarning, match=message) if named else nullcontext():
        elbo = TraceExactKL_ELBO(sampled=True)
        elbo.loss(program(**priors), program(**dict.fromkeys(guide, NORMAL)))


@pytest.mark.parametrize("first", ["noise", "weights"])
def test_order_of_the_parts_of_a_list(first):
    """Parts do not depend on each other; the docs give the order that has no warning."""
    model = WithNoise()
    noise = AutoNormal(poutine.block(model, expose=["noise"]))
    weights = Guide(poutine.block(model, hide=["noise"]))
    guide = AutoGuideList(model)
    for part in (noise, weights) if first == "noise" else (weights, noise):
        guide.append(part)
    message = "in an AutoGuideList, append its guides in the order of the model's sites"
    with pytest.warns(UserWarning, match=message) if first == "weights" else nullcontext():
        TraceExactKL_ELBO(sampled=["noise", "noise_unconstrained"]).loss(model, guide)


@pytest.mark.parametrize("call", ["loss", "differentiable_loss", "loss_and_grads"])
def test_nan(call):
    model, guide = program(z=NORMAL, f=math.nan), program(z=NORMAL)
    with (
        pyro.settings.context(**QUIET),
        pytest.warns(UserWarning, match="NaN in the ELBO; not finite: the terms of 'f'"),
    ):
        getattr(TraceExactKL_ELBO(), call)(model, guide)


def test_no_sites_at_all():
    elbo = TraceExactKL_ELBO()
    assert elbo.loss(program(), program()) == 0.0
    assert (elbo.parts.log_likelihood, elbo.parts.kl) == ({}, {})


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_kl_weight_multiplies_the_divergences(weight):
    """In the loss and its gradient; the parts, and the ELBO they make, are without it."""
    model, x, y = small(num_data=40)
    guide = vrnn.infer.AutoSpikeAndSlab(model, scale=0.1)
    guide(x, y)
    parameters = list(guide.parameters())
    found = []
    for elbo in (TraceExactKL_ELBO(kl_weight=weight), TraceExactKL_ELBO()):
        pyro.set_rng_seed(2)
        loss = elbo.differentiable_loss(model, guide, x, y)
        found.append((loss, elbo.parts, torch.autograd.grad(loss, parameters)))
    (loss, parts, grads), (plain_loss, plain, plain_grads) = found
    kl = sum(plain.kl.values())
    torch.testing.assert_close(loss, plain_loss - (1 - weight) * kl, rtol=1e-12, atol=1e-9)
    assert torch.equal(parts.elbo, plain.elbo)
    exact = sum(
        kl_divergence(guide.distribution(name), dist.Normal(0.0, 1.0).expand(site.shape).to_event())
        for name, site in guide.sites.items()
    )
    of_kl = torch.autograd.grad(exact, parameters)
    for ours, theirs, part in zip(grads, plain_grads, of_kl, strict=True):
        torch.testing.assert_close(ours, theirs - (1 - weight) * part, rtol=1e-8, atol=1e-8)
    pyro.set_rng_seed(2)
    assert TraceExactKL_ELBO(kl_weight=weight).loss(model, guide, x, y) == loss.item()


def test_kl_weight_is_no_negative_number():
    with pytest.raises(ValueError, match=r"kl_weight to be a number of at least 0, got -1.0"):
        TraceExactKL_ELBO(kl_weight=-1.0)
