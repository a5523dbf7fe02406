"""What the Bayesian networks are compared with: forecasts that know no Pyro."""

from pyro_vrnn.baselines.seasonal_naive import SeasonalNaive

__all__ = ["SeasonalNaive"]
