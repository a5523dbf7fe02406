"""Guides and training."""

from pyro_vrnn.infer.auto_spike_and_slab import AutoSpikeAndSlab, GuideSite
from pyro_vrnn.infer.exact_kl_elbo import ELBOParts, TraceExactKL_ELBO
from pyro_vrnn.infer.fit import FitResult, fit
from pyro_vrnn.infer.function_draws import function_draws
from pyro_vrnn.infer.initialization import init_to_module
from pyro_vrnn.infer.predict import Prediction, predict

__all__ = [
    "AutoSpikeAndSlab",
    "ELBOParts",
    "FitResult",
    "GuideSite",
    "Prediction",
    "TraceExactKL_ELBO",
    "fit",
    "function_draws",
    "init_to_module",
    "predict",
]
