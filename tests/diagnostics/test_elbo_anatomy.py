"""The parts of an ELBO: they sum to what SVI reports, and are exact where they say so."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoNormalMessenger,
    AutoStructured,
)

import pyro_vrnn as vrnn
from pyro_vrnn.diagnostics import elbo_anatomy
from pyro_vrnn.infer import TraceExactKL_ELBO, function_draws
from tests.infer.cases import small
from tests.models.cases import MODELS, classification, regression

Z = 4.26
GUIDES = {
    "spike-and-slab": partial(vrnn.infer.AutoSpikeAndSlab, drop_prob=0.3, scale=0.1),
    "learned scale": partial(vrnn.infer.AutoSpikeAndSlab, scale=0.1, learn_scale=True),
    "sequence": partial(vrnn.infer.AutoSpikeAndSlab, scale=0.1, scope="sequence"),
    "DropConnect": vrnn.infer.AutoDropConnect,
    "multiplicative": partial(vrnn.infer.AutoMultiplicativeNormal, scale=0.1),
    "mean field": vrnn.infer.AutoMeanFieldNormal,
}
guides = pytest.mark.parametrize("make_guide", GUIDES.values(), ids=GUIDES)


def built(make, make_guide, cell="lstm", **kwargs):
    """Return a model in float64, its guide with its sites, and a batch."""
    model, *batch = make(cell, dtype=torch.float64, **kwargs)
    guide = make_guide(model)
    guide(*batch)
    return model, guide, tuple(batch)


def reported(elbo, model, guide, batch, seed):
    """Return the ELBO that SVI reports from these random numbers."""
    pyro.set_rng_seed(seed)
    with function_draws():  # a sequence's own draws have the same mean, other numbers
        return -elbo.loss(model, guide, *batch)


def assert_parts_sum(anatomy):
    """Compare every total with the sum of what it is the total of."""
    expected = math.fsum(part.expected.value for part in anatomy.log_likelihood)
    assert anatomy.expected_log_likelihood.value == pytest.approx(expected, abs=1e-6)
    kl = math.fsum(site.kl.value for site in anatomy.sites)
    assert math.fsum(layer.kl.value for layer in anatomy.layers) == pytest.approx(kl, abs=1e-6)
    assert anatomy.kl.value == pytest.approx(kl, abs=1e-6)
    assert anatomy.elbo.value == pytest.approx(expected - kl, abs=1e-6)


# The parts sum to what SVI reports.


@guides
@pytest.mark.parametrize(
    ("make", "cell"),
    [(regression, "lstm"), (classification, "gru"), (MODELS["forecaster"], "lstm")],
    ids=["regression", "classification", "forecaster"],
)
def test_parts_sum_to_the_elbo_that_svi_reports(make, cell, make_guide):
    model, guide, batch = built(make, make_guide, cell, num_data=20)
    anatomy = elbo_anatomy(model, guide, model_args=batch, num_samples=3, seed=3)
    for elbo in (TraceExactKL_ELBO(num_particles=3), TraceMeanField_ELBO(num_particles=3)):
        expected = reported(elbo, model, guide, batch, 3)
        assert anatomy.elbo.value == pytest.approx(expected, abs=1e-6)
    assert_parts_sum(anatomy)
    for part in (*anatomy.sites, *anatomy.layers, anatomy.total_kl):
        assert part.kl.standard_error == 0
        split = part.constant + part.slab + part.mask
        assert part.kl.value == pytest.approx(split, abs=1e-6)


def normals(y):
    """Two normal latents, one in a plate whose scale another sets, by hand."""
    loc = pyro.sample("loc", dist.Normal(1.0, 2.0))
    with pyro.plate("data", 40, subsample=torch.arange(len(y))):
        each = pyro.sample("each", dist.Normal(loc, 0.5))
        pyro.sample("obs", dist.Normal(each, 1.0), obs=y)


def normal_guide(y):
    loc = pyro.sample("loc", dist.Normal(0.3, 0.2))
    with pyro.plate("data", 40, subsample=torch.arange(len(y))):
        pyro.sample("each", dist.Normal(y - loc, 0.7))


def test_normal_sites_written_by_hand():
    y = torch.randn(6, dtype=torch.float64)
    anatomy = elbo_anatomy(normals, normal_guide, model_args=(y,), num_samples=7, seed=5)
    expected = reported(TraceMeanField_ELBO(num_particles=7), normals, normal_guide, (y,), 5)
    assert anatomy.elbo.value == pytest.approx(expected, abs=1e-6)
    assert_parts_sum(anatomy)
    loc, each = anatomy.sites
    ratio = 0.1
    assert loc.constant == pytest.approx(0.5 * (ratio**2 - 1) - math.log(ratio), rel=1e-6)
    assert loc.slab == pytest.approx(0.5 * 0.7**2 / 4, rel=1e-6)
    # Its prior depends on loc: exact at every draw, and not the same.
    assert (loc.kl.standard_error, each.method) == (0, "analytic")
    assert each.kl.standard_error > 0
    assert each.constant == pytest.approx(40 * (0.5 * (1.4**2 - 1) - math.log(1.4)), rel=1e-6)
    assert each.constant + each.slab + each.mask == pytest.approx(each.kl.value, abs=1e-4)


def test_elbo_is_the_evidence_of_a_conjugate_model(conjugate):
    """With the exact posterior, whatever the number of draws."""
    anatomy = elbo_anatomy(
        conjugate.model, conjugate.guide, model_args=conjugate.args, num_samples=4
    )
    assert anatomy.elbo.value == pytest.approx(float(conjugate.evidence), abs=1e-6)
    np.testing.assert_allclose(anatomy.elbo_draws, float(conjugate.evidence), rtol=0, atol=1e-6)
    assert [site.latents for site in anatomy.sites] == [("w",)]


def test_analytic_elbo_of_an_exact_guide_is_the_evidence_within_its_error(exact):
    anatomy = elbo_anatomy(exact.model, exact.guide, model_args=exact.args, num_samples=400)
    # The sampled ELBO is the evidence at every draw; with the KL exact, only in the mean.
    error = max(Z * anatomy.elbo.standard_error, 1e-6)
    assert abs(anatomy.elbo.value - float(exact.evidence)) < error
    sampled = anatomy.expected_log_likelihood_draws - sum(s.sampled_draws for s in anatomy.sites)
    np.testing.assert_allclose(sampled, float(exact.evidence), rtol=0, atol=1e-6)


@guides
def test_the_sampled_kl_is_the_exact_one_within_its_error(make_guide):
    model, x, y = small("gru")
    guide = make_guide(model)
    guide(x, y)
    anatomy = elbo_anatomy(model, guide, model_args=(x, y), num_samples=100)
    for site in (*anatomy.sites, anatomy.total_kl):
        assert site.sampled.standard_error > 0
        assert abs(site.sampled.value - site.kl.value) < Z * site.sampled.standard_error, site.name


# Guides of Pyro, whose KLs are sampled.


def mixed(y):
    """A positive latent, a simplex and a real vector; no network."""
    scale = pyro.sample("scale", dist.Gamma(2.0, 2.0))
    mix = pyro.sample("mix", dist.Dirichlet(torch.ones(3)))
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("obs", dist.Normal((mix * w).sum(), scale), obs=y)


PYRO_GUIDES = {
    "AutoNormal": (AutoNormal, ["scale", "mix", "w"]),
    "AutoNormalMessenger": (AutoNormalMessenger, ["scale", "mix", "w"]),
    "AutoStructured": (AutoStructured, ["scale", "mix", "w"]),
    "AutoMultivariateNormal": (AutoMultivariateNormal, ["_AutoMultivariateNormal_latent"]),
    "AutoDiagonalNormal": (AutoDiagonalNormal, ["_AutoDiagonalNormal_latent"]),
    "AutoLowRank": (
        AutoLowRankMultivariateNormal,
        ["_AutoLowRankMultivariateNormal_latent"],
    ),
}


@pytest.mark.parametrize(("make_guide", "rows"), PYRO_GUIDES.values(), ids=PYRO_GUIDES)
def test_any_guide_of_pyro(make_guide, rows):
    y = torch.tensor([0.5, -0.3, 1.2, 0.1])
    guide = make_guide(mixed)
    guide(y)
    anatomy = elbo_anatomy(mixed, guide, model_args=(y,), num_samples=6, seed=2)
    assert [site.name for site in anatomy.sites] == rows
    assert sum(site.num_weights for site in anatomy.sites) == 7
    assert anatomy.has_density
    assert_parts_sum(anatomy)
    exact = TraceExactKL_ELBO(num_particles=6, sampled=True)
    expected = reported(exact, mixed, guide, (y,), 2)
    assert anatomy.elbo.value == pytest.approx(expected, abs=1e-6)
    # That Pyro means the same is known within the error of both.
    many = elbo_anatomy(mixed, guide, model_args=(y,), num_samples=100, seed=0)
    pyro.set_rng_seed(1)
    losses = [-Trace_ELBO().loss(mixed, guide, y) for _ in range(100)]
    error = math.hypot(np.std(losses, ddof=1) / 10, many.elbo.standard_error)
    assert abs(many.elbo.value - np.mean(losses)) < Z * error


def test_auto_normal_on_a_network_has_our_layers_and_a_sampled_kl():
    model, guide, batch = built(classification, AutoNormal)
    anatomy = elbo_anatomy(model, guide, model_args=batch, num_samples=60)
    names = ["rnn.l0", "rnn.l0_reverse", "rnn.l1", "rnn.l1_reverse", "head"]
    assert [layer.name for layer in anatomy.layers] == names
    assert {site.method for site in anatomy.sites} == {"sampled"}
    assert all(site.constant is None and site.gal is None for site in anatomy.sites)
    for site in anatomy.sites:
        module, name = site.name.split(".")
        loc, scale = (
            getattr(getattr(part, module), name).detach() for part in (guide.locs, guide.scales)
        )
        q = dist.Normal(loc, scale)
        exact = float(torch.distributions.kl_divergence(q, dist.Normal(0.0, 1.0)).sum())
        assert abs(site.kl.value - exact) < Z * site.kl.standard_error


def test_a_latent_of_its_own_beside_joint_ones():
    """AutoMultivariateNormal of two of three latents: the third's row is its own."""
    y = torch.tensor([0.5, -0.3])
    guide = AutoGuideList(mixed)
    guide.append(AutoMultivariateNormal(poutine.block(mixed, expose=["scale", "mix"])))
    guide.append(AutoNormal(poutine.block(mixed, expose=["w"])))
    guide(y)
    anatomy = elbo_anatomy(mixed, guide, model_args=(y,), num_samples=3)
    joint, w = anatomy.sites
    assert (joint.latents, w.latents) == (("scale", "mix"), ("w",))
    assert anatomy.has_density
    assert_parts_sum(anatomy)


