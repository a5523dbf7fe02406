import copy
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.testing.gof import auto_goodness_of_fit

from pyro_vrnn.distributions import SpikeAndSlab

Z = 4.26  # two-sided 2e-5
FAILURE_RATE = 2e-5


def blocks_of(event_shape, block_shape):
    """Yield grid index and slices of each block."""
    grid = [range(e // b) for e, b in zip(event_shape, block_shape, strict=True)]
    for where in itertools.product(*grid):
        yield (
            where,
            tuple(slice(i * b, (i + 1) * b) for i, b in zip(where, block_shape, strict=True)),
        )


def dense_log_prob(value, loc, scale, p, block_shape):
    """Sum over blocks of the log of a two-term sum; one event, no batch."""
    scale = torch.as_tensor(scale, dtype=torch.float64).expand(loc.shape)
    grid = [e // b for e, b in zip(loc.shape, block_shape, strict=True)]
    p = torch.as_tensor(p, dtype=torch.float64).expand(grid)
    total = torch.zeros((), dtype=torch.float64)
    for where, part in blocks_of(loc.shape, block_shape):
        spike = dist.Normal(0.0, scale[part]).log_prob(value[part]).sum().exp()
        slab = dist.Normal(loc[part], scale[part]).log_prob(value[part]).sum().exp()
        total = total + torch.log(p[where] * spike + (1 - p[where]) * slab)
    return total


def rand(*shape, low=0.3, high=0.9):
    return torch.empty(shape, dtype=torch.float64).uniform_(low, high)


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


CASES = {
    "gate-columns": lambda: (randn(4, 3), 0.5, 0.25, (2, 1)),
    "rows": lambda: (randn(3, 4), 0.5, 0.25, (1, 4)),
    "single-weights": lambda: (randn(2, 3), 0.7, 0.6, (1, 1)),
    "vector": lambda: (randn(6), rand(6), 0.4, (3,)),
    "elementwise-scale": lambda: (randn(4, 3), rand(4, 3), 0.25, (2, 1)),
    "row-scale": lambda: (randn(4, 3), rand(4, 1), 0.25, (4, 1)),
    "prob-tensor": lambda: (randn(4, 3), 0.5, rand(2, 3), (2, 1)),
    "prob-row": lambda: (randn(3, 3), 0.5, rand(3), (1, 1)),
    "never-dropped": lambda: (randn(4, 3), 0.5, 0.0, (2, 1)),
    "always-dropped": lambda: (randn(4, 3), 0.5, 1.0, (2, 1)),
    "zero-loc": lambda: (torch.zeros(4, 3, dtype=torch.float64), 0.5, 0.3, (2, 1)),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def arguments(request):
    return request.param()


def test_log_prob_is_that_of_the_mixture_of_each_block(arguments):
    q = SpikeAndSlab(*arguments)
    value = q.sample()
    torch.testing.assert_close(
        q.log_prob(value), dense_log_prob(value, *arguments), rtol=1e-12, atol=1e-12
    )


def test_log_prob_gradients_equal_dense(arguments):
    loc, scale, p, block = arguments
    loc, scale = loc.requires_grad_(), torch.as_tensor(scale, dtype=torch.float64).requires_grad_()
    value = (randn(*loc.shape) / 2).requires_grad_()
    inputs = (loc, scale, value)
    expected = torch.autograd.grad(dense_log_prob(value, loc, scale, p, block), inputs)
    grads = torch.autograd.grad(SpikeAndSlab(loc, scale, p, block).log_prob(value), inputs)
    for grad, one in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, one, rtol=1e-10, atol=1e-12)


def test_moments_of_samples(arguments):
    q = SpikeAndSlab(*arguments)
    n = 20_000
    x = q.sample((n,))
    error = (x.var(0) / n).sqrt()
    assert ((x.mean(0) - q.mean).abs() < Z * error).all()
    square = (x - q.mean).square()
    error = (square.var(0) / n).sqrt()
    assert ((square.mean(0) - q.variance).abs() < Z * error).all()


def test_half_of_the_mass_of_each_weight_lies_below_the_median(arguments):
    loc, scale, p, block = arguments
    q = SpikeAndSlab(*arguments)
    p = torch.as_tensor(p, dtype=torch.float64).expand(q.grid_shape)
    for dim, size in enumerate(block):
        p = p.repeat_interleave(size, dim)
    scale = torch.as_tensor(scale, dtype=torch.float64).expand(loc.shape)
    below = p * dist.Normal(0.0, scale).cdf(q.median)
    below = below + (1 - p) * dist.Normal(loc, scale).cdf(q.median)
    torch.testing.assert_close(below, torch.full_like(loc, 0.5), rtol=0, atol=1e-12)


def test_entropy_is_the_mean_of_minus_log_prob(arguments):
    q = SpikeAndSlab(*arguments)
    surprise = -q.log_prob(q.sample((20_000,)))
    error = surprise.std() / len(surprise) ** 0.5
    assert (surprise.mean() - q.entropy()).abs() < Z * error


@pytest.mark.parametrize(
    ("loc", "block", "p"),
    [([1.5], (1,), 0.3), ([1.5, -1.0], (2,), 0.3), ([0.8, -1.0], (1,), 0.3), ([1.5], (1,), 0.0)],
    ids=["one-weight", "one-block-of-two", "two-blocks", "normal"],
)
def test_goodness_of_fit(loc, block, p):
    q = SpikeAndSlab(torch.tensor(loc, dtype=torch.float64), 0.6, p, block)
    samples = q.sample((30_000,))
    assert auto_goodness_of_fit(samples, q.log_prob(samples).exp()) > FAILURE_RATE


def test_weights_of_a_block_are_dropped_together():
    q = SpikeAndSlab(torch.ones(4, 3), 1e-3, 0.4, (2, 1))
    dropped = (q.sample((500,)) < 0.5).reshape(500, 2, 2, 3)  # (S, grid, block, columns)
    assert torch.equal(dropped[:, :, 0], dropped[:, :, 1])
    assert 0 < dropped.float().mean() < 1


def test_blocks_are_dropped_independently():
    n, p = 40_000, 0.4
    q = SpikeAndSlab(torch.ones(2, 2), 1e-3, p, (1, 1))
    dropped = (q.sample((n,)) < 0.5).reshape(n, 4).double()
    joint = dropped.T @ dropped / n
    expected = torch.full((4, 4), p * p, dtype=torch.float64).fill_diagonal_(p)
    error = (expected * (1 - expected) / n).sqrt()
    assert ((joint - expected).abs() < Z * error).all()


def test_noise_is_drawn_for_each_weight_also_in_dropped_blocks():
    q = SpikeAndSlab(torch.full((4, 2), 100.0), 1.0, 1.0, (4, 1))
    x = q.sample((20_000,)).flatten(1)
    covariance = torch.cov(x.T)
    error = math.sqrt(2 / len(x))
    assert ((covariance - torch.eye(8)).abs() < Z * error).all()


def test_mixture_is_formed_for_each_block_not_for_the_matrix():
    # Half the blocks at the spike: impossible under a mixture of two whole matrices.
    q = SpikeAndSlab(torch.full((2, 2), 5.0, dtype=torch.float64), 0.1, 0.25, (1, 1))
    value = torch.tensor([[5.0, 0.0], [0.0, 5.0]], dtype=torch.float64)
    at_mode = -4 * math.log(0.1 * math.sqrt(2 * math.pi))
    expected = at_mode + 2 * math.log(0.25) + 2 * math.log(0.75)
    assert q.log_prob(value).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("p", [0.0, 0.3, torch.tensor([0.0, 0.3, 1.0])], ids=["0", "0.3", "each"])
def test_sample_gradients_follow_the_mask_and_the_noise(p):
    loc = torch.full((2, 3), 10.0, requires_grad=True)
    scale = torch.full((2, 3), 0.01, requires_grad=True)
    w = SpikeAndSlab(loc, scale, p, (2, 1)).rsample()
    keep = (w > 5).float().detach()
    noise = ((w - keep * loc) / scale).detach()
    grads = torch.autograd.grad(w.sum(), (loc, scale))
    torch.testing.assert_close(grads[0], keep)
    torch.testing.assert_close(grads[1], noise, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("scale_shape", "prob_shape"),
    [((), ()), ((4, 1, 1), (4, 1, 1)), ((4, 4), (1, 4)), ((4, 4, 4), (4, 1, 4)), ((4,), (4,))],
    ids=["scalar", "by-batch", "by-event", "all", "last-dim"],
)
def test_batch_is_a_stack_of_events_even_if_all_sizes_agree(scale_shape, prob_shape):
    loc, scale, p = randn(4, 4, 4), rand(*scale_shape), rand(*prob_shape)
    q = SpikeAndSlab(loc, scale, p, (4, 1))
    assert (q.batch_shape, q.event_shape) == ((4,), (4, 4))
    value = q.sample((4,))
    log_prob = q.log_prob(value)
    assert log_prob.shape == (4, 4)
    assert q.entropy().shape == (4,)
    scale, p = scale.expand(4, 4, 4), p.expand(4, 1, 4)
    for s, b in ((0, 3), (2, 1)):
        one = dense_log_prob(value[s, b], loc[b], scale[b], p[b], (4, 1))
        torch.testing.assert_close(log_prob[s, b], one, rtol=1e-12, atol=1e-12)
        single = SpikeAndSlab(loc[b], scale[b], p[b], (4, 1))
        for name in ("mean", "variance", "median"):
            torch.testing.assert_close(getattr(q, name)[b], getattr(single, name))
        torch.testing.assert_close(q.entropy()[b], single.entropy())


def test_expand_keeps_type_law_and_small_parameters():
    loc = randn(3, 1, 4, 2)
    q = SpikeAndSlab(loc, 0.5, rand(2, 2), (2, 1))
    big = q.expand([5, 3, 6])
    assert type(big) is SpikeAndSlab
    assert (big.batch_shape, big.event_shape, big.loc.shape) == ((5, 3, 6), (4, 2), (5, 3, 6, 4, 2))
    assert big.scale is q.scale
    assert big.scale.shape == ()
    value = big.sample()
    assert value.shape == (5, 3, 6, 4, 2)
    torch.testing.assert_close(big.log_prob(value), q.log_prob(value))
    torch.testing.assert_close(big.entropy(), q.entropy().expand(5, 3, 6))
    assert (value[0] != value[1]).any()


def test_scalar_scale_is_not_materialised():
    assert SpikeAndSlab(torch.ones(4, 2), 0.5, 0.1, (4, 1)).scale.numel() == 1


def test_sample_shape_and_dtype(dtype):
    q = SpikeAndSlab(torch.ones(2, 4, 3, dtype=dtype), 0.1, 0.5, (4, 1))
    assert q.rsample((7,)).shape == (7, 2, 4, 3)
    results = (q.sample(), q.log_prob(q.sample()), q.entropy(), q.mean, q.variance, q.median)
    assert {result.dtype for result in results} == {dtype}


def test_float32_log_prob_of_many_weights():
    loc = torch.randn(1000, 500)
    q = SpikeAndSlab(loc, 1e-3, 0.25, (1000, 1))
    value = q.sample()
    exact = SpikeAndSlab(loc.double(), q.scale.double(), 0.25, (1000, 1)).log_prob(value.double())
    torch.testing.assert_close(q.log_prob(value), exact.float(), rtol=1e-5, atol=0)


def test_works_as_a_pyro_site():
    q = SpikeAndSlab(torch.ones(4, 3), 0.1, 0.5, (4, 1))
    with pyro.plate("particles", 5, dim=-1):
        trace = pyro.poutine.trace(lambda: pyro.sample("w", q)).get_trace()
    assert type(trace.nodes["w"]["fn"]) is SpikeAndSlab
    assert trace.nodes["w"]["value"].shape == (5, 4, 3)


def test_support_refuses_wrong_shapes_and_nan():
    q = SpikeAndSlab(torch.ones(4, 3), 0.1, 0.5, (4, 1))
    assert q.support.event_dim == 2
    with pytest.raises(ValueError, match="within the support"):
        q.log_prob(torch.full((4, 3), math.nan))


def test_no_value_is_read_on_the_host():
    # A tensor without storage raises wherever its values are asked for.
    loc = torch.empty(4, 3, device="meta", requires_grad=True)
    q = SpikeAndSlab(loc, 0.1, 0.5, (4, 1), validate_args=False)
    (q.log_prob(q.rsample()) + q.entropy()).backward()
    assert loc.grad.shape == (4, 3)


def test_copies_and_repr():
    q = copy.deepcopy(SpikeAndSlab(torch.ones(4, 3), 0.1, 0.5, (4, 1)))
    assert repr(q) == (
        "SpikeAndSlab(loc: torch.Size([4, 3]), scale: 0.1, drop_prob: 0.5, block_shape: (4, 1))"
    )


LOC = torch.ones(4, 3)
BAD_VALUES = {
    "probability": ((LOC, 0.1, 1.3, (4, 1)), r"Expected drop_prob in \[0, 1\], got 1.3."),
    "probability-tensor": (
        (LOC, 0.1, torch.tensor([0.5, -0.25, 0.0]), (4, 1)),
        r"Expected drop_prob in \[0, 1\], got -0.25.",
    ),
    "probability-shape": (
        (LOC, 0.1, torch.full((2,), 0.5), (4, 1)),
        r"Expected drop_prob to broadcast to shape \(1, 3\), got \(2,\).",
    ),
    "probability-grad": (
        (LOC, 0.1, torch.tensor(0.5, requires_grad=True), (4, 1)),
        "requires grad: the mask is drawn from a Bernoulli",
    ),
    "scale-zero": ((LOC, 0.0, 0.5, (4, 1)), "Expected scale > 0, got 0."),
    "scale-negative": ((LOC, torch.tensor([1.0, -2.0, 1.0]), 0.5, (4, 1)), "got -2."),
    "scale-nan": ((LOC, math.nan, 0.5, (4, 1)), "Expected scale > 0, got nan."),
    "scale-shape": (
        (LOC, torch.ones(2, 4, 3), 0.5, (4, 1)),
        r"Expected scale to broadcast to shape \(4, 3\), got \(2, 4, 3\).",
    ),
    "tiling": (
        (LOC, 0.1, 0.5, (3, 1)),
        r"Expected block_shape to tile an event of shape \(4, 3\), got \(3, 1\).",
    ),
    "too-many-dims": ((LOC, 0.1, 0.5, (4, 1, 1)), r"Expected block_shape of 1 to 2 dims"),
    "no-dims": ((LOC, 0.1, 0.5, ()), r"Expected block_shape of 1 to 2 dims .* got \(\)."),
    "empty-block": ((LOC, 0.1, 0.5, (0, 1)), "Expected each size in block_shape to be a positive"),
    "nan": (
        (torch.tensor([1.0, math.nan]), 0.1, 0.5, (1,)),
        r"Expected loc to be finite, got nan at index \(1,\).",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_bad_values_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpikeAndSlab(*arguments)


@pytest.mark.parametrize("loc", [torch.ones(4, 3, dtype=torch.int64), 1.0], ids=["int", "float"])
def test_loc_must_be_a_floating_point_tensor(loc):
    with pytest.raises(TypeError, match="Expected loc to be a floating point Tensor, got"):
        SpikeAndSlab(loc, 0.1, 0.5, (4, 1))


def test_large_finite_loc_is_accepted():
    SpikeAndSlab(torch.full((4,), 3e38), 0.1, 0.5, (4,))
