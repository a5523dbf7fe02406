"""Multiplicative Gaussian noise: each block a normal of covariance rank one plus diagonal."""

from __future__ import annotations

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch.distributions import kl_divergence

from pyro_vrnn.distributions import MultiplicativeNormal, SpikeAndSlab, kl_parts

Z = 4.26  # two-sided 2e-5


def rand(*shape, low=0.3, high=0.9):
    return torch.empty(shape, dtype=torch.float64).uniform_(low, high)


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


CASES = {
    "gate-columns": lambda: (randn(4, 3), 0.5, 0.25, (2, 1)),
    "rows": lambda: (randn(3, 4), 0.5, 0.25, (1, 4)),
    "single-weights": lambda: (randn(2, 3), 0.7, 0.6, (1, 1)),
    "elementwise-scale": lambda: (randn(4, 3), rand(4, 3), 0.25, (2, 1)),
    "row-scale": lambda: (randn(4, 3), rand(4, 1), 2.0, (4, 1)),
    "alpha-tensor": lambda: (randn(4, 3), 0.5, rand(2, 3), (2, 1)),
    "no-factor": lambda: (randn(4, 3), 0.5, 0.0, (2, 1)),
    "zero-loc": lambda: (torch.zeros(4, 3, dtype=torch.float64), 0.5, 0.3, (2, 1)),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def arguments(request):
    return request.param()


def dense(loc, scale, alpha, block_shape):
    """Write the covariance of the whole event out."""
    rows, columns = (e // b for e, b in zip(loc.shape, block_shape, strict=True))
    grid = torch.arange(rows * columns).reshape(rows, columns)
    member = grid.repeat_interleave(block_shape[0], 0).repeat_interleave(block_shape[1], 1)
    together = member.reshape(-1, 1) == member.reshape(1, -1)
    alpha = torch.as_tensor(alpha, dtype=torch.float64).expand(rows, columns).reshape(-1)
    m = loc.reshape(-1)
    scale = torch.as_tensor(scale, dtype=torch.float64).expand(loc.shape).reshape(-1)
    cross = together * alpha[member.reshape(-1)].unsqueeze(-1) * m.outer(m)
    return dist.MultivariateNormal(m, scale.square().diag() + cross)


def test_log_prob_is_that_of_the_dense_normal(arguments):
    q = MultiplicativeNormal(*arguments)
    value = q.sample((3,))
    expected = dense(*arguments).log_prob(value.flatten(1))
    torch.testing.assert_close(q.log_prob(value), expected, rtol=1e-11, atol=1e-11)


def test_entropy_is_that_of_the_dense_normal(arguments):
    expected = dense(*arguments).entropy()
    torch.testing.assert_close(
        MultiplicativeNormal(*arguments).entropy(), expected, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("centred", [True, False], ids=["prior-at-0", "shifted-prior"])
def test_divergence_is_that_of_the_dense_normals(arguments, centred):
    loc0 = torch.zeros(()).double() if centred else randn(*arguments[0].shape)
    scale0 = rand(*arguments[0].shape)
    prior = dist.Normal(loc0, scale0).to_event(2)
    flat = dist.MultivariateNormal(
        loc0.expand(arguments[0].shape).reshape(-1), scale0.reshape(-1).square().diag()
    )
    q = MultiplicativeNormal(*arguments)
    torch.testing.assert_close(
        kl_divergence(q, prior), kl_divergence(dense(*arguments), flat), rtol=1e-11, atol=1e-11
    )
    parts = kl_parts(q, prior)
    torch.testing.assert_close(sum(parts), kl_divergence(q, prior), rtol=1e-14, atol=0)


@pytest.mark.parametrize("what", ["log_prob", "kl"])
def test_gradients_are_those_of_the_dense_normal(what):
    loc, scale, alpha = randn(4, 3), rand(4, 3), rand(2, 3)
    inputs = [x.requires_grad_() for x in (loc, scale, alpha)]
    q, full = MultiplicativeNormal(*inputs, (2, 1)), dense(*inputs, (2, 1))
    value = randn(4, 3)
    if what == "log_prob":
        ours, theirs = q.log_prob(value), full.log_prob(value.flatten())
    else:
        prior = dist.Normal(torch.zeros(4, 3).double(), 1.0).to_event(2)
        flat = dist.MultivariateNormal(torch.zeros(12).double(), torch.eye(12).double())
        ours, theirs = kl_divergence(q, prior), kl_divergence(full, flat)
    expected = torch.autograd.grad(theirs, inputs)
    for grad, one in zip(torch.autograd.grad(ours, inputs), expected, strict=True):
        torch.testing.assert_close(grad, one, rtol=1e-9, atol=1e-10)


def test_mean_and_covariance_of_samples(arguments):
    q, full = MultiplicativeNormal(*arguments), dense(*arguments)
    n = 40_000
    x = q.sample((n,)).flatten(1)
    error = (x.var(0) / n).sqrt()
    assert ((x.mean(0) - q.mean.flatten()).abs() < Z * error).all()
    centred = x - q.mean.flatten()
    products = centred.unsqueeze(-1) * centred.unsqueeze(-2)
    error = (products.var(0) / n).sqrt()
    assert ((products.mean(0) - full.covariance_matrix).abs() < Z * error).all()
    torch.testing.assert_close(q.variance.flatten(), full.variance)


def test_sample_gradients_are_pathwise():
    """Gradients at fixed noise, by w = m (1 + sqrt(alpha) xi) + sigma e."""
    loc, scale, alpha = randn(4, 2), rand(4, 2), rand(2, 2)
    inputs = [x.requires_grad_() for x in (loc, scale, alpha)]
    pyro.set_rng_seed(3)
    draw = MultiplicativeNormal(*inputs, (2, 1)).rsample()
    pyro.set_rng_seed(3)
    noise, xi = randn(4, 2), randn(2, 2)
    by_hand = loc * (1 + alpha.sqrt() * xi).repeat_interleave(2, 0) + scale * noise
    torch.testing.assert_close(draw, by_hand)
    weights = randn(4, 2)
    expected = torch.autograd.grad((by_hand * weights).sum(), inputs)
    grads = torch.autograd.grad((draw * weights).sum(), inputs)
    for grad, one in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, one)


def test_without_factors_it_is_a_normal():
    loc, scale = randn(4, 3), rand(4, 3)
    prior = dist.Normal(torch.zeros(4, 3).double(), 1.0).to_event(2)
    plain, mean_field = dist.Normal(loc, scale).to_event(2), SpikeAndSlab(loc, scale, 0.0, (4, 1))
    q = MultiplicativeNormal(loc, scale, 0.0, (4, 1))
    value = randn(4, 3)
    torch.testing.assert_close(q.log_prob(value), plain.log_prob(value))
    torch.testing.assert_close(kl_divergence(q, prior), kl_divergence(mean_field, prior))


def test_variance_is_that_of_inverted_dropout():
    loc, p = randn(4, 3), 0.3
    ours = MultiplicativeNormal(loc, 0.1, p / (1 - p), (4, 1))
    dropped = SpikeAndSlab(loc / (1 - p), 0.1, p, (4, 1))
    torch.testing.assert_close(ours.mean, dropped.mean)
    torch.testing.assert_close(ours.variance, dropped.variance)


@pytest.mark.parametrize("scale", [1e-2, 1e-4])
def test_small_scale_limit_of_the_gradient_is_not_weight_decay(scale):
    """It is (1 + alpha) m / s^2 - m / |m|^2: the second part does not go away."""
    loc, alpha = randn(4, 1).requires_grad_(), 0.5
    prior = dist.Normal(torch.zeros(4, 1).double(), 0.7).to_event(2)
    kl = kl_divergence(MultiplicativeNormal(loc, scale, alpha, (4, 1)), prior)
    (grad,) = torch.autograd.grad(kl, loc)
    m = loc.detach()
    decay = (1 + alpha) * m / 0.7**2
    d2 = m.square().sum() / scale**2
    torch.testing.assert_close(grad, decay - m / m.square().sum(), rtol=2 / (alpha * d2), atol=1e-9)
    assert (grad - decay).norm() > 0.1


@pytest.mark.parametrize("scale", [1e-1, 1e-3])
def test_float32_log_density_keeps_its_digits_far_from_zero(scale):
    """At d = 1e4 the quadratic form is a difference of numbers a million times larger."""
    loc = torch.randn(64, 5)
    q = MultiplicativeNormal(loc, scale, 0.5, (64, 1))
    exact = MultiplicativeNormal(loc.double(), scale, 0.5, (64, 1))
    value = q.sample()
    error = (q.log_prob(value) - exact.log_prob(value.double())).abs()
    # Each weight's rounding, 2^-24 |w| / sigma standard deviations of noise, moves it by its own.
    assert error < 320**0.5 * 4.26 * 2**-23 * 5 / scale


def test_expansion_is_views_and_a_draw_for_each():
    q = MultiplicativeNormal(randn(4, 3), 0.1, rand(2, 3), (2, 1))
    big = q.expand([5])
    assert big.batch_shape == (5,)
    assert big.loc.data_ptr() == q.loc.data_ptr()
    assert type(big) is MultiplicativeNormal
    draws = big.rsample()
    assert draws.shape == (5, 4, 3)
    torch.testing.assert_close(big.log_prob(draws), torch.stack([q.log_prob(d) for d in draws]))
    prior = dist.Normal(torch.zeros(4, 3).double(), 1.0).to_event(2)
    torch.testing.assert_close(
        kl_divergence(big, prior.expand([5])), kl_divergence(q, prior).expand(5)
    )


def test_pyro_takes_the_analytic_divergence(monkeypatch):
    loc = randn(4, 3)

    def model():
        return pyro.sample("w", dist.Normal(torch.zeros(4, 3).double(), 1.0).to_event(2))

    def guide():
        return pyro.sample("w", MultiplicativeNormal(loc, 0.1, 0.5, (2, 1)))

    loss = TraceMeanField_ELBO().loss(model, guide)
    q, prior = MultiplicativeNormal(loc, 0.1, 0.5, (2, 1)), dist.Normal(0.0, 1.0)
    expected = kl_divergence(q, prior.expand([4, 3]).to_event(2))
    assert loss == pytest.approx(expected.item(), rel=1e-6)


def test_copy_and_text():
    q = MultiplicativeNormal(torch.ones(4, 3), 0.1, 0.5, (2, 1))
    assert repr(copy.deepcopy(q)) == (
        "MultiplicativeNormal(loc: torch.Size([4, 3]), scale: 0.1, alpha: 0.5, block_shape: (2, 1))"
    )
    assert (q.median == q.mean).all()


ERRORS = {
    "negative": (dict(alpha=-0.1), ValueError, r"alpha to be a number of at least 0, got -0.1"),
    "text": (dict(alpha="1"), TypeError, r"alpha to be a number of at least 0, got '1'"),
    "tensor": (dict(alpha=torch.tensor(-0.5)), ValueError, r"Expected alpha >= 0, got -0.5"),
    "no-gradient-at-0": (
        dict(alpha=torch.zeros(1, 3, requires_grad=True)),
        ValueError,
        r"Expected alpha > 0 where it has a gradient, got 0",
    ),
    "scale": (dict(scale=0.0), ValueError, r"Expected scale > 0, got 0"),
    "blocks": (dict(block_shape=(3, 1)), ValueError, r"block_shape to tile an event .*\(4, 3\)"),
    "grid": (dict(alpha=torch.ones(4, 3)), ValueError, r"alpha to broadcast to shape \(2, 3\)"),
}


@pytest.mark.parametrize(("changes", "error", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(changes, error, message):
    given = dict(loc=torch.ones(4, 3), scale=0.1, alpha=0.5, block_shape=(2, 1))
    with pytest.raises(error, match=message):
        MultiplicativeNormal(**{**given, **changes})
