r"""
A forecasting study of one series: choose on the validation part, read the test part once.

Training, validation and test follow each other in time. Every choice is made by the negative log
predictive density of rolling, non-overlapping forecasts of the validation part: first the lag of
the network's inputs, then the drop probability p and the slab's scale :math:`\sigma`. The noise
that each candidate has learned is multiplied by one factor, chosen by the same score (a choice of
:math:`\tau`). The chosen model forecasts the test part, and that is all the test part is used for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.infer import Predictive
from torch.utils.data import DataLoader, TensorDataset

from pyro_vrnn.data.season import detect_season
from pyro_vrnn.data.windowing import TimeSplit, Windows, rolling_origins, split_in_time, windows
from pyro_vrnn.infer.auto_spike_and_slab import AutoSpikeAndSlab
from pyro_vrnn.infer.fit import FitResult, fit
from pyro_vrnn.models.forecaster import Forecaster
from pyro_vrnn.nn.recurrent import GRU, LSTM, RNN
from pyro_vrnn.runs import check_device, check_seed
from pyro_vrnn.scores.density import gaussian_mixture_nll
from pyro_vrnn.scores.ensemble import crps
from pyro_vrnn.shapes import FloatArray, check_choice, check_positive_int

CELLS = {"lstm": LSTM, "gru": GRU, "rnn": RNN}
NOISE_FACTORS = np.round(np.geomspace(0.5, 2.0, 57), 3)
MAX_WINDOWS = 4000


@dataclass(frozen=True)
class ForecastConfig:
    """
    What a study is run with. ``horizon`` and ``season`` of None are taken from the series.

    ``num_steps`` is the least number of optimiser steps of one candidate; whole epochs are run.
    """

    horizon: int | None = None
    season: int | None = None
    cell: str = "lstm"
    hidden_size: int = 32
    drop_probs: tuple[float, ...] = (0.0, 0.1, 0.25)
    scales: tuple[float, ...] = (0.01, 0.05)
    num_steps: int = 500
    batch_size: int = 64
    learning_rate: float = 0.01
    num_samples: int = 400
    num_origins: int = 24
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_choice("cell", self.cell, tuple(CELLS))
        for name in ("hidden_size", "num_steps", "batch_size", "num_origins"):
            check_positive_int(name, getattr(self, name))
        for name in ("horizon", "season"):
            if getattr(self, name) is not None:
                check_positive_int(name, getattr(self, name))
        check_seed(self.seed)
        check_device(self.device)
        if self.num_samples < 200:
            raise ValueError(f"Expected num_samples of at least 200, got {self.num_samples}.")


@dataclass(frozen=True)
class Plan:
    """What is forecast from what: sizes in steps of the series."""

    horizon: int
    season: int
    lags: tuple[int, ...]
    window: int
    split: TimeSplit
    offset: float  # mean and standard deviation of the training values
    unit: float

    def standardised(self, values: FloatArray) -> FloatArray:
        """Return ``values`` in units in which float32 loses nothing of a series' changes."""
        return (values - self.offset) / self.unit


@dataclass(frozen=True)
class Trial:
    """One candidate and its scores on the validation part, in the series' units."""

    lag: int
    drop_prob: float
    scale: float
    noise_factor: float
    validation_nll: float
    validation_crps: float
    final_elbo: float
    seconds: float


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
class Forecasts:
    """
    Forecasts from rolling origins, raw units.

    :ivar y: what happened, ``(R, H)`` for R origins and horizon H.
    :ivar loc: means of each draw of the weights, ``(S, R, H)``.
    :ivar noise: standard deviation of the observation noise by horizon, ``(H,)``.
    :ivar draws: draws of y*, noise included, ``(S, R, H)``.
    :ivar origins: index of the first target of each origin, ``(R,)``.
    """

    y: FloatArray
    loc: FloatArray
    noise: FloatArray
    draws: FloatArray
    origins: NDArray[np.int64]

    def with_noise(self, factor: float) -> Forecasts:
        """Return the same forecasts with ``factor`` times the observation noise."""
        draws = self.loc + factor * (self.draws - self.loc)
        return replace(self, noise=factor * self.noise, draws=draws)


@dataclass
class Study:
    """A finished choice, and the forecasts of the test part."""

    config: ForecastConfig
    plan: Plan
    trials: list[Trial]
    chosen: Candidate
    test: Forecasts


