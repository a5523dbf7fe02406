"""Bayesian recurrent networks in Pyro: priors on weights, spike-and-slab guides, SVI."""

from pyro_vrnn import distributions, infer, models, nn
from pyro_vrnn.diagnostics import from_pyro_svi

__version__ = "0.1.0"

__all__ = ["distributions", "from_pyro_svi", "infer", "models", "nn"]
