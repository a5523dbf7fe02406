"""What the Bayesian networks are compared with: forecasts and nets that know no Pyro."""

from pyro_vrnn.baselines.seasonal_naive import SeasonalNaive

__all__ = ["SeasonalNaive"]
