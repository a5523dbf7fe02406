"""Signals of a run with checkpoints are delivered once, also those that come at its very end."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest
import torch

from pyro_vrnn.infer import CheckpointFolder, fit
from tests.infer.test_resume import EPOCHS, loader, pair

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
STEPS = 3 * EPOCHS


class SendAt:
    """A callback that sends a signal to this process the first time it is called with ``count``."""

    def __init__(self, number, count, every):
        self.number, self.count, self.every = number, count, every

    def __call__(self, result):
        done = result.steps.length if self.every == "step" else len(result.epoch_loss)
        if done == self.count:
            os.kill(os.getpid(), self.number)


def train(folder, *callbacks):
    model, guide = pair()
    adam = partial(torch.optim.Adam, lr=0.02)
    return fit(
        model, guide, loader(), num_epochs=EPOCHS, optimizer=adam, seed=5, callbacks=callbacks,
        checkpoint_dir=folder, progress=False,
    )  # fmt: skip


@pytest.fixture
def received():
    """Signals that a handler was given, which returns."""
    found = []
    before = signal.signal(signal.SIGTERM, lambda number, _: found.append(number))
    yield found
    signal.signal(signal.SIGTERM, before)


@posix
def test_a_signal_after_the_last_step_is_not_lost(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, SendAt(signal.SIGINT, EPOCHS, "epoch"))
    assert CheckpointFolder(tmp_path).steps()[-1] == STEPS
    assert train(tmp_path).stopped == "epochs"


@posix
@pytest.mark.parametrize(
    ("every", "count"), [("step", 4), ("epoch", 1), ("epoch", EPOCHS)], ids=str
)
def test_a_handler_that_returns_is_called_once(every, count, tmp_path, received):
    result = train(tmp_path, SendAt(signal.SIGTERM, count, every))
    assert received == [signal.SIGTERM]
    assert result.steps.length == STEPS
    assert CheckpointFolder(tmp_path).steps()[-1] == STEPS


def test_a_finished_run_leaves_the_generators_as_it_did(tmp_path):
    train(tmp_path)
    after = torch.rand(3)
    train(tmp_path)
    assert torch.equal(torch.rand(3), after)
