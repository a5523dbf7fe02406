"""What prediction refuses, in one voice."""

from __future__ import annotations

import re
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoCallable, AutoGuideList, AutoNormal

import pyro_vrnn as vrnn
from tests.models.cases import GUIDES, forecaster, regression

predict = partial(vrnn.infer.predict, progress=False)
X = torch.randn(4, 3)


def model(x, y=None, scale=1.0):
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("obs", dist.Normal(x @ w, scale), obs=y)


def guide(x, y=None, scale=1.0):
    pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))


def refused(error, message, program=model, q=guide, x=X, **kwargs):
    with pytest.raises(error, match=re.escape(message)):
        predict(program, q, x, **{"num_samples": 3, **kwargs})


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"num_samples": 0}, ValueError, "Expected num_samples to be a positive int, got 0."),
        ({"max_bytes": 0.5}, TypeError, "Expected max_bytes to be a positive int, got 0.5."),
        ({"x": [1.0]}, TypeError, "Expected x to be a Tensor, got list."),
        (
            {"x": torch.zeros(0, 3)},
            ValueError,
            "Expected x of at least one sequence, got (0, 3).",
        ),
        (
            {"strategy": "fast"},
            ValueError,
            "Expected strategy to be one of 'auto', 'loop', 'batched', 'folded', got 'fast'.",
        ),
        (
            {"return_draws": "loc"},
            ValueError,
            "Expected return_draws to be one of False, True, 'observation', 'mean', got 'loc'.",
        ),
        ({"quantiles": 0.5}, TypeError, "Expected quantiles to be a sequence of levels, got 0.5."),
        ({"quantiles": (0.5, 1.5)}, ValueError, "Expected quantiles[1] in [0, 1], got 1.5."),
        ({"seed": -1}, ValueError, "Expected seed to be a non-negative int, got -1."),
        ({"device": "nowhere"}, ValueError, "Expected a device that is here, got 'nowhere'"),
        ({"program": 3}, TypeError, "Expected model to be callable, got int."),
        ({"q": None}, TypeError, "Expected guide to be callable, got NoneType."),
        (
            {"site": "y"},
            ValueError,
            "Expected site to be one of the model's (obs), got 'y'.",
        ),
        (
            {"model_kwargs": [1]},
            TypeError,
            "Expected model_kwargs to be a dict, got list.",
        ),
        (
            {"model_kwargs": {"scale": torch.ones(3)}},
            ValueError,
            "Expected model_kwargs['scale'] of 4 rows, one a sequence, or its name in shared, "
            "got shape (3,).",
        ),
        (
            {"model_kwargs": {"scale": torch.tensor(1.0)}},
            ValueError,
            "Expected model_kwargs['scale'] of 4 rows, one a sequence, or its name in shared, "
            "got shape ().",
        ),
        (
            {"shared": ("size",)},
            ValueError,
            "Expected the names in shared to be in model_kwargs (), got 'size'.",
        ),
        (
            {"shared": "size"},
            TypeError,
            "Expected shared to be a collection of names, got 'size'.",
        ),
        (
            {"lengths": torch.tensor([1, 1])},
            ValueError,
            "Expected lengths of shape (4,), got (2,).",
        ),
        (
            {"return_draws": True, "max_bytes": 40},
            ValueError,
            "Expected draws of at most max_bytes=40, got 96 bytes for 3 draws of 4 sequences.",
        ),
        (
            {"quantiles": (0.5,), "max_bytes": 10},
            ValueError,
            "Expected max_bytes of at least 12, the bytes that the quantiles of one sequence "
            "need from 3 draws, got 10.",
        ),
    ],
)
def test_arguments(kwargs, error, message):
    refused(error, message, **kwargs)


