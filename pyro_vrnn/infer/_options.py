"""What a training is asked for, checked before it begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from pyro_vrnn.infer._trainer import OptimizerFn, no_optimizer
from pyro_vrnn.infer.fit_result import FitResult
from pyro_vrnn.runs import check_device, check_seed
from pyro_vrnn.shapes import check_choice, check_path, check_positive_float, check_positive_int

SchedulerFn = Callable[[torch.optim.Optimizer], LRScheduler]
ScoresFn = Callable[[], Mapping[str, float]]
HIGHER_IS_BETTER = "expected_log_likelihood"


@dataclass(frozen=True)
class Options:
    """What :func:`~pyro_vrnn.infer.fit` and ``fit_loss`` have in common; see there."""

    num_epochs: int
    optimizer: OptimizerFn
    clip_norm: float | None
    scheduler: SchedulerFn | None
    schedule: str
    accumulate: int
    validation: Iterable[Any] | ScoresFn | None
    monitor: str
    patience: int | None
    nonfinite: str
    callbacks: Sequence[Callable[[FitResult], Any]]
    seed: int | None
    device: torch.device | str | None
    checkpoint_dir: str | Path | None
    checkpoint_every: int | None
    keep_last: int
    resume: bool
    progress: bool

    @classmethod
    def among(cls, given: Mapping[str, Any]) -> Options:
        """Take the options from the arguments of a function that has them all."""
        return cls(**{option.name: given[option.name] for option in fields(cls)})

    def __post_init__(self) -> None:
        """Refuse what no training can begin with."""
        if not callable(self.optimizer) or isinstance(self.optimizer, PyroOptim):
            kind = type(self.optimizer)
            raise no_optimizer(f"{kind.__module__}.{kind.__name__}")
        for name in ("num_epochs", "accumulate", "keep_last", "patience", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None or name not in ("patience", "checkpoint_every"):
                object.__setattr__(self, name, check_positive_int(name, value))
        if self.seed is not None:
            object.__setattr__(self, "seed", check_seed(self.seed))
        callbacks = tuple(self.callbacks) if isinstance(self.callbacks, Iterable) else (None,)
        if not all(map(callable, callbacks)):
            raise TypeError(
                f"Expected callbacks to be a list of functions, got {self.callbacks!r}."
            )
        object.__setattr__(self, "callbacks", callbacks)
        if self.clip_norm is not None:
            check_positive_float("clip_norm", self.clip_norm)
        check_choice("schedule", self.schedule, ("epoch", "step"))
        check_choice("nonfinite", self.nonfinite, ("stop", "skip"))
        if isinstance(self.validation, (Dataset, Iterator)):
            raise TypeError(
                "Expected validation in batches that can be run through after every epoch, such as "
                "a list or a DataLoader, or a function of scores, got "
                f"{type(self.validation).__name__}."
            )
        if self.scheduler is not None and not callable(self.scheduler):
            raise TypeError(
                "Expected scheduler to make a schedule from the optimizer, such as "
                f"functools.partial(StepLR, step_size=10), got {self.scheduler!r}."
            )
        if self.checkpoint_dir is not None:
            folder = check_path("checkpoint_dir", self.checkpoint_dir)
            if folder.is_file():
                raise FileExistsError(f"Expected checkpoint_dir to be a folder, got file {folder}.")
        held_out = self.validation
        if not (held_out is None or isinstance(held_out, Iterable) or callable(held_out)):
            raise TypeError(
                "Expected validation in batches, or a function of scores, got "
                f"{type(held_out).__name__}."
            )
        for name, beside in (("validation", "patience"), ("checkpoint_dir", "checkpoint_every")):
            if getattr(self, beside) is not None and getattr(self, name) is None:
                raise ValueError(
                    f"Expected {name} beside {beside}={getattr(self, beside)}, got None."
                )
        if self.device is not None:
            check_device(str(self.device))

    @property
    def place(self) -> torch.device | None:
        """Where everything is put; None to leave it where it is."""
        return None if self.device is None else check_device(str(self.device))

    @property
    def validates(self) -> bool:
        """Whether epochs are scored by held-out data."""
        return self.validation is not None

    @property
    def watched(self) -> str:
        """The score that says which epoch is best; empty if there is none."""
        return self.monitor if self.validates else ""

    def height(self, scores: Mapping[str, float]) -> float:
        """Return the score that counts as a number of which more is better."""
        if not self.watched:
            return -scores["loss"]
        return scores[self.watched] * (1.0 if self.watched == HIGHER_IS_BETTER else -1.0)


def checked_scores(scores: Any, monitor: str) -> dict[str, float]:
    """Return the scores of a function, or refuse them."""
    if not isinstance(scores, Mapping):
        raise TypeError(
            f"Expected validation to return scores by name, got {type(scores).__name__}."
        )
    if monitor not in scores:
        raise ValueError(
            f"Expected validation to return {monitor!r}, the score in monitor, got "
            f"{', '.join(map(repr, scores)) or 'none'}."
        )
    if "loss" in scores:
        raise ValueError("Expected scores of other names than 'loss', the training's own, got it.")
    return {str(name): float(value) for name, value in scores.items()}