def test_a_point_beside_joint_latents_has_no_density():
    y = torch.tensor([0.5, -0.3])
    guide = AutoGuideList(mixed)
    guide.append(AutoMultivariateNormal(poutine.block(mixed, expose=["scale", "mix"])))
    guide.append(AutoDelta(poutine.block(mixed, expose=["w"])))
    guide(y)
    anatomy = elbo_anatomy(mixed, guide, model_args=(y,), num_samples=3)
    assert [site.has_density for site in anatomy.sites] == [False]
    assert "No bound: the guide has no density at _AutoGuideList.0_latent" in str(anatomy)


# Guides without a density.


@pytest.mark.parametrize("scope", ["batch", "sequence"])
def test_the_dropout_limit_is_defined_up_to_a_constant(scope):
    make_guide = partial(vrnn.infer.AutoSpikeAndSlab, drop_prob=0.3, scale=0, scope=scope)
    model, guide, batch = built(classification, make_guide)
    anatomy = elbo_anatomy(model, guide, model_args=batch, num_samples=5, seed=3)
    expected = reported(TraceExactKL_ELBO(num_particles=5), model, guide, batch, 3)
    assert anatomy.elbo.value == pytest.approx(expected, abs=1e-6)
    assert (anatomy.has_density, anatomy.is_vacuous) == (False, None)
    assert all(site.sampled is None for site in anatomy.sites)
    assert anatomy.total_kl.sampled is None
    text = str(anatomy)
    assert "No bound: the guide has no density at any site" in text
    assert "defined up to a constant" in text
    assert " + c" in text
    dropped = next(site for site in anatomy.sites if site.name == "rnn.weight_hh_l0")
    assert dropped.gal_gap == pytest.approx(0, abs=1e-9)


