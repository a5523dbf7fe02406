"""Whether to believe a fit: export to ArviZ and plots."""

from pyro_vrnn.diagnostics.arviz_export import from_pyro_svi
from pyro_vrnn.diagnostics.concat_runs import concat_runs
from pyro_vrnn.diagnostics.fan_chart import plot_elbo, plot_fan

__all__ = ["concat_runs", "from_pyro_svi", "plot_elbo", "plot_fan"]
