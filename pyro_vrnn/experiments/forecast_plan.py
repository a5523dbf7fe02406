"""What a forecasting study is run with, and what it cuts out of its series."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from pyro_vrnn.data.season import detect_season
from pyro_vrnn.data.windowing import TimeSplit, Windows, rolling_origins, split_in_time, windows
from pyro_vrnn.nn.recurrent import CELLS
from pyro_vrnn.runs import check_device, check_seed
from pyro_vrnn.shapes import FloatArray, check_choice, check_positive_int

MAX_WINDOWS = 4000


@dataclass(frozen=True)
class ForecastConfig:
    """
    What a study is run with. ``horizon`` and ``season`` of None are taken from the series.

    ``num_steps`` is the least number of optimiser steps of one candidate, of whatever method;
    whole epochs are run. ``scope`` is that of the Bayesian network's draws in training; plain
    dropout draws for each sequence, as the paper does.
    """

    horizon: int | None = None
    season: int | None = None
    cell: str = "lstm"
    hidden_size: int = 32
    drop_probs: tuple[float, ...] = (0.0, 0.1, 0.25)
    scales: tuple[float, ...] = (0.01, 0.05)
    scope: str = "sequence"
    num_steps: int = 500
    batch_size: int = 64
    learning_rate: float = 0.01
    num_samples: int = 400
    num_origins: int = 24
    ensemble_size: int = 5
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_choice("cell", self.cell, tuple(CELLS))
        check_choice("scope", self.scope, ("batch", "sequence"))
        for name in ("hidden_size", "num_steps", "batch_size", "num_origins", "ensemble_size"):
            check_positive_int(name, getattr(self, name))
        for name in ("horizon", "season"):
            if getattr(self, name) is not None:
                check_positive_int(name, getattr(self, name))
        check_seed(self.seed)
        check_device(self.device)
        if self.num_samples < 200:
            raise ValueError(f"Expected num_samples of at least 200, got {self.num_samples}.")

    @property
    def grid(self) -> list[tuple[float, float]]:
        """The pairs (p, sigma) to try, first the one that the lags are compared with."""
        pairs = [(p, scale) for p in self.drop_probs for scale in self.scales]
        first = min(pairs, key=lambda pair: abs(pair[0] - 0.1))
        return [first, *(pair for pair in pairs if pair != first)]

    @property
    def dropping(self) -> list[float]:
        """The p > 0 that plain dropout tries, in the same order; 0.1 if there is none."""
        return list(dict.fromkeys(p for p, _ in self.grid if p > 0)) or [0.1]


@dataclass(frozen=True)
class Plan:
    """What is forecast from what: sizes in steps of the series."""

    horizon: int
    season: int
    lags: tuple[int, ...]
    window: int
    split: TimeSplit
    offset: float  # mean and standard deviation of the training values
    unit: float

    def standardised(self, values: FloatArray) -> FloatArray:
        """Return ``values`` in units in which float32 loses nothing of a series' changes."""
        return (values - self.offset) / self.unit

    def past(self, values: FloatArray) -> FloatArray:
        """Return the training values, standardised."""
        return self.standardised(values)[: self.split.train.stop]

    def training_windows(self, values: FloatArray) -> Windows:
        """Return the training part's windows, standardised, at most about 4,000."""
        stride = math.ceil(len(self.split.train) / MAX_WINDOWS)
        return windows(
            self.past(values),
            window=self.window,
            horizon=self.horizon,
            stride=stride,
            dtype=torch.float32,
        )

    def origins(self, values: FloatArray, config: ForecastConfig, start: int) -> Windows:
        """Return the windows before ``num_origins`` rolling origins, the first target at start."""
        return rolling_origins(
            self.standardised(values),
            start,
            window=self.window,
            horizon=self.horizon,
            count=config.num_origins,
            dtype=torch.float32,
        )


def make_plan(values: FloatArray, config: ForecastConfig) -> Plan:
    """
    Decide horizon, season, candidate lags, window and split from the config and the series.

    Only the first half of the series is looked at for a season.

    :raises ValueError: if the series is too short for the origins asked for.
    """
    n = len(values)
    horizon = config.horizon or default_horizon(n)
    season = config.season or season_of(values)
    seasonal = seasonal_lag(season, horizon)
    lags = tuple(dict.fromkeys((seasonal, horizon)))
    window = default_window(seasonal)
    split = split_in_time(
        n,
        window=window,
        horizon=horizon,
        num_test_origins=config.num_origins,
        num_validation_origins=config.num_origins,
    )
    return Plan(horizon, season, lags, window, split, *units(values[: split.train.stop]))


def default_horizon(n: int) -> int:
    """Return how many steps of a series of n values are forecast where nobody says so."""
    return max(1, min(13, n // 120))


def season_of(values: FloatArray) -> int:
    """Return the season of a series, read off its first half."""
    head = values[: len(values) // 2]
    return detect_season(head, max_season=len(head) // 4)


def seasonal_lag(season: int, horizon: int) -> int:
    """
    Return the least whole number of seasons that is no less than the horizon.

    >>> seasonal_lag(12, 13)
    24
    """
    return season * math.ceil(horizon / season)


def default_window(lag: int) -> int:
    """Return how many past values a network of this lag sees where nobody says so."""
    return max(2 * lag, 16)


def units(past: FloatArray) -> tuple[float, float]:
    """Return mean and standard deviation of training values; 1 for that of a constant."""
    unit = float(past.std())
    # Rounding of the input itself can make a constant series vary in its last digits.
    if unit <= 1e-13 * float(np.abs(past).max()):
        unit = 1.0
    return float(past.mean()), unit


def batches(train: Windows, config: ForecastConfig, seed: int) -> tuple[DataLoader[Any], int]:
    """Return shuffled batches of the windows, and the epochs that make ``num_steps``."""
    loader = DataLoader(
        TensorDataset(train.x, train.y),
        batch_size=config.batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),
    )
    return loader, math.ceil(config.num_steps / len(loader))
