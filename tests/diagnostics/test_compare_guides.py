"""Guides side by side: differences are paired, noise is called noise, constants are refused."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoNormal

import pyro_vrnn as vrnn
from pyro_vrnn.diagnostics import compare_guides, elbo_anatomy
from pyro_vrnn.diagnostics._elpd import elpd_error
from pyro_vrnn.infer import held_out, held_out_log_likelihood

Z = 4.26
TAU = 4.0
S = 40


def model(x, y=None):
    w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("obs", dist.Normal(w * x, TAU**-0.5), obs=y)


def points(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, generator=generator, dtype=torch.float64)
    return x, 0.7 * x + noise / TAU**0.5


def posterior(x, y):
    variance = 1 / (1 + TAU * x.square().sum())
    return float(TAU * variance * (x * y).sum()), float(variance.sqrt())


def normal(loc, scale):
    def guide(x, y=None):
        pyro.sample("w", dist.Normal(x.new_tensor(loc), scale))

    return guide


TRAIN, TEST = points(12), points(30, seed=1)
MEAN, SD = posterior(*TRAIN)
PAIRS = {
    "wide": (model, normal(MEAN, 3 * SD)),
    "exact": (model, normal(MEAN, SD)),
    "off": (model, normal(MEAN + 3, SD)),
}


@pytest.fixture(scope="module")
def found():
    return compare_guides(PAIRS, model_args=TRAIN, held_out=[TEST], num_samples=S, seed=4)


def test_the_best_comes_first(found):
    assert (found.by, found.best, found.names[-1]) == ("elpd", "exact", "off")
    assert list(found.scores) == ["elpd", "elbo", "expected_log_likelihood", "kl"]
    for scores in found.scores.values():
        assert (scores["exact"].difference, scores["exact"].difference_error) == (0, 0)


def test_training_scores_are_those_of_the_anatomy(found):
    for name, pair in PAIRS.items():
        anatomy = elbo_anatomy(*pair, model_args=TRAIN, num_samples=S, seed=4)
        elbo = found.scores["elbo"][name]
        assert elbo.value == pytest.approx(anatomy.elbo.value, abs=1e-9)
        assert elbo.standard_error == pytest.approx(anatomy.elbo.standard_error, abs=1e-9)
        kl = found.scores["kl"][name]
        assert kl.value == pytest.approx(anatomy.kl.value, abs=1e-9)
        expected = found.scores["expected_log_likelihood"][name]
        assert elbo.value == pytest.approx(expected.value - kl.value, abs=1e-9)


def test_differences_are_paired_by_draw(found):
    draws = {name: anatomy.elbo_draws for name, anatomy in found.anatomies.items()}
    for name in ("wide", "off"):
        each = draws[name] - draws["exact"]
        score = found.scores["elbo"][name]
        assert score.difference == pytest.approx(each.mean(), abs=1e-9)
        assert score.difference_error == pytest.approx(each.std(ddof=1) / S**0.5, abs=1e-9)
    # Both guides move with the same normals: paired is less than the two errors together.
    wide = found.scores["elbo"]["wide"]
    apart = math.hypot(wide.standard_error, found.scores["elbo"]["exact"].standard_error)
    assert wide.difference_error < 0.99 * apart


def test_elbo_differences_are_those_of_the_divergences():
    """ELBO(q) - ELBO(posterior) = -KL(q, posterior), within the paired error."""
    found = compare_guides(PAIRS, model_args=TRAIN, num_samples=400)
    assert found.by == "elbo"
    exact = dist.Normal(MEAN, SD)
    for name, q in (("wide", dist.Normal(MEAN, 3 * SD)), ("off", dist.Normal(MEAN + 3, SD))):
        score = found.scores["elbo"][name]
        expected = -float(torch.distributions.kl_divergence(q, exact))
        assert abs(score.difference - expected) < Z * score.difference_error + 1e-9


def test_elpd_is_held_out(found):
    for name, pair in PAIRS.items():
        scored = held_out(*pair, [TEST], num_draws=S, seed=4)
        assert found.pointwise[name].shape == (30,)
        assert found.pointwise[name].mean() == pytest.approx(-scored.nll, abs=1e-9)
        assert found.scores["elpd"][name].value == pytest.approx(-30 * scored.nll, abs=1e-8)


def test_elpd_over_batches_is_that_of_all(found):
    x, y = TEST
    halves = [(x[:11], y[:11]), (x[11:], y[11:])]
    other = compare_guides(PAIRS, model_args=TRAIN, held_out=iter(halves), num_samples=S, seed=4)
    for name in PAIRS:
        np.testing.assert_allclose(other.pointwise[name], found.pointwise[name], atol=1e-12)
        for ours, theirs in zip(
            vars(other.scores["elpd"][name]).values(),
            vars(found.scores["elpd"][name]).values(),
            strict=True,
        ):
            assert ours == pytest.approx(theirs, abs=1e-9)


def test_error_of_the_elpd_has_data_and_draws():
    """The Monte Carlo part by repetition: its share of the error over observations is known."""
    pairs = {"exact": PAIRS["exact"], "near": (model, normal(MEAN + 0.5 * SD, 2 * SD))}
    repeats = [
        compare_guides(
            pairs, model_args=TRAIN, held_out=[TEST], num_samples=S, seed=seed, elbo=False
        )
        for seed in range(100, 117)
    ]
    parts = []
    for found in repeats:
        other, score = found.names[1], found.scores["elpd"][found.names[1]]
        each = found.pointwise[other] - found.pointwise[found.best]
        assert score.difference == pytest.approx(each.sum(), abs=1e-9)
        parts.append(score.difference_error**2 - 30 * each.var(ddof=1))
    assert min(parts) > 0
    values = [r.pointwise["near"].sum() - r.pointwise["exact"].sum() for r in repeats]
    # A standard deviation of 17 values is known to 1 / sqrt(32).
    assert np.std(values, ddof=1) == pytest.approx(np.mean(parts) ** 0.5, rel=Z / 32**0.5)


def test_bias_of_the_elpd_is_that_of_the_logs_of_means(found):
    for name, pair in PAIRS.items():
        (scores,) = held_out_log_likelihood(*pair, [TEST], num_draws=S, seed=4)
        p = scores.exp()
        expected = -(p.var(0) / (2 * S * p.mean(0).square())).sum()
        elpd = found.scores["elpd"][name]
        assert elpd.finite_sample_bias == pytest.approx(float(expected), abs=1e-9)
        assert found.scores["elbo"][name].finite_sample_bias == 0


def test_bias_is_how_far_few_draws_are_from_the_exact_density():
    """The predictive density of a normal w is known: its log is the limit for many draws."""
    pairs = {"exact": PAIRS["exact"], "near": (model, normal(MEAN + 0.5 * SD, 2 * SD))}
    (x, y), loc, scale = TEST, MEAN + 0.5 * SD, 2 * SD
    limit = float(dist.Normal(loc * x, (scale**2 * x**2 + 1 / TAU).sqrt()).log_prob(y).sum())
    scores = [
        compare_guides(
            pairs, model_args=TRAIN, held_out=[TEST], num_samples=10, seed=seed, elbo=False
        ).scores["elpd"]["near"]
        for seed in range(60)
    ]
    off = np.array([score.value - limit for score in scores])
    bias = np.array([score.finite_sample_bias for score in scores])
    error = (off - bias).std(ddof=1) / 60**0.5
    assert bias.max() < 0
    assert abs((off - bias).mean()) < Z * error


def test_a_difference_that_few_draws_bias_is_named(found):
    assert "bias the difference" not in str(found)
    scores = {**found.scores["elpd"]}
    scores["wide"] = replace(
        scores["wide"],
        finite_sample_bias=scores["exact"].finite_sample_bias
        - 1.01 * scores["wide"].difference_error,
    )
    biased = replace(found, scores={**found.scores, "elpd": scores})
    assert (
        "elpd: 40 draws bias the difference of wide from exact by more than its standard error; "
        "take more."
    ) in str(biased)


def test_observations_of_a_group_are_summed_before_the_error():
    """Every observation three times is three times each: the error of thirty, times three."""
    x, y = TEST
    options = {"model_args": TRAIN, "num_samples": S, "seed": 4, "elbo": False}
    once = compare_guides(PAIRS, held_out=[TEST], **options)
    batches = [(x.repeat_interleave(3)[cut], y.repeat_interleave(3)[cut])
               for cut in (slice(0, 40), slice(40, 90))]  # fmt: skip
    labels = torch.arange(30).repeat_interleave(3)
    thrice = compare_guides(PAIRS, held_out=batches, group=labels, **options)
    apart = compare_guides(PAIRS, held_out=batches, **options)
    for name in PAIRS:
        one, three = once.scores["elpd"][name], thrice.scores["elpd"][name]
        for field in ("value", "standard_error", "difference", "difference_error"):
            assert getattr(three, field) == pytest.approx(3 * getattr(one, field), abs=1e-8)
        assert apart.scores["elpd"][name].standard_error < three.standard_error
    assert (thrice.num_groups, apart.num_groups) == (30, None)
    assert "elpd: 90 held-out observations in 30 groups, taken for independent." in str(thrice)


def test_groups_of_one_change_nothing_and_their_names_do_not_matter(found):
    labels = [f"series {k}" for k in range(30)]
    other = compare_guides(
        PAIRS, model_args=TRAIN, held_out=[TEST], group=labels, num_samples=S, seed=4
    )
    for name in PAIRS:
        ours, theirs = other.scores["elpd"][name], found.scores["elpd"][name]
        assert ours.standard_error == pytest.approx(theirs.standard_error, abs=1e-10)


def test_sizes_of_groups_alone_are_no_error():
    """Groups of equal observations in different numbers: the sum is not in doubt."""
    groups = np.array([0, 1, 1, 1, 2, 2])
    assert elpd_error(np.full(6, -2.0), np.ones(4), groups) == pytest.approx(0, abs=1e-12)


def test_noise_is_called_noise():
    pairs = {"one": (model, normal(MEAN, SD)), "same": (model, normal(MEAN + 1e-4, SD))}
    found = compare_guides(pairs, model_args=TRAIN, held_out=[TEST], num_samples=S)
    other = found.names[1]
    assert found.scores["elpd"][other].is_within_noise
    assert f"elpd: the difference of {other} from {found.best} is within noise" in str(found)


def test_a_clear_difference_is_not_noise(found):
    assert not found.scores["elpd"]["off"].is_within_noise
    assert not found.scores["elbo"]["off"].is_within_noise
    assert "of off from" not in str(found)


def test_text_is_a_table(found):
    lines = str(found).splitlines()
    assert lines[0].startswith("3 guides by elpd, 40 draws (seed 4), nats")
    assert lines[2].split()[:5] == ["guide", "elpd", "bias", "±", "difference"]
    assert [line.split()[0] for line in lines[3:6]] == list(found.names)
    assert lines[3].split()[4:6] == ["-", "-"]
    assert "30 held-out observations, taken for independent" in lines[-1]


def network(scale, seed=0):
    torch.manual_seed(seed)
    net = vrnn.models.SequenceClassification(vrnn.nn.GRU(8, 4), 3)
    return net, vrnn.infer.AutoSpikeAndSlab(net, scale=scale)


BATCH = torch.randn(5, 6, 8), torch.tensor([0, 1, 2, 0, 1])


def test_elbos_up_to_a_constant_are_refused_and_held_out_scores_are_not():
    pairs = {"limit": network(0), "noise": network(0.1)}
    message = "Expected guides with a density, whose ELBOs can be compared, got none of 'limit':"
    with pytest.raises(ValueError, match=re.escape(message)):
        compare_guides(pairs, model_args=BATCH, num_samples=4)
    found = compare_guides(pairs, model_args=BATCH, held_out=[BATCH], num_samples=4, elbo=False)
    assert list(found.scores) == ["elpd", "expected_log_likelihood"]
    assert "ELBOs are left out" in str(found)


def test_a_point_estimate_is_refused():
    pairs = {"point": (model, AutoDelta(model)), "normal": (model, AutoNormal(model))}
    with pytest.raises(ValueError, match="got none of 'point'"):
        compare_guides(pairs, model_args=TRAIN, num_samples=2)


def other_count(x, y=None):
    w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", 7):
        pyro.sample("obs", dist.Normal(w * x[:7], 1.0), obs=None if y is None else y[:7])


ONE = partial(dict, one=PAIRS["wide"])


@pytest.mark.parametrize(
    ("pairs", "options", "error", "message"),
    [
        ([1], {}, TypeError, "Expected pairs to be a dict of name -> (model, guide), got list."),
        (ONE(), {}, ValueError, "Expected at least 2 guides to compare, got 1."),
        (ONE(b=3), {}, TypeError, "Expected pairs['b'] to be (model, guide), got int."),
        (ONE(b=(model,)), {}, TypeError, "Expected pairs['b'] to be (model, guide), got tuple."),
        (ONE(b=(model, 2)), {}, TypeError, "Expected guide of 'b' to be callable, got int."),
        (PAIRS, {"by": "elpd"}, ValueError, "Expected by to be one of 'elbo', 'expected_log_lik"),
        (PAIRS, {"elbo": False, "by": "elbo"}, ValueError, "got 'elbo'."),
        (PAIRS, {"num_samples": 1}, ValueError, "Expected num_samples of at least 2, got 1."),
        (PAIRS, {"held_out": [points(1)]}, ValueError, "Expected held-out data of at least 2 obs"),
        (PAIRS, {"group": [1, 2]}, ValueError, "Expected held_out= beside group=, the labels of"),
        (
            PAIRS,
            {"held_out": [TEST], "group": [1, 2]},
            ValueError,
            "Expected group of shape (30,), a label for each held-out observation, got (2,).",
        ),
        (
            PAIRS,
            {"held_out": [TEST], "group": [1] * 30},
            ValueError,
            "Expected held-out data of at least 2 groups, got 1.",
        ),
        (PAIRS, {"held_out": []}, ValueError, "Expected held-out data of at least one batch"),
        (
            ONE(b=(other_count, normal(0.0, 1.0))),
            {},
            ValueError,
            "Expected models of the same training observations, got 12 (one), 7 (b).",
        ),
    ],
    ids=lambda value: None,
)
def test_refuses(pairs, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        compare_guides(pairs, **{"model_args": TRAIN, "num_samples": 2, **options})
