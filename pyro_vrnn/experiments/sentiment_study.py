"""Runs of the experiments on rated reviews."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from pyro_vrnn.baselines import GaussianLoss, mc_samples
from pyro_vrnn.data.pieces import PieceSplit
from pyro_vrnn.experiments.study_config import SentimentConfig
from pyro_vrnn.experiments.study_networks import Bayesian, Trainee, sentiment
from pyro_vrnn.experiments.study_run import (
    EpochLine,
    RunFile,
    StudyRequest,
    data_facts,
    train_options,
)
from pyro_vrnn.infer.predict import predict
from pyro_vrnn.runs import set_seed
from pyro_vrnn.scores import central_interval, coverage, gaussian_mixture_nll, rmse
from pyro_vrnn.shapes import FloatArray

MONITOR = "test_rmse"
BATCH = 512  # pieces scored at once
INTERVAL_DRAWS = 50  # of the noise, for each draw of the weights


def run_sentiment(study: StudyRequest, pieces: PieceSplit) -> dict[str, Any]:
    """
    Train a network of ratings and score it; the same call goes on where it was interrupted.

    After every epoch the test pieces, and as many training pieces, are scored at the means of the
    weights. The paper's preparation has no validation part: the epoch called best is that of the
    lowest test error, which flatters every method, and the last epoch is scored beside it.

    :param study: what is asked for; its configuration is a :class:`SentimentConfig`.
    :param PieceSplit pieces: the data.
    :returns: what stands in the JSON.
    :raises ValueError: if the folder is another run's.
    """
    config = study.config
    assert isinstance(config, SentimentConfig)
    data = Ratings(pieces)
    file = RunFile(study, data_facts(**data.tensors()))
    done = file.finished()
    if done is not None:
        return done
    set_seed(study.seed)
    num_train = len(data.train_x)
    trainee = sentiment(config, study.method, num_train)
    line = EpochLine(file, num_train, "pieces")
    score = partial(mean_errors, trainee, data, study.device)
    result = trainee.train(
        TensorDataset(data.train_x, data.train_y),
        batch_size=config.batch_size,
        optimizer=partial(torch.optim.Adam, lr=config.learning_rate),
        **train_options(study, line, score, MONITOR),
    )
    return file.write(result, _metrics(study, trainee, data), finished=True)


class Ratings:
    """
    Pieces with their ratings, standardised by the training ratings.

    :ivar float center: mean of the training ratings.
    :ivar float unit: their standard deviation.
    """

    def __init__(self, pieces: PieceSplit) -> None:
        labels = pieces.train_y.double()
        self.center, self.unit = float(labels.mean()), float(labels.std(correction=0))
        if not self.unit > 0:
            raise ValueError(f"Expected ratings that differ, got {self.center} for every piece.")
        self.train_x, self.test_x = pieces.train_x, pieces.test_x
        self.train_y = self._standard(pieces.train_y)
        self.test_y = self._standard(pieces.test_y)

    def _standard(self, labels: Tensor) -> Tensor:  # (n,) -> (n, 1)
        return ((labels.double() - self.center) / self.unit).float().unsqueeze(-1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the data by name."""
        return {n: getattr(self, n) for n in ("train_x", "train_y", "test_x", "test_y")}

    def raw_rmse(self, y: Tensor, loc: Tensor) -> float:
        """Return the error in the ratings' own units."""
        return self.unit * rmse(y.double().cpu().numpy(), loc.double().cpu().numpy())


def mean_errors(trainee: Trainee, data: Ratings, device: str) -> dict[str, float]:
    """Return the errors of the network at the means of its weights."""
    network = trainee.mean_network()
    count = len(data.test_x)
    found = {
        f"{part}_rmse": data.raw_rmse(y, _run(network, x, device))
        for part, x, y in (
            ("train", data.train_x[:count], data.train_y[:count]),
            ("test", data.test_x, data.test_y),
        )
    }
    if not isinstance(trainee, Bayesian):
        network.train()
    return found


@torch.no_grad()
def _run(network: torch.nn.Module, x: Tensor, device: str) -> Tensor:
    return torch.cat([network(part.to(device)) for part in x.split(BATCH)])


def _metrics(study: StudyRequest, trainee: Trainee, data: Ratings) -> dict[str, Any]:
    """Score the best epoch: at the means, and by an average over draws."""
    locs, tau = _draws(study, trainee, data)  # (S, n, 1)
    y = data.test_y.double().numpy()
    noise = data.unit / math.sqrt(tau)
    raw_y, raw = data.center + data.unit * y, data.center + data.unit * locs
    rng = np.random.default_rng(study.seed)
    shape = (INTERVAL_DRAWS, *raw.shape)
    draws = (raw + noise * rng.standard_normal(shape)).reshape(-1, *raw.shape[1:])
    lower, upper = central_interval(draws, 0.9)
    constant = np.full_like(raw_y, data.center)
    return {
        **mean_errors(trainee, data, study.device),
        "num_samples": len(locs),
        "mc_test_rmse": rmse(raw_y, raw.mean(axis=0)),
        "mc_test_nll": float(gaussian_mixture_nll(raw_y, raw, noise).mean()),
        "mc_test_coverage_90": float(coverage(raw_y, lower, upper).mean()),
        "epistemic_sd": float(raw.std(axis=0).mean()),
        "noise_sd": noise,
        "constant_test_rmse": rmse(raw_y, constant),
    }


def _draws(study: StudyRequest, trainee: Trainee, data: Ratings) -> tuple[FloatArray, float]:
    """Return means under draws of the weights, ``(S, n, 1)`` in standard units, and tau."""
    num_samples, device = study.config.num_samples, study.device
    parts = [x.to(device) for x in data.test_x.split(BATCH)]
    set_seed(study.seed)
    if isinstance(trainee, Bayesian):
        found = predict(
            trainee.model, trainee.guide, data.test_x.to(device),
            num_samples=num_samples, return_draws="mean", seed=study.seed,
            progress=study.progress,
        )  # fmt: skip
        assert found.mean_draws is not None
        return found.mean_draws.double().cpu().numpy(), _tau(trainee.model)
    assert isinstance(trainee.loss, GaussianLoss)
    network, tau = trainee.mean_network(), trainee.loss.tau.item()
    if study.method == "none":
        return _run(network, data.test_x, device).unsqueeze(0).double().cpu().numpy(), tau
    drawn = [mc_samples(network, x, num_samples) for x in parts]
    return torch.cat(drawn, dim=1).double().cpu().numpy(), tau


def _tau(model: torch.nn.Module) -> float:
    tau = model.tau
    assert isinstance(tau, Tensor)
    return tau.item()
