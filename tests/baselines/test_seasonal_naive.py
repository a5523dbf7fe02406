import math

import numpy as np
import pytest

from pyro_vrnn.baselines import SeasonalNaive


def test_forecast_by_hand():
    # season 2, horizon 3: lags 2, 2, 4.
    train = [1.0, 10.0, 2.0, 12.0, 4.0, 15.0]
    loc, scale = SeasonalNaive(2, 3).fit(train).forecast([20.0, 30.0, 40.0])
    of_lag_2, of_lag_4 = [1.0, 2.0, 2.0, 3.0], [3.0, 5.0]
    np.testing.assert_allclose(loc, [30.0 + 2.0, 40.0 + 2.0, 30.0 + 4.0], rtol=1e-14)
    np.testing.assert_allclose(
        scale,
        [np.std(of_lag_2, ddof=1), np.std(of_lag_2, ddof=1), np.std(of_lag_4, ddof=1)],
        rtol=1e-14,
    )


@pytest.mark.parametrize(
    ("season", "horizon"),
    [(1, 5), (4, 4), (4, 3), (4, 9), (7, 1)],
    ids=["random-walk", "one-season", "less", "more", "one-step"],
)
def test_each_step_is_the_definition(season, horizon):
    y = np.random.default_rng(0).normal(size=40).cumsum()
    loc, scale = SeasonalNaive(season, horizon).fit(y[:30]).forecast(y)
    for h in range(1, horizon + 1):
        lag = season * math.ceil(h / season)
        residuals = [y[t + h] - y[t + h - lag] for t in range(lag - h, 30 - h)]
        assert loc[h - 1] == pytest.approx(y[39 + h - lag] + np.mean(residuals), rel=1e-12)
        assert scale[h - 1] == pytest.approx(np.std(residuals, ddof=1), rel=1e-12)


def test_trend_and_season_are_continued_exactly():
    steps = np.arange(50)
    y = 0.5 * steps + np.array([0.0, 3.0, -1.0, 2.0])[steps % 4]
    loc, scale = SeasonalNaive(4, 10).fit(y[:30]).forecast(y[:40])
    np.testing.assert_allclose(loc, y[40:50], rtol=1e-12)
    assert (scale > 0).all()


@pytest.mark.parametrize("value", [0.0, 3.0], ids=["zero", "three"])
def test_constant_series_has_a_density(value):
    _, scale = SeasonalNaive(1, 2).fit(np.full(9, value)).forecast([value])
    assert (scale > 0).all()
    assert (scale < 1e-7).all()


def test_many_histories_at_once_are_each_alone():
    rng = np.random.default_rng(1)
    floor = SeasonalNaive(3, 3).fit(rng.normal(size=30))
    histories = rng.normal(size=(3, 3))  # N = T = H
    loc, scale = floor.forecast(histories)
    assert loc.shape == scale.shape == (3, 3)
    np.testing.assert_array_equal(loc[1], floor.forecast(histories[1])[0])
    np.testing.assert_array_equal(scale[1], floor.forecast(histories[1])[1])


def test_forecast_cannot_change_the_fit():
    floor = SeasonalNaive(1, 2).fit([0.0, 1.0, 3.0, 4.0])
    _, scale = floor.forecast([0.0])
    scale[:] = 0.0
    assert (floor.forecast([0.0])[1] > 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: SeasonalNaive(4, 5).fit(np.zeros(9)),
            r"Expected at least 10 training values, got 9\.",
        ),
        (
            lambda: SeasonalNaive(1, 1).fit(np.zeros((4, 4))),
            r"Expected train_values of shape \(n,\), got \(4, 4\)\.",
        ),
        (
            lambda: SeasonalNaive(1, 1).fit([0.0, np.nan, 1.0]),
            r"Expected train_values to be finite, got nan at index \(1,\)\.",
        ),
        (
            lambda: SeasonalNaive(3, 1).fit(np.arange(9.0)).forecast([1.0, 2.0]),
            r"Expected a history of at least 3 values, got 2\.",
        ),
        (
            lambda: SeasonalNaive(1, 1).fit(np.arange(9.0)).forecast([np.inf]),
            r"Expected history to be finite, got inf at index \(0,\)\.",
        ),
        (lambda: SeasonalNaive(0, 1), r"Expected season to be a positive int, got 0\."),
        (lambda: SeasonalNaive(1, 0), r"Expected horizon to be a positive int, got 0\."),
    ],
    ids=["short", "axes", "nan", "history-short", "history-inf", "season", "horizon"],
)
def test_seasonal_naive_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_forecast_before_fit_is_refused():
    with pytest.raises(RuntimeError, match=r"Expected fit to be called before forecast\."):
        SeasonalNaive(1, 1).forecast([0.0])


def test_last_change_is_carried_on():
    """Residuals and means against a loop over origins, with horizons past one season."""
    values = np.random.default_rng(5).normal(size=60).cumsum()
    floor = SeasonalNaive(season=3, horizon=5, carry_change=True).fit(values)
    loc, scale = floor.forecast(values[:40])
    for h in range(1, 6):
        lag = 3 * -(-h // 3)

        def base(t, h=h, lag=lag):
            return values[t + h - lag] + values[t] - values[t - lag]

        residuals = [values[t + h] - base(t) for t in range(lag, 60 - h)]
        np.testing.assert_allclose(loc[h - 1], base(39) + np.mean(residuals))
        np.testing.assert_allclose(scale[h - 1], np.std(residuals, ddof=1))


def test_last_change_needs_a_longer_history():
    floor = SeasonalNaive(season=3, horizon=2, carry_change=True).fit(np.arange(20.0) ** 2)
    with pytest.raises(ValueError, match=r"Expected a history of at least 4 values, got 3"):
        floor.forecast([1.0, 2.0, 3.0])
