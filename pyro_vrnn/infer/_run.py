"""A training run: epochs and steps, schedule, validation, checkpoints, and how it is resumed."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyro_vrnn.infer._batches import Batch, Batches
from pyro_vrnn.infer._interrupts import RUN_LOCK, Interrupts
from pyro_vrnn.infer._nonfinite import bad_parameters
from pyro_vrnn.infer._progress import Progress
from pyro_vrnn.infer._trainer import Trainer
from pyro_vrnn.infer.checkpoints import Checkpoint, CheckpointFolder
from pyro_vrnn.infer.fit_result import FitResult
from pyro_vrnn.infer.training_state import (
    flatten_state,
    load_optimizer_state,
    load_scheduler_state,
    optimizer_state,
    restore_state,
    scheduler_state,
)
from pyro_vrnn.runs import rng_state, set_rng_state, set_seed

Scores = dict[str, float]


@dataclass(frozen=True)
class Options:
    """What a run is asked for; see :func:`~pyro_vrnn.infer.fit`."""

    num_epochs: int
    accumulate: int = 1
    scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None
    schedule: str = "epoch"
    validate: Callable[[], Scores] | None = None
    monitor: str = ""
    sign: float = 1.0  # of the monitored score: it is maximised
    patience: int | None = None
    callbacks: Sequence[Callable[[FitResult], Any]] = ()
    seed: int | None = None
    checkpoint_dir: str | Path | None = None
    checkpoint_every: int | None = None
    keep_last: int = 3
    resume: bool = True
    progress: bool = True


@dataclass
class Position:
    """Where a run stands: what is done, and what the generators were when the epoch began."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches of the epoch that are done
    first_step: int = 0  # of the epoch
    best: float = -math.inf
    bad_epochs: int = 0
    rng: tuple[dict[str, Tensor], dict[str, Any]] = field(default_factory=rng_state)
    generators: list[Tensor] = field(default_factory=list)


