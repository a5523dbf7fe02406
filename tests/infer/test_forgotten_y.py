"""A model that is called without y in training: the message says what is missing."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal

import pyro_vrnn as vrnn
from pyro_vrnn.infer import TraceExactKL_ELBO, fit, held_out

N, T = 4, 5
X, Y = torch.zeros(N, T, 1), torch.zeros(N, 1)
IDS = torch.zeros(N, T, dtype=torch.int64)
HINT = r"Expected site 'obs' to be observed, got it among the latents: is y missing\?"

MODELS = {
    "regression": (lambda: vrnn.models.SequenceRegression(vrnn.nn.GRU(1, 2), 1), X, Y),
    "classes": (lambda: vrnn.models.SequenceClassification(vrnn.nn.GRU(1, 2), 3), X, IDS[:, 0]),
    "forecaster": (lambda: vrnn.models.Forecaster(vrnn.nn.GRU(1, 2), 1), X, Y),
    "language": (lambda: vrnn.models.LanguageModel(3, 2, 2, 1), IDS, IDS),
}
GUIDES = {
    "spike-and-slab": vrnn.infer.AutoSpikeAndSlab,
    "drop-connect": vrnn.infer.AutoDropConnect,
    "mean-field": vrnn.infer.AutoMeanFieldNormal,
    "multiplicative": vrnn.infer.AutoMultiplicativeNormal,
}
models = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
elbos = pytest.mark.parametrize("elbo", [TraceExactKL_ELBO, Trace_ELBO])


def train(model, guide, batch, elbo):
    adam = partial(torch.optim.Adam, lr=0.01)
    return fit(model, guide, [batch], num_epochs=1, optimizer=adam, elbo=elbo(), progress=False)


def built(make, guide=vrnn.infer.AutoSpikeAndSlab):
    model, *batch = make[0](), *make[1:]
    guide = guide(model)
    guide(*batch)
    return model, guide


@models
@pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
def test_a_guide_at_its_first_call(make, guide):
    with pytest.raises(ValueError, match=HINT):
        guide(make[0]())(make[1])


@models
def test_an_elbo(make):
    with pytest.raises(ValueError, match=HINT):
        TraceExactKL_ELBO()(*built(make))(make[1])


@models
@elbos
@pytest.mark.parametrize("guide", [vrnn.infer.AutoSpikeAndSlab, AutoNormal])
def test_fit(make, elbo, guide):
    """Pyro's own guides and ELBOs would take y for a latent, and train on nothing."""
    model, unbuilt = make[0](), guide
    with pytest.raises(ValueError, match=HINT):
        train(model, unbuilt(model), (make[1],), elbo)
    with pytest.raises(ValueError, match=HINT):
        train(*built(make), {"x": make[1]}, elbo)


def test_a_later_batch():
    model, guide = built(MODELS["regression"])
    model.num_data = 2 * len(X)
    with pytest.raises(ValueError, match=HINT) as error:
        fit(model, guide, [(X, Y), (X,)], num_epochs=1, progress=False,
            optimizer=partial(torch.optim.Adam, lr=0.01))  # fmt: skip
    assert error.value.__notes__ == ["In epoch 0, batch 1."]


def test_held_out():
    with pytest.raises(ValueError, match=r"observes data, got none in batch 0: is y missing\?"):
        held_out(*built(MODELS["regression"]), [(X,)])


def test_a_handler_may_observe():
    model, guide = built(MODELS["regression"])
    with poutine.condition(data={"obs": Y}):
        assert len(train(model, guide, (X,), TraceExactKL_ELBO).loss) == 1


def test_wrong_arguments_say_so_themselves():
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        train(*built(MODELS["regression"]), {"x": X, "z": Y}, TraceExactKL_ELBO)


def test_a_weight_of_that_name():
    """In a model of one's own it is a latent like others."""

    def model(y):
        w = pyro.sample("obs", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(w, 1.0).to_event(1), obs=y)

    guide = vrnn.infer.AutoMeanFieldNormal(model)
    assert TraceExactKL_ELBO()(model, guide)(torch.zeros(2)).isfinite()
