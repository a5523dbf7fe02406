"""Whether to believe a fit: export to ArviZ, plots, where uncertainty comes from."""

from pyro_vrnn.diagnostics.arviz_export import from_pyro_svi
from pyro_vrnn.diagnostics.fan_chart import plot_elbo, plot_fan
from pyro_vrnn.diagnostics.uncertainty_by_site import SiteUncertainty, uncertainty_by_site

__all__ = ["SiteUncertainty", "from_pyro_svi", "plot_elbo", "plot_fan", "uncertainty_by_site"]
