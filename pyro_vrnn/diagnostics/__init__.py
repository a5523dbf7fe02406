"""Whether to believe a fit: export to ArviZ, the ELBO taken apart, and plots."""

from pyro_vrnn.diagnostics.arviz_export import from_pyro_svi
from pyro_vrnn.diagnostics.elbo_anatomy import elbo_anatomy
from pyro_vrnn.diagnostics.elbo_terms import ELBOAnatomy, Estimate, LogLikelihood, SiteKL
from pyro_vrnn.diagnostics.fan_chart import plot_elbo, plot_fan

__all__ = [
    "ELBOAnatomy",
    "Estimate",
    "LogLikelihood",
    "SiteKL",
    "elbo_anatomy",
    "from_pyro_svi",
    "plot_elbo",
    "plot_fan",
]
