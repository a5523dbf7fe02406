import numpy as np
import pytest
from scipy import stats

from pyro_vrnn.scores import calibration_error, reliability

Z = 4.26


@pytest.fixture
def events():
    rng = np.random.default_rng(0)
    p = rng.beta(4, 2, size=500)
    return p, rng.random(500) < p**2  # overconfident


@pytest.mark.parametrize("binning", ["mass", "width"])
def test_bins_hold_all_events_with_their_means(events, binning):
    p, happened = events
    got = reliability(p, happened, num_bins=10, binning=binning)
    assert got.count.sum() == 500
    for b in range(len(got.count)):
        first = got.lower_edge[b] == 0.0
        inside = ((p > got.lower_edge[b]) | first) & (p <= got.upper_edge[b])
        assert got.count[b] == inside.sum()
        np.testing.assert_allclose(got.confidence[b], p[inside].mean(), rtol=1e-12)
        np.testing.assert_allclose(got.frequency[b], happened[inside].mean(), rtol=1e-12)


def test_bins_of_equal_mass_and_width(events):
    p, happened = events
    mass = reliability(p, happened, num_bins=10, binning="mass")
    assert set(mass.count) == {50}
    width = reliability(p, happened, num_bins=10, binning="width")
    np.testing.assert_allclose(width.upper_edge - width.lower_edge, 0.1, rtol=1e-12)
    assert len(set(width.count)) > 1


def test_equal_probabilities_share_a_bin():
    p = np.repeat([0.2, 0.9, 1.0], [10, 70, 20])
    got = reliability(p, np.ones(100), num_bins=10, binning="mass")
    assert got.count.tolist() == [10, 70, 20]
    np.testing.assert_allclose(got.confidence, [0.2, 0.9, 1.0], rtol=1e-13)


def test_probabilities_zero_and_one_are_in_the_outer_bins():
    got = reliability([0.0, 1.0], [0, 1], num_bins=4, binning="width")
    assert (got.lower_edge.tolist(), got.upper_edge.tolist()) == ([0.0, 0.75], [0.25, 1.0])


def test_intervals_are_clopper_pearsons(events):
    p, happened = events
    got = reliability(p, happened, num_bins=5, level=0.9)
    exact = [
        stats.binomtest(round(f * n), int(n)).proportion_ci(0.9, method="exact")
        for f, n in zip(got.frequency, got.count, strict=True)
    ]
    np.testing.assert_allclose(np.stack([got.lower, got.upper], axis=1), exact, rtol=1e-9)


@pytest.mark.parametrize("outcome", [0, 1], ids=["never", "always"])
def test_intervals_of_events_that_never_or_always_happened(outcome):
    got = reliability(np.full(20, 0.5), np.full(20, outcome))
    exact = stats.binomtest(20 * outcome, 20).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose([got.lower[0], got.upper[0]], exact, rtol=1e-9)


@pytest.mark.parametrize("binning", ["mass", "width"])
def test_error_is_the_weighted_gap(events, binning):
    bins = reliability(*events, num_bins=10, binning=binning)
    got = calibration_error(*events, num_bins=10, binning=binning)
    gaps = np.abs(bins.frequency - bins.confidence)
    assert got.ece == pytest.approx(np.average(gaps, weights=bins.count), abs=1e-14)
    assert got.ece > got.ece_upper_if_calibrated > got.ece_if_calibrated > 0


def test_a_calibrated_forecaster_has_the_error_of_chance_at_its_rate():
    rng = np.random.default_rng(1)
    trials = 400
    p = rng.beta(4, 2, size=300)
    found = [
        calibration_error(p, rng.random(300) < p, num_resamples=400, seed=k) for k in range(trials)
    ]
    errors = np.array([f.ece for f in found])
    standard = errors.std(ddof=1) / np.sqrt(trials)
    assert abs(errors.mean() - found[0].ece_if_calibrated) < Z * standard * np.sqrt(2)
    above = np.mean([f.ece > f.ece_upper_if_calibrated for f in found])
    # The quantile itself is from 400 resamples.
    assert abs(above - 0.05) < Z * np.sqrt(0.05 * 0.95 * (1 / trials + 1 / 400))


def test_more_bins_are_more_bias_but_not_in_the_debiased_error():
    rng = np.random.default_rng(2)
    p = rng.random(2_000)
    few, many = (calibration_error(p, rng.random(2_000) < p, num_bins=n) for n in (5, 100))
    assert many.ece_if_calibrated > 3 * few.ece_if_calibrated
    assert many.rms < many.ece / 2


def test_squared_error_without_bias_averages_to_the_truth():
    # One bin: frequency 0.5, confidence 0.6, so the squared error is 0.01.
    rng = np.random.default_rng(3)
    p, trials, n = np.full(500, 0.6), 2_000, 500
    happened = rng.random((trials, n)) < 0.5
    squared = np.array(
        [calibration_error(p, row, num_bins=1, num_resamples=1).rms ** 2 for row in happened]
    )
    assert (squared > 0).mean() > 0.99  # clipped at 0 so rarely that the mean is not moved
    assert abs(squared.mean() - 0.01) < Z * squared.std(ddof=1) / np.sqrt(trials)


def test_resamples_in_parts_are_those_of_one(monkeypatch, events):
    whole = calibration_error(*events, num_resamples=40)
    monkeypatch.setattr("pyro_vrnn.scores.reliability_bins.MAX_DRAWN", 1_500)
    assert calibration_error(*events, num_resamples=40) == whole


@pytest.mark.parametrize("score", [reliability, calibration_error], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([1.5], [1]), {}, ValueError, r"Expected confidence in \[0, 1\], got 1\.5\."),
        (([0.5], [2]), {}, ValueError, r"Expected outcome to be 0 or 1, got 2\.0\."),
        (([0.5], [1, 0]), {}, ValueError, r"Expected outcome of shape \(1,\), got \(2,\)\."),
        (([0.5], [1]), {"num_bins": 0}, ValueError, r"Expected num_bins to be a positive int"),
        (([0.5], [1]), {"binning": "equal"}, ValueError, r"Expected binning to be one of 'mass', "),
        (([0.5], [1]), {"level": 0.0}, ValueError, r"Expected level in \(0, 1\), got 0\.0\."),
        (([0.5], [1]), {"level": "a"}, TypeError, r"Expected level to be a number in \(0, 1\)"),
        (([np.nan], [1]), {}, ValueError, r"Expected confidence to be finite, got nan"),
    ],
    ids=["probability", "outcome", "shape", "bins", "binning", "level", "level-type", "nan"],
)
def test_reliability_refuses(score, arguments, options, error, message):
    with pytest.raises(error, match=message):
        score(*arguments, **options)


def test_calibration_error_refuses_no_resamples():
    with pytest.raises(ValueError, match=r"Expected num_resamples to be a positive int, got 0\."):
        calibration_error([0.5], [1], num_resamples=0)
