import copy
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch.distributions import kl_divergence

from pyro_vrnn.distributions import BlockDropout, SpikeAndSlab
from pyro_vrnn.distributions.unscored import Unscored
from pyro_vrnn.infer import TraceExactKL_ELBO

Z = 4.26  # two-sided 2e-5
ROUNDING = 1e-13  # of a mean of 20,000 equal numbers


def rand(*shape, low=0.3, high=0.9):
    return torch.empty(shape, dtype=torch.float64).uniform_(low, high)


def randn(*shape):
    return torch.randn(shape, dtype=torch.float64)


CASES = {
    "gate-columns": lambda: (randn(4, 3), 0.25, (2, 1)),
    "rows": lambda: (randn(3, 4), 0.25, (1, 4)),
    "single-weights": lambda: (randn(2, 3), 0.6, (1, 1)),
    "vector": lambda: (randn(6), 0.4, (3,)),
    "prob-tensor": lambda: (randn(4, 3), rand(2, 3), (2, 1)),
    "prob-row": lambda: (randn(3, 3), rand(3), (1, 1)),
    "prob-half": lambda: (randn(4, 3), 0.5, (4, 1)),
    "never-dropped": lambda: (randn(4, 3), 0.0, (2, 1)),
    "always-dropped": lambda: (randn(4, 3), 1.0, (2, 1)),
    "ends": lambda: (randn(2, 3), torch.tensor([0.0, 0.5, 1.0]), (2, 1)),
    "batch": lambda: (randn(3, 3, 3), rand(3, 1, 3), (3, 1)),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def arguments(request):
    return request.param()


def kept_blocks(w, loc, block_shape):
    """Return 1 for each block of a draw that is loc and 0 for each that is 0; nothing else."""
    n = len(block_shape)
    kept = w == loc
    assert (kept | (w == 0)).all()
    pairs = zip(loc.shape[loc.dim() - n :], block_shape, strict=True)
    split = [size for event, block in pairs for size in (event // block, block)]
    kept = kept.reshape(*kept.shape[: kept.dim() - n], *split).double()
    dims = tuple(range(-2 * n + 1, 0, 2))
    assert torch.equal(kept.amin(dims), kept.amax(dims))
    return kept.amin(dims)


def test_every_block_is_zero_or_loc_as_often_as_it_should_be(arguments):
    loc, p, block = arguments
    n = 20_000
    kept = kept_blocks(BlockDropout(*arguments).sample((n,)), loc, block).mean(0)
    p = torch.as_tensor(p, dtype=torch.float64).expand(kept.shape)
    assert ((kept - (1 - p)).abs() <= Z * (p * (1 - p) / n).sqrt()).all()


def test_moments_are_those_of_the_mask(arguments):
    q = BlockDropout(*arguments)
    n = 20_000
    x = q.sample((n,))
    assert ((x.mean(0) - q.mean).abs() <= Z * (q.variance / n).sqrt() + ROUNDING).all()
    square = (x - q.mean).square()
    error = (square.var(0) / n).sqrt()
    assert ((square.mean(0) - q.variance).abs() <= Z * error + ROUNDING).all()


def test_blocks_are_dropped_independently():
    n, p = 40_000, 0.4
    dropped = (BlockDropout(torch.ones(2, 2), p, (1, 1)).sample((n,)) == 0).reshape(n, 4).double()
    joint = dropped.T @ dropped / n
    expected = torch.full((4, 4), p * p, dtype=torch.float64).fill_diagonal_(p)
    error = (expected * (1 - expected) / n).sqrt()
    assert ((joint - expected).abs() < Z * error).all()


def test_it_is_the_limit_of_the_spike_and_slab_with_the_same_masks(arguments):
    loc, p, block = arguments
    limit, q = BlockDropout(*arguments), SpikeAndSlab(loc, 1e-9, p, block)
    torch.testing.assert_close(q.mean, limit.mean, rtol=0, atol=0)
    torch.testing.assert_close(q.variance, limit.variance, rtol=0, atol=1e-15)
    torch.testing.assert_close(q.median, limit.median, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("p", "median"), [(0.0, 2.0), (0.49, 2.0), (0.5, 1.0), (0.51, 0.0), (1.0, 0.0)]
)
@pytest.mark.parametrize("kind", [float, torch.tensor], ids=["float", "tensor"])
def test_median(p, median, kind):
    q = BlockDropout(torch.full((4, 2), 2.0, requires_grad=True), kind(p), (4, 1))
    assert torch.equal(q.median, torch.full((4, 2), median))
    assert not q.median.requires_grad


def test_sample_gradients_follow_the_mask():
    loc = torch.full((4, 3), 2.0, requires_grad=True)
    w = BlockDropout(loc, 0.5, (4, 1)).rsample((6,))
    (grad,) = torch.autograd.grad(w.sum(), loc)
    torch.testing.assert_close(grad, (w != 0).float().sum(0))
    assert not BlockDropout(loc, 0.5, (4, 1)).sample().requires_grad


@pytest.mark.parametrize("p", [0.3, torch.tensor([[0.3, 0.6]])], ids=["float", "tensor"])
def test_a_draw_takes_one_bernoulli_number_for_each_block_and_no_noise(p):
    loc = torch.ones(50, 2)
    pyro.set_rng_seed(7)
    BlockDropout(loc, p, (50, 1)).rsample((5,))
    after = torch.get_rng_state()
    pyro.set_rng_seed(7)
    if isinstance(p, float):  # which torch draws in another way
        torch.empty(5, 1, 2).bernoulli_(1 - p)
    else:
        torch.bernoulli((1 - p).expand(5, 1, 2))
    assert torch.equal(torch.get_rng_state(), after)


def test_where_nothing_is_dropped_nothing_is_drawn():
    loc = torch.randn(3, 2)
    before = torch.get_rng_state()
    w = BlockDropout(loc, 0.0, (3, 1)).sample((4,))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(w, loc.expand(4, 3, 2))


@pytest.mark.parametrize("p", [0.0, 0.25], ids=str)
def test_a_draw_outlives_a_change_of_loc(p):
    loc = torch.nn.Parameter(torch.ones(3, 200))
    w = BlockDropout(loc, p, (3, 1)).sample()
    with torch.no_grad():
        loc.add_(1)
    assert w.max() == 1


def test_guides_can_treat_it_as_a_spike_and_slab():
    q = BlockDropout(torch.ones(2, 4, 3), 0.5, (4, 1))
    assert isinstance(q, SpikeAndSlab)
    assert (q.scale.shape, q.scale.item(), q.scale.dtype) == ((), 0.0, torch.float32)
    assert (q.drop_prob, q.block_shape, q.grid_shape) == (0.5, (4, 1), (1, 3))
    assert (q.batch_shape, q.event_shape) == ((2,), (4, 3))
    assert q.has_rsample
    assert not q.has_noise
    assert q.support.event_dim == 2


@pytest.mark.parametrize("prob_shape", [(), (4, 1, 1), (1, 4), (4, 1, 4), (4,)], ids=str)
def test_batch_is_a_stack_of_events_even_if_all_sizes_agree(prob_shape):
    loc, p = randn(4, 4, 4), rand(*prob_shape)
    q = BlockDropout(loc, p, (4, 1))
    kept_blocks(q.sample((4,)), loc, (4, 1))
    p = p.expand(4, 1, 4)
    for b, name in itertools.product(range(4), ("mean", "variance", "median")):
        single = BlockDropout(loc[b], p[b], (4, 1))
        torch.testing.assert_close(getattr(q, name)[b], getattr(single, name), rtol=0, atol=0)


def test_expand_keeps_type_law_and_small_parameters():
    loc = randn(3, 1, 4, 2)
    q = BlockDropout(loc, rand(2, 2), (2, 1))
    big = q.expand([5, 3, 6])
    assert type(big) is BlockDropout
    assert (big.batch_shape, big.event_shape, big.loc.shape) == ((5, 3, 6), (4, 2), (5, 3, 6, 4, 2))
    assert big.scale is q.scale
    assert big.drop_prob is q.drop_prob
    value = big.sample()
    kept_blocks(value, big.loc, (2, 1))
    assert (value[0] != value[1]).any()
    assert big.log_prob(value).shape == (5, 3, 6)
    assert big.expand([5, 3, 6]).mask_information().shape == (3, 1, 2, 2)


def test_sample_shape_and_dtype(dtype):
    q = BlockDropout(torch.ones(2, 4, 3, dtype=dtype), 0.5, (4, 1))
    assert q.rsample((7,)).shape == (7, 2, 4, 3)
    results = (q.sample(), q.log_prob(q.sample()), q.mean, q.variance, q.median)
    assert {result.dtype for result in results} == {dtype}


def test_there_is_no_density_to_read():
    q = BlockDropout(torch.ones(2, 4, 3), 0.5, (4, 1))
    log_prob = q.log_prob(q.sample((5,)))
    assert type(log_prob) is Unscored
    assert log_prob.shape == (5, 2)
    with pytest.raises(
        NotImplementedError,
        match=r"analytic KL .* got the log density of one of event shape \(4, 3\) .* no density. "
        r"Use TraceExactKL_ELBO or TraceMeanField_ELBO .* scale > 0",
    ):
        log_prob[0, 0].item()
    with pytest.raises(
        NotImplementedError, match=r"got the entropy of one of event shape \(4, 3\)"
    ):
        q.entropy()


@pytest.mark.parametrize("shape", [(3, 4), (3,), (2, 4)], ids=str)
def test_values_of_another_shape_are_refused(shape):
    q = BlockDropout(torch.ones(4, 3), 0.5, (4, 1))
    with pytest.raises(ValueError, match=r"Expected a value of event shape \(4, 3\), got \("):
        q.log_prob(torch.zeros(shape))


def test_works_as_a_pyro_site():
    q = BlockDropout(torch.ones(4, 3), 0.5, (4, 1))
    with pyro.plate("particles", 5, dim=-1):
        trace = pyro.poutine.trace(lambda: pyro.sample("w", q)).get_trace()
    assert type(trace.nodes["w"]["fn"]) is BlockDropout
    assert trace.nodes["w"]["value"].shape == (5, 4, 3)


def test_no_value_is_read_on_the_host():
    # A tensor without storage raises wherever its values are asked for.
    loc = torch.empty(4, 3, device="meta", requires_grad=True)
    q = BlockDropout(loc, 0.5, (4, 1), validate_args=False)
    q.rsample().sum().backward()
    assert loc.grad.shape == (4, 3)
    assert q.median.shape == q.log_prob(q.rsample()).expand(4, 3).shape


def test_copies_and_repr():
    q = copy.deepcopy(BlockDropout(torch.ones(4, 3), 0.5, (4, 1)))
    assert repr(q) == (
        "BlockDropout(loc: torch.Size([4, 3]), scale: 0, drop_prob: 0.5, block_shape: (4, 1))"
    )


LOC = torch.ones(4, 3)
BAD_VALUES = {
    "probability": ((LOC, 1.3, (4, 1)), r"Expected drop_prob in \[0, 1\], got 1.3."),
    "probability-tensor": (
        (LOC, torch.tensor([0.5, -0.25, 0.0]), (4, 1)),
        r"Expected drop_prob in \[0, 1\], got -0.25.",
    ),
    "probability-shape": (
        (LOC, torch.full((2,), 0.5), (4, 1)),
        r"Expected drop_prob to broadcast to shape \(1, 3\), got \(2,\).",
    ),
    "probability-grad": (
        (LOC, torch.tensor(0.5, requires_grad=True), (4, 1)),
        "requires grad: the mask is drawn from a Bernoulli",
    ),
    "tiling": (
        (LOC, 0.5, (3, 1)),
        r"Expected block_shape to tile an event of shape \(4, 3\), got \(3, 1\).",
    ),
    "no-dims": ((LOC, 0.5, ()), r"Expected block_shape of 1 to 2 dims .* got \(\)."),
    "nan": (
        (torch.tensor([1.0, math.nan]), 0.5, (1,)),
        r"Expected loc to be finite, got nan at index \(1,\).",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_bad_values_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlockDropout(*arguments)


def test_loc_must_be_a_floating_point_tensor():
    with pytest.raises(TypeError, match="Expected loc to be a floating point Tensor, got int"):
        BlockDropout(1, 0.5, (4, 1))


# As a guide written by hand: a regression on 6 inputs with 4 outputs.

P, S, NOISE = 0.25, 2.0, 0.5


@pytest.fixture
def data():
    x = randn(30, 6)
    return x, x @ randn(6, 4) + NOISE * randn(30, 4)


def model(x, y):
    zero = torch.zeros((), dtype=x.dtype)
    w = pyro.sample("w", dist.Normal(zero, S).expand([4, 6]).to_event(2))
    b = pyro.sample("b", dist.Normal(zero, S).expand([4]).to_event(1))
    with pyro.plate("data", len(x), dim=-1):
        mean = x @ w.mT  # (30, 4), or (S, 1, 30, 4) of particles
        mean = mean.squeeze(-3) + b if w.dim() > 2 else mean + b
        pyro.sample("y", dist.Normal(mean, NOISE).to_event(1), obs=y)


def guide(x, y):
    w = pyro.param("w_loc", lambda: torch.full((4, 6), 0.1, dtype=x.dtype))
    b = pyro.param("b_loc", lambda: torch.zeros(4, dtype=x.dtype))
    pyro.sample("w", BlockDropout(w, P, (4, 1)))
    pyro.sample("b", BlockDropout(b, 0.0, (4,)))


def svi(elbo, lr=0.01):
    return SVI(model, guide, pyro.optim.Adam({"lr": lr}), elbo)


@pytest.mark.parametrize("vectorize", [False, True], ids=["loop", "vectorized"])
def test_svi_is_dropout_with_weight_decay(data, vectorize):
    x, y = data
    elbo = TraceMeanField_ELBO(num_particles=3, vectorize_particles=vectorize, max_plate_nesting=1)
    pyro.set_rng_seed(3)
    loss = elbo.loss_and_grads(model, guide, x, y)
    grads = [pyro.get_param_store()._params[name].grad for name in ("w_loc", "b_loc")]

    w, b = (pyro.param(name).detach().requires_grad_() for name in ("w_loc", "b_loc"))
    pyro.set_rng_seed(3)
    masks = [torch.empty(1, 6, dtype=x.dtype).bernoulli_(1 - P) for _ in range(3)]
    scores = [dist.Normal(x @ (z * w).mT + b, NOISE).log_prob(y).sum() for z in masks]
    decay = ((1 - P) * w.square().sum() + b.square().sum()) / (2 * S**2)
    expected = -sum(scores) / 3 + decay
    constant = 6 * dist.Bernoulli(torch.tensor(P, dtype=x.dtype)).entropy()
    assert loss == pytest.approx((expected - constant).item(), rel=1e-12)
    for grad, one in zip(grads, torch.autograd.grad(expected, (w, b)), strict=True):
        torch.testing.assert_close(grad, one, rtol=1e-10, atol=1e-12)


def test_the_elbo_that_scores_observations_only_has_the_same_loss(data):
    losses = []
    for elbo in (TraceMeanField_ELBO(), TraceExactKL_ELBO()):
        pyro.set_rng_seed(3)
        losses.append(elbo.loss(model, guide, *data))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_svi_learns(data):
    step = svi(TraceMeanField_ELBO(), lr=0.05)
    losses = [step.step(*data) for _ in range(300)]
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])
    assert math.isfinite(step.evaluate_loss(*data))


SCORING = {
    "Trace": lambda: Trace_ELBO(),
    "Trace-vectorized": lambda: Trace_ELBO(num_particles=2, vectorize_particles=True),
    "TraceGraph": lambda: TraceGraph_ELBO(),
    "Renyi": lambda: RenyiELBO(),
}


@pytest.mark.parametrize("method", ["step", "evaluate_loss"])
@pytest.mark.parametrize("elbo", SCORING.values(), ids=SCORING.keys())
def test_elbos_that_need_a_density_raise(data, elbo, method):
    with pytest.raises(NotImplementedError, match="masks without noise have no density"):
        getattr(svi(elbo()), method)(*data)
    assert torch.equal(pyro.param("w_loc"), torch.full((4, 6), 0.1, dtype=torch.float64))


def test_mean_field_elbo_raises_for_a_prior_without_an_analytic_kl(data):
    def heavy_tails(x, y):
        pyro.sample("w", dist.StudentT(3.0, torch.zeros(4, 6), 1.0).to_event(2))
        pyro.sample("b", dist.Normal(torch.zeros(4), 1.0).to_event(1))

    with pytest.raises(NotImplementedError, match="with normal priors"):
        TraceMeanField_ELBO().loss(heavy_tails, guide, *data)


def test_a_kl_that_is_defined_up_to_a_constant_may_be_negative():
    prior = dist.Normal(torch.zeros(4, 3), 1.0).to_event(2)
    q = BlockDropout(torch.zeros(4, 3), 0.5, (4, 1))
    assert kl_divergence(q, prior).item() == pytest.approx(-3 * math.log(2))
