import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch.distributions import kl_divergence

from pyro_vrnn.distributions import (
    BlockDropout,
    MultiplicativeNormal,
    SpikeAndSlab,
    gal_gap,
    gal_kl_divergence,
    kl_parts,
)
from pyro_vrnn.ops import blocks

Z = 4.26  # two-sided 2e-5


def rand(*shape, low=0.4, high=0.9):
    return torch.empty(shape, dtype=torch.float64).uniform_(low, high)


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


def normal(loc, scale, shape=()):
    """Return a diagonal normal of event ``shape``, its parameters expanded, not copied."""
    loc = torch.as_tensor(loc, dtype=torch.float64)
    scale = torch.as_tensor(scale, dtype=torch.float64)
    shape = torch.broadcast_shapes(shape, loc.shape, scale.shape)
    return dist.Normal(loc, scale).expand(shape).to_event(len(shape))


def dense_kl(loc, scale, p, loc0, scale0):
    """
    KL of one block, of one or two weights, by a sum over a fine grid of q log(q / prior).

    The trapezoid rule on 15 standard deviations is exact to rounding for these smooth densities.
    """
    reach = torch.linspace(-15, 15, 501, dtype=torch.float64)
    axes = []
    for m, sigma in zip(loc.detach().tolist(), scale.detach().tolist(), strict=True):
        axes.append(m / 2 + reach * (sigma + abs(m) / 10))
    mesh = torch.meshgrid(*axes, indexing="ij")
    step = math.prod(float(axis[1] - axis[0]) for axis in axes)

    def log_density(means, scales):
        terms = zip(mesh, means, scales, strict=True)
        return sum(dist.Normal(m, s).log_prob(x) for x, m, s in terms)

    log_q = torch.logaddexp(
        math.log(p) + log_density(torch.zeros_like(loc), scale),
        math.log1p(-p) + log_density(loc, scale),
    )
    return (log_q.exp() * (log_q - log_density(loc0, scale0))).sum() * step


BLOCKS = {  # loc, scale, p, prior loc, prior scale, of one block
    "near-spike": ([0.1], [0.5], 0.25, [0.0], [1.0]),
    "overlapping": ([1.0], [0.6], 0.25, [0.0], [1.0]),
    "far": ([3.0], [0.3], 0.7, [0.0], [1.0]),
    "shifted-prior": ([1.0], [0.6], 0.25, [-0.7], [1.3]),
    "two-weights": ([1.0, -0.5], [0.6, 0.6], 0.25, [0.0, 0.0], [1.0, 1.0]),
    "two-scales": ([1.0, -0.5], [0.6, 0.4], 0.6, [0.0, 0.0], [1.0, 1.0]),
    "all-differ": ([1.0, -0.5], [0.6, 0.4], 0.25, [0.3, -0.7], [0.8, 1.4]),
    "rarely-dropped": ([1.0, -0.5], [0.6, 0.4], 1e-3, [0.3, 0.0], [0.8, 1.4]),
}


@pytest.fixture(params=BLOCKS.values(), ids=BLOCKS.keys())
def block(request):
    loc, scale, p, loc0, scale0 = request.param
    to = {"dtype": torch.float64}
    grad = {"dtype": torch.float64, "requires_grad": True}
    return (
        torch.tensor(loc, **grad),
        torch.tensor(scale, **grad),
        p,
        torch.tensor(loc0, **to),
        torch.tensor(scale0, **to),
    )


def test_kl_and_gradients_equal_dense_integration(block):
    loc, scale, p, loc0, scale0 = block
    exact = dense_kl(*block)
    kl = kl_divergence(SpikeAndSlab(loc, scale, p, loc.shape), normal(loc0, scale0))
    torch.testing.assert_close(kl, exact, rtol=0, atol=1e-11)
    expected = torch.autograd.grad(exact, (loc, scale))
    for grad, one in zip(torch.autograd.grad(kl, (loc, scale)), expected, strict=True):
        torch.testing.assert_close(grad, one, rtol=0, atol=1e-10)


