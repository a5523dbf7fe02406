"""
The plain networks a study is compared with: no dropout, naive dropout, dropout as VI, an ensemble.

Each has the same cell and size, data, batches, steps, optimiser and seed as the Bayesian network,
and chooses its lag and p on the validation part in the same way. Learned noise, and the factor on
it, are theirs too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from pyro_vrnn import baselines
from pyro_vrnn.baselines.losses import GaussianLoss
from pyro_vrnn.baselines.recurrent import CELLS
from pyro_vrnn.data.windowing import Windows
from pyro_vrnn.experiments.forecast_plan import ForecastConfig, Plan, batches
from pyro_vrnn.experiments.forecasts import Forecasts, Trial, judge, make_forecasts
from pyro_vrnn.infer.fit import fit_loss
from pyro_vrnn.shapes import FloatArray

DROPPING = ("naive", "variational")
METHODS = ("none", *DROPPING, "ensemble")
MEMBER_SEEDS = 1000  # what the seeds of an ensemble's members differ by


@dataclass
class PlainCandidate:
    """A trained plain network, or several that make an ensemble."""

    trial: Trial
    members: list[GaussianLoss]
    validation: Forecasts


@dataclass
class PlainResult:
    """What a method chose, all it tried, and its forecasts of the test part."""

    trials: list[Trial]
    chosen: Trial
    test: Forecasts


def train_plain(
    values: FloatArray,
    plan: Plan,
    config: ForecastConfig,
    *,
    method: str,
    lag: int,
    drop_prob: float = 0.0,
    seed: int | None = None,
) -> PlainCandidate:
    """
    Train one plain network on the training part and score it on the validation part.

    Dropout as VI has the weight decay of the Bayesian network's prior; the others have none.
    """
    seed = config.seed if seed is None else seed
    train = plan.training_windows(values)
    torch.manual_seed(seed)
    options: dict[str, Any] = {"method": method, "drop_prob": drop_prob}
    network = baselines.ForecastNetwork(
        CELLS[config.cell](1, config.hidden_size, **options),
        plan.horizon,
        lag,
        head=baselines.Linear(config.hidden_size, plan.horizon, **options),
    )
    network.fit_scaling(torch.as_tensor(plan.past(values)))
    loss = GaussianLoss(
        network,
        tau=torch.ones(plan.horizon),
        learn_tau=True,
        num_data=len(train.x),
        weight=1 / train.overlap,
        prior_scale=1.0 if method == "variational" else None,
    )
    loader, num_epochs = batches(train, config, seed)
    result = fit_loss(
        loss,
        loader,
        num_epochs=num_epochs,
        optimizer=partial(torch.optim.Adam, lr=config.learning_rate),
        seed=seed,
        device=config.device,
        progress=False,
    )
    learned = forecast_plain([loss], values, plan, config, plan.split.validation.start)
    trial, validation = judge(
        learned,
        method=method,
        lag=lag,
        drop_prob=drop_prob,
        scale=0.0,
        final_elbo=-result.epoch_loss[-1],
        seconds=result.wall_time,
    )
    return PlainCandidate(trial, [loss], validation)


def forecast_plain(
    members: list[GaussianLoss],
    values: FloatArray,
    plan: Plan,
    config: ForecastConfig,
    start: int,
) -> Forecasts:
    """Forecast from rolling origins, ``num_samples`` draws of masks or turns of the members."""
    part = plan.origins(values, config, start)
    torch.manual_seed(config.seed)
    pairs = [_means_and_noise(member, part, config) for member in members]
    loc = np.concatenate([loc for loc, _ in pairs])
    noise = np.concatenate([noise for _, noise in pairs])
    turn = np.arange(config.num_samples) % len(loc)
    return make_forecasts(values, plan, config, part, loc[turn], noise[turn])


def _means_and_noise(
    loss: GaussianLoss, part: Windows, config: ForecastConfig
) -> tuple[FloatArray, FloatArray]:  # (S, R, H), (S, H)
    network, x = loss.network, part.x.to(config.device)
    assert isinstance(network, baselines.ForecastNetwork)
    dropping = getattr(network.rnn, "method", "none") in DROPPING
    loc = baselines.mc_samples(network, x, config.num_samples if dropping else 1)
    noise = (network.unit * loss.tau.rsqrt()).detach().expand(len(loc), -1)
    return loc.double().cpu().numpy(), noise.double().cpu().numpy()


def make_ensemble(
    values: FloatArray,
    plan: Plan,
    config: ForecastConfig,
    first: PlainCandidate,
    on_trial: Callable[[Trial], None],
) -> PlainCandidate:
    """Train more networks like the chosen plain one, from other starts and in other orders."""
    members, seconds = list(first.members), first.trial.seconds
    for k in range(1, config.ensemble_size):
        member = train_plain(
            values,
            plan,
            config,
            method="none",
            lag=first.trial.lag,
            seed=config.seed + MEMBER_SEEDS * k,
        )
        members += member.members
        seconds += member.trial.seconds
        on_trial(member.trial)
    learned = forecast_plain(members, values, plan, config, plan.split.validation.start)
    trial, validation = judge(
        learned,
        method="ensemble",
        lag=first.trial.lag,
        drop_prob=0.0,
        scale=0.0,
        final_elbo=first.trial.final_elbo,
        seconds=seconds,
    )
    return PlainCandidate(trial, members, validation)


def num_plain_trials(plan: Plan, config: ForecastConfig) -> int:
    """Return how many plain networks a study trains."""
    lags = len(plan.lags)
    dropping = len(DROPPING) * (lags + len(config.dropping) - 1)
    return lags + dropping + config.ensemble_size - 1


def run_plain_methods(
    values: FloatArray,
    plan: Plan,
    config: ForecastConfig,
    *,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> dict[str, PlainResult]:
    """Choose on the validation part for each of :data:`METHODS`, then forecast the test part."""
    trials: dict[str, list[Trial]] = {}

    def best_of(method: str, candidates: list[PlainCandidate]) -> PlainCandidate:
        trials[method] = [candidate.trial for candidate in candidates]
        return min(candidates, key=lambda candidate: candidate.trial.validation_nll)

    def attempt(method: str, lag: int, drop_prob: float = 0.0) -> PlainCandidate:
        found = train_plain(values, plan, config, method=method, lag=lag, drop_prob=drop_prob)
        on_trial(found.trial)
        return found

    chosen = {"none": best_of("none", [attempt("none", lag) for lag in plan.lags])}
    for method in DROPPING:
        first, *rest = config.dropping
        tried = [attempt(method, lag, first) for lag in plan.lags]
        lag = best_of(method, tried).trial.lag
        tried += [attempt(method, lag, p) for p in rest]
        chosen[method] = best_of(method, tried)
    chosen["ensemble"] = best_of(
        "ensemble", [make_ensemble(values, plan, config, chosen["none"], on_trial)]
    )
    found = {}
    for method in METHODS:
        trial, members = chosen[method].trial, chosen[method].members
        test = forecast_plain(members, values, plan, config, plan.split.test.start)
        found[method] = PlainResult(trials[method], trial, test.with_noise(trial.noise_factor))
    return found
