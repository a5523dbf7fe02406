"""A guide of ours goes with the model it was made for: another of its class is refused."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from pyro.nn import PyroModule

import pyro_vrnn as vrnn
from pyro_vrnn.infer import (
    AutoSpikeAndSlab,
    elbo_draws,
    fit,
    held_out,
    load_posterior,
    predict,
    save_posterior,
    score_language,
)

X, Y = torch.randn(6, 4, 3), torch.randn(6, 1)
TRAIN = {"num_epochs": 1, "optimizer": partial(torch.optim.Adam, lr=0.01), "progress": False}


def make(num_layers=1):
    rnn = vrnn.nn.GRU(3, 4, num_layers)
    return vrnn.models.SequenceRegression(rnn, 1, learn_tau=True)


def built(model, guide=None):
    guide = AutoSpikeAndSlab(model) if guide is None else guide
    guide(X, Y)
    return guide


def listed(model):
    guide = AutoGuideList(model)
    guide.append(AutoSpikeAndSlab(poutine.block(model, hide=["head.bias"])))
    guide.append(AutoNormal(poutine.block(model, expose=["head.bias"])))
    return guide


USES = {
    "fit": lambda m, g, _: fit(m, g, [(X, Y)], elbo=pyro.infer.Trace_ELBO(), **TRAIN),
    "predict": lambda m, g, _: predict(m, g, X, num_samples=2, progress=False),
    "held_out": lambda m, g, _: held_out(m, g, [(X, Y)], num_draws=2),
    "elbo_draws": lambda m, g, _: list(elbo_draws(m, g, (X, Y), num_samples=1)),
    "save_posterior": lambda m, g, tmp: save_posterior(tmp / "saved", m, g),
}
GUIDES = {"alone": AutoSpikeAndSlab, "in-a-list": listed}
MESSAGE = (
    r"^Expected the model that the AutoSpikeAndSlab was made for, got another SequenceRegression, "
    r".* make its guide anew too and train it; else give guide\.model\.$"
)


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_another_model_of_the_class_is_refused(use, tmp_path):
    guide = built(make())
    with pytest.raises(ValueError, match=MESSAGE):
        use(make(), guide, tmp_path)
    use(guide.model, guide, tmp_path)


@pytest.mark.parametrize("use", [USES["fit"], USES["predict"]], ids=["fit", "predict"])
@pytest.mark.parametrize("is_built", [True, False], ids=["built", "new"])
@pytest.mark.parametrize("kind", GUIDES.values(), ids=GUIDES)
def test_parts_and_guides_that_were_never_called(use, kind, is_built, tmp_path):
    guide = kind(make())
    if is_built:
        guide(X, Y)
    with pytest.raises(ValueError, match=MESSAGE):
        use(make(), guide, tmp_path)


def test_score_language():
    def model():
        return vrnn.models.LanguageModel(5, 4, 4)

    tokens = torch.zeros(2, 6, dtype=torch.int64)
    guide = AutoSpikeAndSlab(model())
    guide(tokens, tokens)
    with pytest.raises(ValueError, match="got another LanguageModel, whose learned parameters"):
        score_language(model(), guide, [(tokens, tokens)], num_samples=1, progress=False)


@pytest.mark.parametrize("use", [USES["predict"], USES["held_out"]], ids=["predict", "held_out"])
def test_another_model_behind_a_handler_is_refused(use, tmp_path):
    with pytest.raises(ValueError, match=MESSAGE):
        use(poutine.scale(make(), 2.0), built(make()), tmp_path)


def of_a_list(model):
    return model, built(model, listed(model))


def of_a_handled_model(model):
    return model, built(model, AutoSpikeAndSlab(poutine.scale(model, 1.0)))


def handled(model):
    return poutine.scale(model, 1.0), built(model)


def given_some(model):
    return partial(model, lengths=None), built(model)


def copied(model):
    return copy.deepcopy((model, built(model)))


def copied_list(model):
    return copy.deepcopy((model, built(model, listed(model))))


def snapshot(model):
    return model, copy.deepcopy(built(model))


def unpickled(model):
    return pickle.loads(pickle.dumps((model, built(model))))


def function(model):
    return lambda x, y=None: model(x, y), built(model)


def guide_of_a_function(model):
    return model, built(model, AutoSpikeAndSlab(lambda x, y=None: model(x, y)))


PAIRS = [of_a_list, of_a_handled_model, handled, given_some, copied, copied_list, snapshot,
         unpickled, function, guide_of_a_function]  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.__name__)
def test_pairs_that_are_right(pair, tmp_path):
    model, guide = pair(make())
    for name in ("predict", "held_out"):
        USES[name](model, guide, tmp_path)


@pytest.mark.parametrize("pair", [copied, snapshot], ids=lambda pair: pair.__name__)
def test_copies_are_trained(pair, tmp_path):
    USES["fit"](*pair(make()), tmp_path)


def test_an_unbuilt_copy_would_be_built_on_a_model_of_its_own(tmp_path):
    model = make()
    guide = copy.deepcopy(AutoSpikeAndSlab(model))
    with pytest.raises(ValueError, match=MESSAGE):
        USES["fit"](model, guide, tmp_path)


def test_loaded_posteriors(tmp_path):
    folder = save_posterior(tmp_path / "saved", (model := make()), built(model))
    for loaded in (load_posterior(folder), load_posterior(folder, make())):
        USES["predict"](*loaded, tmp_path)


@pytest.mark.parametrize("use", [USES["predict"], USES["held_out"]], ids=["predict", "held_out"])
def test_sites_that_the_model_lacks(use, tmp_path):
    guide = copy.deepcopy(built(make(2)))
    names = ", ".join(
        f"'rnn.{name}_l1'" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    message = rf"^Expected a guide of this model's sites, got one of {names} too, which the model "
    with pytest.raises(ValueError, match=message):
        use(make(1), guide, tmp_path)


class Auxiliary(PyroModule):
    """A model with a loss beside the likelihood, in training only."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = vrnn.nn.GRU(3, 4), vrnn.nn.Linear(4, 1)
        self.aside = vrnn.nn.Linear(4, 1)

    def forward(self, x, y=None):
        _, h = self.rnn(x.transpose(0, 1))
        loc = self.head(h[-1])
        if y is not None:
            pyro.factor("aside", -self.aside(h[-1]).square().sum())
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(loc, 1.0).to_event(1), obs=y)


def test_a_model_may_leave_out_sites_in_predictions(tmp_path):
    model = Auxiliary()
    USES["predict"](model, built(model), tmp_path)
