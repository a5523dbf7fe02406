"""A guide's parameters are its own: names, copies, state dicts, types."""

from __future__ import annotations

import copy
import io
import pickle
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, TraceMeanField_ELBO

import pyro_vrnn as vrnn
from pyro_vrnn.distributions import WeightSite
from tests.infer.cases import by_hand, small, weight

Guide = vrnn.infer.AutoSpikeAndSlab
settings = pytest.mark.parametrize("local", [False, True], ids=["global-store", "module-local"])


def train(model, guide, *args, steps=4, seed=3):
    pyro.set_rng_seed(seed)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), TraceMeanField_ELBO())
    for _ in range(steps):
        svi.step(*args)
    return {name: guide.distribution(name).loc.detach().clone() for name in guide.sites}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def differs(a, b):
    return all(not torch.equal(a[k], b[k]) for k in a)


@settings
def test_second_guide_trains_as_if_alone(local):
    """Pyro's store is keyed by name: a new guide starts from the old one's trained values."""
    with pyro.settings.context(module_local_params=local):
        model, x, y = small()
        first = Guide(model)
        after_first = train(model, first, x, y, seed=1)
        beside = train(model, Guide(model), x, y)
        assert_equal({n: first.distribution(n).loc for n in first.sites}, after_first)
        pyro.clear_param_store()
        assert_equal(train(model, Guide(model), x, y), beside)


@settings
def test_two_models_have_a_precision_each(local):
    with pyro.settings.context(module_local_params=local):
        model, x, y = small(learn_tau=True)
        other, _, _ = small(learn_tau=True, tau=3.0)
        train(model, Guide(model), x, y)
        assert other.tau.item() == pytest.approx(3.0)
        tau = model.tau.item()
        train(other, Guide(other), x, 100 * y)
        assert model.tau.item() == tau
        assert other.tau.item() != pytest.approx(3.0)


@settings
def test_deepcopy_is_independent_and_as_usable(local):
    with pyro.settings.context(module_local_params=local):
        model, x, y = small(learn_tau=True)
        guide = Guide(model)
        before = train(model, guide, x, y)
        twin = copy.deepcopy(guide)
        draws = []
        for each in (guide, twin):
            pyro.set_rng_seed(5)
            draws.append(each())
        assert_equal(*draws)
        after = train(model, twin, x, y)
        assert differs(before, after)
        assert_equal({n: guide.distribution(n).loc for n in guide.sites}, before)
        assert Predictive(model, guide=twin, num_samples=3)(x)["obs"].shape == (3, 4, 1)
        # The original is as usable as before it was copied.
        assert differs(train(model, guide, x, y), before)
        assert_equal({n: twin.distribution(n).loc for n in twin.sites}, after)


def test_copy_of_a_guide_that_was_not_called():
    model, x, y = small()
    guide = Guide(model, drop_prob=0.5)
    twin = copy.deepcopy(guide)
    guide(x, y)
    assert not twin.sites
    twin(x, y)
    assert twin.sites == guide.sites


def test_pickle_of_a_guide():
    model, x, y = small(learn_tau=True)
    guide = Guide(model, learn_scale=True)
    train(model, guide, x, y)
    twin = pickle.loads(pickle.dumps(guide))
    assert_equal(twin.mean(), guide.mean())
    assert differs(train(model, twin, x, y), twin.mean() | guide.mean())


@settings
@pytest.mark.parametrize("learn_scale", [False, True], ids=["fixed-scale", "learned-scale"])
def test_state_dict_round_trip(local, learn_scale):
    with pyro.settings.context(module_local_params=local):
        model, x, y = small()
        guide = Guide(model, learn_scale=learn_scale, scale=0.05)
        train(model, guide, x, y)
        file = io.BytesIO()
        torch.save(guide.state_dict(), file)
        file.seek(0)
        other = Guide(model, learn_scale=learn_scale)
        other(x, y)
        other.load_state_dict(torch.load(file, weights_only=True))
        for name in guide.sites:
            ours, theirs = guide.distribution(name), other.distribution(name)
            assert torch.equal(ours.loc, theirs.loc)
            assert torch.equal(ours.scale, theirs.scale)
        # Reading inside a call, through the store, gives the loaded values too.
        draws = []
        for each in (guide, other):
            pyro.set_rng_seed(5)
            draws.append(each())
        assert_equal(*draws)


def test_state_dict_before_the_first_call():
    model, x, y = small()
    guide = Guide(model)
    guide(x, y)
    message = r"got parameters to load into one without: first call .* observations included"
    with pytest.raises(RuntimeError, match=message):
        Guide(model).load_state_dict(guide.state_dict())
    parts = torch.nn.ModuleList([Guide(model)])
    with pytest.raises(RuntimeError, match=message):
        parts.load_state_dict(torch.nn.ModuleList([guide]).state_dict())
    Guide(model).load_state_dict(Guide(model).state_dict())  # there is nothing to lose


