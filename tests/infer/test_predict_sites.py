"""Which site is predicted if none is named, and plates that do not hold all sequences."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vrnn as vrnn

predict = partial(vrnn.infer.predict, num_samples=3, seed=0, progress=False)
X = torch.randn(24, 3)


def guide(x, y=None):
    pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))


def weighted(x):
    return x @ pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))


def named(*names, deterministic=()):
    """Return a model that observes these sites."""

    def model(x, y=None):
        loc = weighted(x)
        with pyro.plate("data", len(x)):
            for name in deterministic:
                pyro.deterministic(name, loc, event_dim=0)
            for k, name in enumerate(names):
                pyro.sample(name, dist.Normal(loc + k, 0.1), obs=y)

    return model


SITES = {
    "the-only-one": (named("counts"), "counts"),
    "beside-deterministic": (named("counts", deterministic=["loc"]), "counts"),
    "obs": (named("obs"), "obs"),
    "obs-of-several": (named("counts", "obs"), "obs"),
    "deterministic-obs": (named("counts", deterministic=["obs"]), "obs"),
}


@pytest.mark.parametrize(("model", "site"), SITES.values(), ids=SITES)
def test_site_by_default(model, site):
    found, said = predict(model, guide, X), predict(model, guide, X, site=site)
    assert torch.equal(found.mean, said.mean)
    assert torch.equal(found.variance, said.variance)


REFUSED = {
    "several": (named("a", "b"), None, "a, b"),
    "named": (named("counts"), "obs", "counts"),
    "deterministic": (named(deterministic=["loc"]), None, "loc"),
}


@pytest.mark.parametrize(("model", "site", "others"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_known_must_be_named(model, site, others):
    with pytest.raises(ValueError, match=rf"one of the model's \({others}\), got 'obs'"):
        predict(model, guide, X, site=site)


def subsampled(size=None, subsample=5, uses=True, most=False):
    """Return a model whose plate takes some of the sequences at random."""

    def model(x, y=None):
        loc = weighted(x)
        count = len(x) if size is None else size
        some = min(subsample, len(x)) if most else subsample
        with pyro.plate("data", count, subsample_size=some) as index:
            pyro.sample("obs", dist.Normal(loc[index] if uses else loc, 0.1), obs=y)

    return model


RANDOM = {
    "of-all": subsampled(),
    "of-a-number": subsampled(24),
    "at-most": subsampled(most=True),
    "not-indexed": subsampled(uses=False),
    "not-indexed-at-most": subsampled(uses=False, most=True),
    "one-of-all": subsampled(subsample=1),
}


@pytest.mark.parametrize("strategy", ["auto", "loop"])
@pytest.mark.parametrize("model", RANDOM.values(), ids=RANDOM)
def test_a_plate_of_random_subsamples_is_named(model, strategy):
    message = (
        r"^Expected plate 'data' to hold all sequences that are to be predicted, got random "
        r"subsamples: give the plate no subsample_size without y\.$"
    )
    with pytest.raises(ValueError, match=message):
        predict(model, guide, X, strategy=strategy)


def of_a_minibatch(x, y=None):
    loc = weighted(x)
    with pyro.plate("data", 100, subsample_size=len(x)):
        pyro.sample("obs", dist.Normal(loc, 0.1), obs=y)


def without_y(x, y=None):
    loc = weighted(x)
    with pyro.plate("data", len(x), subsample_size=None if y is None else 5) as index:
        pyro.sample("obs", dist.Normal(loc[..., index], 0.1), obs=y)


def beside(x, y=None):
    with pyro.plate("other", 10, subsample_size=5):
        pyro.factor("penalty", torch.zeros(5))
    named("obs")(x, y)


@pytest.mark.parametrize("strategy", ["auto", "loop"])
@pytest.mark.parametrize("model", [of_a_minibatch, without_y, beside], ids=lambda m: m.__name__)
def test_plates_that_hold_all_are_taken(model, strategy):
    found = predict(model, guide, X, strategy=strategy)
    assert torch.equal(found.mean, predict(named("obs"), guide, X, strategy=strategy).mean)
