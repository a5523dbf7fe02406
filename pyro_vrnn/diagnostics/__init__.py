"""Whether to believe a fit: export to ArviZ, predictive checks and plots."""

from pyro_vrnn.diagnostics.arviz_export import from_pyro_svi
from pyro_vrnn.diagnostics.calibration_plots import (
    plot_coverage,
    plot_horizon,
    plot_pit,
    plot_reliability,
)
from pyro_vrnn.diagnostics.class_check import ClassCheck, check_classes
from pyro_vrnn.diagnostics.fan_chart import plot_elbo, plot_fan
from pyro_vrnn.diagnostics.forecast_check import ForecastCheck, IntervalCheck, check_forecasts
from pyro_vrnn.diagnostics.ppc import plot_ppc

__all__ = [
    "ClassCheck",
    "ForecastCheck",
    "IntervalCheck",
    "check_classes",
    "check_forecasts",
    "from_pyro_svi",
    "plot_coverage",
    "plot_elbo",
    "plot_fan",
    "plot_horizon",
    "plot_pit",
    "plot_ppc",
    "plot_reliability",
]
