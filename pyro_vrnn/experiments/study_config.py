"""The configurations of the paper's experiments, and of a smaller one that a CPU can do."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pyro_vrnn.nn.recurrent import CELLS
from pyro_vrnn.shapes import (
    check_choice,
    check_nonnegative_float,
    check_positive_float,
    check_positive_int,
    check_probability,
)

METHODS = ("none", "dropout", "svi")
METHOD_TEXTS = {
    "none": "no dropout, plain torch",
    "dropout": "dropout as VI, plain torch",
    "svi": "spike and slab, SVI",
}


@dataclass(frozen=True)
class DropProbs:
    """Probabilities of dropping: word types, inputs of the layers, h, inputs of the head."""

    embedding: float
    weight_ih: float
    weight_hh: float
    linear: float

    def __post_init__(self) -> None:
        for name, value in self.by_kind().items():
            check_probability(f"drop_prob of {name}", value)

    def by_kind(self) -> dict[str, float]:
        """Return them under the names that guides and baselines take."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class StudyConfig:
    """
    What the experiments share.

    ``weight_decay`` is the coefficient of an L2 penalty as the recipe of an experiment has it; both
    the penalty of plain dropout and the prior of the Bayesian network are made from it.
    ``noise`` is the standard deviation of spike and slab, in the units of the weights.
    """

    num_epochs: int
    batch_size: int
    hidden_size: int
    cell: str
    drop_probs: DropProbs
    weight_decay: float
    noise: float = 0.01
    num_samples: int = 20

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batch_size", "hidden_size", "num_samples"):
            check_positive_int(name, getattr(self, name))
        check_choice("cell", self.cell, tuple(CELLS))
        check_positive_float("weight_decay", self.weight_decay)
        check_nonnegative_float("noise", self.noise)


@dataclass(frozen=True)
class LanguageConfig(StudyConfig):
    """
    A word-level language model, trained by SGD with truncated back-propagation through time.

    The recipe's loss is the mean over streams of the sum over the window's steps, and clipping and
    learning rate are in its units. The rate is divided by ``decay`` after every epoch from
    ``decay_after`` on. Weights start from U(-init, init). With ``carry_state=False`` every window
    starts from zeros, in training.
    """

    num_layers: int = 2
    window: int = 35
    learning_rate: float = 1.0
    decay: float = 1.2
    decay_after: int = 6
    clip_norm: float = 5.0
    init: float = 0.1
    carry_state: bool = True
    max_train_lines: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_layers", "window", "decay_after"):
            check_positive_int(name, getattr(self, name))
        for name in ("learning_rate", "decay", "clip_norm", "init"):
            check_positive_float(name, getattr(self, name))

    def prior_scale(self, num_tokens: int) -> float:
        r"""
        Return the prior's s, of which ``weight_decay`` is the pull on a weight in one step.

        A step on the recipe's loss, 1 / (N / T) of minus the ELBO, pulls a weight by
        :math:`\eta\, T / (N s^2)` of itself; at the first learning rate :math:`\eta = 1` that is
        the weight decay of the recipe for :math:`s^2 = T / (N \lambda)`.
        """
        return math.sqrt(self.window / (num_tokens * self.weight_decay))


@dataclass(frozen=True)
class SentimentConfig(StudyConfig):
    """
    Ratings of pieces of reviews by a network of one layer, trained by Adam.

    Ratings are standardised. ``weight_decay`` multiplies the squared weights beside the mean
    squared error, at a precision of 1 in these units. Two things start as in Keras, which the
    paper's code uses, and not as in torch: word vectors from U(-init, init), and an LSTM's forget
    gate with a bias one higher.
    """

    embedding_dim: int = 128
    vocabulary_size: int = 20_000
    piece_length: int = 200
    learning_rate: float = 1e-3
    embedding_init: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("embedding_dim", "vocabulary_size", "piece_length"):
            check_positive_int(name, getattr(self, name))
        for name in ("learning_rate", "embedding_init"):
            check_positive_float(name, getattr(self, name))

    def prior_scale(self, num_pieces: int) -> float:
        r"""
        Return the prior's s, by :math:`\lambda = 1 / (N s^2)` beside the mean squared error.

        That is :func:`~pyro_vrnn.baselines.length_scale_weight_decay` at p = 0, beside half of it,
        for a precision of 1.
        """
        return 1 / math.sqrt(num_pieces * self.weight_decay)


_SMALL = DropProbs(0.25, 0.25, 0.25, 0.25)


def _sentiment(cell: str) -> SentimentConfig:
    return SentimentConfig(
        num_epochs=20, batch_size=128, hidden_size=128, cell=cell,
        drop_probs=DropProbs(0.25, 0.25, 0.25, 0.0), weight_decay=1e-4, noise=1e-3,
    )  # fmt: skip


CONFIGS: dict[str, LanguageConfig | SentimentConfig] = {
    # Two layers of 200 on a fifth of the training text, for a CPU.
    "ptb-fifth": LanguageConfig(
        num_epochs=25, batch_size=20, hidden_size=200, cell="lstm",
        drop_probs=_SMALL, weight_decay=1e-5, max_train_lines=8414,
    ),
    # Gal & Ghahramani's slides and first code.
    "ptb-small": LanguageConfig(
        num_epochs=180, batch_size=20, hidden_size=200, cell="lstm", window=20, decay=1.0,
        drop_probs=_SMALL, weight_decay=1e-5, carry_state=False,
    ),
    # Zaremba et al.'s medium schedule with the paper's drop probabilities.
    "ptb-medium": LanguageConfig(
        num_epochs=39, batch_size=20, hidden_size=650, cell="lstm", init=0.05,
        drop_probs=DropProbs(0.2, 0.35, 0.2, 0.35), weight_decay=1e-7,
    ),
    # The code of the paper.
    "ptb-large": LanguageConfig(
        num_epochs=55, batch_size=20, hidden_size=1500, cell="lstm", init=0.04,
        decay=1.15, decay_after=10, clip_norm=10.0,
        drop_probs=DropProbs(0.3, 0.5, 0.3, 0.5), weight_decay=1e-7,
    ),
    "sentiment-lstm": _sentiment("lstm"),
    "sentiment-gru": _sentiment("gru"),
}  # fmt: skip


def find_config(name: str) -> LanguageConfig | SentimentConfig:
    """
    Return a configuration by its name.

    >>> find_config("ptb-large").hidden_size
    1500

    :raises ValueError: if there is none of that name.
    """
    return CONFIGS[check_choice("name", name, tuple(CONFIGS))]
