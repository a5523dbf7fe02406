"""Scores of predictions, over NumPy arrays: draws on the first axis, one score for each value."""

from pyro_vrnn.scores.bootstrap import BootstrapRange, block_bootstrap
from pyro_vrnn.scores.classes import brier_score, class_nll, top_class
from pyro_vrnn.scores.coverage_levels import CoverageCurve, coverage_curve, pit_coverage
from pyro_vrnn.scores.density import gaussian_crps, gaussian_mixture_nll, rmse
from pyro_vrnn.scores.ensemble import crps
from pyro_vrnn.scores.horizon import HorizonScores, by_horizon
from pyro_vrnn.scores.intervals import central_interval, coverage, interval_score, width
from pyro_vrnn.scores.pit_values import mixture_pit, pit
from pyro_vrnn.scores.reliability_bins import (
    CalibrationError,
    Reliability,
    calibration_error,
    reliability,
)
from pyro_vrnn.scores.uniform_band import EcdfBand, ecdf, ecdf_band, effective_size

__all__ = [
    "BootstrapRange",
    "CalibrationError",
    "CoverageCurve",
    "EcdfBand",
    "HorizonScores",
    "Reliability",
    "block_bootstrap",
    "brier_score",
    "by_horizon",
    "calibration_error",
    "central_interval",
    "class_nll",
    "coverage",
    "coverage_curve",
    "crps",
    "ecdf",
    "ecdf_band",
    "effective_size",
    "gaussian_crps",
    "gaussian_mixture_nll",
    "interval_score",
    "mixture_pit",
    "pit",
    "pit_coverage",
    "reliability",
    "rmse",
    "top_class",
    "width",
]
