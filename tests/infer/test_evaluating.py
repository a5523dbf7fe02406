"""Results are read in one mode, that of validation; the modules' own modes and buffers stay."""

from __future__ import annotations

import copy
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn

import pyro_vrnn as vrnn
from pyro_vrnn.diagnostics import compare_guides, elbo_anatomy
from pyro_vrnn.infer import AutoSpikeAndSlab, elbo_draws, fit, held_out, predict
from pyro_vrnn.infer.evaluating import evaluating, underlying

X, Y = torch.randn(6, 3), torch.randn(6, 1)


class Model(PyroModule):
    """A net with BatchNorm and Dropout under a likelihood; it keeps the modes it was run in."""

    def __init__(self):
        super().__init__()
        net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        with pytest.warns(UserWarning, match="Deterministic"):
            self.net = vrnn.nn.bayesianize(net)
        self.modes = []

    def forward(self, x, y=None):
        self.modes.append(self.net[2].training)
        loc = self.net(x)
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(loc, 0.1).to_event(1), obs=y)
        return loc


def anatomy(model, guide):
    elbo_anatomy(model, guide, model_args=(X, Y), num_samples=2)


def compare(model, guide):
    pairs = {"one": (model, guide), "other": (model, guide)}
    compare_guides(pairs, model_args=(X, Y), held_out=[(X, Y)], num_samples=2)


def export(model, guide):
    pytest.importorskip("arviz")
    vrnn.from_pyro_svi(model, guide, model_args=(X, Y), num_samples=2, predictions_args=(X,),
                       prior=True)  # fmt: skip


READERS = {
    "predict": lambda m, g: predict(m, g, X, num_samples=2, progress=False),
    "predict-one": lambda m, g: predict(m, g, X[:1], num_samples=2, progress=False),
    "predict-quantiles": lambda m, g: predict(m, g, X, num_samples=2, quantiles=(0.5,),
                                              progress=False),
    "held_out": lambda m, g: held_out(m, g, [(X, Y)], num_draws=2),
    "elbo_draws": lambda m, g: list(elbo_draws(m, g, (X, Y), num_samples=2)),
    "elbo_anatomy": anatomy,
    "compare_guides": compare,
    "from_pyro_svi": export,
    "prototype": lambda m, g: AutoSpikeAndSlab(m)(X, Y),
    "mean": lambda m, g: AutoSpikeAndSlab(m).mean(X, Y),
}  # fmt: skip


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_the_model_is_run_in_evaluation_and_left_as_it_was(read):
    model = Model()
    guide = AutoSpikeAndSlab(model, scope="batch")
    guide(X, Y)
    model.net[1].eval()  # a mode of its own
    modes = {name: part.training for name, part in model.named_modules()}
    buffers = copy.deepcopy(dict(model.named_buffers()))
    model.modes.clear()
    read(model, guide)
    assert model.modes
    assert not any(model.modes)
    assert {name: part.training for name, part in model.named_modules()} == modes
    assert all(torch.equal(buffers[name], value) for name, value in model.named_buffers())


def test_fit_trains_on_each_batch_once():
    """The call that builds the guide, and the first look at the loss, are no training."""
    model = Model()
    adam = partial(torch.optim.Adam, lr=0.01)
    guide = AutoSpikeAndSlab(model)
    fit(model, guide, [(X, Y)] * 2, num_epochs=3, optimizer=adam, progress=False)
    assert model.modes.count(True) == int(model.net[1].num_batches_tracked) == 6


def test_modes_come_back_after_an_error():
    model = Model()
    guide = AutoSpikeAndSlab(model)
    guide(X, Y)
    with pytest.raises(ValueError, match=r"shape \(\*, 3\)"):
        predict(model, guide, X[:, :2], num_samples=2, progress=False)
    assert all(part.training for part in model.modules())


def test_the_variance_after_training_is_that_in_evaluation():
    model = Model()
    guide = AutoSpikeAndSlab(model, drop_prob=0.0)
    guide(X, Y)
    model.train()
    trained = predict(model, guide, X, num_samples=20, seed=0, progress=False)
    model.eval()
    evaluated = predict(model, guide, X, num_samples=20, seed=0, progress=False)
    torch.testing.assert_close(trained.variance, evaluated.variance, rtol=0, atol=0)


def test_weight_draws_of_a_sequence_scope_guide_do_not_depend_on_the_mode():
    model = vrnn.models.SequenceRegression(vrnn.nn.GRU(3, 4), 1)
    guide = AutoSpikeAndSlab(model, scope="sequence")
    args = torch.randn(5, 7, 3), torch.randn(5, 1)
    guide(*args)
    torch.manual_seed(0)
    in_training = guide(*args)["rnn.weight_hh_l0"]
    with evaluating(model, guide):
        torch.manual_seed(0)
        in_evaluation = guide(*args)["rnn.weight_hh_l0"]
    assert type(in_training) is type(in_evaluation)
    assert type(in_training).__name__ == "SequenceDraw"


WRAPPERS = {
    "itself": lambda model: model,
    "partial": lambda model: partial(model, y=None),
    "handler": lambda model: poutine.scale(model, 2.0),
    "handlers": lambda model: poutine.block(poutine.scale(model, 2.0), hide=["obs"]),
    "handled-partial": lambda model: poutine.scale(partial(model, X), 2.0),
    "method": lambda model: model.forward,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrapped_modules_are_put_in_evaluation(wrap):
    model = Model()
    wrapped = wrap(model)
    assert underlying(wrapped) is model
    with evaluating(wrapped):
        assert not any(part.training for part in model.modules())
    assert all(part.training for part in model.modules())


def test_pyro_s_own_guides_are_read_likewise():
    model = Model()
    guide = AutoNormal(model)
    guide(X, Y)
    model.modes.clear()
    predict(model, guide, X, num_samples=2, progress=False)
    assert model.modes
    assert not any(model.modes)