def test_gradients_to_the_prior_equal_dense_integration(block):
    loc, scale, p, loc0, scale0 = block
    loc0, scale0 = loc0.requires_grad_(), scale0.requires_grad_()
    kl = kl_divergence(SpikeAndSlab(loc, scale, p, loc.shape), normal(loc0, scale0))
    expected = torch.autograd.grad(dense_kl(loc, scale, p, loc0, scale0), (loc0, scale0))
    for grad, one in zip(torch.autograd.grad(kl, (loc0, scale0)), expected, strict=True):
        torch.testing.assert_close(grad, one, rtol=0, atol=1e-10)


MATRICES = {  # loc, scale, p, block_shape, prior
    "default": lambda: (randn(4, 3), 0.5, 0.25, (2, 1), normal(0.0, 1.0, (4, 3))),
    "rows": lambda: (randn(4, 3), 0.5, 0.25, (1, 3), normal(0.0, 1.0, (4, 3))),
    "scalar-shifted": lambda: (randn(4, 3), 0.5, 0.25, (2, 1), normal(0.4, 0.7, (4, 3))),
    "scales": lambda: (randn(4, 3), rand(4, 3), 0.25, (2, 1), normal(0.0, 1.0, (4, 3))),
    "column-scale": lambda: (randn(4, 3), rand(4, 1), 0.4, (4, 1), normal(0.0, rand(3), (4, 3))),
    "all-differ": lambda: (
        randn(4, 3),
        rand(4, 3),
        rand(2, 3),
        (2, 1),
        normal(randn(4, 3), rand(4, 3)),
    ),
    "row-prior": lambda: (randn(4, 3), 0.5, 0.25, (2, 1), normal(randn(3), rand(4, 1))),
    "dropconnect": lambda: (randn(4, 3), 0.5, rand(3), (1, 1), normal(0.0, 1.0, (4, 3))),
    "vector": lambda: (randn(6), rand(6), 0.5, (3,), normal(0.2, 1.0, (6,))),
    "never": lambda: (randn(4, 3), 0.5, 0.0, (2, 1), normal(0.0, 1.0, (4, 3))),
    "always": lambda: (randn(4, 3), 0.5, 1.0, (2, 1), normal(0.3, 1.0, (4, 3))),
}


@pytest.fixture(params=MATRICES.values(), ids=MATRICES.keys())
def matrix(request):
    return request.param()


def test_kl_equals_monte_carlo(matrix):
    *arguments, prior = matrix
    q = SpikeAndSlab(*arguments)
    w = q.sample((20_000,))
    ratio = q.log_prob(w) - prior.log_prob(w)
    error = ratio.std() / len(ratio) ** 0.5
    assert (kl_divergence(q, prior) - ratio.mean()).abs() < Z * error


def test_kl_is_minus_entropy_minus_mean_log_prior(matrix):
    *arguments, prior = matrix
    q = SpikeAndSlab(*arguments)
    base = prior.base_dist
    mean_square = q.variance + (q.mean - base.loc).square()
    log_prior = -(mean_square / base.scale.square() + math.log(2 * math.pi)) / 2 - base.scale.log()
    torch.testing.assert_close(
        kl_divergence(q, prior), -q.entropy() - log_prior.sum(), rtol=1e-12, atol=1e-12
    )


def test_parts_sum_to_the_kl(matrix):
    *arguments, prior = matrix
    q = SpikeAndSlab(*arguments)
    parts = kl_parts(q, prior)
    torch.testing.assert_close(sum(parts), kl_divergence(q, prior), rtol=1e-14, atol=0)
    ratio = (q.scale / prior.base_dist.scale).square().expand(q.event_shape)
    torch.testing.assert_close(parts.constant, (ratio - 1 - ratio.log()).sum() / 2)
    assert parts.constant >= 0
    assert parts.slab >= 0
    assert parts.mask <= 0