@settings
@pytest.mark.parametrize("learn_scale", [False, True], ids=["fixed-scale", "learned-scale"])
def test_guide_follows_to_a_type_and_device(local, learn_scale, device):
    with pyro.settings.context(module_local_params=local):
        model, x, y = small(dtype=torch.float32, learn_tau=True)
        guide = Guide(model, learn_scale=learn_scale)
        train(model, guide, x, y)
        model.to(device, torch.float64)
        guide.to(device, torch.float64)
        x, y = x.to(device, torch.float64), y.to(device, torch.float64)
        draws = guide()
        assert {v.dtype for v in draws.values()} == {torch.float64}
        assert {v.device.type for v in draws.values()} == {device.type}
        q = guide.distribution("rnn.weight_hh_l0")
        assert q.loc.dtype == q.scale.dtype == torch.float64
        train(model, guide, x, y)
        assert guide.distribution("rnn.weight_hh_l0").loc.dtype == torch.float64
        assert Predictive(model, guide=guide, num_samples=2)(x)["obs"].dtype == torch.float64


OTHERS = {
    "p": (
        dict(drop_prob={"weight_hh": 0.5}),
        r"with drop_prob 0.25 for 'rnn.weight_hh_l0', got 0.5",
    ),
    "gates": (
        dict(gates="tied"),
        r"with blocks of shape \[5, 1\] for 'rnn.weight_.*, got \[20, 1\]",
    ),
    "no-noise": (dict(scale=0), r"with scale=0: False for 'rnn.weight_ih_l0', got True"),
}


@pytest.mark.parametrize(("options", "message"), OTHERS.values(), ids=OTHERS)
def test_state_of_another_distribution_is_refused(options, message):
    """Its parameters would be taken and mean something else."""
    model, x, y = small()
    other = Guide(model, **{"drop_prob": {"weight_hh": 0.25}, **options})
    guide = Guide(model, drop_prob={"weight_hh": 0.25})
    for each in (guide, other):
        each(x, y)
    before = guide.mean()
    with pytest.raises(RuntimeError, match=message):
        guide.load_state_dict(other.state_dict())
    assert_equal(guide.mean(), before)


@pytest.mark.parametrize("call", ["mean", "median", "__call__"])
def test_a_guide_that_was_never_called(call):
    model, x, y = small()
    guide = Guide(model)
    message = (
        r"^Expected a guide that has its sites, got one that was never called: first call the "
        r"guide once with the model's arguments, observations included\.$"
    )
    with pytest.raises(RuntimeError, match=message):
        getattr(guide, call)()
    getattr(guide, call)(x, y)
    getattr(guide, call)()


def without_arguments():
    w = weight("w", (5, 8), WeightSite("weight_ih"))
    pyro.sample("obs", dist.Normal(w.sum(), 1.0), obs=torch.tensor(0.0))


@pytest.mark.parametrize("bound", [False, True], ids=["none", "bound"])
def test_a_model_may_need_no_arguments(bound):
    model = partial(by_hand, torch.zeros(3, 4, 8), torch.zeros(3)) if bound else without_arguments
    blocks = {"head": (1,)} if bound else None
    assert Guide(model, block_shapes=blocks).mean()


@pytest.mark.parametrize("moved", ["model", "guide"])
def test_a_dtype_of_the_model_or_the_guide_alone(moved):
    model, x, y = small(dtype=torch.float32)
    guide = Guide(model)
    guide(x, y)
    {"model": model, "guide": guide}[moved].double()
    with pytest.raises(TypeError, match=r"or the module and its guide with \.to\(torch\.float"):
        vrnn.infer.predict(model, guide, x.to(model.rnn.factory_kwargs["dtype"]), num_samples=2,
                           progress=False)  # fmt: skip


def test_state_of_another_kind_of_guide_is_refused():
    model, x, y = small()
    guide, other = Guide(model), vrnn.infer.AutoMultiplicativeNormal(model)
    for each in (guide, other):
        each(x, y)
    with pytest.raises(RuntimeError, match=r"guide with drop_prob, got one with alpha"):
        guide.load_state_dict(other.state_dict())


def test_a_fixed_scale_comes_with_the_state():
    model, x, y = small()
    guide, other = Guide(model, scale=0.5), Guide(model)
    for each in (guide, other):
        each(x, y)
    other.load_state_dict(guide.state_dict())
    assert other.sites == guide.sites
    assert other.distribution("head.weight").scale == 0.5
