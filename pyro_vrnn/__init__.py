"""Bayesian recurrent networks in Pyro: priors on weights, spike-and-slab guides, SVI."""

from pyro_vrnn import distributions, infer, models, nn

__version__ = "0.1.0"

__all__ = ["distributions", "infer", "models", "nn"]
