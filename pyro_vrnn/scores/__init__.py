"""Scores of forecasts, over NumPy arrays: draws on the first axis, one score for each value."""

from pyro_vrnn.scores.bootstrap import BootstrapRange, block_bootstrap
from pyro_vrnn.scores.density import gaussian_crps, gaussian_mixture_nll, rmse
from pyro_vrnn.scores.ensemble import crps
from pyro_vrnn.scores.intervals import central_interval, coverage, interval_score, width

__all__ = [
    "BootstrapRange",
    "block_bootstrap",
    "central_interval",
    "coverage",
    "crps",
    "gaussian_crps",
    "gaussian_mixture_nll",
    "interval_score",
    "rmse",
    "width",
]