@pytest.mark.parametrize("make", [GUIDES["untied"], AutoNormal], ids=["ours", "AutoNormal"])
def test_guide_that_was_never_called(make):
    program, x, y = regression()
    q = make(program)
    refused(
        RuntimeError,
        f"Expected a guide that has its sites, got a {type(q).__name__} that was never called: "
        "first call the guide once with the model's arguments, observations included.",
        program,
        q,
        x,
    )
    q(x, y)
    assert predict(program, q, x, num_samples=3).mean.shape == (6, 2)


def test_guide_first_called_without_observations():
    q = AutoNormal(model)
    q(X)
    refused(
        ValueError,
        "Expected a guide that leaves site 'obs' to the model, got one that samples it: was the "
        "guide first called without the observations?",
        q=q,
    )


def test_a_list_with_a_plain_guide_needs_no_prototype():
    q = AutoGuideList(model)
    q.append(AutoCallable(model, guide))
    q(X, torch.zeros(4))
    assert predict(model, q, X, num_samples=3).mean.shape == (4,)


@pytest.mark.parametrize(
    ("names", "listed"), [(("w",), "'b'"), ((), "'w', 'b'")], ids=["one", "none"]
)
def test_latents_that_the_guide_does_not_sample(names, listed):
    def program(x, y=None):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(x[:, 0] * w + b, 1.0), obs=y)

    def q(x, y=None):
        for name in names:
            pyro.sample(name, dist.Normal(0.0, 1.0))

    message = f"Expected the guide to sample every latent of the model, got none of {listed}."
    refused(ValueError, message, program, q)


def test_model_without_latents():
    def program(x, y=None):
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(x[:, 0], 1.0), obs=y)

    message = "Expected the guide to sample every latent of the model, got none of any."
    refused(ValueError, message, program)


