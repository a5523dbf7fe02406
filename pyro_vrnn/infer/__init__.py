"""Guides and training."""

from pyro_vrnn.infer.auto_spike_and_slab import AutoSpikeAndSlab, GuideSite
from pyro_vrnn.infer.fit import FitResult, fit
from pyro_vrnn.infer.initialization import init_to_module

__all__ = ["AutoSpikeAndSlab", "FitResult", "GuideSite", "fit", "init_to_module"]
