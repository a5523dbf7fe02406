"""
The training loop: reproducible, equal to a loop by hand, and no harm to anything else.

Over 400 lines because all of it is about one function.
"""

from __future__ import annotations

import re
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam

import pyro_vrnn as vrnn
from pyro_vrnn.infer import TraceExactKL_ELBO, fit
from tests.infer.cases import by_hand, small

Guide = vrnn.infer.AutoSpikeAndSlab
adam = partial(torch.optim.Adam, lr=0.02)
quiet = partial(fit, optimizer=adam, progress=False)
settings = pytest.mark.parametrize("local", [False, True], ids=["global-store", "module-local"])


def problem(**kwargs):
    """Return a model with learned tau, its guide, and three batches of it."""
    model, x, y = small(learn_tau=True, num_data=12, **kwargs)
    batches = [(x * k, y + k) for k in (1.0, 2.0, 3.0)]
    return model, Guide(model), batches


def values(*modules):
    return {
        f"{k}.{name}": p.detach().clone()
        for k, module in enumerate(modules)
        for name, p in module.named_parameters()
    }


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def trained(seed, **kwargs):
    pyro.set_rng_seed(1)
    model, guide, batches = problem()
    result = quiet(model, guide, batches, num_epochs=2, seed=seed, **kwargs)
    return result, values(model, guide)


@settings
def test_same_seed_same_result(local):
    with pyro.settings.context(module_local_params=local):
        first, second, other = trained(5), trained(5), trained(6)
    assert first[0].loss == second[0].loss
    assert_equal(first[1], second[1])
    assert first[0].loss != other[0].loss
    assert all(torch.isfinite(v).all() for v in first[1].values())


def test_seed_none_leaves_the_generators_alone():
    pyro.set_rng_seed(1)
    model, guide, batches = problem()
    torch.manual_seed(9)
    a = quiet(model, guide, batches, num_epochs=1).loss
    pyro.set_rng_seed(1)
    model, guide, batches = problem()
    torch.manual_seed(9)
    assert quiet(model, guide, batches, num_epochs=1).loss == a
    assert quiet(model, guide, batches, num_epochs=1).seed is None


def test_both_settings_give_the_same_result():
    results = []
    for local in (False, True):
        with pyro.settings.context(module_local_params=local):
            results.append(trained(5)[0].loss)
    assert results[0] == results[1]


@pytest.mark.parametrize("clip_norm", [None, 0.1])
@pytest.mark.parametrize("elbo", [None, Trace_ELBO()], ids=["default", "Trace"])
def test_equals_a_loop_by_hand(elbo, clip_norm):
    pyro.set_rng_seed(1)
    model, guide, batches = problem()
    result = quiet(model, guide, batches, num_epochs=2, seed=5, elbo=elbo, clip_norm=clip_norm)

    pyro.set_rng_seed(1)
    with pyro.settings.context(module_local_params=True):
        other, other_guide, batches = problem()
        pyro.set_rng_seed(5)
        loss_module = (elbo or TraceExactKL_ELBO())(other, other_guide)
        loss_module(*batches[0])  # builds the guide
        optimizer = torch.optim.Adam(loss_module.parameters(), lr=0.02)
        losses = []
        for batch in batches * 2:
            optimizer.zero_grad()
            loss = loss_module(*batch)
            loss.backward()
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(loss_module.parameters(), clip_norm)
            optimizer.step()
            losses.append(loss.item())
    assert result.loss == losses
    assert_equal(values(model, guide), values(other, other_guide))


def test_history():
    model, guide, batches = problem()
    result = quiet(model, guide, batches, num_epochs=4, seed=5)
    assert (len(result.loss), len(result.epoch_loss), result.steps_per_epoch) == (12, 4, 3)
    assert result.epoch_loss[1] == pytest.approx(sum(result.loss[3:6]) / 3)
    assert result.elbo == [-loss for loss in result.loss]
    assert result.seed == 5
    assert result.wall_time > 0
    assert {"torch", "pyro-ppl", "python"} <= set(result.versions)
    assert result.machine["torch_threads"] == torch.get_num_threads()


