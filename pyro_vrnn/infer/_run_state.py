"""What a training run is, how it is stored in checkpoints, and how it is found again."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyro_vrnn.archives import DamagedArchiveError
from pyro_vrnn.infer._batches import Batch, Batches
from pyro_vrnn.infer._history_files import HistoryFiles
from pyro_vrnn.infer._interrupts import Interrupts
from pyro_vrnn.infer._nonfinite import bad_parameters
from pyro_vrnn.infer._options import Options
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
from pyro_vrnn.runs import rng_state, set_rng_state

Scores = dict[str, float]


@dataclass
class Position:
    """Where a run stands: what is done, and what the generators were when the epoch began."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches of the epoch that are done
    ended: bool = False  # whether that is all of them
    first_step: int = 0  # of the epoch
    best: float = -math.inf
    bad_epochs: int = 0
    rng: tuple[dict[str, Tensor], dict[str, Any]] = field(default_factory=rng_state)
    generators: list[Tensor] = field(default_factory=list)


LAYOUT = 2  # of what a checkpoint of fit holds; 1 held all of the history


class StoredRun:
    """The parts of a run, and their way to a checkpoint and back."""

    def __init__(
        self,
        trainer: Trainer,
        batches: Batches,
        options: Options,
        label: str,
        score: Callable[[Any], Scores],
    ) -> None:
        self.trainer, self.batches, self.options, self.score = trainer, batches, options, score
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
            self.history = HistoryFiles(self.folder.path)

    def _mark_start(self) -> None:
        """Keep what an epoch starts with."""
        self.at.first_step, self.at.batch, self.at.ended = self.at.step, 0, False
        self.at.rng, self.at.generators = rng_state(), self.batches.generator_states()
        self._data_at_start = self.batches.state()

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

    def _keep_time(self) -> None:
        now = time.perf_counter()
        self.result.wall_time += now - self._started
        self._started = now

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
            "result": self.history.state(self.result),
            "data": self._data_state(),
        }
        for name, (own, own_facts) in states.items():
            tensors |= {f"{name}/{key}": value for key, value in own.items()}
            facts[name] = own_facts
        facts["position"] = {
            name: getattr(self.at, name)
            for name in ("epoch", "batch", "ended", "first_step", "bad_epochs")
        }
        facts["position"]["best"] = None if math.isinf(self.at.best) else self.at.best
        facts["layout"] = LAYOUT
        facts["run"] = self._identity()
        self.folder.save(self.at.step, tensors, facts, best=best)

    def _identity(self) -> dict[str, Any]:
        shapes = {n: list(p.shape) for n, p in self.trainer.module.named_parameters()}
        return {
            "seed": self.options.seed,
            "accumulate": self.options.accumulate,
            "monitor": self.options.watched,
            "parameters": shapes,
            "batches in an epoch": self.progress.num_batches,
        }

    def _data_state(self) -> tuple[dict[str, Tensor], Any]:
        # At the start of an epoch the one from before its first batch was read.
        begins = self.at.batch == 0 or self.at.step == 0
        state = self._data_at_start if begins else self.batches.state()
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
        found = self.folder.load_last()
        if found is not None and found.facts.get("layout") not in range(1, LAYOUT + 1):
            raise ValueError(
                f"Expected a checkpoint of fit (layout 1 to {LAYOUT}) in {self.folder.path}, "
                f"got layout {found.facts.get('layout')}."
            )
        return found

    def _restore(self, found: Checkpoint) -> None:
        """Load everything but the place in the epoch."""
        started = (self.trainer.start(batch, "the first batch") for batch in self.batches.epoch())
        optimizer = next((made for made in started if made is not None), None)
        if optimizer is None:
            raise ValueError("Expected data of at least one batch of finite numbers, got none.")
        if self.options.scheduler is not None:
            self.scheduler = self._made_schedule(optimizer)
        here, there = self._identity(), found.facts["run"]
        inside = found.facts["position"]["batch"] > 0
        for name, value in here.items():
            if value == there[name]:
                continue
            if name == "batches in an epoch" and not inside:
                warnings.warn(
                    f"Expected {there[name]} batches in an epoch, as before, got {value}: the run "
                    "goes on with other data.",
                    stacklevel=2,
                )
            else:
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
        self.history.load(self.result, _below(found, "result"), found.facts["result"])
        self.result.resumed_from.append(found.step)
        place = found.facts["position"]
        self.at = Position(
            step=found.step,
            epoch=place["epoch"],
            batch=place["batch"],
            ended=place.get("ended", False),  # not in files from before it was there
            first_step=place["first_step"],
            bad_epochs=place["bad_epochs"],
            best=-math.inf if place["best"] is None else place["best"],
            rng=(_below(found, "epoch_rng"), found.facts["epoch_rng"]),
            generators=list(_below(found, "generators").values()),
        )
        self._reopen()
        self.progress.resume(self.at.step, self.at.epoch)
        set_rng_state(_below(found, "rng"), found.facts["rng"])  # a finished run goes no further

    def _reopen(self) -> None:
        """Let a finished run go on if it is now asked for more epochs, or for more patience."""
        patience = self.options.patience
        if self.at.epoch >= self.options.num_epochs:
            return
        more_patience = patience is None or self.at.bad_epochs < patience
        if self.result.stopped == "epochs" or (self.result.stopped == "patience" and more_patience):
            self.result.stopped = None

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
        if self.at.ended and self.batches.is_stateful:
            set_rng_state(_below(found, "rng"), found.facts["rng"])
            return iter(())
        iterator = iter(self.batches.epoch())
        skip = self.at.batch if found.step == 0 or not self.batches.is_stateful else 0
        # Step 0 was saved after its batch was read, the others before.
        passed = list(islice(iterator, skip + (found.step == 0)))
        if len(passed) < skip + (found.step == 0):
            raise ValueError(
                f"Expected over {skip} batches in epoch {self.at.epoch}, as when the checkpoint "
                f"was written, got {len(passed)}: give the same data."
            )
        first = passed[skip:]
        set_rng_state(_below(found, "rng"), found.facts["rng"])
        return chain(first, iterator)

    def _restore_best(self) -> None:
        if not self.options.validates:
            return
        best = self._best
        if self.folder is not None:
            try:
                found = self.folder.load_best()
            except (DamagedArchiveError, FileNotFoundError) as error:
                warnings.warn(f"{error} The last parameters are kept, not the best.", stacklevel=2)
                return
            best = None if found is None else _below(found, "module")
        if best is not None:
            self.trainer.module.load_state_dict(best)


def _below(found: Checkpoint, name: str) -> dict[str, Tensor]:
    start = f"{name}/"
    return {k.removeprefix(start): v for k, v in found.tensors.items() if k.startswith(start)}
