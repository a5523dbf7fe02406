"""
A training script to be killed, and the recipes that ``reliability.py`` trains by.

Run as ``python -m benchmarks.reliability_child RECIPE FOLDER``. It says on standard output where it
is: ``ready``, ``step N``, ``saving N`` and ``saved N``, at last ``end`` and two digests.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import pyro_vrnn as vrnn
from pyro_vrnn.infer import CheckpointFolder, FitResult

BATCHES, EPOCHS, SIZE = 12, 10, 4
Batch = tuple[Tensor, Tensor]


class Job(NamedTuple):
    """Arguments of a fit."""

    model: torch.nn.Module
    guide: torch.nn.Module
    data: Any
    options: dict[str, Any]


def dataset() -> TensorDataset:
    """Return a little data set, the same each time."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    return TensorDataset(draw(BATCHES * SIZE, 5, 8), draw(BATCHES * SIZE, 1))


def batches() -> list[Batch]:
    """Return its batches; the tensors may be changed."""
    x, y = dataset().tensors
    return [(a.clone(), b.clone()) for a, b in zip(x.split(SIZE), y.split(SIZE), strict=True)]


def pair(cell: str = "GRU", **options: Any) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return a model and its guide, the same each time."""
    pyro.set_rng_seed(1)
    rnn = getattr(vrnn.nn, cell)(8, 4)
    size = BATCHES * SIZE
    model = vrnn.models.SequenceRegression(rnn, 1, num_data=size, learn_tau=True)
    return model, vrnn.infer.AutoSpikeAndSlab(model, learn_scale=True, **options)


def _list() -> Job:
    return Job(*pair(), batches(), {})


def _dataset() -> Job:
    return Job(*pair("LSTM", scope="sequence"), dataset(), {"batch_size": SIZE})


def _schedule() -> Job:
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(dataset(), batch_size=SIZE, shuffle=True, generator=generator)
    decay = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.99)
    return Job(*pair(), loader, {"scheduler": decay, "schedule": "step", "clip_norm": 1.0})


def _validation() -> Job:
    held_out = {"validation": batches()[:2], "validation_draws": 2, "keep_last": 1}
    return Job(*pair("RNN"), batches(), held_out)


def _accumulate() -> Job:
    sgd = partial(torch.optim.SGD, lr=1e-4, momentum=0.9)
    options = {"accumulate": 2, "optimizer": sgd, "kl_weight": lambda step: min(1.0, step / 20)}
    return Job(*pair("LSTM"), DataLoader(dataset(), batch_size=SIZE, shuffle=True), options)


RECIPES: dict[str, Callable[[], Job]] = {
    "list": _list,
    "dataset": _dataset,
    "schedule": _schedule,
    "validation": _validation,
    "accumulate": _accumulate,
}


def num_steps(recipe: str) -> int:
    """Return how many steps the whole run has."""
    return BATCHES * EPOCHS // (2 if recipe == "accumulate" else 1)


def train(
    job: Job,
    folder: Path | None,
    callbacks: Sequence[Callable[..., Any]] = (),
    every: int | None = 2,
) -> FitResult:
    """Fit by a recipe, with a checkpoint ``every`` so many steps; None: after every epoch alone."""
    adam = partial(torch.optim.Adam, lr=0.02)
    given = {"num_epochs": EPOCHS, "optimizer": adam, "seed": 5, "progress": False, **job.options}
    if folder is not None:
        given |= {"checkpoint_dir": folder, "checkpoint_every": every}
    return vrnn.infer.fit(job.model, job.guide, job.data, callbacks=callbacks, **given)


def digest(tensors: dict[str, Tensor], facts: Any = None) -> str:
    """Return the SHA-256 of tensors, names and facts."""
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def state_digest(job: Job, result: FitResult) -> str:
    """Return the digest of what a fit leaves: parameters, generators, history."""
    history, _ = result.state()
    generators, facts = vrnn.runs.rng_state()
    tensors = {
        **{f"model.{name}": value for name, value in job.model.state_dict().items()},
        **{f"guide.{name}": value for name, value in job.guide.state_dict().items()},
        **{f"history.{name}": value for name, value in history.items()},
        **{f"generator.{name}": value for name, value in generators.items()},
    }
    return digest(tensors, facts)


def checkpoint_digest(folder: Path) -> str:
    """Return the digest of the last checkpoint, times and the list of resumptions left out."""
    found = CheckpointFolder(folder).load_last()
    assert found is not None
    result = {
        name: value
        for name, value in found.facts["result"].items()
        if name not in ("wall_time", "resumed_from")
    }
    return digest(found.tensors, {**found.facts, "result": result})


def say(*words: Any) -> None:
    """Print a line at once."""
    print(*words, flush=True)


class Announce:
    """A callback that says each step."""

    every = "step"

    def __call__(self, result: FitResult) -> None:
        say("step", result.steps.length)


def announce_saves() -> None:
    """Say when a checkpoint is begun and when it is there."""
    save = CheckpointFolder.save

    def announced(self: CheckpointFolder, step: int, *args: Any, **options: Any) -> Path:
        say("saving", step)
        place = save(self, step, *args, **options)
        say("saved", step)
        return place

    CheckpointFolder.save = announced  # type: ignore[method-assign]


def main() -> None:
    """Train, with what a script makes of signals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--exits", action="store_true", help="handle signals: exit 143 and 130")
    parser.add_argument("--seldom", action="store_true", help="no checkpoint inside an epoch")
    options = parser.parse_args()
    torch.set_num_threads(1)  # two threads add up in another order than one
    # A shell may have left SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if options.exits:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    announce_saves()
    job = RECIPES[options.recipe]()
    say("ready")
    try:
        result = train(job, options.folder, [Announce()], None if options.seldom else 2)
    except KeyboardInterrupt:
        if options.exits:
            sys.exit(130)
        raise
    say("end", state_digest(job, result), checkpoint_digest(options.folder))


if __name__ == "__main__":
    main()
