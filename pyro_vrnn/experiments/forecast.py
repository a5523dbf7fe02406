r"""
A forecasting study of one series: choose on the validation part, read the test part once.

Training, validation and test follow each other in time. Every choice is made by the negative log
predictive density of rolling, non-overlapping forecasts of the validation part: first the lag of
the network's inputs, then the drop probability p and the slab's scale :math:`\sigma`. The noise
that each candidate has learned is multiplied by one factor, chosen by the same score (a choice of
:math:`\tau`). The chosen model forecasts the test part, and that is all the test part is used for.

The plain networks of :mod:`pyro_vrnn.experiments.forecast_plain` choose and forecast in the same
way, on the same parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from pyro.infer import Predictive

from pyro_vrnn.data.windowing import Windows
from pyro_vrnn.experiments.forecast_plain import (
    PlainResult,
    num_plain_trials,
    run_plain_methods,
)
from pyro_vrnn.experiments.forecast_plan import ForecastConfig, Plan, batches, make_plan
from pyro_vrnn.experiments.forecasts import Forecasts, Trial, judge, make_forecasts
from pyro_vrnn.infer.auto_spike_and_slab import AutoSpikeAndSlab
from pyro_vrnn.infer.fit import fit
from pyro_vrnn.infer.fit_result import FitResult
from pyro_vrnn.models.forecaster import Forecaster
from pyro_vrnn.nn.recurrent import CELLS
from pyro_vrnn.shapes import FloatArray


@dataclass
class Candidate:
    """A trained candidate."""

    trial: Trial
    model: Forecaster
    guide: AutoSpikeAndSlab
    result: FitResult
    train: Windows
    validation: Forecasts


@dataclass
class Study:
    """
    A finished choice, and the forecasts of the test part.

    :ivar dict plain: method -> what the plain network of that name chose and forecast.
    """

    config: ForecastConfig
    plan: Plan
    trials: list[Trial]
    chosen: Candidate
    test: Forecasts
    plain: dict[str, PlainResult]


def train_candidate(
    values: FloatArray,
    plan: Plan,
    config: ForecastConfig,
    *,
    lag: int,
    drop_prob: float,
    scale: float,
) -> Candidate:
    """Train one Bayesian candidate on the training part and score it on the validation part."""
    train = plan.training_windows(values)
    model = Forecaster(
        CELLS[config.cell](1, config.hidden_size),
        plan.horizon,
        lag=lag,
        num_data=len(train.x),
        overlap=train.overlap,
    )
    model.fit_scaling(torch.as_tensor(plan.past(values)))
    guide = AutoSpikeAndSlab(model, drop_prob=drop_prob, scale=scale, scope=config.scope)
    loader, num_epochs = batches(train, config, config.seed)
    result = fit(
        model,
        guide,
        loader,
        num_epochs=num_epochs,
        optimizer=partial(torch.optim.Adam, lr=config.learning_rate),
        seed=config.seed,
        device=config.device,
        progress=False,
    )
    learned = forecast(model, guide, values, plan, config, plan.split.validation.start)
    trial, validation = judge(
        learned,
        method="bayesian",
        lag=lag,
        drop_prob=drop_prob,
        scale=scale,
        final_elbo=-result.epoch_loss[-1],
        seconds=result.wall_time,
    )
    return Candidate(trial, model, guide, result, train, validation)


def forecast(
    model: Forecaster,
    guide: AutoSpikeAndSlab,
    values: FloatArray,
    plan: Plan,
    config: ForecastConfig,
    start: int,
) -> Forecasts:
    """Forecast from ``num_origins`` rolling origins, the first target at ``start``; raw units."""
    part = plan.origins(values, config, start)
    predictive = Predictive(
        model, guide=guide, num_samples=config.num_samples, parallel=True, return_sites=("loc",)
    )
    loc = predictive(part.x.to(config.device))["loc"].double().cpu().numpy()
    noise = (model.scale[0] * model.tau.rsqrt()).detach().double().cpu().numpy()
    return make_forecasts(values, plan, config, part, loc, noise)


def num_trials(plan: Plan, config: ForecastConfig) -> int:
    """Return how many networks a study trains."""
    return len(plan.lags) + len(config.grid) - 1 + num_plain_trials(plan, config)


def run_study(
    values: FloatArray,
    config: ForecastConfig,
    *,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> Study:
    """
    Choose on the validation part, then forecast the test part once with each method.

    :param values: the series, ``(n,)``, finite, in time order.
    :param on_trial: called after each of :func:`num_trials` networks.
    :raises ValueError: if the series is too short.
    """
    plan = make_plan(values, config)
    first, *grid = config.grid
    trials: list[Trial] = []
    best: Candidate | None = None

    def attempt(lag: int, drop_prob: float, scale: float) -> None:
        nonlocal best
        candidate = train_candidate(values, plan, config, lag=lag, drop_prob=drop_prob, scale=scale)
        trials.append(candidate.trial)
        if best is None or candidate.trial.validation_nll < best.trial.validation_nll:
            best = candidate
        on_trial(candidate.trial)

    for lag in plan.lags:
        attempt(lag, *first)
    assert best is not None
    lag = best.trial.lag
    for drop_prob, scale in grid:
        attempt(lag, drop_prob, scale)

    plain = run_plain_methods(values, plan, config, on_trial=on_trial)
    test = forecast(best.model, best.guide, values, plan, config, plan.split.test.start)
    return Study(config, plan, trials, best, test.with_noise(best.trial.noise_factor), plain)
