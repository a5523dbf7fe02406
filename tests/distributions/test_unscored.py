import copy
import math
import operator
import pickle

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import (
    SVI,
    Importance,
    Predictive,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)
from pyro.infer.importance import psis_diagnostic, vectorized_importance_weights
from pyro.ops.provenance import ProvenanceTensor
from pyro.util import check_site_shape, warn_if_inf, warn_if_nan
from torch.distributions import kl_divergence
from torch.distributions.kl import register_kl

from pyro_vrnn.distributions.unscored import Unscored
from pyro_vrnn.ops.blocks import block_square_sums

MESSAGE = "Nobody knows."


def unscored(*shape, dtype=torch.float32, **kwargs):
    return Unscored(shape, dtype=dtype, device="cpu", message=MESSAGE, **kwargs)


def refused():
    return pytest.raises(NotImplementedError, match=f"^{MESSAGE}$")


OPERATIONS = {  # of a tensor of shape (3, 4) and another one
    "add": lambda x, y: x + y,
    "radd-number": lambda x, y: 0 + x,
    "rsub-number": lambda x, y: 1.0 - x,
    "tensor-minus": lambda x, y: y - x,
    "minus-tensor": lambda x, y: x - y,
    "wider-dtype": lambda x, y: x * y.double(),
    "wider-scalar": lambda x, y: x * y.double().sum(),
    "broadcast": lambda x, y: x.unsqueeze(1) - y,
    "scalar": lambda x, y: x.sum() - y,
    "alpha": lambda x, y: torch.sub(y, x, alpha=2),
    "divide": lambda x, y: y / x,
    "rdiv-number": lambda x, y: 1 / x,
    "power": lambda x, y: 2**x + x**2,
    "unary": lambda x, y: -x.abs().square().sqrt().exp().log(),
    "comparison": lambda x, y: x > y,
    "comparison-number": lambda x, y: x == 1.0,
    "integers": lambda x, y: (x > 0).sum() / 2,
    "sum": lambda x, y: x.sum(),
    "sum-dim": lambda x, y: x.sum(-1),
    "sum-keepdim": lambda x, y: torch.sum(x, 0, True),
    "sum-dtype": lambda x, y: x.sum(dtype=torch.float64),
    "mean": lambda x, y: x.mean(0),
    "max": lambda x, y: x.max(0).values,
    "logsumexp": lambda x, y: torch.logsumexp(x, dim=0, keepdim=True),
    "stack": lambda x, y: torch.stack([y, x]),
    "cat": lambda x, y: torch.cat((x, y)),
    "where": lambda x, y: torch.where(y > 0, x, y.new_zeros(())),
    "where-in-condition": lambda x, y: torch.where(x > 0, y, 0.0),
    "einsum": lambda x, y: torch.einsum("ij,kj->ik", x, y),
    "matmul": lambda x, y: y @ x.T,
    "reshape": lambda x, y: x.reshape(2, -1),
    "transpose": lambda x, y: x.mT,
    "index": lambda x, y: x[1, None],
    "iterate": lambda x, y: next(iter(x)),
    "expand": lambda x, y: x.expand(2, 3, 4),
    "argsort": lambda x, y: y.index_select(0, x[:, 0].argsort()),
    "builtin-sum": lambda x, y: sum([y, x]),
    "detach": lambda x, y: x.detach(),
    "data": lambda x, y: x.data,
    "clone": lambda x, y: x.clone(),
    "double": lambda x, y: x.double(),
    "to": lambda x, y: x.to("cpu", torch.float64),
    "type-as": lambda x, y: x.type_as(y.double()),
    "in-place": lambda x, y: x.detach().mul_(2),
    "own-function": lambda x, y: block_square_sums(x, (3, 1)),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_what_is_computed_from_it_is_unscored_and_shaped_as_a_tensor_would_be(operation):
    y = torch.randn(3, 4)
    expected = operation(torch.rand(3, 4), y)
    result = operation(unscored(3, 4), y)
    assert type(result) is Unscored
    assert result.message == MESSAGE
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    assert result.device == expected.device


READERS = {
    "item": lambda x: x.item(),
    "float": float,
    "int": int,
    "bool": bool,
    "index": lambda x: [1, 2][x],
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.detach().numpy(),
    "asarray": np.asarray,
    "array-of-list": lambda x: np.array([x, x]),
    "torch.tensor": lambda x: torch.tensor([x]),
    "math": math.isnan,
    "format": lambda x: f"{x:.2f}",
    "in": lambda x: 1.0 in x.reshape(1),
    "max": lambda x: max(x, 0.0),
    "if-equal": lambda x: bool(x == 1.0),
    "if-below": lambda x: bool((x < 1.0).any()),
    "equal": lambda x: torch.equal(x, torch.ones(())),
    "allclose": lambda x: torch.allclose(x, torch.ones(())),
    "nonzero": lambda x: x.nonzero(),
    "unique": lambda x: x.unique(),
    "boolean-mask": lambda x: torch.ones(3)[x.expand(3) > 0],
    "masked-select": lambda x: x.expand(3).masked_select(x.expand(3) > 0),
    "backward": lambda x: x.backward(),
    "backward-of-loss": lambda x: (torch.ones((), requires_grad=True) - x).backward(),
    "autograd.backward": lambda x: torch.autograd.backward([x]),
    "autograd.grad": lambda x: torch.autograd.grad(x, [torch.ones((), requires_grad=True)]),
    "func.grad": lambda x: torch.func.grad(lambda m: (m - x).sum())(torch.ones(3)),
    "new_tensor": lambda x: torch.ones(()).new_tensor(x),
    "own-new_tensor": lambda x: x.new_tensor(x),
    "data_ptr": lambda x: x.data_ptr(),
    "out": lambda x: torch.add(x.detach(), 1, out=torch.ones(())),
}


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no-grad"])
def test_reading_raises(read, grad):
    with refused():
        read(unscored(requires_grad=grad))


WRITERS = {
    "add_": lambda x, y: y.add_(x),
    "iadd": operator.iadd,
    "isub": lambda x, y: operator.isub(y, x),
    "copy_": lambda x, y: y.copy_(x),
    "setitem": lambda x, y: operator.setitem(y, 0, x[0]),
    "foreach": lambda x, y: torch._foreach_add_([y], [x]),
    "clip": lambda x, y: y.clamp_(min=x),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_it_cannot_be_written_into_a_tensor(write):
    y = torch.ones(3)
    x, y = (y, unscored(3)) if write is operator.iadd else (unscored(3), y)
    with refused():
        write(x, y)
    assert (x if isinstance(y, Unscored) else y).eq(1).all()


def test_a_gradient_that_is_unscored_stops_the_optimiser():
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = unscored(3)
    with refused():
        torch.optim.SGD([weight], lr=1.0).step()
    assert (weight == 1).all()


def test_a_number_may_be_written_into_it():
    x = unscored(3, requires_grad=False)
    x[0] = 1.0
    x += torch.ones(3)
    assert type(x) is Unscored
    with refused():
        x[0].item()
    with refused():
        x.unsqueeze_(0)


@pytest.mark.parametrize("check", ["isnan", "isinf", "isposinf", "isneginf"])
def test_checks_for_nan_and_infinity_find_none(check):
    found = getattr(torch, check)(unscored(3, 2))
    assert type(found) is torch.Tensor
    assert (found.shape, found.dtype) == ((3, 2), torch.bool)
    assert not found.any()


def test_comparisons_that_look_for_nan_and_infinity_find_none():
    x = unscored(3)
    assert not (x == math.inf).any()
    assert not (-math.inf == x).any()
    assert (x != math.inf).all()
    assert (x == x).all()
    assert not (x != x).any()
    assert torch.isfinite(x).all()
    with refused():
        bool((x == unscored(3)).all())


MAKERS = {
    "zeros_like": lambda x: torch.zeros_like(x),
    "by-name": lambda x: torch.zeros_like(input=x),
    "dtype": lambda x: torch.zeros_like(x, dtype=torch.float32),
    "new_zeros": lambda x: x.new_zeros((3, 2)),
    "full_like": lambda x: torch.full_like(x, 0.0),
    "like-real": lambda x: torch.zeros(3, 2).double().to(x),
    "type_as": lambda x: torch.zeros(3, 2).double().type_as(x),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_tensors_made_after_it_are_tensors(make):
    made = make(unscored(3, 2))
    assert type(made) is torch.Tensor
    assert torch.equal(made, torch.zeros(3, 2))


def test_it_depends_on_parameters_where_gradients_are_recorded():
    assert unscored().requires_grad
    assert unscored().grad_fn is None  # Pyro's torch_backward would skip a float, not this
    with torch.no_grad():
        assert not unscored().requires_grad
        assert not (unscored(requires_grad=True) * 2).requires_grad
    free = unscored(requires_grad=False)
    assert not (free + torch.ones(())).requires_grad
    assert (free + torch.ones((), requires_grad=True)).requires_grad
    assert (unscored().sum() + 1).requires_grad
    assert not unscored().detach().requires_grad
    assert not unscored().detach_().requires_grad
    assert not unscored().requires_grad_(False).requires_grad
    assert unscored(requires_grad=False).requires_grad_().requires_grad
    assert not (unscored() > 0).requires_grad


def test_hooks_are_never_called():
    handle = unscored().register_hook(lambda grad: pytest.fail("called"))
    handle.remove()


def test_nothing_is_computed():
    x = unscored(10**7, 10**7)  # 400 TB
    assert (torch.ones(()) - (x - 1).square().sum(-1)).shape == (10**7,)


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies(duplicate):
    x = duplicate(unscored(3, dtype=torch.float64, requires_grad=False))
    assert type(x) is Unscored
    assert (x.shape, x.dtype, x.requires_grad, x.message) == (
        (3,),
        torch.float64,
        False,
        MESSAGE,
    )


def test_text():
    assert repr(unscored(3)) == f"Unscored(shape: (3,), message: '{MESSAGE}')"
    assert f"{unscored()}" == str(unscored()) == f"Unscored(shape: (), message: '{MESSAGE}')"


def test_the_first_message_is_kept():
    other = Unscored((), dtype=torch.float32, device="cpu", message="Other.")
    assert torch.stack([torch.ones(()), unscored(), other]).message == MESSAGE
    assert (other + unscored()).message == "Other."


def test_errors_of_shape_are_torchs_own():
    with pytest.raises(RuntimeError, match=r"broadcast|[Ss]hape mismatch"):
        unscored(3) + torch.ones(2)
    with pytest.raises(RuntimeError, match=r"same reduction dim|cannot be multiplied"):
        unscored(2, 3) @ torch.ones(2, 3)


def test_operators_by_another_name_and_other_subclasses_are_no_loophole():
    x = unscored(3)
    assert type(torch.ops.aten.add.Tensor(x, 1)) is Unscored
    with refused():
        ProvenanceTensor(torch.ones(3), frozenset("a")).add_(x)
    assert type(x - ProvenanceTensor(torch.ones(3), frozenset("a"))) is Unscored


@pytest.mark.gpu
def test_it_stays_on_its_gpu_and_waits_for_nothing():
    x = Unscored((3,), dtype=torch.float32, device="cuda", message=MESSAGE)
    y = torch.ones(3, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        total = (y - x).sum() + 1
        none = torch.isnan(total)
        made = torch.zeros_like(x) + y
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert {total.device.type, none.device.type, made.device.type} == {"cuda"}
    assert x.cpu().device.type == "cpu"
    assert unscored(3).to(y).device == y.device


# What Pyro does with it.


class NoDensity(dist.Normal):
    """A normal that does not tell its density, but its KL."""

    def expand(self, batch_shape, _instance=None):
        return super().expand(batch_shape, self._get_checked_instance(NoDensity, _instance))

    def log_prob(self, value):
        return unscored(*super().log_prob(value).shape)


@register_kl(NoDensity, dist.Normal)
def _kl_of_normals(q, p):
    return kl_divergence(dist.Normal(q.loc, q.scale), dist.Normal(p.loc, p.scale))


Y = torch.tensor([0.5, 1.0, -0.3, 0.8])


def model(prior=dist.Normal, family=None, y=Y):
    z = pyro.sample("z", prior(0.0, 1.0))
    with pyro.plate("data", len(Y)), pyro.poutine.scale(scale=2.0):
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def guide(prior=None, family=NoDensity, y=None):
    loc = pyro.param("loc", torch.tensor(0.3))
    scale = pyro.param("scale", torch.tensor(0.7), constraint=dist.constraints.positive)
    pyro.sample("z", family(loc, scale))


PRIORS = {"scored-prior": dist.Normal, "unscored-prior": NoDensity}


@pytest.fixture(params=PRIORS.values(), ids=PRIORS.keys())
def prior(request):
    return request.param


@pytest.mark.parametrize("validate", [True, False], ids=["validated", "not-validated"])
@pytest.mark.parametrize("vectorize", [False, True], ids=["loop", "vectorized"])
def test_mean_field_elbo_is_what_it_is_with_a_density(prior, vectorize, validate):
    pyro.enable_validation(validate)  # until the end of the test
    losses, grads = [], []
    for q, p in ((NoDensity, prior), (dist.Normal, dist.Normal)):
        pyro.set_rng_seed(0)
        pyro.clear_param_store()
        elbo = TraceMeanField_ELBO(num_particles=3, vectorize_particles=vectorize)
        losses.append(elbo.loss_and_grads(model, guide, p, q))
        grads.append(pyro.get_param_store()._params["loc"].grad.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert grads[0] == pytest.approx(grads[1], rel=1e-6)


def test_svi_learns_with_the_mean_field_elbo(prior):
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), TraceMeanField_ELBO())
    for _ in range(300):
        svi.step(prior)
    exact = 2 * Y.sum() / (2 * len(Y) + 1)
    assert pyro.param("loc").item() == pytest.approx(exact.item(), abs=0.15)
    assert math.isfinite(svi.evaluate_loss(prior))


SCORING = {
    "Trace": lambda: Trace_ELBO(),
    "Trace-particles": lambda: Trace_ELBO(num_particles=2),
    "Trace-vectorized": lambda: Trace_ELBO(num_particles=2, vectorize_particles=True),
    "TraceGraph": lambda: TraceGraph_ELBO(),
    "TraceGraph-vectorized": lambda: TraceGraph_ELBO(num_particles=2, vectorize_particles=True),
    "Renyi": lambda: RenyiELBO(num_particles=2),
    "Renyi-vectorized": lambda: RenyiELBO(num_particles=2, vectorize_particles=True),
    "RWS": lambda: ReweightedWakeSleep(num_particles=2),
}


@pytest.fixture(params=SCORING.values(), ids=SCORING.keys())
def scoring(request):
    return request.param()


@pytest.mark.parametrize("validate", [True, False], ids=["validated", "not-validated"])
def test_elbos_that_score_raise_in_a_step_and_change_nothing(scoring, prior, validate):
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), scoring)
    with pyro.validation_enabled(validate), refused():
        svi.step(prior)
    assert pyro.param("loc").item() == pytest.approx(0.3)


def test_elbos_that_score_raise_when_evaluated(scoring, prior):
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), scoring)
    with refused():
        # Only this one returns tensors.
        math.isnan(svi.evaluate_loss(prior))


