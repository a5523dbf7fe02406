"""The data and models that ``scope_variance.py`` measures on: the demo's series, film reviews."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pyro_vrnn as vrnn
from pyro_vrnn.data.series import co2_weekly
from pyro_vrnn.data.windowing import windows
from pyro_vrnn.experiments.forecast import ForecastConfig, make_plan

BATCH = 64
Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Problem:
    """
    Data, and how a model of them is built.

    :param data: the model's arguments, one row a sequence.
    :param facts: numbers about the data, for the results.
    """

    name: str
    data: Batch
    build: Callable[[], Any]
    learning_rate: float
    epochs: int
    facts: dict[str, int]

    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """Yield the minibatches of one epoch; a last short one is left out."""
        order = torch.randperm(len(self.data[0]), generator=generator)
        for rows in order.split(BATCH):
            if len(rows) == BATCH:
                yield tuple(part[rows] for part in self.data)


def series_problem(device: torch.device, quick: bool) -> Problem:
    """Return the demo's series and its forecaster."""
    values = co2_weekly().values
    plan = make_plan(values, ForecastConfig())
    past = plan.standardised(values)[: plan.split.train.stop]
    made = windows(past, window=plan.window, horizon=plan.horizon, dtype=torch.float32)

    def build() -> Any:
        model = vrnn.models.Forecaster(
            vrnn.nn.LSTM(1, 32),
            plan.horizon,
            lag=plan.lags[0],
            num_data=len(made.x),
            overlap=made.overlap,
        )
        model.fit_scaling(torch.as_tensor(past))
        return model.to(device)

    data = (made.x.to(device), made.y.to(device))
    steps = plan.window - plan.lags[0]
    facts = {"sequences": len(made.x), "steps": steps, "hidden": 32, "horizon": plan.horizon}
    return Problem("series", data, build, 0.01, 2 if quick else 40, facts)


def review_problem(path: Path, device: torch.device, quick: bool) -> Problem:
    """Return reviews and their ratings, in standard units; words are in the data only as ids."""
    size, vocabulary, steps = 64, 2000, 100
    texts: list[list[str]] = []
    ratings: list[float] = []
    for folder in sorted(p for p in path.iterdir() if p.is_dir()):
        lines = (folder / f"subj.{folder.name}").read_text(encoding="latin-1").splitlines()
        texts += [line.split()[:steps] for line in lines]
        ratings += map(float, (folder / f"rating.{folder.name}").read_text().split())
    if len(texts) != len(ratings) or not texts:
        raise ValueError(f"Expected a rating for each review, got {len(ratings)}, {len(texts)}.")
    counts = Counter(word for text in texts for word in text)
    ids = {word: k for k, (word, _) in enumerate(counts.most_common(vocabulary), start=2)}
    x = torch.zeros(len(texts), steps, dtype=torch.long)  # 0 pads, 1 is any other word
    for n, text in enumerate(texts):
        x[n, : len(text)] = torch.tensor([ids.get(word, 1) for word in text])
    y = torch.tensor(ratings).unsqueeze(-1)
    y = (y - y.mean()) / y.std()
    lengths = torch.tensor([max(1, len(text)) for text in texts])

    def build() -> Any:
        return vrnn.models.SequenceRegression(
            vrnn.nn.LSTM(size, size),
            out_features=1,
            learn_tau=True,
            num_data=len(texts),
            embedding=vrnn.nn.Embedding(vocabulary + 2, size, padding_idx=0),
        ).to(device)

    facts = {
        "sequences": len(texts), "steps": steps, "hidden": size, "vocabulary": vocabulary + 1
    }  # fmt: skip
    data = (x.to(device), y.to(device), lengths)
    return Problem("reviews", data, build, 0.003, 1 if quick else 6, facts)