def test_history_of_the_parts():
    model, guide, batches = problem()
    elbo = TraceExactKL_ELBO(2)
    result = quiet(model, guide, batches, num_epochs=4, seed=5, elbo=elbo)
    assert list(result.kl) == list(guide.sites)
    assert {n: kl[-1] for n, kl in result.kl.items()} == {
        n: float(k) for n, k in elbo.parts.kl.items()
    }
    kl = [sum(step) for step in zip(*result.kl.values(), strict=True)]
    total = [e - k for e, k in zip(result.expected_log_likelihood, kl, strict=True)]
    assert total == pytest.approx(result.elbo, rel=1e-12)
    assert len(set(kl)) == 12


@pytest.mark.parametrize("elbo", [Trace_ELBO(), TraceMeanField_ELBO()], ids=["Trace", "MeanField"])
def test_elbos_that_keep_no_parts(elbo):
    model, guide, batches = problem()
    result = quiet(model, guide, batches, num_epochs=2, elbo=elbo)
    assert (len(result.loss), result.expected_log_likelihood, result.kl) == (6, [], {})


def test_parts_of_a_site_that_is_not_always_there():
    class Growing(PyroModule):
        def __init__(self, loc):
            super().__init__()
            self.loc, self.calls = PyroParam(torch.tensor(loc)), 0

        def forward(self):
            self.calls += 1  # the first is the warm-up
            for name in ["z"] + ["late"] * (self.calls in (5, 6)):
                pyro.sample(name, dist.Normal(self.loc, 1.0))

    sgd = partial(torch.optim.SGD, lr=0.0)
    result = quiet(Growing(1.0), Growing(0.0), [()] * 2, num_epochs=3, optimizer=sgd)
    assert result.kl == {"z": [0.5] * 6, "late": [0.0] * 3 + [0.5] * 2 + [0.0]}
    assert result.elbo == [-0.5] * 3 + [-1.0] * 2 + [-0.5]


def test_one_transfer_a_step(monkeypatch):
    model, guide, batches = problem()
    reads = {"item": [], "tolist": []}
    for method, seen in reads.items():
        original = getattr(torch.Tensor, method)

        def read(self, original=original, seen=seen):
            seen.append(original(self))
            return seen[-1]

        monkeypatch.setattr(torch.Tensor, method, read)
    sgd = partial(torch.optim.SGD, lr=1e-6)
    with pyro.validation_enabled(False):
        loss = quiet(model, guide, batches, num_epochs=4, optimizer=sgd).loss
    assert [values[0] for values in reads["tolist"]] == loss
    assert set(reads["item"]) <= {0.0}  # the priors' mean, read on the CPU only


def test_training_lowers_the_loss_and_trains_everything():
    model, guide, batches = problem()
    guide(*batches[0])
    before = values(model, guide)
    loss = quiet(model, guide, batches, num_epochs=30, seed=5).epoch_loss
    assert sum(loss[-5:]) < sum(loss[:5])
    after = values(model, guide)
    assert all(not torch.equal(before[k], after[k]) for k in before)
    assert any("tau" in k for k in before)


BATCHES = {
    "dict": lambda x, y: {"x": x, "y": y},
    "list": lambda x, y: [x, y],
    "lengths": lambda x, y: (x, y, torch.full((4,), 6)),
    "dict-lengths": lambda x, y: {"y": y, "lengths": torch.full((4,), 6), "x": x},
}


@pytest.mark.parametrize("make", BATCHES.values(), ids=BATCHES)
def test_forms_of_a_batch(make):
    expected, weights = trained(5)
    pyro.set_rng_seed(1)
    model, guide, batches = problem()
    batches = [make(x, y) for x, y in batches]
    result = quiet(model, guide, batches, num_epochs=2, seed=5)
    assert result.loss == pytest.approx(expected.loss, rel=1e-12)
    for k, value in values(model, guide).items():
        torch.testing.assert_close(value, weights[k], rtol=1e-10, atol=1e-10)


def test_data_loader():
    model, x, y = small(num_data=4)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=2)
    assert quiet(model, Guide(model), loader, num_epochs=2).steps_per_epoch == 2


