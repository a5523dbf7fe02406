"""Forecasts from rolling origins: draws of a network's means, noise, and the choice of noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pyro_vrnn.data.windowing import Windows
from pyro_vrnn.experiments.forecast_plan import ForecastConfig, Plan
from pyro_vrnn.reprs import short_repr
from pyro_vrnn.scores.density import gaussian_mixture_nll
from pyro_vrnn.scores.ensemble import crps
from pyro_vrnn.shapes import FloatArray

NOISE_FACTORS = np.round(np.geomspace(0.5, 2.0, 57), 3)


@dataclass(frozen=True)
class Trial:
    """One candidate of a method and its scores on the validation part, in the series' units."""

    lag: int
    drop_prob: float
    scale: float
    noise_factor: float
    validation_nll: float
    validation_crps: float
    final_elbo: float
    seconds: float
    method: str = "bayesian"


@dataclass
class Forecasts:
    """
    Forecasts from rolling origins, raw units.

    :ivar y: what happened, ``(R, H)`` for R origins and horizon H.
    :ivar loc: means of each draw of the weights, ``(S, R, H)``.
    :ivar noise: standard deviation of the observation noise by horizon, ``(H,)``, or ``(S, H)``
        where each draw has its own.
    :ivar draws: draws of y*, noise included, ``(S, R, H)``.
    :ivar origins: index of the first target of each origin, ``(R,)``.
    """

    y: FloatArray
    loc: FloatArray
    noise: FloatArray
    draws: FloatArray
    origins: NDArray[np.int64]

    __repr__ = short_repr

    def with_noise(self, factor: float) -> Forecasts:
        """Return the same forecasts with ``factor`` times the observation noise."""
        draws = self.loc + factor * (self.draws - self.loc)
        return replace(self, noise=factor * self.noise, draws=draws)

    def nll(self) -> FloatArray:
        """Return the negative log predictive density of each value, ``(R, H)``."""
        return gaussian_mixture_nll(self.y, self.loc, _for_draws(self.noise))


def _for_draws(noise: FloatArray) -> FloatArray:
    """Return the noise as it broadcasts to ``(S, R, H)``."""
    return noise[None, None] if noise.ndim == 1 else noise[:, None]


def make_forecasts(
    values: FloatArray,
    plan: Plan,
    config: ForecastConfig,
    part: Windows,
    loc: FloatArray,  # (S, R, H), standardised
    noise: FloatArray,  # (H,) or (S, H), standardised
) -> Forecasts:
    """Return forecasts in raw units; the noise of the draws is seeded by the config."""
    loc, noise = plan.offset + plan.unit * loc, plan.unit * noise
    generator = np.random.default_rng(config.seed)
    draws = loc + _for_draws(noise) * generator.standard_normal(loc.shape)
    origins = part.origins.numpy()
    y = values[origins[:, None] + np.arange(plan.horizon)]
    return Forecasts(y, loc, noise, draws, origins)


def choose_noise_factor(forecasts: Forecasts) -> tuple[float, float]:
    """Return the factor on the noise with the least NLL of these forecasts, and that NLL."""
    y, loc, noise = forecasts.y, forecasts.loc, _for_draws(forecasts.noise)
    scores = [gaussian_mixture_nll(y, loc, f * noise).mean() for f in NOISE_FACTORS]
    best = int(np.argmin(scores))
    return float(NOISE_FACTORS[best]), float(scores[best])


def judge(
    learned: Forecasts,
    *,
    method: str,
    lag: int,
    drop_prob: float,
    scale: float,
    final_elbo: float,
    seconds: float,
) -> tuple[Trial, Forecasts]:
    """Choose the noise of a candidate's validation forecasts, and score them."""
    factor, nll = choose_noise_factor(learned)
    validation = learned.with_noise(factor)
    trial = Trial(
        lag=lag,
        drop_prob=drop_prob,
        scale=scale,
        noise_factor=factor,
        validation_nll=nll,
        validation_crps=float(crps(validation.y, validation.draws).mean()),
        final_elbo=final_elbo,
        seconds=seconds,
        method=method,
    )
    return trial, validation