def test_a_point_estimate_is_no_bound():
    y = torch.tensor([0.5, -0.3])
    guide = AutoDelta(mixed)
    anatomy = elbo_anatomy(mixed, guide, model_args=(y,), num_samples=2)
    assert not anatomy.has_density
    assert "No bound" in str(anatomy)
    trace = poutine.trace(poutine.replay(mixed, poutine.trace(guide).get_trace(y))).get_trace(y)
    assert anatomy.elbo.value == pytest.approx(trace.log_prob_sum().item(), rel=1e-5)


# Gal's approximation.


# A wide slab overlaps the spike, a narrow one does not.
@pytest.mark.parametrize(
    ("scale", "low", "high"), [(1e-3, 0, 0.01), (0.1, 0.001, 0.5), (3.0, 0.9, 1)]
)
def test_gal_gap_is_between_0_and_the_entropy_of_the_masks(scale, low, high):
    make_guide = partial(vrnn.infer.AutoSpikeAndSlab, drop_prob=0.3, scale=scale)
    model, guide, batch = built(regression, make_guide)
    anatomy = elbo_anatomy(model, guide, model_args=batch, num_samples=2)
    entropy_of_one = -0.3 * math.log(0.3) - 0.7 * math.log(0.7)
    dropped = [site for site in anatomy.sites if site.gal is not None]
    assert {site.name for site in dropped} == {
        name for name, site in guide.sites.items() if site.drop_prob > 0
    }
    for site in dropped:
        blocks = math.prod(guide.distribution(site.name).grid_shape)
        assert site.mask_entropy == pytest.approx(blocks * entropy_of_one, rel=1e-9)
        assert -1e-9 <= site.gal_gap <= site.mask_entropy + 1e-9
        prior = model.rnn.prior(site.name.removeprefix("rnn."))
        gal = vrnn.distributions.gal_kl_divergence(guide.distribution(site.name), prior)
        assert site.gal == pytest.approx(gal.item(), abs=1e-9)
    total = anatomy.total_kl
    assert total.gal_gap == pytest.approx(sum(site.gal_gap for site in dropped), abs=1e-9)
    assert low <= total.gal_gap / total.mask_entropy <= high


