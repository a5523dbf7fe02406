"""Guides and training."""

from pyro_vrnn.infer.auto_drop_connect import AutoDropConnect
from pyro_vrnn.infer.auto_mean_field_normal import AutoMeanFieldNormal
from pyro_vrnn.infer.auto_multiplicative_normal import AutoMultiplicativeNormal
from pyro_vrnn.infer.auto_spike_and_slab import AutoSpikeAndSlab, NearSpike
from pyro_vrnn.infer.carried_state import CarriedState
from pyro_vrnn.infer.checkpoints import Checkpoint, CheckpointFolder
from pyro_vrnn.infer.elbo_draws import ELBODraw, elbo_draws
from pyro_vrnn.infer.elbo_parts import ELBOParts
from pyro_vrnn.infer.exact_kl_elbo import TraceExactKL_ELBO
from pyro_vrnn.infer.fit import fit, fit_loss
from pyro_vrnn.infer.fit_result import FitResult
from pyro_vrnn.infer.function_draws import function_draws
from pyro_vrnn.infer.guide_site import GuideSite
from pyro_vrnn.infer.held_out import HeldOut, held_out, held_out_log_likelihood
from pyro_vrnn.infer.initialization import init_to_module
from pyro_vrnn.infer.language_scores import (
    LanguageScores,
    score_language,
    score_language_network,
)
from pyro_vrnn.infer.posterior_files import load_posterior, posterior_facts, save_posterior
from pyro_vrnn.infer.predict import Prediction, predict
from pyro_vrnn.infer.training_state import (
    load_optimizer_state,
    load_scheduler_state,
    optimizer_state,
    scheduler_state,
)
from pyro_vrnn.infer.weight_guide import AutoWeightGuide

__all__ = [
    "AutoDropConnect",
    "AutoMeanFieldNormal",
    "AutoMultiplicativeNormal",
    "AutoSpikeAndSlab",
    "AutoWeightGuide",
    "CarriedState",
    "Checkpoint",
    "CheckpointFolder",
    "ELBODraw",
    "ELBOParts",
    "FitResult",
    "GuideSite",
    "HeldOut",
    "LanguageScores",
    "NearSpike",
    "Prediction",
    "TraceExactKL_ELBO",
    "elbo_draws",
    "fit",
    "fit_loss",
    "function_draws",
    "held_out",
    "held_out_log_likelihood",
    "init_to_module",
    "load_optimizer_state",
    "load_posterior",
    "load_scheduler_state",
    "optimizer_state",
    "posterior_facts",
    "predict",
    "save_posterior",
    "scheduler_state",
    "score_language",
    "score_language_network",
]
