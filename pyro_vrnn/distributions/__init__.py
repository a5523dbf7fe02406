"""Distributions of weights and their exact divergences from a diagonal normal."""

from pyro_vrnn.distributions.block_dropout import BlockDropout
from pyro_vrnn.distributions.categorical import Categorical
from pyro_vrnn.distributions.kl import KLParts, gal_gap, gal_kl_divergence, kl_parts
from pyro_vrnn.distributions.multiplicative_normal import MultiplicativeNormal
from pyro_vrnn.distributions.spike_and_slab import SpikeAndSlab
from pyro_vrnn.distributions.weight_site import WeightSite

__all__ = [
    "BlockDropout",
    "Categorical",
    "KLParts",
    "MultiplicativeNormal",
    "SpikeAndSlab",
    "WeightSite",
    "gal_gap",
    "gal_kl_divergence",
    "kl_parts",
]