# Layers and units.


def test_layers_of_a_network():
    model, guide, batch = built(regression, GUIDES["spike-and-slab"])
    anatomy = elbo_anatomy(model, guide, model_args=batch, num_samples=2)
    names = ["rnn.l0", "rnn.l0_reverse", "rnn.l1", "rnn.l1_reverse", "head"]
    assert [layer.name for layer in anatomy.layers] == names
    first = [site for site in anatomy.sites if site.layer == "rnn.l0"]
    kinds = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
    assert [site.name.removeprefix("rnn.") for site in first] == kinds
    for name in ("constant", "slab", "mask", "num_weights"):
        layers = sum(getattr(layer, name) for layer in anatomy.layers)
        assert layers == pytest.approx(sum(getattr(site, name) for site in anatomy.sites))


def test_bits_are_nats_over_log_2():
    model, guide, batch = built(regression, GUIDES["spike-and-slab"], num_data=30)
    anatomy = elbo_anatomy(model, guide, model_args=batch, num_samples=2)
    assert anatomy.num_observations == pytest.approx(30)
    nats = anatomy.per_observation(anatomy.elbo.value)
    assert nats == pytest.approx(anatomy.elbo.value / 30)
    assert anatomy.per_observation(anatomy.elbo.value, "bits") == pytest.approx(nats / math.log(2))
    given = elbo_anatomy(model, guide, model_args=batch, num_samples=2, num_observations=60)
    assert given.per_observation(anatomy.elbo.value) == pytest.approx(nats / 2)


