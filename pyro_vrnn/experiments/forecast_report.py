"""Scores of a study's test part, method beside method: what the demo writes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch

from pyro_vrnn.baselines.seasonal_naive import SeasonalNaive
from pyro_vrnn.distributions.kl import kl_parts
from pyro_vrnn.experiments.forecast import Study
from pyro_vrnn.experiments.forecast_plain import METHODS as PLAIN
from pyro_vrnn.experiments.forecasts import Forecasts
from pyro_vrnn.reprs import short_repr
from pyro_vrnn.scores.bootstrap import block_bootstrap
from pyro_vrnn.scores.density import gaussian_crps, gaussian_mixture_nll, rmse
from pyro_vrnn.scores.ensemble import crps
from pyro_vrnn.scores.intervals import central_interval, coverage, interval_score, width
from pyro_vrnn.shapes import FloatArray

LEVELS = (0.5, 0.9)
LEVELS_DRAWN = np.linspace(0.05, 0.95, 19)
METHODS = {
    "bayesian": "Bayesian, SVI",
    "variational": "dropout as VI",
    "naive": "naive dropout",
    "none": "no dropout",
    "ensemble": "deep ensemble",
    "last_change": "last change, no network",
    "seasonal_naive": "seasonal naive",
}
FLOORS = ("last_change", "seasonal_naive")


@dataclass(frozen=True)
class Scores:
    """
    Scores of one method, each ``(R, H)`` for R origins and horizon H, in the series' units.

    :ivar dict interval: level -> ``hit`` (0 or 1), ``width`` and ``score`` of the central interval.
    """

    error: FloatArray
    nll: FloatArray
    crps: FloatArray
    interval: dict[float, dict[str, FloatArray]]

    __repr__ = short_repr

    def summary(self) -> dict[str, Any]:
        """Return the means, with the bootstrap range of the coverage over origins."""
        found: dict[str, Any] = {
            "rmse": rmse(self.error, np.zeros_like(self.error)),
            "nll": float(self.nll.mean()),
            "crps": float(self.crps.mean()),
        }
        for level, parts in self.interval.items():
            hits = block_bootstrap(parts["hit"])
            found[f"interval_{level:.0%}"] = {
                "coverage": hits.mean,
                "coverage_range": [hits.lower, hits.upper],
                "width": float(parts["width"].mean()),
                "score": float(parts["score"].mean()),
            }
        return found


def _intervals(
    y: FloatArray, ends: dict[float, tuple[FloatArray, FloatArray]]
) -> dict[float, dict[str, FloatArray]]:
    return {
        level: {
            "hit": coverage(y, lower, upper),
            "width": width(lower, upper),
            "score": interval_score(y, lower, upper, level),
        }
        for level, (lower, upper) in ends.items()
    }


def model_scores(forecasts: Forecasts) -> Scores:
    """Score draws of y*, observation noise included."""
    y = forecasts.y
    return Scores(
        error=y - forecasts.loc.mean(axis=0),
        nll=forecasts.nll(),
        crps=crps(y, forecasts.draws),
        interval=_intervals(
            y, {level: central_interval(forecasts.draws, level) for level in LEVELS}
        ),
    )


def floor_scores(values: FloatArray, study: Study, *, carry_change: bool = False) -> Scores:
    """
    Score a seasonal-naive forecast of the same origins, fitted to the training part.

    With ``carry_change`` it is what the chosen model's own arithmetic predicts without a network:
    the same lag, and the last change over it.
    """
    plan = study.plan
    season = study.chosen.trial.lag if carry_change else plan.season
    floor = SeasonalNaive(season, plan.horizon, carry_change=carry_change)
    floor.fit(values[: plan.split.train.stop])
    pairs = [floor.forecast(values[:origin]) for origin in study.test.origins]
    loc, scale = (np.stack(part) for part in zip(*pairs, strict=True))
    y = study.test.y
    z = {level: NormalDist().inv_cdf((1 + level) / 2) for level in LEVELS}
    ends = {level: (loc - z[level] * scale, loc + z[level] * scale) for level in LEVELS}
    return Scores(
        error=y - loc,
        nll=gaussian_mixture_nll(y, loc[None], scale[None]),
        crps=gaussian_crps(y, loc, scale),
        interval=_intervals(y, ends),
    )


def weight_share(forecasts: Forecasts) -> float:
    """Return the share of the predictive variance that comes from uncertainty of the weights."""
    weights = forecasts.loc.var(axis=0, ddof=1).mean()
    return float(weights / (weights + np.square(forecasts.noise).mean()))


def differences(ours: Scores, floor: Scores) -> dict[str, dict[str, float]]:
    """Return mean differences (ours - floor; below 0 is better), paired by origin, with ranges."""
    pairs = {
        "crps": ours.crps - floor.crps,
        "nll": ours.nll - floor.nll,
        **{
            f"interval_score_{level:.0%}": ours.interval[level]["score"]
            - floor.interval[level]["score"]
            for level in LEVELS
        },
    }
    return {name: block_bootstrap(values)._asdict() for name, values in pairs.items()}


def elbo_parts(values: FloatArray, study: Study) -> dict[str, float | bool]:
    """
    Split the chosen model's final ELBO per observed value, in nats.

    The KL's constant part, about log(s/sigma) - 1/2 a weight, is what no training of the means
    removes. The bound is called vacuous when a Gaussian around the seasonal-naive forecast, with
    no weights at all, gives the training values a higher log-likelihood.
    """
    guide, model, plan = study.chosen.guide, study.chosen.model, study.plan
    priors = {f"rnn.{name}": model.rnn.prior(name) for name in model.rnn._weight_sites}
    priors |= {f"head.{name}": model.head.prior(name) for name in model.head._weight_sites}
    with torch.no_grad():
        parts = [kl_parts(guide.distribution(name), prior) for name, prior in priors.items()]
    constant, slab, mask = (sum(float(part[k]) for part in parts) for k in range(3))
    train = study.chosen.train
    count = train.y.numel() / train.overlap
    steps = study.chosen.result.steps_per_epoch
    # Trained in standard units: the density of a raw value is smaller by the unit.
    elbo = float(np.mean(study.chosen.result.elbo[-steps:])) - count * math.log(plan.unit)
    past = values[: plan.split.train.stop]
    _, scale = SeasonalNaive(plan.season, plan.horizon).fit(past).forecast(past)
    floor = -float(np.mean(0.5 * np.log(2 * np.pi * np.e * scale**2)))
    return {
        "observed_values": count,
        "elbo": elbo / count,
        "expected_log_likelihood": (elbo + constant + slab + mask) / count,
        "kl": (constant + slab + mask) / count,
        "kl_constant": constant / count,
        "kl_slab": slab / count,
        "kl_mask": mask / count,
        "seasonal_naive_log_likelihood": floor,
        "vacuous": elbo / count < floor,
    }


def report(values: FloatArray, study: Study) -> dict[str, Any]:
    """Return everything a study found, as JSON can hold it."""
    scores = {
        "bayesian": model_scores(study.test),
        **{name: model_scores(study.plain[name].test) for name in PLAIN},
        "seasonal_naive": floor_scores(values, study),
        "last_change": floor_scores(values, study, carry_change=True),
    }
    scores = {name: scores[name] for name in METHODS}
    ours = scores["bayesian"]
    plan = study.plan
    return {
        "config": asdict(study.config),
        "plan": {
            "horizon": plan.horizon,
            "season": plan.season,
            "lags_tried": list(plan.lags),
            "window": plan.window,
            **{
                f"{name}_targets": [part.start, part.stop]
                for name, part in (
                    ("train", plan.split.train),
                    ("validation", plan.split.validation),
                    ("test", plan.split.test),
                )
            },
        },
        "trials": [asdict(trial) for trial in study.trials],
        "plain_trials": {
            name: [asdict(trial) for trial in result.trials] for name, result in study.plain.items()
        },
        "chosen": asdict(study.chosen.trial),
        "plain_chosen": {name: asdict(result.chosen) for name, result in study.plain.items()},
        "noise_scale_by_horizon": study.test.noise.tolist(),
        "validation": model_scores(study.chosen.validation).summary(),
        "test": {name: score.summary() for name, score in scores.items()},
        "test_difference": {
            name: differences(ours, score) for name, score in scores.items() if name != "bayesian"
        },
        "test_crps_by_horizon": {
            name: score.crps.mean(axis=0).tolist() for name, score in scores.items()
        },
        "test_coverage": {
            "level": LEVELS_DRAWN.tolist(),
            "bayesian": coverage_by_level(study.test),
            **{name: coverage_by_level(study.plain[name].test) for name in PLAIN},
        },
        "variance_share_of_weights": weight_share(study.test),
        "plain_variance_share": {
            name: weight_share(study.plain[name].test) for name in PLAIN if name != "none"
        },
        "elbo_per_observed_value": elbo_parts(values, study),
    }


def coverage_by_level(forecasts: Forecasts) -> list[float]:
    """Return the share of values inside each central interval of :data:`LEVELS_DRAWN`."""
    ranks = (forecasts.draws <= forecasts.y).mean(axis=0).ravel()
    return [float((np.abs(2 * ranks - 1) <= level).mean()) for level in LEVELS_DRAWN]
