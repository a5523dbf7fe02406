"""Experiments by name: which data they read, and where a run's files go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pyro_vrnn.data.corpus import read_corpus
from pyro_vrnn.data.documents import read_ratings
from pyro_vrnn.data.pieces import PieceSplit, paper_pieces
from pyro_vrnn.experiments.language_study import run_language
from pyro_vrnn.experiments.sentiment_study import run_sentiment
from pyro_vrnn.experiments.study_config import LanguageConfig, SentimentConfig, find_config
from pyro_vrnn.experiments.study_run import StudyRequest
from pyro_vrnn.experiments.train_config import threads_for


def run_experiment(
    name: str,
    data: str | Path,
    *,
    method: str,
    seed: int = 0,
    out: str | Path = "runs",
    device: str = "cpu",
    num_epochs: int | None = None,
    num_samples: int | None = None,
    text: str | None = None,
    label: str | None = None,
    progress: bool = True,
) -> tuple[Path, dict[str, Any]]:
    """
    Run one experiment by one method; the same call goes on where it was interrupted.

    :param name: of the configuration, such as ``"ptb-fifth"``.
    :param data: for language models a folder of three texts (:func:`~pyro_vrnn.data.read_corpus`);
        for sentiment the folder of the scale data, or a ``.csv`` or ``.jsonl`` file
        (:func:`~pyro_vrnn.data.read_ratings`).
    :param str method: ``"none"``, ``"dropout"`` or ``"svi"``.
    :param out: the folder of runs; this one's is ``NAME-METHOD-seedS`` in it.
    :param num_epochs: instead of the configuration's.
    :param num_samples: draws for the scores at the end, instead of the configuration's.
    :param text: the column of texts in a file of reviews; default: ``"text"``.
    :param label: that of their ratings; default: ``"label"``.
    :returns: the run's folder, and what stands in its JSON.
    :raises ValueError: if an argument or the data do not fit, or the folder is another run's.
    :raises FileNotFoundError: if there are no data.
    """
    config = find_config(name)
    config = replace(
        config,
        num_epochs=config.num_epochs if num_epochs is None else num_epochs,
        num_samples=config.num_samples if num_samples is None else num_samples,
    )
    if isinstance(config, LanguageConfig) and (text, label) != (None, None):
        raise ValueError(
            f"Expected text and label, columns of reviews, with sentiment only, got {name!r}."
        )
    folder = Path(out) / f"{name}-{method}-seed{seed}"
    study = StudyRequest(name, config, method, seed, folder, device, progress)
    with threads_for(config.hidden_size):
        if isinstance(config, LanguageConfig):
            return folder, run_language(study, read_corpus(data))
        pieces = read_pieces(data, config, text=text, label=label)
        return folder, run_sentiment(study, pieces)


def read_pieces(
    data: str | Path,
    config: SentimentConfig,
    *,
    text: str | None = None,
    label: str | None = None,
) -> PieceSplit:
    """Read rated reviews, and cut them as the paper does."""
    return paper_pieces(
        read_ratings(data, text=text, label=label),
        length=config.piece_length,
        vocabulary_size=config.vocabulary_size,
    )
