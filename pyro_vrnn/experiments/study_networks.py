"""What the methods of an experiment train: a plain network, or a Pyro model and its guide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn import baselines
from pyro_vrnn.baselines.recurrent import CELLS as PLAIN_CELLS
from pyro_vrnn.experiments.study_config import LanguageConfig, SentimentConfig, StudyConfig
from pyro_vrnn.infer.auto_spike_and_slab import AutoSpikeAndSlab
from pyro_vrnn.infer.fit import fit, fit_loss
from pyro_vrnn.infer.fit_result import FitResult
from pyro_vrnn.infer.initialization import default_initial
from pyro_vrnn.models.language import LanguageModel
from pyro_vrnn.models.regression import SequenceRegression
from pyro_vrnn.nn.embedding import Embedding
from pyro_vrnn.nn.recurrent import CELLS


@dataclass
class Plain:
    """A plain network and its loss."""

    loss: baselines.losses.PenalisedLoss

    @property
    def keeper(self) -> Any:
        """What keeps the state of a language network."""
        return self.loss

    def mean_network(self) -> torch.nn.Module:
        """Return the network at the means of its weights."""
        return self.loss.network.eval()

    def train(self, data: Any, **options: Any) -> FitResult:
        """Train it."""
        self.loss.train()
        return fit_loss(self.loss, data, **options)


@dataclass
class Bayesian:
    """A Pyro model and its guide."""

    model: torch.nn.Module
    guide: AutoSpikeAndSlab

    @property
    def keeper(self) -> Any:
        """What keeps the state of a language model."""
        return self.model

    def mean_network(self) -> torch.nn.Module:
        """Return the plain network at the means of the weights."""
        return self.guide.to_torch(self.model, "mean").eval()

    def train(self, data: Any, **options: Any) -> FitResult:
        """Train it."""
        return fit(self.model, self.guide, data, **options)


def language(
    config: LanguageConfig, method: str, vocab_size: int, num_tokens: int
) -> Plain | Bayesian:
    """Return what is trained for a language model: all methods start from one distribution."""
    prior_scale, size = config.prior_scale(num_tokens), config.hidden_size
    start = partial(_uniform, bound=config.init)
    if method == "svi":
        model = LanguageModel(
            vocab_size, size, size, config.num_layers,
            cell=config.cell, num_data=num_tokens, prior_scale=prior_scale,
        )  # fmt: skip
        return Bayesian(model, _guide(model, config, lambda site: start(site["fn"].event_shape)))
    options = _options(config, method)
    network = baselines.LanguageNetwork(
        baselines.Embedding(vocab_size, size, **options),
        PLAIN_CELLS[config.cell](size, size, config.num_layers, batch_first=True, **options),
        baselines.Linear(size, vocab_size, **options),
    )
    for parameter in network.parameters():
        parameter.data.copy_(start(parameter.shape))
    penalty = None if method == "none" else prior_scale
    return Plain(baselines.LanguageLoss(network, num_data=num_tokens, prior_scale=penalty))


def sentiment(config: SentimentConfig, method: str, num_pieces: int) -> Plain | Bayesian:
    """Return what is trained for ratings: all methods start from one distribution."""
    prior_scale = config.prior_scale(num_pieces)
    inputs, size, words = config.embedding_dim, config.hidden_size, config.vocabulary_size
    if method == "svi":
        model = SequenceRegression(
            CELLS[config.cell](inputs, size, batch_first=True, prior_scale=prior_scale),
            out_features=1,
            learn_tau=True,
            num_data=num_pieces,
            embedding=Embedding(words, inputs, prior_scale=prior_scale),
            prior_scale=prior_scale,
        )

        def initial(site: dict[str, Any]) -> Tensor:
            if site["name"] == "embedding.weight":
                return _uniform(site["fn"].event_shape, config.embedding_init)
            value = default_initial(site)
            return _opened(value, config) if site["name"] == "rnn.bias_ih_l0" else value

        return Bayesian(model, _guide(model, config, initial))
    options = _options(config, method)
    network = baselines.SequenceNetwork(
        PLAIN_CELLS[config.cell](inputs, size, batch_first=True, **options),
        baselines.Linear(size, 1, **options),
        baselines.Embedding(words, inputs, **options),
    )
    assert network.embedding is not None
    network.embedding.weight.data.uniform_(-config.embedding_init, config.embedding_init)
    bias = network.rnn.bias_ih_l0
    assert isinstance(bias, Tensor)
    bias.data.copy_(_opened(bias.data, config))
    penalty = None if method == "none" else prior_scale
    loss = baselines.GaussianLoss(network, learn_tau=True, num_data=num_pieces, prior_scale=penalty)
    return Plain(loss)


def _guide(model: torch.nn.Module, config: StudyConfig, init: Any) -> AutoSpikeAndSlab:
    return AutoSpikeAndSlab(
        model,
        drop_prob=config.drop_probs.by_kind(),
        scale=config.noise,
        scope="sequence",
        parametrization="inverted",
        init_loc_fn=init,
    )


def _options(config: StudyConfig, method: str) -> dict[str, Any]:
    name = "none" if method == "none" else "variational"
    drop_prob = config.drop_probs.by_kind()
    return {"method": name, "drop_prob": drop_prob, "parametrization": "inverted"}


def _opened(bias: Tensor, config: SentimentConfig) -> Tensor:
    """Return the first bias of a layer, with that of an LSTM's forget gate one higher."""
    if config.cell != "lstm":
        return bias
    gates = torch.tensor([0.0, 1.0, 0.0, 0.0], device=bias.device)  # i, f, g, o
    return bias + gates.repeat_interleave(config.hidden_size)


def _uniform(shape: Any, bound: float) -> Tensor:
    return torch.empty(shape).uniform_(-bound, bound)


Trainee = Plain | Bayesian
Validation = Callable[[], dict[str, float]]
