"""What every run of an experiment keeps: its JSON, written after every epoch, and its folder."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm

from pyro_vrnn.experiments.study_config import METHODS, StudyConfig
from pyro_vrnn.experiments.train_config import claim
from pyro_vrnn.files import write_json
from pyro_vrnn.infer.fit_result import FitResult
from pyro_vrnn.runs import check_device, check_seed, machine, versions
from pyro_vrnn.shapes import check_choice

RUN, CHECKPOINTS = "run.json", "checkpoints"
LAYOUT = 1  # of run.json
GROWING = ("num_epochs", "num_samples")  # what may be more when a run goes on


@dataclass(frozen=True)
class StudyRequest:
    """
    One run that is asked for: an experiment, a method, a seed and where it goes.

    :param str name: of the experiment.
    :param config: its configuration.
    :param str method: ``"none"``, ``"dropout"`` or ``"svi"``.
    :param int seed: seed of everything random.
    :param str device: cpu or cuda.
    :param folder: where the run's files go; it belongs to the run.
    :param bool progress: show a bar, and a line an epoch.
    """

    name: str
    config: StudyConfig
    method: str
    seed: int
    folder: Path
    device: str = "cpu"
    progress: bool = True

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        check_seed(self.seed)
        check_device(self.device)

    def facts(self) -> dict[str, Any]:
        """Return what the results depend on, as JSON can hold it."""
        return {
            "experiment": self.name,
            "method": self.method,
            "seed": self.seed,
            "config": asdict(self.config),
        }


def _flat(facts: dict[str, Any], start: str = "") -> dict[str, Any]:
    """Return nested facts under dotted names, so that a message can say which one differs."""
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        key = f"{start}{name}"
        flat |= _flat(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return flat


def data_facts(**parts: Tensor) -> dict[str, Any]:
    """Return sizes and SHA-256 of tensors: they say which data it was, and nothing of its text."""
    return {
        name: {
            "size": list(value.shape),
            "sha256": hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest(),
        }
        for name, value in parts.items()
    }


class RunFile:
    """
    The JSON of a run: facts, one row an epoch, and the metrics when it is done.

    The folder belongs to the run, whatever its number of epochs and of draws: with more of them
    the run goes on.

    :raises ValueError: if the folder is that of another run.
    """

    def __init__(self, study: StudyRequest, data: dict[str, Any]) -> None:
        self.study, self.data = study, data
        self.path = study.folder / RUN
        wanted = _flat({**study.facts(), "data": data})
        for name in GROWING:
            del wanted[f"config.{name}"]
        claim(study.folder, wanted)

    def finished(self) -> dict[str, Any] | None:
        """
        Return what the run has found, if it is done with these numbers of epochs and draws.

        :raises ValueError: if more epochs were run than are asked for.
        """
        if not self.path.exists():
            return None
        try:
            found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"Expected JSON in {self.path}, got {error}.") from error
        done, wanted = len(found["curve"]["train_loss"]), self.study.config.num_epochs
        if done > wanted:
            raise ValueError(
                f"Expected at least the {done} epochs that the run in {self.study.folder} has "
                f"made, got num_epochs={wanted}: give another folder for fewer."
            )
        enough = done == wanted and found["config"]["num_samples"] >= self.study.config.num_samples
        return found if found["finished"] and enough else None

    def write(self, result: FitResult, metrics: dict[str, Any], finished: bool) -> dict[str, Any]:
        """Write what is known so far, and return it."""
        curve = {"train_loss": result.epoch_loss, **result.validation}
        found = {
            "layout": LAYOUT,
            **self.study.facts(),
            "data": self.data,
            "curve": curve,
            "best_epoch": result.best_epoch,
            "metrics": metrics,
            "wall_time": result.wall_time,
            "resumed_from": result.resumed_from,
            "versions": versions(),
            "machine": {**machine(), "device": self.study.device},
            "finished": finished,
        }
        write_json(self.path, found)
        return found


class EpochScores:
    """What a study's training is validated by: its scores, and the seconds since the last ones."""

    def __init__(self, score: Callable[[], dict[str, float]]) -> None:
        self.score = score
        self._since = time.perf_counter()

    def __call__(self) -> dict[str, float]:
        """Score now."""
        seconds = time.perf_counter() - self._since
        found = self.score()
        self._since = time.perf_counter()
        return {**found, "seconds": seconds}


def train_options(
    study: StudyRequest, line: EpochLine, score: Callable[[], dict[str, float]], monitor: str
) -> dict[str, Any]:
    """Return the options of fit that do not depend on what is trained."""
    return {
        "num_epochs": study.config.num_epochs,
        "validation": EpochScores(score),
        "monitor": monitor,
        "callbacks": [line],
        "seed": study.seed,
        "device": study.device,
        "checkpoint_dir": study.folder / CHECKPOINTS,
        "checkpoint_every": 200,
        "keep_last": 1,
        "progress": study.progress,
    }


class EpochLine:
    """
    A callback that writes the run's file and says how far the training is, after every epoch.

    :param RunFile file: the file.
    :param int size: what an epoch trains on, counted in ``unit``.
    :param str unit: such as ``"tokens"``.
    """

    def __init__(self, file: RunFile, size: int, unit: str) -> None:
        self.file, self.size, self.unit = file, size, unit
        self._began = time.perf_counter()
        self._done = 0

    def __call__(self, result: FitResult) -> None:
        """Take the history after an epoch."""
        self.file.write(result, {}, finished=False)
        self._done += 1
        if not self.file.study.progress:
            return
        total = self.file.study.config.num_epochs
        done = len(result.epoch_loss)
        each = (time.perf_counter() - self._began) / self._done
        scores = {n: v[-1] for n, v in result.validation.items() if n != "seconds"}
        rate = self.size / result.validation["seconds"][-1]
        shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        tqdm.write(
            f"epoch {done} of {total}: {shown}; {rate:,.0f} {self.unit}/s, "
            f"{each * (total - done) / 60:.0f} min left"
        )