class Run:
    """One call of :func:`~pyro_vrnn.infer.fit`."""

    def __init__(self, trainer: Trainer, batches: Batches, options: Options, label: str) -> None:
        self.trainer, self.batches, self.options = trainer, batches, options
        self.result = FitResult(seed=options.seed)
        self.at = Position()
        self.scheduler: LRScheduler | None = None
        self.interrupts = Interrupts()
        self.progress = Progress(label, batches, options.num_epochs, options.accumulate)
        self._best: dict[str, Tensor] | None = None
        self._data_at_start: Any = {}
        self._started = time.perf_counter()
        self.folder: CheckpointFolder | None = None
        if options.checkpoint_dir is not None:
            self.folder = CheckpointFolder(options.checkpoint_dir, keep_last=options.keep_last)

    def run(self) -> FitResult:
        """Train, and return the history."""
        holding = self.interrupts.held() if self.folder is not None else nullcontext()
        with RUN_LOCK, holding, self.progress.shown(self.options.progress):
            if self.options.seed is not None:
                set_seed(self.options.seed)
            found = self._find_checkpoint()
            if found is not None:
                self._restore(found)
            while self.result.stopped is None:
                self._epoch(found)
                found = None
            self._restore_best()
        return self.result

    # One epoch

    def _epoch(self, found: Checkpoint | None) -> None:
        resumed = found is not None
        if not resumed:
            self._mark_start()
        iterator = self._resumed(found) if found is not None else self.batches.epoch()
        group: list[Batch] = []
        for batch in iterator:
            if self.trainer.optimizer is None:
                self._start(batch)
            group.append(batch)
            self.at.batch += 1
            if len(group) == self.options.accumulate:
                self._step(group)
                group = []
            if self.result.stopped is not None:  # by a callback, in the middle of the epoch
                self._keep_time()
                if self.folder is not None:
                    self._save()
                return
        if group:
            self._step(group)
        if self.at.batch == 0:
            raise ValueError(
                "Expected data that can be run through once an epoch, "
                f"got no batch in epoch {self.at.epoch}."
            )
        self._end_epoch()

    def _mark_start(self) -> None:
        """Keep what an epoch starts with."""
        self.at.first_step, self.at.batch = self.at.step, 0
        self.at.rng, self.at.generators = rng_state(), self.batches.generator_states()
        self._data_at_start = self.batches.state()

    def _start(self, batch: Batch) -> None:
        optimizer = self.trainer.start(batch, f"epoch {self.at.epoch}, batch 0")
        if self.options.scheduler is not None:
            self.scheduler = self._made_schedule(optimizer)
        if self.folder is not None and self.at.step == 0:
            self._save()

    def _made_schedule(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        assert self.options.scheduler is not None
        scheduler = self.options.scheduler(optimizer)
        if not isinstance(scheduler, LRScheduler):
            raise TypeError(
                "Expected scheduler to make a schedule of torch.optim.lr_scheduler from the "
                f"optimizer, got a function that returns {type(scheduler).__name__}."
            )
        if isinstance(scheduler, ReduceLROnPlateau) and self.options.schedule == "step":
            raise ValueError(
                "Expected schedule='epoch' for ReduceLROnPlateau, whose score is an epoch's, "
                "got 'step'."
            )
        return scheduler

    def _step(self, group: list[Batch]) -> None:
        first = self.at.batch - len(group)
        batches = str(first) if len(group) == 1 else f"{first} to {self.at.batch - 1}"
        row = self.trainer.step(group, self.at.step, f"epoch {self.at.epoch}, batch {batches}")
        if row is None:
            self.result.skipped.append([self.at.epoch, first])
            row = {}
        else:
            self.result.steps.append(row)
            self.at.step += 1
            if self.scheduler is not None and self.options.schedule == "step":
                self.scheduler.step()
        self.progress.step(row)
        self._after("step")
        every = self.options.checkpoint_every
        due = every is not None and self.at.step % every == 0 and bool(row)
        if self.folder is not None and (due or self.interrupts.caught is not None):
            self._save()
        self.interrupts.deliver()

    def _end_epoch(self) -> None:
        losses = self.result.steps.since("loss", self.at.first_step)
        scores = {"loss": math.fsum(losses) / len(losses) if losses else math.nan}
        self.result.steps_per_epoch = len(losses)
        if self.options.validate is not None:
            scores |= self.options.validate()
        self.result.epochs.append(scores)
        improved = self._judge(scores)
        if self.scheduler is not None and self.options.schedule == "epoch":
            if isinstance(self.scheduler, ReduceLROnPlateau):
                self.scheduler.step(-self._score(scores))
            else:
                self.scheduler.step()
        self.at.epoch += 1
        self.progress.epoch(scores, self.options.monitor)
        self._after("epoch")
        self._mark_start()
        if self.result.stopped is None and self.at.epoch >= self.options.num_epochs:
            self.result.stopped = "epochs"
        if self.folder is not None:
            self._save(best=improved)
        elif improved and self.options.validate is not None:
            self._best = {n: v.clone() for n, v in self.trainer.module.state_dict().items()}
        self._keep_time()

    def _score(self, scores: Scores) -> float:
        if not self.options.monitor:
            return -scores["loss"]
        return self.options.sign * scores[self.options.monitor]

    def _judge(self, scores: Scores) -> bool:
        """Say whether this epoch is the best, and stop when patience is at its end."""
        if self.options.validate is None:
            return False
        score = self._score(scores)
        if score > self.at.best:
            self.at.best, self.at.bad_epochs = score, 0
            self.result.best_epoch = self.at.epoch
            return True
        self.at.bad_epochs += 1
        if self.options.patience is not None and self.at.bad_epochs >= self.options.patience:
            self.result.stopped = "patience"
        return False

    def _after(self, what: str) -> None:
        for callback in self.options.callbacks:
            if getattr(callback, "every", "epoch") == what and callback(self.result) is True:
                self.result.stopped = "callback"

    def _keep_time(self) -> None:
        now = time.perf_counter()
        self.result.wall_time += now - self._started
        self._started = now

    # Checkpoints

    def _save(self, best: bool = False) -> None:
        assert self.folder is not None
        assert self.trainer.optimizer is not None
        bad = bad_parameters(self.trainer.module)
        if bad:
            raise FloatingPointError(
                f"Expected finite parameters in step {self.at.step}, got others in "
                f"{', '.join(bad)}: no checkpoint is written."
            )
        self._keep_time()
        tensors: dict[str, Tensor] = {}
        facts: dict[str, Any] = {}
        states = {
            "module": (dict(self.trainer.module.state_dict()), {}),
            "optimizer": optimizer_state(self.trainer.optimizer),
            "scheduler": ({}, {}) if self.scheduler is None else scheduler_state(self.scheduler),
            "rng": rng_state(),
            "epoch_rng": self.at.rng,
            "generators": ({str(k): s for k, s in enumerate(self.at.generators)}, {}),
            "result": self.result.state(),
            "data": self._data_state(),
        }
        for name, (own, own_facts) in states.items():
            tensors |= {f"{name}/{key}": value for key, value in own.items()}
            facts[name] = own_facts
        facts["position"] = {
            name: getattr(self.at, name) for name in ("epoch", "batch", "first_step", "bad_epochs")
        }
        facts["position"]["best"] = None if math.isinf(self.at.best) else self.at.best
        facts["run"] = self._identity()
        self.folder.save(self.at.step, tensors, facts, best=best)

    def _identity(self) -> dict[str, Any]:
        shapes = {n: list(p.shape) for n, p in self.trainer.module.named_parameters()}
        return {
            "seed": self.options.seed,
            "accumulate": self.options.accumulate,
            "parameters": shapes,
        }

    def _data_state(self) -> tuple[dict[str, Tensor], Any]:
        # At the start of an epoch the one from before its first batch was read.
        state = self._data_at_start if self.at.batch == 0 else self.batches.state()
        return flatten_state("data", state)

    def _find_checkpoint(self) -> Checkpoint | None:
        if self.folder is None:
            return None
        if not self.options.resume:
            if self.folder.steps():
                raise ValueError(
                    f"Expected an empty checkpoint_dir with resume=False, got {self.folder.path} "
                    f"with the steps {self.folder.steps()}."
                )
            return None
        return self.folder.load_last()

    def _restore(self, found: Checkpoint) -> None:
        """Load everything but the place in the epoch."""
        first = next(iter(self.batches.epoch()), None)
        if first is None:
            raise ValueError("Expected data of at least one batch, got none.")
        optimizer = self.trainer.start(first, "the first batch")
        if self.options.scheduler is not None:
            self.scheduler = self._made_schedule(optimizer)
        here, there = self._identity(), found.facts["run"]
        for name, value in here.items():
            if value != there[name]:
                raise ValueError(
                    f"Expected a run like that of the checkpoints in {self.options.checkpoint_dir}"
                    f" ({name} {there[name]}), got {name} {value}: give another folder."
                )
        self.trainer.module.load_state_dict(_below(found, "module"))
        load_optimizer_state(optimizer, _below(found, "optimizer"), found.facts["optimizer"])
        if self.scheduler is not None:
            load_scheduler_state(
                self.scheduler, _below(found, "scheduler"), found.facts["scheduler"]
            )
        self.result.load_state(_below(found, "result"), found.facts["result"])
        self.result.resumed_from.append(found.step)
        place = found.facts["position"]
        self.at = Position(
            step=found.step,
            epoch=place["epoch"],
            batch=place["batch"],
            first_step=place["first_step"],
            bad_epochs=place["bad_epochs"],
            best=-math.inf if place["best"] is None else place["best"],
            rng=(_below(found, "epoch_rng"), found.facts["epoch_rng"]),
            generators=list(_below(found, "generators").values()),
        )
        if self.result.stopped == "epochs" and self.at.epoch < self.options.num_epochs:
            self.result.stopped = None
        self.progress.resume(self.at.step, self.at.epoch)
        set_rng_state(_below(found, "rng"), found.facts["rng"])  # a finished run goes no further

    def _resumed(self, found: Checkpoint) -> Iterator[Batch]:
        """Return the rest of the epoch, every generator as it was."""
        self.batches.set_generator_states(self.at.generators)
        set_rng_state(*self.at.rng)
        if self.batches.is_stateful:
            state = restore_state(_below(found, "data"), found.facts["data"])
            self.batches.load_state(state)
        elif self.at.batch > 0 and not self.batches.can_resume_inside:
            warnings.warn(
                f"Expected data that can be resumed inside an epoch (a list, a DataLoader of a "
                "dataset, or with state_dict and load_state_dict), got "
                f"{type(self.batches.data).__name__}: epoch {self.at.epoch} starts again.",
                stacklevel=2,
            )
            self.at.batch = 0
        iterator = iter(self.batches.epoch())
        if not self.batches.is_stateful:
            for _ in range(self.at.batch):
                next(iterator)
        # Step 0 was saved after its batch was read, the others before.
        first = [next(iterator)] if found.step == 0 else []
        set_rng_state(_below(found, "rng"), found.facts["rng"])
        return chain(first, iterator)

    def _restore_best(self) -> None:
        if self.options.validate is None:
            return
        best = self._best
        if self.folder is not None:
            found = self.folder.load_best()
            best = None if found is None else _below(found, "module")
        if best is not None:
            self.trainer.module.load_state_dict(best)


def _below(found: Checkpoint, name: str) -> dict[str, Tensor]:
    start = f"{name}/"
    return {k.removeprefix(start): v for k, v in found.tensors.items() if k.startswith(start)}
