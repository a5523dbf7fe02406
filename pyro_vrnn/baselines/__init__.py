"""What the Bayesian networks are compared with: dropout in plain torch, and a forecast's floor."""

from pyro_vrnn.baselines.embedding import Embedding
from pyro_vrnn.baselines.function_draw import function_draw, mean_network
from pyro_vrnn.baselines.language import LanguageNetwork
from pyro_vrnn.baselines.linear import Linear
from pyro_vrnn.baselines.losses import GaussianLoss, LanguageLoss, SoftmaxLoss
from pyro_vrnn.baselines.mc_dropout import mc_samples
from pyro_vrnn.baselines.networks import ForecastNetwork, SequenceNetwork
from pyro_vrnn.baselines.recurrent import GRU, LSTM, RNN
from pyro_vrnn.baselines.seasonal_naive import SeasonalNaive
from pyro_vrnn.baselines.weight_decay import decay_groups, l2_penalty, length_scale_weight_decay

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Embedding",
    "ForecastNetwork",
    "GaussianLoss",
    "LanguageLoss",
    "LanguageNetwork",
    "Linear",
    "SeasonalNaive",
    "SequenceNetwork",
    "SoftmaxLoss",
    "decay_groups",
    "function_draw",
    "l2_penalty",
    "length_scale_weight_decay",
    "mc_samples",
    "mean_network",
]
