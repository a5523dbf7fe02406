"""Layers with torch.nn's constructors and parameter names, and a Gaussian prior on each weight."""

from pyro_vrnn.nn.bayesianize import bayesianize
from pyro_vrnn.nn.embedding import Embedding
from pyro_vrnn.nn.linear import Linear
from pyro_vrnn.nn.plain import plain_torch
from pyro_vrnn.nn.recurrent import GRU, LSTM, RNN

__all__ = ["GRU", "LSTM", "RNN", "Embedding", "Linear", "bayesianize", "plain_torch"]
