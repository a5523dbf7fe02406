"""Runs of the language-model experiments."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from pyro_vrnn.baselines import LanguageNetwork
from pyro_vrnn.data.corpus import Corpus
from pyro_vrnn.data.streams import StreamWindows
from pyro_vrnn.experiments.study_config import LanguageConfig
from pyro_vrnn.experiments.study_networks import Bayesian, Trainee, language
from pyro_vrnn.experiments.study_run import (
    EpochLine,
    RunFile,
    StudyRequest,
    data_facts,
    train_options,
)
from pyro_vrnn.infer.carried_state import CarriedState
from pyro_vrnn.infer.language_scores import (
    LanguageScores,
    score_language,
    score_language_network,
)
from pyro_vrnn.runs import set_seed

EVALUATION_WINDOW = 500  # steps of the one stream that is scored
TRAIN_SAMPLE = 20_000  # first tokens of the training text, scored as the held-out texts are
MONITOR = "valid_nll"


def run_language(study: StudyRequest, corpus: Corpus) -> dict[str, Any]:
    """
    Train a language model and score it; the same call goes on where it was interrupted.

    After every epoch the validation and test texts, and the first part of the training text, are
    scored at the means of the weights, and the run's JSON is written. The best epoch is that of the
    lowest validation score; its weights are scored at the end, by their means and by an average
    over draws.

    :param study: what is asked for; its configuration is a :class:`LanguageConfig`.
    :param Corpus corpus: the texts.
    :returns: what stands in the JSON.
    :raises ValueError: if the folder is another run's, or the training text is too short.
    """
    config = study.config
    assert isinstance(config, LanguageConfig)
    eos = corpus.vocabulary.index[corpus.vocabulary.EOS]
    train = first_lines(corpus.train, eos, config.max_train_lines)
    windows = StreamWindows(train, config.batch_size, config.window)
    texts = {"valid": corpus.valid, "test": corpus.test}
    file = RunFile(study, data_facts(train=train, **texts))
    done = file.finished()
    if done is not None:
        return done
    scored = {
        name: StreamWindows(ids, 1, EVALUATION_WINDOW, start=eos)
        for name, ids in {"train": train[:TRAIN_SAMPLE], **texts}.items()
    }
    set_seed(study.seed)
    tokens = windows.num_targets
    trainee = language(config, study.method, len(corpus.vocabulary), tokens)
    result = _train(study, config, trainee, windows, scored, file)
    metrics = _metrics(study, trainee, scored)
    return file.write(result, metrics, finished=True)


def first_lines(ids: Tensor, eos: int, count: int | None) -> Tensor:
    """Return the text up to its ``count``-th ``<eos>``; all of it for None."""
    if count is None:
        return ids
    ends = (ids == eos).nonzero().flatten()
    return ids if len(ends) <= count else ids[: int(ends[count - 1]) + 1]


def _train(
    study: StudyRequest,
    config: LanguageConfig,
    trainee: Trainee,
    windows: StreamWindows,
    scored: dict[str, StreamWindows],
    file: RunFile,
) -> Any:
    # From the recipe's loss, a sum over the steps of a window, to nats over the whole data.
    unit = config.window / windows.num_targets
    line = EpochLine(file, windows.num_targets, "tokens")
    data: Any = CarriedState(windows, trainee.keeper) if config.carry_state else windows
    if not config.carry_state:
        data = list(windows)
    return trainee.train(
        data,
        optimizer=partial(torch.optim.SGD, lr=config.learning_rate * unit),
        scheduler=partial(LambdaLR, lr_lambda=partial(_rate, config=config)),
        clip_norm=config.clip_norm / unit,
        **train_options(study, line, partial(mean_scores, trainee, scored), MONITOR),
    )


def _rate(epoch: int, config: LanguageConfig) -> float:
    return config.decay ** -max(0, epoch + 1 - config.decay_after)


def mean_scores(trainee: Trainee, scored: dict[str, StreamWindows]) -> dict[str, float]:
    """Return nats a token of each text, at the means of the weights."""
    return {
        f"{name}_nll": score(trainee, windows, draws="mean", progress=False).nats_per_token
        for name, windows in scored.items()
    }


def score(trainee: Trainee, windows: StreamWindows, **options: Any) -> LanguageScores:
    """Score a text: under draws, or at the means of the weights with ``draws="mean"``."""
    if isinstance(trainee, Bayesian):
        return score_language(trainee.model, trainee.guide, windows, **options)
    network = trainee.loss.network
    assert isinstance(network, LanguageNetwork)
    return score_language_network(network, windows, **options)


def _metrics(
    study: StudyRequest, trainee: Trainee, scored: dict[str, StreamWindows]
) -> dict[str, Any]:
    """Score the best epoch: at the means, and by an average over draws that are held."""
    metrics: dict[str, Any] = {
        f"{name}_perplexity": score(trainee, windows, draws="mean", progress=False).perplexity
        for name, windows in scored.items()
    }
    if study.method == "none":
        return metrics
    metrics |= {"num_samples": study.config.num_samples, "draws": "held"}
    for name, dropped in (("mc_test", True), ("mc_test_embedding_kept", False)):
        found = score(
            trainee,
            scored["test"],
            num_samples=study.config.num_samples,
            embedding_dropout=dropped,
            seed=study.seed,
            progress=study.progress,
        )
        metrics |= {
            f"{name}_perplexity": found.perplexity,
            f"{name}_geometric_mean_perplexity": found.geometric_mean_perplexity,
            f"{name}_finite_sample_bias": found.finite_sample_bias,
        }
    return metrics