def test_observations_of_a_forecaster_are_divided_by_their_overlap():
    model, guide, batch = built(MODELS["forecaster"], GUIDES["mean field"], num_data=20, overlap=4)
    assert elbo_anatomy(model, guide, model_args=batch, num_samples=2).num_observations == 5


def test_masked_observations_do_not_count():
    mask = torch.tensor([True, False, True, True])

    def model(y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 4), poutine.mask(mask=mask):
            pyro.sample("obs", dist.Bernoulli(logits=w), obs=y)
            pyro.sample("other", dist.Bernoulli(logits=w).mask(~mask), obs=y)

    guide = AutoNormal(model)
    y = torch.ones(4)
    anatomy = elbo_anatomy(model, guide, model_args=(y,), num_samples=2)
    assert [part.num_observations for part in anatomy.log_likelihood] == [3, 0]
    assert anatomy.reference == pytest.approx(-3 * math.log(2))


EVENTS = {  # what is masked, in events of T = 4, and the codes of one element
    "categorical": (dist.Categorical(torch.ones(3)), (), math.log(3)),
    "one-hot": (dist.OneHotCategorical(torch.ones(3)), (3,), math.log(3)),
    "Bernoulli": (dist.Bernoulli(0.5), (), math.log(2)),
    "normal": (dist.Normal(0.0, 1.0), (), None),
}


@pytest.mark.parametrize("num", [4, 5], ids=["N=T", "N=5"])
@pytest.mark.parametrize(("base", "event", "code"), EVENTS.values(), ids=EVENTS)
def test_masks_inside_of_events(base, event, code, num):
    """An event of which a step is left counts once; the code is of the steps that are left."""
    lengths = torch.tensor([2, 0, 4, 1, 3])[:num]
    mask = torch.arange(4) < lengths[:, None]

    def model(y, scale):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", num), poutine.scale(scale=scale):
            steps = base.expand([num, 4]).mask(mask)
            pyro.sample("obs", steps.to_event(1), obs=y)

    guide = AutoNormal(model)
    y = torch.zeros(num, 4, *event)
    y[..., :1] = 1.0
    anatomy = elbo_anatomy(model, guide, model_args=(y, 2.5), num_samples=2)
    assert anatomy.num_observations == 2.5 * (num - 1)
    expected = code and pytest.approx(-2.5 * int(lengths.sum()) * code)
    assert anatomy.reference == expected


# Whether the bound is vacuous.

CODES = {
    "categorical": (dist.Categorical(torch.ones(5)), torch.zeros(3, dtype=torch.long), math.log(5)),
    "ours": (
        vrnn.distributions.Categorical(torch.ones(5)), torch.zeros(3, dtype=torch.long), math.log(5)
    ),
    "one-hot": (dist.OneHotCategorical(torch.ones(4)), torch.eye(4)[:3], math.log(4)),
    "bernoulli": (dist.Bernoulli(torch.tensor(0.5)), torch.zeros(3), math.log(2)),
    "bernoulli-event": (
        dist.Bernoulli(torch.full((7,), 0.5)).to_event(1), torch.zeros(3, 7), 7 * math.log(2)
    ),
    "normal": (dist.Normal(0.0, 1.0), torch.zeros(3), None),
}  # fmt: skip


