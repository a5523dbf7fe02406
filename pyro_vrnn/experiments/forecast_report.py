"""Scores of a study's test part beside the floor: what the demo prints and writes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch

from pyro_vrnn.baselines.seasonal_naive import SeasonalNaive
from pyro_vrnn.distributions.kl import kl_parts
from pyro_vrnn.experiments.forecast import NOISE_FACTORS, Forecasts, Study
from pyro_vrnn.scores.bootstrap import block_bootstrap
from pyro_vrnn.scores.density import gaussian_crps, gaussian_mixture_nll, rmse
from pyro_vrnn.scores.ensemble import crps
from pyro_vrnn.scores.intervals import central_interval, coverage, interval_score, width
from pyro_vrnn.shapes import FloatArray

LEVELS = (0.5, 0.9)
METHODS = {
    "bayesian": "Bayesian",
    "seasonal_naive": "seasonal naive",
    "last_change": "last change",
}


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
        nll=gaussian_mixture_nll(y, forecasts.loc, forecasts.noise[None, None]),
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
        "seasonal_naive": floor_scores(values, study),
        "last_change": floor_scores(values, study, carry_change=True),
    }
    ours = scores["bayesian"]
    plan, chosen = study.plan, study.chosen.trial
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
        "chosen": asdict(chosen),
        "noise_scale_by_horizon": study.test.noise.tolist(),
        "validation": model_scores(study.chosen.validation).summary(),
        "test": {name: score.summary() for name, score in scores.items()},
        "test_difference": {
            name: differences(ours, scores[name]) for name in ("seasonal_naive", "last_change")
        },
        "test_crps_by_horizon": {
            name: score.crps.mean(axis=0).tolist() for name, score in scores.items()
        },
        "variance_share_of_weights": weight_share(study.test),
        "elbo_per_observed_value": elbo_parts(values, study),
    }


def table(found: dict[str, Any]) -> str:
    """Return the test scores as a text table."""
    rows: list[tuple[str, ...]] = [("", *METHODS.values())]
    methods = [found["test"][name] for name in METHODS]
    for name in ("rmse", "nll", "crps"):
        rows.append((name.upper(), *(f"{m[name]:.4g}" for m in methods)))
    for level in LEVELS:
        key = f"interval_{level:.0%}"
        parts = [m[key] for m in methods]
        rows.append((f"{level:.0%} interval score", *(f"{p['score']:.4g}" for p in parts)))
        rows.append((f"{level:.0%} interval width", *(f"{p['width']:.4g}" for p in parts)))
        shown = [
            "{:.3f} [{:.2f}, {:.2f}]".format(p["coverage"], *p["coverage_range"]) for p in parts
        ]
        rows.append((f"{level:.0%} coverage", *shown))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for first, *cells in rows:
        padded = [f"{c:>{w}}" for c, w in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join(["", f"{first:<{widths[0]}}", *padded]))
    return "\n".join(lines)


def describe(found: dict[str, Any]) -> str:
    """Return a page of text: data, split, choice, test scores, what the differences are worth."""
    series, plan, chosen = found["series"], found["plan"], found["chosen"]
    sizes = {
        name: plan[f"{name}_targets"][1] - plan[f"{name}_targets"][0]
        for name in ("train", "validation", "test")
    }
    origins = found["config"]["num_origins"]
    elbo = found["elbo_per_observed_value"]
    lines = [
        f"{series['name']} ({series['source']}): {series['values']} values, "
        f"{series['gaps_interpolated']} gaps interpolated.",
        f"In time order: {sizes['train']} values to train on, {sizes['validation']} to choose "
        f"with, {sizes['test']} to test on ({origins} origins, {plan['horizon']} steps each, "
        f"no overlap); season {plan['season']}.",
        f"Chosen on the validation part: lag {chosen['lag']}, p = {chosen['drop_prob']}, "
        f"sigma = {chosen['scale']}, noise x {chosen['noise_factor']}.",
        "Test part, read once (coverage with its 95 % bootstrap range over origins):",
        "",
        table(found),
        "",
        "Seasonal naive expects the last season again, plus the usual drift; last change is what",
        f"the model's arithmetic predicts without a network, x[t+h-{chosen['lag']}] plus the last "
        "change.",
        "Differences, Bayesian minus each, paired by origin (below 0 is better):",
    ]
    for other, parts in found["test_difference"].items():
        for name, part in parts.items():
            lines.append(
                f"  {METHODS[other]}, {name.replace('_', ' ')}: {part['mean']:.3g} "
                f"[{part['lower']:.3g}, {part['upper']:.3g}]"
            )
    share = found["variance_share_of_weights"]
    lines.append(f"Share of the predictive variance that comes from the weights: {share:.2%}.")
    if chosen["noise_factor"] in (NOISE_FACTORS[0], NOISE_FACTORS[-1]):
        lines.append("The noise factor is at the end of its grid: do not trust the intervals.")
    lines.append(
        f"ELBO per observed value: {elbo['elbo']:.2f} nats = {elbo['expected_log_likelihood']:.2f} "
        f"expected log-likelihood - {elbo['kl']:.2f} KL (constant part {elbo['kl_constant']:.2f})."
    )
    if elbo["vacuous"]:
        lines.append(
            "As a bound on the evidence that is vacuous: seasonal naive, without any weights, has "
            f"{elbo['seasonal_naive_log_likelihood']:.2f}. Judge the model by the test part."
        )
    return "\n".join(lines)