def test_gal_approximation_is_below_by_at_most_the_entropy_of_the_mask(matrix):
    *arguments, prior = matrix
    q = SpikeAndSlab(*arguments)
    p = torch.as_tensor(q.drop_prob).double().expand(q.grid_shape)
    gap = kl_divergence(q, prior) - gal_kl_divergence(q, prior)
    assert -1e-12 <= gap <= dist.Bernoulli(p).entropy().sum() + 1e-12
    torch.testing.assert_close(gap, gal_gap(q), rtol=0, atol=1e-12)


@pytest.mark.parametrize("d", [1e-5, 12.0], ids=["near", "far"])
def test_gal_bounds_are_attained(d):
    q = SpikeAndSlab(torch.full((4, 3), d, dtype=torch.float64) / 2, 1.0, 0.25, (4, 1))
    most = 3 * dist.Bernoulli(torch.tensor(0.25, dtype=torch.float64)).entropy()
    expected = most if d < 1 else torch.zeros_like(most)
    torch.testing.assert_close(gal_gap(q), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("p", [0.0, torch.tensor(0.0)], ids=["float", "tensor"])
def test_without_dropping_it_is_the_kl_of_normals(p):
    loc, scale = randn(4, 3).requires_grad_(), rand(4, 3).requires_grad_()
    prior = normal(randn(4, 3), rand(4, 3))
    kl = kl_divergence(SpikeAndSlab(loc, scale, p, (2, 1)), prior)
    expected = kl_divergence(dist.Normal(loc, scale).to_event(2), prior)
    torch.testing.assert_close(kl, expected, rtol=1e-13, atol=0)
    grads = torch.autograd.grad(kl, (loc, scale))
    for grad, one in zip(grads, torch.autograd.grad(expected, (loc, scale)), strict=True):
        torch.testing.assert_close(grad, one, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("p", [1.0, torch.tensor(1.0)], ids=["float", "tensor"])
def test_always_dropped_does_not_depend_on_loc(p):
    loc = randn(4, 3).requires_grad_()
    prior = normal(0.3, 1.2, (4, 3))
    kl = kl_divergence(SpikeAndSlab(loc, 0.5, p, (2, 1)), prior)
    expected = kl_divergence(normal(0.0, 0.5, (4, 3)), prior)
    torch.testing.assert_close(kl, expected, rtol=1e-13, atol=0)
    assert (torch.autograd.grad(kl, loc)[0] == 0).all()


def test_kl_is_zero_at_the_prior():
    q = SpikeAndSlab(torch.zeros(1000, 100), 0.3, 0.5, (1000, 1))
    prior = dist.Normal(torch.zeros(1000, 100), torch.full((1000, 100), 0.3)).to_event(2)
    assert kl_divergence(q, prior) == 0


def test_float32_scales_near_the_prior_do_not_cancel():
    scale = 1 + 1e-4 * torch.randn(400, 300)
    q = SpikeAndSlab(torch.zeros(400, 300), scale, 0.0, (400, 1))
    exact = SpikeAndSlab(torch.zeros(400, 300).double(), scale.double(), 0.0, (400, 1))
    torch.testing.assert_close(
        kl_divergence(q, dist.Normal(0.0, 1.0).expand([400, 300]).to_event(2)).double(),
        kl_divergence(exact, normal(0.0, 1.0, (400, 300))),
        rtol=1e-4,
        atol=0,
    )


@pytest.mark.parametrize("scale", [1e-4, 0.3, 0.999], ids=str)
def test_float32_scalar_scales_cost_no_digits_per_weight(scale):
    q = SpikeAndSlab(torch.zeros(400, 300), scale, 0.25, (400, 1))
    parts = kl_parts(q, dist.Normal(0.0, 1.0).expand([400, 300]).to_event(2))
    ratio = q.scale.item() ** 2
    expected = 60_000 * (ratio - 1 - math.log(ratio))
    assert parts.constant.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("m0", [0.0, 0.4], ids=["centred", "shifted"])
@pytest.mark.parametrize("scale", [0.05, None], ids=["scalar", "elementwise"])
def test_expanded_parameters_give_what_full_ones_give(m0, scale):
    loc = randn(6, 4).requires_grad_()
    scale = rand(6, 4) if scale is None else torch.tensor(scale, dtype=torch.float64)
    scale.requires_grad_()
    full = normal(torch.full((6, 4), m0, dtype=torch.float64), torch.ones(6, 4))
    cheap = kl_divergence(SpikeAndSlab(loc, scale, 0.25, (3, 1)), normal(m0, 1.0, (6, 4)))
    dense = kl_divergence(SpikeAndSlab(loc, scale.expand(6, 4) * 1, 0.25, (3, 1)), full)
    torch.testing.assert_close(cheap, dense, rtol=1e-13, atol=0)
    grads = torch.autograd.grad(cheap, (loc, scale))
    for grad, one in zip(grads, torch.autograd.grad(dense, (loc, scale)), strict=True):
        torch.testing.assert_close(grad, one, rtol=1e-11, atol=1e-11)


def test_scalars_need_one_pass_over_the_weights(monkeypatch):
    calls = []
    summed = blocks._square_sums
    monkeypatch.setattr(blocks, "_square_sums", lambda *a: (calls.append(1), summed(*a))[1])
    kl_divergence(SpikeAndSlab(randn(6, 4), 0.05, 0.25, (3, 1)), normal(0.0, 1.0, (6, 4)))
    assert len(calls) == 1


@pytest.mark.parametrize("shared", [True, False], ids=["one-prior", "prior-by-batch"])
def test_batches_are_stacks_even_if_all_sizes_agree(shared):
    loc, scale, p = randn(4, 4, 4), rand(4, 1, 1), rand(4, 1, 4)
    loc0, scale0 = (randn(4, 4), rand(4, 4)) if shared else (randn(4, 4, 4), rand(4, 4, 4))
    q = SpikeAndSlab(loc, scale, p, (4, 1))
    kl = kl_divergence(q, dist.Normal(loc0, scale0).to_event(2))
    assert kl.shape == (4,)
    loc0, scale0 = loc0.expand(4, 4, 4), scale0.expand(4, 4, 4)
    singles = [
        kl_divergence(SpikeAndSlab(loc[i], scale[i], p[i], (4, 1)), normal(loc0[i], scale0[i]))
        for i in range(4)
    ]
    torch.testing.assert_close(kl, torch.stack(singles), rtol=1e-12, atol=0)


def test_expanded_batch_is_computed_once(monkeypatch):
    q = SpikeAndSlab(randn(1, 4, 3).requires_grad_(), rand(4, 3), 0.25, (4, 1))
    big = q.expand([5, 7])
    prior = dist.Normal(randn(4, 3), 1.0).expand([5, 7, 4, 3]).to_event(2)
    sizes = []
    summed = blocks._square_sums
    monkeypatch.setattr(
        blocks, "_square_sums", lambda x, dims: (sizes.append(x.numel()), summed(x, dims))[1]
    )
    kl = kl_divergence(big, prior)
    assert kl.shape == (5, 7)
    assert max(sizes) == 12
    one = SpikeAndSlab(q.loc[0], q.scale, 0.25, (4, 1))
    expected = kl_divergence(one, prior.base_dist.to_event(2).expand([5, 7]))
    torch.testing.assert_close(kl, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("d", [12.0, 40.0, 1e4], ids=str)
def test_far_from_the_spike_the_gradient_is_weight_decay(d):
    loc = (0.01 * d * torch.ones(1, 3, dtype=torch.float64)).requires_grad_()
    kl = kl_divergence(SpikeAndSlab(loc, 0.01, 0.25, (1, 1)), normal(0.0, 2.0, (1, 3)))
    (grad,) = torch.autograd.grad(kl, loc)
    bound = math.exp(-d * d / 8) / 0.01 * d
    torch.testing.assert_close(grad, 0.75 * loc.detach() / 4, rtol=1e-13, atol=bound)


def test_near_the_spike_the_gradient_pushes_away():
    loc = torch.tensor([0.02], dtype=torch.float64, requires_grad=True)  # d = 2
    kl = kl_divergence(SpikeAndSlab(loc, 0.01, 0.25, (1,)), normal(0.0, 1.0, (1,)))
    assert torch.autograd.grad(kl, loc)[0] < -1.0


def test_float32_with_ten_million_small_scales():
    loc = (0.05 * torch.randn(10_000, 1000)).requires_grad_()
    prior = dist.Normal(0.0, 1.0).expand([10_000, 1000]).to_event(2)
    kl = kl_divergence(SpikeAndSlab(loc, 1e-4, 0.25, (1000, 1)), prior)
    (grad,) = torch.autograd.grad(kl, loc)
    wide = loc.detach().double().requires_grad_()
    exact = kl_divergence(
        SpikeAndSlab(wide, torch.tensor(1e-4), 0.25, (1000, 1)), normal(0.0, 1.0, (10_000, 1000))
    )
    (exact_grad,) = torch.autograd.grad(exact, wide)
    torch.testing.assert_close(kl, exact.float(), rtol=1e-7, atol=0)
    torch.testing.assert_close(grad, exact_grad.float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("d", [0.0, 1e-3, 1.0, 5.0, 1e5], ids=str)
def test_float32_gradients_are_finite_at_every_distance(d):
    loc = torch.full((1000, 4), d * 1e-4 / 1000**0.5).requires_grad_()
    scale = torch.tensor(1e-4).requires_grad_()
    prior = dist.Normal(0.0, 1.0).expand([1000, 4]).to_event(2)
    kl = kl_divergence(SpikeAndSlab(loc, scale, 0.25, (1000, 1)), prior)
    grads = torch.autograd.grad(kl, (loc, scale))
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_dtypes(dtype):
    q = SpikeAndSlab(torch.ones(2, 4, 3, dtype=dtype), 0.1, 0.5, (4, 1))
    prior = dist.Normal(torch.zeros(4, 3), 1.0).to_event(2)
    assert kl_divergence(q, prior).dtype == dtype
    assert gal_kl_divergence(q, prior).dtype == dtype
    assert {part.dtype for part in kl_parts(q, prior)} == {torch.float64}


def test_no_value_is_read_on_the_host():
    # A tensor without storage raises wherever its values are asked for.
    loc = torch.empty(4, 3, device="meta", requires_grad=True)
    zero = torch.zeros((), device="meta")
    prior = dist.Normal(zero, zero + 1, validate_args=False).expand([4, 3]).to_event(2)
    kl_divergence(SpikeAndSlab(loc, 0.1, 0.5, (4, 1), validate_args=False), prior).backward()
    assert loc.grad.shape == (4, 3)


def test_mean_field_elbo_uses_the_exact_kl():
    loc = torch.ones(4, 3)

    def model():
        pyro.sample("w", dist.Normal(0.0, 1.0).expand([4, 3]).to_event(2))

    def guide():
        pyro.sample("w", SpikeAndSlab(loc, 0.5, 0.25, (4, 1)))

    q = SpikeAndSlab(loc, 0.5, 0.25, (4, 1))
    exact = kl_divergence(q, dist.Normal(0.0, 1.0).expand([4, 3]).to_event(2)).item()
    assert TraceMeanField_ELBO().loss(model, guide) == pytest.approx(exact, rel=1e-6)
    vectorized = TraceMeanField_ELBO(num_particles=3, vectorize_particles=True)
    assert vectorized.loss(model, guide) == pytest.approx(exact, rel=1e-6)


def test_nested_events_are_unwrapped():
    q = SpikeAndSlab(randn(4, 3), 0.5, 0.25, (2, 1))
    nested = dist.Normal(torch.zeros(4, 3).double(), 1.0).to_event(1).to_event(1)
    torch.testing.assert_close(kl_divergence(q, nested), kl_divergence(q, normal(0, 1, (4, 3))))


@pytest.mark.parametrize(
    "prior",
    [
        dist.Laplace(torch.zeros(4, 3), 1.0).to_event(2),
        dist.Normal(torch.zeros(4, 3), 1).to_event(1),
    ],
    ids=["laplace", "event-dims"],
)
def test_other_priors_are_not_implemented(prior):
    with pytest.raises(NotImplementedError, match="Expected a Normal prior with 2 event dims, got"):
        kl_divergence(SpikeAndSlab(torch.ones(4, 3), 0.5, 0.25, (2, 1)), prior)


def test_event_shapes_must_agree():
    q = SpikeAndSlab(torch.ones(4, 3), 0.5, 0.25, (2, 1))
    with pytest.raises(
        ValueError, match=r"Expected a prior of event shape \(4, 3\), got \(4, 1\)."
    ):
        kl_divergence(q, dist.Normal(torch.zeros(4, 1), 1.0).to_event(2))


# The limit without noise.

MASKS_ONLY = {  # loc, p, block_shape, prior
    "default": lambda: (randn(4, 3), 0.25, (2, 1), normal(0.0, 1.0, (4, 3))),
    "rows": lambda: (randn(4, 3), 0.25, (1, 3), normal(0.0, 0.7, (4, 3))),
    "all-differ": lambda: (randn(4, 3), rand(2, 3), (2, 1), normal(randn(4, 3), rand(4, 3))),
    "row-prior": lambda: (randn(4, 3), rand(3), (2, 1), normal(randn(3), rand(4, 1))),
    "vector": lambda: (randn(6), 0.5, (3,), normal(0.2, 1.0, (6,))),
    "never": lambda: (randn(4, 3), 0.0, (2, 1), normal(0.3, 0.8, (4, 3))),
    "always": lambda: (randn(4, 3), 1.0, (2, 1), normal(0.3, 0.8, (4, 3))),
    "at-zero": lambda: (0 * randn(4, 3), 0.25, (2, 1), normal(0.3, 0.8, (4, 3))),
}


@pytest.fixture(params=MASKS_ONLY.values(), ids=MASKS_ONLY.keys())
def masks_only(request):
    return request.param()


def test_without_noise_the_slab_part_is_the_same_and_the_constant_is_left_out(masks_only):
    loc, p, block, prior = masks_only
    q = BlockDropout(loc, p, block)
    parts, noisy = kl_parts(q, prior), kl_parts(SpikeAndSlab(loc, 1e-3, p, block), prior)
    torch.testing.assert_close(parts.slab, noisy.slab, rtol=1e-14, atol=0)
    entropy = dist.Bernoulli(torch.as_tensor(p, dtype=torch.float64).expand(q.grid_shape)).entropy()
    torch.testing.assert_close(parts.mask, -entropy.sum(), rtol=1e-13, atol=1e-14)
    assert parts.constant == 0
    assert {part.dtype for part in parts} == {torch.float64}
    torch.testing.assert_close(kl_divergence(q, prior), sum(parts), rtol=1e-14, atol=0)
    torch.testing.assert_close(gal_kl_divergence(q, prior), sum(parts), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(gal_gap(q), torch.zeros_like(parts.mask), rtol=0, atol=1e-14)


def test_without_noise_the_gradient_is_weight_decay(masks_only):
    loc, p, block, prior = masks_only
    loc.requires_grad_()
    q = BlockDropout(loc, p, block)
    (grad,) = torch.autograd.grad(kl_divergence(q, prior), loc)
    base = prior.base_dist
    keep = 1 - torch.as_tensor(p, dtype=torch.float64).expand(q.grid_shape)
    for dim, size in enumerate(block):
        keep = keep.repeat_interleave(size, dim)
    expected = keep * (loc.detach() - base.loc) / base.scale.square()
    torch.testing.assert_close(grad, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("scale", [0.1, 0.03, 0.01], ids=str)
@pytest.mark.parametrize("d", [8.0, 12.0, 20.0], ids=str)
def test_gradient_with_noise_is_near_its_limit_where_blocks_are_far_from_zero(scale, d):
    direction = randn(3, 4)
    loc = (scale * d * direction / direction.norm(dim=0)).requires_grad_()
    prior = normal(randn(3, 4), 0.8, (3, 4))
    noisy = kl_divergence(SpikeAndSlab(loc, scale, 0.25, (3, 1)), prior)
    limit = kl_divergence(BlockDropout(loc, 0.25, (3, 1)), prior)
    error = torch.autograd.grad(noisy, loc)[0] - torch.autograd.grad(limit, loc)[0]
    bound = math.sqrt(math.pi * 0.25 * 0.75 / 2) * math.exp(-d * d / 8) / scale
    rounding = 1e-13 * loc.detach().abs().max() / scale**2
    assert (error.norm(dim=0) <= bound + rounding).all()
    if d == 8.0:
        assert (error.norm(dim=0) > bound / 2).all()  # the bound is no void one


def test_differences_of_the_kl_with_noise_go_to_those_of_the_limit():
    one, other = 0.2 + rand(4, 3), 0.3 + rand(4, 3)
    prior = normal(randn(4, 3), rand(4, 3))

    def difference(make):
        return kl_divergence(make(one), prior) - kl_divergence(make(other), prior)

    limit = difference(lambda loc: BlockDropout(loc, 0.25, (2, 1)))
    errors = [
        (difference(lambda loc, s=s: SpikeAndSlab(loc, s, 0.25, (2, 1))) - limit).abs()
        for s in (0.3, 0.1, 0.03)
    ]
    assert errors[0] > 1e-3
    assert errors[1] < errors[0]
    assert errors[2] < 1e-11


def test_without_noise_a_batch_is_a_stack_and_is_computed_once(monkeypatch):
    loc, p = randn(4, 4, 4), rand(4, 1, 4)
    prior = dist.Normal(randn(4, 4), rand(4, 4)).to_event(2)
    kl = kl_divergence(BlockDropout(loc, p, (4, 1)), prior)
    singles = [kl_divergence(BlockDropout(loc[i], p[i], (4, 1)), prior) for i in range(4)]
    torch.testing.assert_close(kl, torch.stack(singles), rtol=1e-12, atol=0)

    calls = []
    summed = blocks._square_sums
    monkeypatch.setattr(
        blocks, "_square_sums", lambda x, dims: (calls.append(x.numel()), summed(x, dims))[1]
    )
    big = BlockDropout(loc[0], p[0], (4, 1)).expand([5, 7])
    assert kl_divergence(big, normal(0.3, 0.8, (4, 4)).expand([5, 7])).shape == (5, 7)
    assert calls == [16, 16]  # of the mean and of the spread about it


def test_without_noise_no_value_is_read_on_the_host():
    loc = torch.empty(4, 3, device="meta", requires_grad=True)
    zero = torch.zeros((), device="meta")
    prior = dist.Normal(zero, zero + 1, validate_args=False).expand([4, 3]).to_event(2)
    kl_divergence(BlockDropout(loc, 0.5, (4, 1), validate_args=False), prior).backward()
    assert loc.grad.shape == (4, 3)


def test_dtypes_without_noise(dtype):
    q = BlockDropout(torch.ones(2, 4, 3, dtype=dtype), 0.5, (4, 1))
    prior = dist.Normal(torch.zeros(4, 3), 1.0).to_event(2)
    assert kl_divergence(q, prior).dtype == gal_kl_divergence(q, prior).dtype == dtype


def test_other_priors_are_not_implemented_without_noise_either():
    with pytest.raises(NotImplementedError, match="Expected a Normal prior with 2 event dims, got"):
        kl_divergence(
            BlockDropout(torch.ones(4, 3), 0.5, (2, 1)),
            dist.Laplace(torch.zeros(4, 3), 1.0).to_event(2),
        )


@pytest.mark.parametrize("function", [gal_kl_divergence, lambda q, prior: gal_gap(q)])
def test_gal_s_form_is_of_a_spike_and_slab(function):
    q = MultiplicativeNormal(randn(4, 3), 0.1, 0.5, (4, 1))
    with pytest.raises(TypeError, match=r"to be a SpikeAndSlab, got MultiplicativeNormal"):
        function(q, normal(0.0, 1.0, (4, 3)))
