"""Whether to believe a fit: export to ArviZ, the ELBO taken apart, and plots."""

from pyro_vrnn.diagnostics.arviz_export import from_pyro_svi
from pyro_vrnn.diagnostics.compare_guides import Comparison, Score, compare_guides
from pyro_vrnn.diagnostics.elbo_anatomy import elbo_anatomy
from pyro_vrnn.diagnostics.elbo_plots import plot_elbo_parts, plot_kl_by_site
from pyro_vrnn.diagnostics.elbo_terms import ELBOAnatomy, Estimate, LogLikelihood, SiteKL
from pyro_vrnn.diagnostics.fan_chart import plot_elbo, plot_fan
from pyro_vrnn.diagnostics.site_norms import SiteNorms, site_norms
from pyro_vrnn.diagnostics.weight_plots import plot_site_norms, plot_weight_map

__all__ = [
    "Comparison",
    "ELBOAnatomy",
    "Estimate",
    "LogLikelihood",
    "Score",
    "SiteKL",
    "SiteNorms",
    "compare_guides",
    "elbo_anatomy",
    "from_pyro_svi",
    "plot_elbo",
    "plot_elbo_parts",
    "plot_fan",
    "plot_kl_by_site",
    "plot_site_norms",
    "plot_weight_map",
    "site_norms",
]
