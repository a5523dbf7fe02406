import sys

import numpy as np
import pytest
from scipy import integrate, stats

from pyro_vrnn.scores import crps, gaussian_crps, gaussian_mixture_nll, rmse


def test_mixture_of_one_is_the_gaussian():
    rng = np.random.default_rng(0)
    y, loc, scale = rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), rng.uniform(0.1, 2, (2, 3))
    got = gaussian_mixture_nll(y, loc[None], scale[None])
    np.testing.assert_allclose(got, -stats.norm.logpdf(y, loc, scale), rtol=1e-13)


def test_mixture_of_two_averages_probabilities():
    got = gaussian_mixture_nll([0.5, -1.0], [[0.0, 1.0], [2.0, -1.0]], [[1.0, 2.0], [0.5, 3.0]])
    expected = [
        -np.log((stats.norm.pdf(0.5, 0.0, 1.0) + stats.norm.pdf(0.5, 2.0, 0.5)) / 2),
        -np.log((stats.norm.pdf(-1.0, 1.0, 2.0) + stats.norm.pdf(-1.0, -1.0, 3.0)) / 2),
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-13)


def test_mixture_far_in_the_tail_neither_underflows_nor_overflows():
    # exp(-z^2 / 2) is 0 in float64 from z = 39 on; the nearer component decides alone.
    got = gaussian_mixture_nll([100.0], [[0.0], [1.0]], 1.0)
    expected = 0.5 * 99.0**2 + 0.5 * np.log(2 * np.pi) + np.log(2.0)
    np.testing.assert_allclose(got, [expected], rtol=1e-13)


@pytest.mark.parametrize(
    ("scale", "full"),
    [
        (0.5, np.full((3, 3), 0.5)),
        ([[0.5], [1.0], [2.0]], np.repeat([[0.5], [1.0], [2.0]], 3, axis=1)),
        ([[0.5, 1.0, 2.0]], np.repeat([[0.5, 1.0, 2.0]], 3, axis=0)),
    ],
    ids=["number", "one-for-each-draw", "one-for-each-value"],
)
def test_scale_broadcasts_by_its_own_axes_where_draws_equal_values(scale, full):
    rng = np.random.default_rng(1)
    y, loc = rng.normal(size=3), rng.normal(size=(3, 3))
    expected = -np.log(stats.norm.pdf(y, loc, full).mean(axis=0))
    np.testing.assert_allclose(gaussian_mixture_nll(y, loc, scale), expected, rtol=1e-12)


def test_gaussian_crps_is_the_integral_of_the_squared_cdf_error():
    y, loc, scale = 1.3, 0.4, 0.7
    below, _ = integrate.quad(lambda x: stats.norm.cdf(x, loc, scale) ** 2, -np.inf, y)
    above, _ = integrate.quad(lambda x: stats.norm.sf(x, loc, scale) ** 2, y, np.inf)
    got = gaussian_crps([[y]], [[loc]], [[scale]])
    assert got.shape == (1, 1)
    np.testing.assert_allclose(got, [[below + above]], rtol=1e-8)


def test_gaussian_crps_is_what_the_ensemble_score_tends_to():
    y = np.linspace(-2.0, 2.0, 5)
    draws = np.random.default_rng(0).normal(1.0, 0.5, size=(40, 1_000, 5))
    scores = crps(np.broadcast_to(y, (1_000, 5)), draws)
    error = scores.std(axis=0, ddof=1) / np.sqrt(1_000)
    exact = gaussian_crps(y, np.ones(5), 0.5)
    assert (np.abs(scores.mean(axis=0) - exact) < 4.26 * error).all()


def test_rmse_over_all_values():
    got = rmse([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 8.0]])
    assert isinstance(got, float)
    assert got == 2.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: gaussian_mixture_nll([0.0, 1.0], [0.0, 1.0], 1.0),
            r"Expected loc of shape \(S, 2\), got \(2,\)\.",
        ),
        (
            lambda: gaussian_mixture_nll([0.0, 1.0], np.zeros((2, 2)), [1.0, 2.0]),
            r"Expected scale to be a number or of shape \(2, 2\) .*, got \(2,\)\.",
        ),
        (
            lambda: gaussian_mixture_nll([0.0], np.zeros((2, 1)), np.ones((3, 1))),
            r"Expected scale to be a number or of shape \(2, 1\) .*, got \(3, 1\)\.",
        ),
        (lambda: gaussian_mixture_nll([0.0], [[0.0]], 0.0), r"Expected scale to be positive, got"),
        (lambda: gaussian_mixture_nll([0.0], [[np.nan]], 1.0), r"Expected loc to be finite"),
        (
            lambda: gaussian_crps([0.0], [[0.0]], 1.0),
            r"Expected loc of shape \(1,\), got \(1, 1\)\.",
        ),
        (lambda: gaussian_crps([0.0], [0.0], -1.0), r"Expected scale to be positive, got -1\.0\."),
        (lambda: rmse([0.0], [0.0, 1.0]), r"Expected mean of shape \(1,\), got \(2,\)\."),
        (lambda: rmse([np.nan], [0.0]), r"Expected y to be finite, got nan at index \(0,\)\."),
    ],
    ids=[
        "loc-shape",
        "scale-axes",
        "scale-sizes",
        "scale-zero",
        "nan-loc",
        "crps-loc-shape",
        "crps-scale",
        "rmse-shape",
        "rmse-nan",
    ],
)
def test_densities_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_gaussian_crps_without_scoringrules_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scoringrules", None)
    with pytest.raises(ImportError, match=r"Expected the package scoringrules.*pyro-vrnn\[demo\]"):
        gaussian_crps([0.0], [0.0], 1.0)
