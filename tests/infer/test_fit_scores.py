"""Validation by a function of scores."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import pyro_vrnn as vrnn
from pyro_vrnn import baselines
from pyro_vrnn.infer import fit, fit_loss

ADAM = partial(torch.optim.Adam, lr=0.05)


def batches() -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [tuple(torch.randn(4, *s, generator=generator) for s in ((6, 2), (1,)))] * 2


def plain() -> Any:
    torch.manual_seed(0)
    network = baselines.SequenceNetwork(baselines.GRU(2, 4), baselines.Linear(4, 1))
    return baselines.GaussianLoss(network)


class Scores:
    """Scores that were written down, and the parameters at each."""

    def __init__(self, name: str, values: list[float], module: Any) -> None:
        self.name, self.values, self.module = name, list(values), module
        self.seen: list[dict[str, torch.Tensor]] = []

    def __call__(self) -> dict[str, float]:
        self.seen.append({n: p.detach().clone() for n, p in self.module.named_parameters()})
        return {"other": 1.0, self.name: self.values.pop(0)}


@pytest.mark.parametrize("kept", [False, True], ids=["memory", "folder"])
@pytest.mark.parametrize(
    ("name", "values", "best"),
    [("bits", [3.0, 1.0, 2.0], 1), ("expected_log_likelihood", [3.0, 1.0, 2.0], 0)],
)
def test_scores_are_recorded_and_the_best_epoch_is_restored(
    tmp_path: Path, name: str, values: list[float], best: int, kept: bool
) -> None:
    loss = plain()
    scores = Scores(name, values, loss)
    result = fit_loss(
        loss, batches(), num_epochs=3, optimizer=ADAM, validation=scores, monitor=name,
        seed=0, progress=False, checkpoint_dir=tmp_path if kept else None,
    )  # fmt: skip
    assert result.validation == {"other": [1.0] * 3, name: values}
    assert result.best_epoch == best
    for parameter, value in loss.named_parameters():
        assert torch.equal(value, scores.seen[best][parameter])


def test_patience_looks_at_the_monitored_score() -> None:
    model = vrnn.models.SequenceRegression(vrnn.nn.GRU(2, 4), 1, num_data=8)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    scores = Scores("bits", [2.0, 3.0, 4.0, 1.0], guide)
    result = fit(
        model, guide, batches(), num_epochs=4, optimizer=ADAM, validation=scores, monitor="bits",
        patience=2, progress=False,
    )  # fmt: skip
    assert (result.stopped, len(result.epoch_loss), result.best_epoch) == ("patience", 3, 0)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (3.0, TypeError, "Expected validation to return scores by name, got float"),
        ({"a": 1.0}, ValueError, "Expected validation to return 'bits', .* got 'a'"),
        ({"bits": 1.0, "loss": 2.0}, ValueError, "Expected scores of other names than 'loss'"),
    ],
)
def test_what_is_no_score_is_refused(returned: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fit_loss(
            plain(), batches(), num_epochs=1, optimizer=ADAM, validation=lambda: returned,
            monitor="bits", progress=False,
        )  # fmt: skip


def test_names_of_scores_belong_to_functions() -> None:
    with pytest.raises(ValueError, match="Expected monitor to be one of 'held_out_loss', got 'b'"):
        fit_loss(
            plain(), batches(), num_epochs=1, optimizer=ADAM, validation=batches(), monitor="b"
        )