def test_latents_of_each_sequence():
    def program(x, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("obs", dist.Normal(z, 1.0), obs=y)

    def q(x, y=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    refused(
        ValueError,
        "Expected a guide with one value of each latent for all sequences, got 'z' inside plate "
        "'data'; use pyro.infer.Predictive.",
        program,
        q,
    )


def test_site_without_moments():
    def program(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        transform = dist.transforms.SigmoidTransform()
        with pyro.plate("data", len(x)):
            base = dist.Normal(x @ w, 1.0)
            pyro.sample("obs", dist.TransformedDistribution(base, transform), obs=y)

    refused(
        TypeError,
        "Expected site 'obs' to have a distribution with a mean and a variance, or a Categorical "
        "one, got TransformedDistribution; pyro.infer.Predictive draws from it.",
        program,
    )


def test_integer_site():
    def program(x, y=None):
        pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.deterministic("count", torch.ones(len(x), dtype=torch.int64))

    message = "Expected site 'count' of a floating point dtype, got torch.int64."
    refused(TypeError, message, program, site="count")


def test_quantiles_of_classes():
    def program(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Categorical(logits=x * w), obs=y)

    message = "Expected no quantiles of classes (site 'obs'), got (0.5,)."
    refused(ValueError, message, program, quantiles=(0.5,))


@pytest.mark.parametrize("shape", [(), (7,)], ids=["scalar", "other"])
def test_site_without_a_row_for_each_sequence(shape):
    def program(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("obs", dist.Normal(w.sum().expand(shape), 1.0), obs=y)

    refused(
        ValueError,
        "Expected site 'obs' to have one row a sequence, sequences first, got shape "
        f"{'()' if shape == () else '(7,)'} for one sequence.",
        program,
    )


def test_site_of_one_row_whatever_the_sequences():
    def program(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("obs", dist.Normal(w[:1], 1.0), obs=y)

    message = "Expected site 'obs' of shape (4,), one row a sequence, got (1,)."
    refused(ValueError, message, program, strategy="loop")


def test_site_with_the_sequences_last():
    def program(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("obs", dist.Normal((x @ w).unsqueeze(0), 1.0), obs=y)

    message = "Expected site 'obs' of shape (4, 1), one row a sequence, got (1, 4)."
    refused(ValueError, message, program, strategy="loop")


def test_a_batch_that_fails_is_refused_if_asked_for():
    refused(
        ValueError,
        "Expected a model that Predictive(parallel=True) can run, and that draws nothing but its "
        "observation, got RuntimeError:",
        strategy="batched",
    )


@pytest.mark.parametrize("strategy", ["auto", "loop", "batched"])
def test_nan_in_any_sequence_is_named(strategy):
    program, x, y = regression()
    q = GUIDES["untied"](program)
    q(x, y)
    x[5, 2, 1] = float("nan")
    message = "Expected x to be finite, got nan"
    refused(ValueError, message, program, q, x, strategy=strategy)
    with pyro.validation_enabled(False):
        assert predict(program, q, x, num_samples=3, strategy=strategy).mean[5].isnan().all()


def test_values_are_not_looked_at_under_each_draw(monkeypatch):
    program, x, y = regression()
    q = GUIDES["untied"](program)
    q(x, y)
    seen = []
    monkeypatch.setattr(
        "pyro_vrnn.models.sequence.check_finite", lambda name, value: seen.append(name)
    )
    predict(program, q, x, num_samples=20, strategy="loop")
    assert seen == ["x"] * 3  # the whole, the first sequence for its shapes, the first draw


def test_guide_in_the_model_s_place():
    trained, x, y = regression()
    q = vrnn.infer.AutoSpikeAndSlab(trained)
    q(x, y)
    refused(
        TypeError,
        "Expected a model before its guide, got the guide AutoSpikeAndSlab as model.",
        program=q, q=trained, x=x,
    )  # fmt: skip


def test_an_error_of_the_model_says_what_it_was_run_on():
    with pytest.raises(RuntimeError) as caught:
        predict(model, guide, torch.randn(5, 4), num_samples=3)
    assert caught.value.__notes__ == [
        "predict ran the model on the first sequence alone, (1, 4) of x (5, 4)."
    ]


def language():
    tokens = torch.ones(6, 5, dtype=torch.int64)
    return vrnn.models.LanguageModel(7, 3, 4), tokens, tokens


@pytest.mark.parametrize(
    ("make", "x", "message"),
    [
        (regression, torch.zeros(5, 3), "of shape (N, T, 3), got (5, 3)."),
        (regression, torch.zeros(5, 4, 2), "of shape (N, T, 3), got (5, 4, 2)."),
        (regression, torch.zeros(0, 4, 3), "at least one sequence, got shape (0, 4, 3)."),
        (forecaster, torch.zeros(5, 4, 2), "of shape (N, T, 1), got (5, 4, 2)."),
        (forecaster, torch.zeros(5, 2, 1), "got 2 in x of shape (5, 2, 1)."),
        (language, torch.zeros(5, dtype=torch.int64), "of shape (N, T), got (5,)."),
        (language, torch.zeros(5, 0, dtype=torch.int64), "one step, got shape (5, 0)."),
    ],
)  # fmt: skip
def test_our_models_are_asked_of_the_whole_input(make, x, message):
    program, good, y = make()
    q = vrnn.infer.AutoSpikeAndSlab(program)
    q(good, y)
    refused(ValueError, message, program, q, x)


def test_the_shortest_window_of_all_is_named():
    program, x, y = forecaster()
    q = vrnn.infer.AutoSpikeAndSlab(program)
    q(x, y)
    message = "(lag 3), got 2 in x of shape (6, 9, 1)."
    refused(ValueError, message, program, q, x, lengths=[9, 9, 9, 9, 9, 2], max_bytes=1)


def test_a_value_is_named_by_its_place_in_the_whole():
    """Not in the chunk of sequences that holds it."""
    program, x, y = regression()
    q = vrnn.infer.AutoSpikeAndSlab(program)
    q(x, y)
    many = x[:1].repeat(50, 1, 1)
    many[40, 1, 0] = float("nan")
    refused(ValueError, "got nan at index (40, 1, 0)", program, q, many, max_bytes=1)