@settings
def test_predictive_after_fit_uses_the_trained_weights(local):
    """Also when the store holds another model's parameters under the same names."""
    with pyro.settings.context(module_local_params=local):
        first, first_guide, batches = problem()
        svi = SVI(first, first_guide, pyro.optim.Adam({"lr": 0.5}), TraceMeanField_ELBO())
        for batch in batches:
            svi.step(*batch)
        before = values(first, first_guide)

        model, guide, batches = problem()
        quiet(model, guide, batches, num_epochs=2, seed=5)
        after = values(model, guide)
        x = batches[0][0]
        draws = Predictive(model, guide=guide, num_samples=3)(x)
        assert_equal(values(model, guide), after)
        assert_equal(values(first, first_guide), before)
        for name in guide.sites:
            loc, draw = (
                guide.distribution(name).loc,
                draws[name].reshape(3, *guide.sites[name].shape),
            )
            near = torch.minimum(draw.abs(), (draw - loc).abs())
            assert near.max() < 6 * 0.01  # of the spike or of this guide's slab
        noise = (draws["obs"] - draws["loc"]) * model.tau.sqrt()
        assert noise.abs().max() < 5


@settings
def test_second_fit_is_as_if_alone(local):
    with pyro.settings.context(module_local_params=local):
        alone = trained(5)
        pyro.set_rng_seed(2)
        first, first_guide, batches = problem()
        quiet(first, first_guide, batches, num_epochs=2)
        before = values(first, first_guide)
        beside = trained(5)
        assert beside[0].loss == alone[0].loss
        assert_equal(beside[1], alone[1])
        assert_equal(values(first, first_guide), before)


def test_training_reads_nothing_from_the_store():
    """Pyro's own guides are keyed by name there: a second one would start from the first's end."""
    losses = []
    for _ in range(2):
        pyro.set_rng_seed(1)
        model, x, y = small()
        result = quiet(model, AutoNormal(model), [(x, y)], num_epochs=2, seed=5, elbo=Trace_ELBO())
        losses.append(result.loss)
        svi = SVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.5}), Trace_ELBO())
        svi.step(x, y)  # fills the store
    assert losses[0] == losses[1]


def test_fit_goes_on_where_svi_stopped():
    model, guide, batches = problem()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.5}), TraceMeanField_ELBO())
    for batch in batches:
        svi.step(*batch)
    before = values(model, guide)
    quiet(model, guide, batches, num_epochs=1, optimizer=partial(torch.optim.SGD, lr=0.0))
    assert_equal(values(model, guide), before)
    quiet(model, guide, batches, num_epochs=1)
    after = values(model, guide)
    # Then SVI again: it starts from what fit left, not from what the store held.
    SVI(model, guide, pyro.optim.SGD({"lr": 0.0}), TraceMeanField_ELBO()).step(*batches[0])
    assert_equal(values(model, guide), after)
    assert all(not torch.equal(before[k], after[k]) for k in after)


def test_other_autoguides_and_models():
    class Line(PyroModule):
        def __init__(self):
            super().__init__()
            self.slope = PyroParam(torch.tensor(0.0))

        def forward(self, x, y=None):
            shift = pyro.sample("shift", dist.Normal(0.0, 10.0))
            with pyro.plate("data", len(x)):
                return pyro.sample("obs", dist.Normal(self.slope * x + shift, 0.1), obs=y)

    x = torch.linspace(-1, 1, 50)
    model = Line()
    guide = AutoNormal(model)
    data = [(x, 2 * x + 1)]
    adam = partial(torch.optim.Adam, lr=0.1)
    train = partial(quiet, model, guide, data, num_epochs=300, optimizer=adam, seed=1)
    with pytest.raises(
        NotImplementedError, match=r"(?s)exact KL at site 'shift.*elbo=Trace_ELBO\(\)"
    ):
        train()
    train(elbo=Trace_ELBO())
    assert model.slope.item() == pytest.approx(2.0, abs=0.05)
    assert guide.median()["shift"].item() == pytest.approx(1.0, abs=0.05)


def test_one_shot_iterator():
    model, guide, batches = problem()
    with pytest.raises(ValueError, match=r"run through once an epoch, got no batch in epoch 1"):
        quiet(model, guide, iter(batches), num_epochs=2)


def test_empty_data():
    model, guide, _ = problem()
    with pytest.raises(ValueError, match=r"run through once an epoch, got no batch in epoch 0"):
        quiet(model, guide, [], num_epochs=2)


class Overflowing:
    """Three batches; the second of the second epoch has a likelihood of 0 in floating point."""

    def __init__(self, batches, watch):
        self.batches, self.watch, self.epoch = batches, watch, -1

    def __iter__(self):
        self.epoch += 1
        for k, (x, y) in enumerate(self.batches):
            self.before = self.watch()
            yield x, y * 1e200 if (self.epoch, k) == (1, 1) else y


