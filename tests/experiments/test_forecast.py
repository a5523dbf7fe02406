"""The forecasting study: what is chosen where, and that the test part is read once."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pyro_vrnn.baselines import SeasonalNaive
from pyro_vrnn.data import Series
from pyro_vrnn.experiments import ForecastConfig, forecast_plain, run_study
from pyro_vrnn.experiments import demo as demo_module
from pyro_vrnn.experiments import forecast as study_module
from pyro_vrnn.experiments.demo import run_demo
from pyro_vrnn.experiments.forecast import num_trials
from pyro_vrnn.experiments.forecast_plan import make_plan
from pyro_vrnn.experiments.forecast_report import (
    METHODS,
    elbo_parts,
    model_scores,
    report,
    weight_share,
)
from pyro_vrnn.experiments.forecast_text import describe
from pyro_vrnn.experiments.forecasts import NOISE_FACTORS, Forecasts, choose_noise_factor

SMALL = ForecastConfig(
    horizon=2,
    season=6,
    hidden_size=4,
    drop_probs=(0.1,),
    scales=(0.01,),
    num_steps=4,
    num_samples=200,
    num_origins=4,
    ensemble_size=3,
)


def seasonal(n=120):
    time = np.arange(n)
    noise = np.random.default_rng(0).normal(0, 0.3, n)
    return 300 + 0.1 * time + 3 * np.sin(2 * np.pi * time / 6) + noise


@pytest.fixture(scope="module")
def study():
    return run_study(seasonal(), SMALL)


def choices(study):
    trials = [*study.trials, *(t for result in study.plain.values() for t in result.trials)]
    return [(t.method, t.validation_nll, t.noise_factor, t.lag, t.drop_prob) for t in trials]


def test_parts_follow_each_other_and_do_not_overlap(study):
    split = study.plan.split
    assert (split.train.stop, split.validation.stop) == (split.validation.start, split.test.start)
    assert split.test.stop == 120
    assert study.test.origins.tolist() == [112, 114, 116, 118]
    np.testing.assert_allclose(study.test.y.ravel(), seasonal()[112:], rtol=1e-6)


def test_nothing_before_the_end_depends_on_the_test_part(study):
    """Other values there change neither a trial nor the choice."""
    values = seasonal()
    values[study.plan.split.test.start :] += 1000
    other = run_study(values, SMALL)
    assert choices(other) == choices(study)


def test_a_model_never_trains_on_validation_values(study):
    past = study.plan.standardised(seasonal())[: study.plan.split.train.stop]
    assert float(study.chosen.train.y.max()) <= past.max() + 1e-6
    last_target = int(study.chosen.train.origins.max()) + study.plan.horizon
    assert last_target == study.plan.split.train.stop


def test_the_best_trial_is_chosen(study):
    assert study.chosen.trial.validation_nll == min(t.validation_nll for t in study.trials)
    assert {t.lag for t in study.trials} == {6, 2}
    for result in study.plain.values():
        assert result.chosen.validation_nll == min(t.validation_nll for t in result.trials)


def test_every_method_is_trained_and_counted():
    seen = []
    run_study(seasonal(), SMALL, on_trial=seen.append)
    assert len(seen) == num_trials(make_plan(seasonal(), SMALL), SMALL)
    counts = {name: sum(t.method == name for t in seen) for name in ("naive", "variational")}
    assert counts == {"naive": 2, "variational": 2}
    assert sum(t.method == "none" for t in seen) == 2 + SMALL.ensemble_size - 1
    assert {t.lag for t in seen if t.method == "naive"} == {6, 2}


def test_dropout_has_draws_and_no_dropout_has_one(study):
    spread = {name: result.test.loc.std(axis=0).max() for name, result in study.plain.items()}
    assert spread["none"] < 1e-9 * abs(study.test.y).max()
    assert min(spread[name] for name in ("naive", "variational", "ensemble")) > 1e-3


def test_members_of_an_ensemble_differ_and_take_turns(study):
    test = study.plain["ensemble"].test
    members = test.loc[: SMALL.ensemble_size]
    np.testing.assert_array_equal(test.loc[SMALL.ensemble_size : 2 * SMALL.ensemble_size], members)
    assert (members.std(axis=0) > 0).all()
    assert (np.ptp(test.noise[: SMALL.ensemble_size], axis=0) > 0).all()
    # The first member is the plain network: the same seed and data.
    np.testing.assert_allclose(members[0], study.plain["none"].test.loc[0], rtol=1e-6)


def test_only_dropout_as_vi_has_the_prior_s_weight_decay(monkeypatch):
    seen = {}
    made = forecast_plain.GaussianLoss

    def spy(network, **options):
        seen.setdefault(network.rnn.method, set()).add(options["prior_scale"])
        return made(network, **options)

    monkeypatch.setattr(forecast_plain, "GaussianLoss", spy)
    run_study(seasonal(), SMALL)
    assert seen == {"none": {None}, "naive": {None}, "variational": {1.0}}


def test_same_seed_same_study(study):
    again = run_study(seasonal(), SMALL)
    np.testing.assert_array_equal(again.test.draws, study.test.draws)
    for name, result in study.plain.items():
        np.testing.assert_array_equal(again.plain[name].test.draws, result.test.draws)


def test_noise_factor_finds_the_scale_that_was_put_in():
    generator = np.random.default_rng(1)
    y = generator.normal(0, 1.4, (400, 5))
    forecasts = Forecasts(
        y, np.zeros((2, 400, 5)), np.ones(5), np.zeros((2, 400, 5)), np.arange(400)
    )
    factor, _ = choose_noise_factor(forecasts)
    # Standard error of a standard deviation from 2,000 values, and the grid's own step.
    step = 1.4 * np.log(NOISE_FACTORS[1] / NOISE_FACTORS[0])
    assert abs(factor - 1.4) < 4.26 * 1.4 / np.sqrt(2 * y.size) + step


def test_more_noise_widens_the_draws_about_the_same_means():
    loc = np.ones((2, 3, 1))
    forecasts = Forecasts(np.zeros((3, 1)), loc, np.ones(1), loc + 0.5, np.arange(3))
    wider = forecasts.with_noise(3.0)
    assert wider.noise.tolist() == [3.0]
    assert (wider.draws == 2.5).all()


def test_noise_of_each_draw_is_its_own():
    y, loc = np.array([[0.5]]), np.zeros((2, 1, 1))
    mixed = Forecasts(y, loc, np.array([[1.0], [2.0]]), loc, np.arange(1))
    densities = [np.exp(-0.125) / (2 * np.pi) ** 0.5, np.exp(-0.03125) / (8 * np.pi) ** 0.5]
    assert mixed.nll().item() == pytest.approx(-np.log(np.mean(densities)))
    assert mixed.with_noise(2.0).noise.ravel().tolist() == [2.0, 4.0]


def test_scores_of_a_calibrated_forecast():
    generator = np.random.default_rng(2)
    y = generator.normal(size=(200, 5))
    draws = generator.normal(size=(400, 200, 5))
    forecasts = Forecasts(y, np.zeros_like(draws), np.ones(5), draws, np.arange(200))
    found = model_scores(forecasts).summary()
    for level in (0.5, 0.9):
        error = (level * (1 - level) / y.size) ** 0.5
        assert abs(found[f"interval_{level:.0%}"]["coverage"] - level) < 4.26 * error
    expected = 0.5 * np.log(2 * np.pi) + 0.5  # entropy of a standard normal
    assert abs(found["nll"] - expected) < 4.26 * (0.5 / y.size) ** 0.5
    assert abs(found["crps"] - 1 / np.sqrt(np.pi)) < 4.26 * 0.4 / y.size**0.5


def test_report_is_json_and_text(study):
    found = report(seasonal(), study)
    assert json.loads(json.dumps(found, allow_nan=False)) is not None
    found["series"] = {"name": "s", "source": "x", "values": 120, "gaps_interpolated": 3}
    text = describe(found)
    assert "3 gaps interpolated" in text
    assert "90% coverage" in text
    assert list(found["test"]) == list(METHODS)
    assert set(found["test_difference"]) == set(METHODS) - {"bayesian"}
    assert all(label in text for label in METHODS.values())
    parts = found["elbo_per_observed_value"]
    assert parts["elbo"] == pytest.approx(parts["expected_log_likelihood"] - parts["kl"])
    kl = parts["kl_constant"] + parts["kl_slab"] + parts["kl_mask"]
    assert parts["kl"] == pytest.approx(kl)
    assert parts["vacuous"] == ("vacuous" in text)


@pytest.mark.parametrize("offset", [0.0, 1e8], ids=["near-zero", "1e8"])
@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e30], ids=["1", "1e-9", "1e30"])
def test_scores_follow_the_units(study, unit, offset):
    """In float32 a level of 1e8 would round the changes away, and the truth with them."""
    values = unit * (seasonal() + offset)
    found = run_study(values, SMALL)
    ours, expected = model_scores(found.test).summary(), model_scores(study.test).summary()
    assert ours["crps"] / unit == pytest.approx(expected["crps"], rel=1e-3)
    assert ours["nll"] - np.log(unit) == pytest.approx(expected["nll"], abs=1e-3)
    parts, other = elbo_parts(values, found), elbo_parts(seasonal(), study)
    assert parts["elbo"] + np.log(unit) == pytest.approx(other["elbo"], abs=1e-2)


def test_share_of_the_weights():
    generator = np.random.default_rng(3)
    loc = generator.normal(0, 3.0, (4000, 2, 1))
    forecasts = Forecasts(np.zeros((2, 1)), loc, np.full(1, 4.0), loc, np.arange(2))
    assert weight_share(forecasts) == pytest.approx(9 / 25, rel=4.26 * (2 / 8000) ** 0.5)


def test_last_change_is_the_model_without_a_network(study):
    """The second floor's mean is the forecaster's own base, plus the mean residual."""
    plan, lag = study.plan, study.chosen.trial.lag
    values = seasonal()
    floor = SeasonalNaive(lag, plan.horizon, carry_change=True).fit(values[:100])
    loc, _ = floor.forecast(values[:110])
    base = values[110 - lag : 110 - lag + plan.horizon] + values[109] - values[109 - lag]
    np.testing.assert_allclose(loc - base, floor._mean, rtol=0, atol=1e-9)


def test_season_and_horizon_are_read_off_the_series():
    time = np.arange(2000)
    plan = make_plan(np.sin(2 * np.pi * time / 25), ForecastConfig())
    assert (plan.horizon, plan.season, plan.lags, plan.window) == (13, 25, (25, 13), 50)


def test_season_shorter_than_the_horizon_is_repeated():
    plan = make_plan(seasonal(400), ForecastConfig(horizon=8, season=6, num_origins=10))
    assert plan.lags == (12, 8)


CONFIG_ERRORS = {
    "samples": (dict(num_samples=100), r"Expected num_samples of at least 200, got 100"),
    "cell": (dict(cell="mlp"), r"Expected cell to be one of 'lstm', 'gru', 'rnn'"),
    "horizon": (dict(horizon=0), r"Expected horizon to be a positive int, got 0"),
}


@pytest.mark.parametrize(("kwargs", "message"), CONFIG_ERRORS.values(), ids=CONFIG_ERRORS)
def test_config_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ForecastConfig(**kwargs)


def test_demo_writes_three_whole_files(tmp_path):
    series = Series(seasonal(), None, "s", 0, "made")
    result = run_demo(series, SMALL, tmp_path / "new", progress=False)
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["demo-s-seed0.json", "demo-s-seed0.nc", "demo-s-seed0.png"]
    assert json.loads(result.json.read_text())["versions"]["torch"] == torch.__version__
    assert result.figure.read_bytes().startswith(b"\x89PNG")
    import xarray

    with xarray.open_dataset(result.arviz, group="predictions") as judged:
        assert judged["obs"].shape == (1, 200, 4, 2)
        assert judged.attrs["noise_factor"] == result.found["chosen"]["noise_factor"]


def test_demo_that_fails_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_module, "from_pyro_svi", None)
    series = Series(seasonal(), None, "s", 0, "made")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(TypeError):
        run_demo(series, SMALL, tmp_path, progress=False)
    assert sorted(tmp_path.iterdir()) == before


def test_series_is_checked_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, "fit", None)
    with pytest.raises(ValueError, match=r"Expected at least .* values .* got 30"):
        run_demo(Series(seasonal(30), None, "s", 0, "made"), SMALL, tmp_path / "out")
    assert not (tmp_path / "out").exists()
