"""
Rows of the posterior predictive, against Pyro's ``Predictive`` and against plain forward passes.

Guard against a prediction that pays Pyro's price for every draw (few sequences), leaves the
library's kernel (many sequences), or keeps what it has drawn.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import Predictive
from torch import Tensor

import pyro_vrnn as vrnn
from benchmarks.speed_timing import (
    Case,
    Program,
    Setting,
    compare,
    in_turns,
    layer_products,
    with_counts,
)

STEPS, INPUTS, DRAWS, SERIAL_DRAWS = 35, 8, 1000, 100
TIMES = 10  # as many draws once more, where what a prediction costs whatever their number shows
MANY_SEQUENCES, MANY_HIDDEN, MANY_DRAWS = 1000, 200, 10
FLOOR = 1.5  # the other way to hold: within this many times the floor


class Trained:
    """A regression model, its guide with its sites, and sequences to predict."""

    def __init__(
        self, sequences: int, hidden: int, scale: float, device: torch.device, steps: int = STEPS
    ) -> None:
        self.hidden, self.scale = hidden, scale
        rnn = vrnn.nn.LSTM(INPUTS, hidden)
        self.model = vrnn.models.SequenceRegression(rnn, out_features=1).to(device)
        self.guide = vrnn.infer.AutoSpikeAndSlab(self.model, scale=scale, drop_prob=0.25)
        self.x = torch.randn(sequences, steps, INPUTS, device=device)
        self.guide(self.x[:1], torch.zeros(1, 1, device=device))
        self.guide.to(device)
        self.weights = sum(site.shape.numel() for site in self.guide.sites.values())

    def predict(self, num_samples: int) -> None:
        """Predict by our function."""
        vrnn.infer.predict(
            self.model, self.guide, self.x, num_samples=num_samples, progress=False, seed=0
        )

    def serial(self, num_samples: int) -> None:
        """Predict by Pyro's sequential ``Predictive``."""
        Predictive(self.model, guide=self.guide, num_samples=num_samples, return_sites=("obs",))(
            self.x
        )

    def draw(self, num_samples: int) -> None:
        """Draw the weights in a plate, as ``predict`` does."""
        with poutine.mask(mask=False), pyro.plate("draws", num_samples, dim=-2):
            self.guide(self.x)


@torch.no_grad()
def floor_seconds(setting: Setting, trained: Trained, num_samples: int) -> dict[str, float]:
    """
    Measure what dense draws for one sequence cannot do without: their normals and products.

    Normals are torch's ``normal_``. With noise, every draw has matrices of its own, unless it is
    drawn along the states alone, which goes below this floor (docs/design/engine.md): the products
    are timed for a part of the draws, as batched products and one by one, and the faster counts.
    With masks only, draws share the matrices: the products go at the best rate of this run.
    """
    device, part = setting.device, min(num_samples, 50)
    steps, hidden = trained.x.shape[1], trained.hidden
    count = num_samples * layer_products("LSTM", (steps, 1, hidden), INPUTS, grad=False)
    if trained.scale == 0:
        return {"normals": 0.0, "products": count / setting.rate}
    normals = torch.empty(part * trained.weights, device=device)
    matrix = torch.randn(part, hidden + INPUTS, 4 * hidden, device=device)
    row = torch.randn(part, 1, hidden + INPUTS, device=device)
    out = torch.empty(part, 1, 4 * hidden, device=device)

    def together() -> None:
        for _ in range(steps):
            torch.bmm(row, matrix, out=out)

    def one_by_one() -> None:
        for m, r, o in zip(matrix, row, out, strict=True):
            for _ in range(steps):
                torch.mm(r, m, out=o)

    seconds = in_turns(setting, normals.normal_, together, one_by_one)
    draw, *products = (statistics.median(s) * num_samples / part for s in seconds)
    return {"normals": draw, "products": min(products)}


def _measure_one(setting: Setting, hidden: int, scale: float, draws: int) -> dict[str, Any]:
    trained = Trained(1, hidden, scale, setting.device)
    floor = floor_seconds(setting, trained, draws)
    found = compare(
        setting,
        partial(trained.serial, SERIAL_DRAWS),
        partial(trained.predict, draws),
        scale_reference=draws / SERIAL_DRAWS,
        warm_up=1,
    )
    count = draws * layer_products("LSTM", (STEPS, 1, hidden), INPUTS, grad=False)
    total = sum(floor.values())
    return with_counts(setting, found, count, count) | {
        "weights": trained.weights,
        "floor_seconds": {**floor, "total": total},
        "floor_ratio": found["seconds"] / total,
        "floor_target": FLOOR,
        "reference_draws": SERIAL_DRAWS,
    }


def _measure_many(setting: Setting, scale: float) -> dict[str, Any]:
    draws, sequences = MANY_DRAWS, 200 if setting.quick else MANY_SEQUENCES
    trained = Trained(sequences, MANY_HIDDEN, scale, setting.device)
    device = setting.device
    modules = [torch.nn.LSTM(INPUTS, MANY_HIDDEN, device=device) for _ in range(draws)]
    head = torch.nn.Linear(MANY_HIDDEN, 1, device=device)
    x = trained.x.transpose(0, 1).contiguous()

    @torch.no_grad()
    def plain() -> Tensor:
        return torch.stack([head(module(x)[1][0][0]) for module in modules])

    draw: Program = torch.no_grad()(partial(trained.draw, draws))
    found = compare(setting, plain, partial(trained.predict, draws), less=draw, warm_up=1)
    shape = (STEPS, sequences, MANY_HIDDEN)
    count = draws * layer_products("LSTM", shape, INPUTS, grad=False)
    return with_counts(setting, found, count, count)


def cases(setting: Setting) -> Iterator[Case]:
    """Yield the rows."""
    on_gpu = setting.device.type == "cuda"
    one = 100 if setting.quick else DRAWS
    for hidden, draws in ((32, one), (200, one), (200, TIMES * one)):
        for scale, times in ((0.01, 10), (0.0, 30)):
            what = f"predict, one sequence, {'masks and noise' if scale else 'masks only'}"
            shape = {"S": draws, "T": STEPS, "N": 1, "H": hidden}
            target = 1 / (50 if on_gpu else times)
            measure = partial(_measure_one, hidden=hidden, scale=scale, draws=draws)
            yield Case("predict", what, shape, target, measure, "Pyro's sequential Predictive")
    for scale in (0.01, 0.0):
        what = f"predict, many sequences, {'masks and noise' if scale else 'masks only'}"
        count = 200 if setting.quick else MANY_SEQUENCES
        shape = {"S": MANY_DRAWS, "T": STEPS, "N": count, "H": MANY_HIDDEN}
        measure = partial(_measure_many, scale=scale)
        yield Case("predict", what, shape, 1.1, measure, "S plain forward passes")
