"""The season found in a series."""

from __future__ import annotations

import numpy as np
import pytest

from pyro_vrnn.data.season import detect_season


def seasonal(period, n=400, noise=0.3, seed=0):
    """Return a spiky season (not a sine), a trend ten times as tall, and noise."""
    shape = np.exp(3 * np.cos(np.arange(n) * 2 * np.pi / period))
    rng = np.random.default_rng(seed)
    shape /= shape.std()
    return shape + 10 * np.arange(n) / n + noise * rng.standard_normal(n)


@pytest.mark.parametrize("period", [4, 7, 12, 24, 52])
@pytest.mark.parametrize("trend", [-0.1, 0.0, 0.1])
def test_season_under_a_trend(period, trend):
    values = seasonal(period) + trend * np.arange(400)
    assert detect_season(values, 100) == period


@pytest.mark.parametrize(("scale", "shift"), [(1e-6, 0.0), (1e6, 1e9), (-3.0, 0.0)])
def test_units_do_not_matter(scale, shift):
    assert detect_season(seasonal(12) * scale + shift, 60) == 12


def test_list_of_ints():
    assert detect_season([1, 2, 3, 9] * 10, 10) == 4


@pytest.mark.parametrize("seed", range(5))
def test_noise_has_no_season(seed):
    assert detect_season(np.random.default_rng(seed).standard_normal(400), 100) == 1


def test_random_walk_has_no_season():
    walk = np.random.default_rng(1).standard_normal(1000).cumsum()
    assert detect_season(walk, 20) == 1


FLAT = {
    "constant": np.full(100, 7.0),
    "zero": np.zeros(100),
    "line": 3.0 * np.arange(100) - 5,
    "large-line": 1e6 + 0.1 * np.arange(100),
}


@pytest.mark.parametrize("values", FLAT.values(), ids=FLAT)
def test_lines_have_no_season(values):
    assert detect_season(values, 30) == 1


@pytest.mark.parametrize("max_season", [0, 1, 2, 11])
def test_season_past_the_limit_is_not_found(max_season):
    assert detect_season(seasonal(12, noise=0.0), max_season) == 1


def test_season_next_to_the_limit():
    assert detect_season(seasonal(12, noise=0.0), 13) == 12


@pytest.mark.parametrize("seed", range(3))
def test_long_smooth_season_under_noise(seed):
    """Noise at short lags is no season, and the short overlap at long ones is made up for."""
    assert detect_season(seasonal(300, n=700, noise=1.1, seed=seed), 350) in range(285, 316)


def test_a_season_must_be_seen_twice():
    values = seasonal(12, n=18, noise=0.0)
    assert detect_season(values, 100) != 12


@pytest.mark.parametrize("n", range(1, 30))
def test_short_series(n):
    """Any limit, however long against the series: no division by zero, no empty range."""
    values = np.random.default_rng(n).standard_normal(n).cumsum()
    assert all(1 <= detect_season(values, limit) <= max(1, n // 2) for limit in (1, 3, n, 100))