@pytest.mark.parametrize("elbo", [Trace_ELBO(), TraceMeanField_ELBO()], ids=["Trace", "MeanField"])
def test_elbo_modules(elbo):
    module = elbo(pyro.nn.PyroModule[torch.nn.Identity](), torch.nn.Identity())
    module.model, module.guide = _Module(model), _Module(guide)
    if isinstance(elbo, TraceMeanField_ELBO):
        module().backward()
        assert pyro.get_param_store()._params["loc"].grad.isfinite()
    else:
        with refused():
            module()


class _Module(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def test_the_tail_adaptive_elbo_raises_though_it_reads_no_loss():
    # Its loss is infinite by design, and it skips a loss that needs no gradient.
    elbo = TraceTailAdaptive_ELBO(num_particles=2, vectorize_particles=True)
    with refused():
        SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), elbo).step()


def test_mean_field_elbo_raises_where_it_falls_back_to_sampling():
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), TraceMeanField_ELBO())
    with refused():
        svi.step(dist.Cauchy)


def test_importance_weights_are_not_given():
    with refused():
        Importance(model, guide, num_samples=3).run().get_ESS()
    weights, *_ = vectorized_importance_weights(model, guide, num_samples=3, max_plate_nesting=1)
    assert type(weights) is Unscored
    with refused():
        weights.tolist()
    with refused():
        psis_diagnostic(model, guide, num_particles=100, max_plate_nesting=1)


@pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])
def test_predictive_asks_for_no_density(parallel):
    draws = Predictive(model, guide=guide, num_samples=4, parallel=parallel)(y=None)
    assert draws["y"].shape == (4, 4)


def test_traces_are_scored_without_being_read():
    with pyro.poutine.scale(scale=0.5), pyro.plate("particles", 3, dim=-2):
        trace = pyro.poutine.trace(guide).get_trace()
    trace.compute_log_prob()
    site = trace.nodes["z"]
    assert site["log_prob"].shape == (3, 1)
    assert type(site["log_prob_sum"]) is Unscored
    check_site_shape(site, 2)
    trace.pack_tensors()
    assert "log_prob" in trace.format_shapes()
    with refused():
        trace.log_prob_sum().item()
    trace.compute_score_parts()
    assert site["score_parts"].score_function == 0
    assert type(site["score_parts"].entropy_term) is Unscored


MASKS = {"none": None, "true": True, "tensor": torch.tensor([True, False, True])}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("scale", [1.0, 0.5, torch.tensor(2.0)], ids=["one", "half", "tensor"])
def test_scaled_and_masked_it_is_unscored(scale, mask):
    result = scale_and_mask(unscored(3), scale, mask)
    assert (type(result), result.shape) == (Unscored, (3,))


def test_masked_out_as_a_whole_it_is_zero():
    result = scale_and_mask(unscored(3), 0.5, False)
    assert type(result) is torch.Tensor
    assert torch.equal(result, torch.zeros(3))


def test_a_site_that_is_masked_out_is_no_obstacle():
    def masked_guide():
        with pyro.poutine.mask(mask=False):
            guide()

    def masked_model():
        with pyro.poutine.mask(mask=False):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    assert Trace_ELBO().loss(masked_model, masked_guide) == 0


def test_pyros_warnings_stay_silent():
    assert warn_if_nan(unscored(), "x").requires_grad
    warn_if_inf(unscored(3), "x")


def test_a_density_at_an_unscored_value_is_unscored():
    for q in (dist.Normal(torch.zeros(2, 3), 1.0), dist.Laplace(torch.zeros(2, 3), 1.0)):
        log_prob = q.to_event(2).expand([5]).log_prob(unscored(2, 3))
        assert (type(log_prob), log_prob.shape) == (Unscored, (5,))
        assert (log_prob.dtype, log_prob.message) == (torch.float32, MESSAGE)
