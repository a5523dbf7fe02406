"""Pyro models: a recurrent network with priors, a likelihood, and a plate over the data."""

from pyro_vrnn.models.classification import SequenceClassification
from pyro_vrnn.models.forecaster import Forecaster
from pyro_vrnn.models.language import LanguageModel
from pyro_vrnn.models.regression import SequenceRegression

__all__ = ["Forecaster", "LanguageModel", "SequenceClassification", "SequenceRegression"]