def make_plan(values: FloatArray, config: ForecastConfig) -> Plan:
    """
    Decide horizon, season, candidate lags, window and split from the config and the series.

    Only the first half of the series is looked at for a season.

    :raises ValueError: if the series is too short for the origins asked for.
    """
    n = len(values)
    horizon = config.horizon or max(1, min(13, n // 120))
    head = values[: n // 2]
    season = config.season or detect_season(head, max_season=len(head) // 4)
    seasonal = season * math.ceil(horizon / season)
    lags = tuple(dict.fromkeys((seasonal, horizon)))
    window = max(2 * seasonal, 16)
    split = split_in_time(
        n,
        window=window,
        horizon=horizon,
        num_test_origins=config.num_origins,
        num_validation_origins=config.num_origins,
    )
    past = values[: split.train.stop]
    # Rounding of the input itself can make a constant series vary in its last digits.
    unit = float(past.std())
    if unit <= 1e-13 * float(np.abs(past).max()):
        unit = 1.0
    return Plan(horizon, season, lags, window, split, float(past.mean()), unit)


def train_candidate(
    values: FloatArray,
    plan: Plan,
    config: ForecastConfig,
    *,
    lag: int,
    drop_prob: float,
    scale: float,
) -> Candidate:
    """Train one candidate on the training part and score it on the validation part."""
    past = plan.standardised(values)[: plan.split.train.stop]
    stride = math.ceil(len(plan.split.train) / MAX_WINDOWS)
    train = windows(
        past, window=plan.window, horizon=plan.horizon, stride=stride, dtype=torch.float32
    )
    model = Forecaster(
        CELLS[config.cell](1, config.hidden_size),
        plan.horizon,
        lag=lag,
        num_data=len(train.x),
        overlap=train.overlap,
    )
    model.fit_scaling(torch.as_tensor(past))
    guide = AutoSpikeAndSlab(model, drop_prob=drop_prob, scale=scale)
    loader = DataLoader(
        TensorDataset(train.x, train.y),
        batch_size=config.batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(config.seed),
    )
    result = fit(
        model,
        guide,
        loader,
        num_epochs=math.ceil(config.num_steps / len(loader)),
        optimizer=partial(torch.optim.Adam, lr=config.learning_rate),
        seed=config.seed,
        device=config.device,
        progress=False,
    )
    learned = forecast(model, guide, values, plan, config, plan.split.validation.start)
    factor, nll = choose_noise_factor(learned)
    validation = learned.with_noise(factor)
    trial = Trial(
        lag=lag,
        drop_prob=drop_prob,
        scale=scale,
        noise_factor=factor,
        validation_nll=nll,
        validation_crps=float(crps(validation.y, validation.draws).mean()),
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
    part = rolling_origins(
        plan.standardised(values),
        start,
        window=plan.window,
        horizon=plan.horizon,
        count=config.num_origins,
        dtype=torch.float32,
    )
    predictive = Predictive(
        model, guide=guide, num_samples=config.num_samples, parallel=True, return_sites=("loc",)
    )
    loc = predictive(part.x.to(config.device))["loc"].double().cpu().numpy()
    loc = plan.offset + plan.unit * loc
    noise = (model.scale[0] * model.tau.rsqrt()).detach().double().cpu().numpy() * plan.unit
    generator = np.random.default_rng(config.seed)
    draws = loc + noise * generator.standard_normal(loc.shape)
    origins = part.origins.numpy()
    y = values[origins[:, None] + np.arange(plan.horizon)]
    return Forecasts(y, loc, noise, draws, origins)


def choose_noise_factor(forecasts: Forecasts) -> tuple[float, float]:
    """Return the factor on the noise with the least NLL of these forecasts, and that NLL."""
    y, loc, noise = forecasts.y, forecasts.loc, forecasts.noise
    scores = [gaussian_mixture_nll(y, loc, f * noise[None, None]).mean() for f in NOISE_FACTORS]
    best = int(np.argmin(scores))
    return float(NOISE_FACTORS[best]), float(scores[best])


def _grid(config: ForecastConfig) -> list[tuple[float, float]]:
    """Return the pairs (p, sigma), first the one that the lags are compared with."""
    pairs = [(p, scale) for p in config.drop_probs for scale in config.scales]
    first = min(pairs, key=lambda pair: abs(pair[0] - 0.1))
    return [first, *(pair for pair in pairs if pair != first)]


def num_trials(plan: Plan, config: ForecastConfig) -> int:
    """Return how many candidates a study trains."""
    return len(plan.lags) + len(_grid(config)) - 1


def run_study(
    values: FloatArray,
    config: ForecastConfig,
    *,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> Study:
    """
    Choose on the validation part, then forecast the test part once.

    :param values: the series, ``(n,)``, finite, in time order.
    :param on_trial: called after each of :func:`num_trials` candidates.
    :raises ValueError: if the series is too short.
    """
    plan = make_plan(values, config)
    first, *grid = _grid(config)
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

    test = forecast(best.model, best.guide, values, plan, config, plan.split.test.start)
    return Study(config, plan, trials, best, test.with_noise(best.trial.noise_factor))
