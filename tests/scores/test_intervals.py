import numpy as np
import pytest
import scoringrules

from pyro_vrnn.scores import central_interval, coverage, interval_score, width


def test_central_interval_is_over_the_first_axis_alone():
    draws = np.arange(21.0)[:, None] * [1.0, -10.0]  # (S, 2)
    lower, upper = central_interval(draws, 0.8)
    np.testing.assert_allclose(lower, [2.0, -180.0], rtol=1e-14)
    np.testing.assert_allclose(upper, [18.0, -20.0], rtol=1e-14)


def test_central_interval_covers_at_its_level():
    rng = np.random.default_rng(0)
    num_values = 4_000
    lower, upper = central_interval(rng.normal(size=(999, num_values)), 0.9)
    # Between order statistics 50 and 950 of 999 lie 900 / 1000 of future values, exactly; the
    # quantile's interpolation moves either end by at most 1 / 1000.
    hits = coverage(rng.normal(size=num_values), lower, upper)
    error = np.sqrt(0.9 * 0.1 / num_values)
    assert abs(hits.mean() - 0.9) < 4.26 * error + 0.002


def test_coverage_counts_both_ends_as_inside():
    got = coverage([-0.1, 0.0, 0.5, 1.0, 1.1], np.zeros(5), np.ones(5))
    assert got.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_width_of_each_interval():
    assert width([0.0, -1.0], [0.5, 1.0]).tolist() == [0.5, 2.0]


@pytest.mark.parametrize(
    ("y", "expected"),
    [(0.5, 2.0), (-1.0, 22.0), (3.5, 32.0)],
    ids=["inside", "below", "above"],
)
def test_interval_score_by_hand(y, expected):
    # Width 2, alpha = 0.1, so a distance of 1 below costs 20 and of 1.5 above 30.
    np.testing.assert_allclose(interval_score([y], [0.0], [2.0], 0.9), [expected], rtol=1e-13)


@pytest.mark.parametrize("shape", [(6,), (1, 6), (2, 3)], ids=["vector", "one-row", "matrix"])
def test_interval_score_is_that_of_scoringrules(shape):
    rng = np.random.default_rng(0)
    y, middle = rng.normal(size=shape), rng.normal(size=shape)
    lower, upper = middle - 0.3, middle + 0.4
    got = interval_score(y, lower, upper, 0.8)
    assert got.shape == shape
    expected = scoringrules.interval_score(y, lower, upper, 0.2)
    np.testing.assert_allclose(got.ravel(), expected.ravel(), rtol=1e-12)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 95.0], ids=str)
@pytest.mark.parametrize(
    "call",
    [
        lambda level: central_interval([[0.0], [1.0]], level),
        lambda level: interval_score([0.0], [0.0], [1.0], level),
    ],
    ids=["central_interval", "interval_score"],
)
def test_level_outside_is_refused(call, level):
    with pytest.raises(ValueError, match=rf"Expected level in \(0, 1\), got {level}\."):
        call(level)


def test_level_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match=r"Expected level to be a number in \(0, 1\), got '0.9'\."):
        central_interval([[0.0], [1.0]], "0.9")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: central_interval([[0.0]], 0.9), r"Expected at least 2 draws, got 1\."),
        (lambda: central_interval(0.0, 0.9), r"Expected at least 2 draws, got 0\."),
        (lambda: central_interval([np.nan, 1.0], 0.9), r"Expected draws to be finite, got nan"),
        (lambda: coverage([0.0, 0.0], [0.0], [1.0]), r"Expected y of shape \(1,\), got \(2,\)\."),
        (lambda: width([0.0], [1.0, 2.0]), r"Expected upper of shape \(1,\), got \(2,\)\."),
        (
            lambda: width([0.0, 2.0], [1.0, 1.0]),
            r"Expected lower <= upper, got 2\.0 > 1\.0\.",
        ),
        (
            lambda: interval_score([0.0], [0.0, 0.0], [1.0, 1.0], 0.9),
            r"Expected y of shape \(2,\), got \(1,\)\.",
        ),
        (lambda: interval_score([0.0], [np.nan], [1.0], 0.9), r"Expected lower to be finite"),
    ],
    ids=[
        "one-draw",
        "scalar-draws",
        "nan-draw",
        "coverage-shape",
        "width-shape",
        "crossed",
        "score-shape",
        "nan-end",
    ],
)
def test_intervals_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()