@pytest.mark.parametrize(("fn", "y", "nats"), CODES.values(), ids=CODES)
def test_uniform_coding_is_the_reference(fn, y, nats):
    def model(y):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 12, subsample=torch.arange(3)):
            pyro.sample("obs", fn, obs=y)

    anatomy = elbo_anatomy(model, AutoNormal(model), model_args=(y,), num_samples=2)
    if nats is None:
        assert (anatomy.reference, anatomy.is_vacuous) == (None, None)
        assert "is not judged" in str(anatomy)
    else:
        assert anatomy.reference == pytest.approx(-12 * nats)
        assert anatomy.reference_kind == "uniform coding"
        assert "uniform coding" in str(anatomy)


def coin(y):
    logit = pyro.sample("logit", dist.Normal(0.0, 3.0))
    with pyro.plate("data", len(y)):
        pyro.sample("obs", dist.Bernoulli(logits=logit), obs=y)


@pytest.mark.parametrize(
    ("scale", "vacuous", "text"),
    [(0.3, False, "is not vacuous"), (1e-9, True, "is vacuous")],
    ids=["informed", "too sure"],
)
def test_the_verdict(scale, vacuous, text):
    def guide(y):
        pyro.sample("logit", dist.Normal(4.0, scale))

    anatomy = elbo_anatomy(coin, guide, model_args=(torch.ones(30),), num_samples=20)
    assert anatomy.is_vacuous is vacuous
    assert text in str(anatomy)


def test_a_verdict_within_noise_is_called_so():
    def guide(y):
        pyro.sample("logit", dist.Normal(0.0, 3.0))

    y = torch.ones(10)
    first = elbo_anatomy(coin, guide, model_args=(y,), num_samples=50)
    near = first.elbo.value + first.elbo.standard_error
    anatomy = elbo_anatomy(coin, guide, model_args=(y,), num_samples=50, reference=near)
    assert anatomy.reference_kind == "given"
    assert "within noise: it is as good as the given reference" in str(anatomy)


# Draws and generators.


def test_a_seed_gives_the_same_and_leaves_the_generators():
    model, guide, batch = built(regression, GUIDES["spike-and-slab"])
    state = torch.get_rng_state()
    one, two = (elbo_anatomy(model, guide, model_args=batch, num_samples=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(one.elbo_draws, two.elbo_draws)
    other = elbo_anatomy(model, guide, model_args=batch, num_samples=3, seed=1)
    assert (one.elbo_draws != other.elbo_draws).all()


def test_discrete_latents_need_no_gradient():
    def model(y):
        k = pyro.sample("k", dist.Bernoulli(0.5))
        pyro.sample("obs", dist.Normal(k, 1.0), obs=y)

    def guide(y):
        pyro.sample("k", dist.Bernoulli(0.9))

    anatomy = elbo_anatomy(model, guide, model_args=(torch.tensor(1.0),), num_samples=20)
    exact = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    assert anatomy.kl.value == pytest.approx(exact, rel=1e-5)
    assert anatomy.sites[0].constant is None


def test_factors_count_in_the_likelihood():
    def model(y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.factor("extra", -w.square())
        pyro.sample("obs", dist.Normal(w, 1.0), obs=y)

    anatomy = elbo_anatomy(model, AutoNormal(model), model_args=(torch.ones(()),), num_samples=3)
    extra, obs = anatomy.log_likelihood
    assert (extra.name, extra.num_observations, obs.num_observations) == ("extra", 0, 1)
    assert (extra.draws < 0).all()
    assert_parts_sum(anatomy)


def test_a_factor_of_the_guide_counts_in_the_kl():
    def model(y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("obs", dist.Normal(w, 1.0), obs=y)

    def guide(y):
        w = pyro.sample("w", dist.Normal(0.0, 0.5))
        pyro.factor("extra", w.square(), has_rsample=True)

    y = torch.ones(())
    anatomy = elbo_anatomy(model, guide, model_args=(y,), num_samples=3, seed=1)
    expected = reported(TraceExactKL_ELBO(num_particles=3, sampled=True), model, guide, (y,), 1)
    assert anatomy.elbo.value == pytest.approx(expected, abs=1e-6)
    assert [site.name for site in anatomy.sites] == ["w", "extra"]
    assert_parts_sum(anatomy)
