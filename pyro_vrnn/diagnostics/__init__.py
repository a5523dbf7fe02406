"""Whether to believe a fit: export to ArviZ, the ELBO taken apart, predictive checks, plots."""

from pyro_vrnn.diagnostics.arviz_export import from_pyro_svi
from pyro_vrnn.diagnostics.calibration_plots import (
    plot_coverage,
    plot_horizon,
    plot_pit,
    plot_reliability,
)
from pyro_vrnn.diagnostics.class_check import ClassCheck, check_classes
from pyro_vrnn.diagnostics.compare_guides import Comparison, Score, compare_guides
from pyro_vrnn.diagnostics.concat_runs import concat_runs
from pyro_vrnn.diagnostics.elbo_anatomy import elbo_anatomy
from pyro_vrnn.diagnostics.elbo_plots import plot_elbo_parts, plot_kl_by_site
from pyro_vrnn.diagnostics.elbo_terms import ELBOAnatomy, Estimate, LogLikelihood, SiteKL
from pyro_vrnn.diagnostics.fan_chart import plot_elbo, plot_fan
from pyro_vrnn.diagnostics.forecast_check import ForecastCheck, IntervalCheck, check_forecasts
from pyro_vrnn.diagnostics.ppc import plot_ppc
from pyro_vrnn.diagnostics.site_norms import SiteNorms, site_norms
from pyro_vrnn.diagnostics.uncertainty_by_site import SiteUncertainty, uncertainty_by_site
from pyro_vrnn.diagnostics.weight_plots import plot_site_norms, plot_weight_map

__all__ = [
    "ClassCheck",
    "Comparison",
    "ELBOAnatomy",
    "Estimate",
    "ForecastCheck",
    "IntervalCheck",
    "LogLikelihood",
    "Score",
    "SiteKL",
    "SiteNorms",
    "SiteUncertainty",
    "check_classes",
    "check_forecasts",
    "compare_guides",
    "concat_runs",
    "elbo_anatomy",
    "from_pyro_svi",
    "plot_coverage",
    "plot_elbo",
    "plot_elbo_parts",
    "plot_fan",
    "plot_horizon",
    "plot_kl_by_site",
    "plot_pit",
    "plot_ppc",
    "plot_reliability",
    "plot_site_norms",
    "plot_weight_map",
    "site_norms",
    "uncertainty_by_site",
]