def test_loss_that_is_not_finite():
    """Epoch and batch are named, and the step is not made."""
    model, guide, batches = problem()
    data = Overflowing(batches, lambda: values(model, guide))
    with pytest.raises(FloatingPointError, match=r"finite loss, got (inf|nan) in epoch 1, batch 1"):
        quiet(model, guide, data, num_epochs=3)
    assert_equal(values(model, guide), data.before)
    assert all(torch.isfinite(v).all() for v in data.before.values())


BAD = {
    "epochs": (dict(num_epochs=0), ValueError, r"Expected num_epochs to be a positive int, got 0"),
    "clip": (dict(clip_norm=0.0), ValueError, r"Expected clip_norm to be a positive number, got 0"),
    "seed": (dict(seed=-1), ValueError, r"Expected seed to be a non-negative int, got -1"),
    "batch": (dict(data=[torch.zeros(4, 6, 8)]), TypeError, r"batch to be a tuple .* got Tensor"),
    "model": (dict(model=by_hand), TypeError, r"model to be a torch.nn.Module, got func"),
    "pyro-optim": (
        dict(optimizer=pyro.optim.Adam({"lr": 0.1})),
        TypeError,
        r"Expected optimizer to make .*functools.partial\(torch.optim.Adam, lr=0.01\), got "
        r"pyro.optim.*: neither a pyro.optim object",
    ),
    "made-optimizer": (
        dict(optimizer=torch.optim.SGD([torch.zeros(1)], lr=0.1)),
        TypeError,
        r"Expected optimizer to make .* got torch.optim.sgd.SGD",
    ),
    "no-optimizer": (
        dict(optimizer=lambda parameters: None),
        TypeError,
        r"got a function that returns NoneType: neither",
    ),
    "elbo-class": (
        dict(elbo=Trace_ELBO),
        TypeError,
        r"a pyro.infer.ELBO such as Trace_ELBO\(\), got the class Trace_ELBO",
    ),
    "elbo-text": (dict(elbo="Trace"), TypeError, r"Expected elbo to be a .*, got str"),
    "guide": (
        dict(guide=by_hand),
        TypeError,
        r"Expected guide .*, got function; .* use pyro",
    ),
}


@pytest.mark.parametrize(("kwargs", "error", "message"), BAD.values(), ids=BAD)
def test_arguments(kwargs, error, message):
    model, guide, batches = problem()
    with pytest.raises(error, match=message):
        quiet(**{"model": model, "guide": guide, "data": batches, "num_epochs": 1, **kwargs})


def test_clip_norm_bounds_the_gradient():
    model, guide, batches = problem()
    norms = []

    class Spy(torch.optim.SGD):
        def step(self):
            parameters = self.param_groups[0]["params"]
            norms.append(torch.stack([p.grad.norm() for p in parameters]).norm().item())
            super().step()

    sgd = partial(Spy, lr=1e-6)
    quiet(model, guide, batches, num_epochs=1, optimizer=sgd, seed=5)
    quiet(model, guide, batches, num_epochs=1, optimizer=sgd, seed=5, clip_norm=0.5)
    assert min(norms[:3]) > 0.5
    assert norms[3:] == pytest.approx([0.5] * 3, rel=1e-4)


@pytest.mark.parametrize("progress", [False, True])
def test_progress(progress, capsys):
    model, guide, batches = problem()
    fit(model, guide, batches, num_epochs=2, optimizer=adam, progress=progress)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert bool(re.search(r"SVI: 100%.* 6/6 .*step/s.*elbo=.*KL=", printed.err)) == progress
    assert bool(printed.err) == progress


def test_device(device):
    """Model, guide and every tensor of a batch go to the device."""
    model, guide, batches = problem()
    batches[1] = {"x": batches[1][0], "y": batches[1][1]}
    fit(model, guide, batches, num_epochs=1, optimizer=adam, progress=False, device=device)
    tensors = [*model.parameters(), *model.buffers(), *guide.parameters(), *guide.buffers()]
    assert {t.device.type for t in tensors} == {device.type}


def test_guide_in_the_model_s_place():
    model, guide, batches = problem()
    with pytest.raises(TypeError, match=r"a model before its guide, got the guide AutoSpikeAnd"):
        quiet(guide, model, batches, num_epochs=1)


def test_device_that_is_not_here():
    model, guide, batches = problem()
    with pytest.raises(ValueError, match=r"Expected a device that is here, got 'gpu'"):
        quiet(model, guide, batches, num_epochs=1, device="gpu")
