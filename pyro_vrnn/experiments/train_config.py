"""What ``pyro-vrnn train`` is asked for, and the folder that belongs to one such request."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pyro_vrnn.files import writable_folder, write_json
from pyro_vrnn.nn.recurrent import CELLS
from pyro_vrnn.runs import check_device, check_seed
from pyro_vrnn.shapes import (
    check_choice,
    check_nonnegative_float,
    check_positive_float,
    check_positive_int,
    check_probability,
    check_share,
)

CONFIG, CHECKPOINTS, POSTERIOR = "config.json", "checkpoints", "posterior"
PREDICTIONS, FIGURE, ARVIZ, RESULTS = "predictions.csv", "figure.png", "run.nc", "results.json"
OWNED = (CONFIG, CHECKPOINTS, POSTERIOR, PREDICTIONS, FIGURE, ARVIZ, RESULTS)  # by a training
LEAST_SAMPLES = 100  # for an interval of 90 %
SMALL_NETWORK = 256  # units
NEEDED = ("h5netcdf", "matplotlib", "scoringrules")


@dataclass(frozen=True)
class TrainConfig:
    """
    What every training is asked for.

    ``num_steps`` is the least number of optimiser steps, whole epochs are run; ``num_epochs`` says
    it in epochs instead. Training stops after ``patience`` epochs without a better score of the
    validation part. ``num_samples`` draws of the weights predict that part.
    """

    cell: str = "lstm"
    hidden_size: int = 32
    drop_prob: float = 0.1
    scale: float = 0.01
    scope: str = "sequence"
    num_epochs: int | None = None
    num_steps: int | None = None
    patience: int = 20
    batch_size: int = 64
    learning_rate: float = 0.01
    num_samples: int = 1000
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_choice("cell", self.cell, tuple(CELLS))
        check_choice("scope", self.scope, ("batch", "sequence"))
        for name in ("hidden_size", "patience", "batch_size", "num_samples"):
            check_positive_int(name, getattr(self, name))
        for name in ("num_epochs", "num_steps"):
            if getattr(self, name) is not None:
                check_positive_int(name, getattr(self, name))
        if self.num_epochs is not None and self.num_steps is not None:
            raise ValueError(
                "Expected one of num_epochs and num_steps, "
                f"got {self.num_epochs} and {self.num_steps}."
            )
        check_probability("drop_prob", self.drop_prob)
        check_nonnegative_float("scale", self.scale)
        check_positive_float("learning_rate", self.learning_rate)
        check_samples(self.num_samples)
        check_seed(self.seed)
        check_device(self.device)

    def epochs(self, num_rows: int) -> int:
        """Return how many epochs are run over so many training rows."""
        if self.num_epochs is not None:
            return self.num_epochs
        batches = -(-num_rows // self.batch_size)
        return -(-(self.num_steps or 500) // batches)


@dataclass(frozen=True)
class SeriesConfig(TrainConfig):
    """
    A training of forecasts of one column of a file.

    ``horizon``, ``window`` and ``num_origins`` (of the validation part) of None are taken from the
    series. ``lag`` is a number of steps, ``"none"``, or ``"auto"`` for the season that is found.
    """

    column: str = "value"
    horizon: int | None = None
    lag: str = "auto"
    window: int | None = None
    num_origins: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("horizon", "window", "num_origins"):
            if getattr(self, name) is not None:
                check_positive_int(name, getattr(self, name))
        if self.lag not in ("auto", "none") and not _is_count(self.lag):
            raise ValueError(
                f"Expected lag to be a positive int, 'auto' or 'none', got {self.lag!r}."
            )


def _is_count(text: Any) -> bool:
    return isinstance(text, str) and text.isdecimal() and int(text) > 0


@dataclass(frozen=True)
class SequencesConfig(TrainConfig):
    """
    A training on labelled sequences.

    ``classes`` makes numbers classes too. ``validation`` is the share of the sequences that is not
    trained on. The names are those of the file's columns.
    """

    sequence: str = "sequence"
    label: str = "label"
    time: str | None = None
    classes: bool = False
    validation: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("validation", self.validation)


def check_samples(num_samples: int) -> int:
    """Refuse too few draws for an interval of 90 %."""
    if num_samples < LEAST_SAMPLES:
        raise ValueError(f"Expected num_samples of at least {LEAST_SAMPLES}, got {num_samples}.")
    return num_samples


@contextlib.contextmanager
def threads_for(hidden_size: int) -> Iterator[None]:
    """Use one thread for a small network: as fast alone, and far faster beside other programs."""
    before = torch.get_num_threads()
    if hidden_size < SMALL_NETWORK:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_packages() -> None:
    """
    Refuse to train without the packages that write the results.

    :raises ImportError: naming the first that is missing.
    """
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise ImportError(
                f"Expected the package {name}, got no such module: pip install 'pyro-vrnn[demo]'."
            )


def request(config: TrainConfig, data: Path) -> dict[str, Any]:
    """Return what a run's results depend on, as JSON can hold it; not the device."""
    kind = "series" if isinstance(config, SeriesConfig) else "sequences"
    options = {name: value for name, value in asdict(config).items() if name != "device"}
    return {"kind": kind, **options, "data_sha256": hashlib.sha256(data.read_bytes()).hexdigest()}


def claim(folder: Path, wanted: dict[str, Any]) -> None:
    """
    Make ``folder`` the folder of this request, or see that it is.

    :raises ValueError: if it is another request's; the message says what differs.
    :raises OSError: if it cannot be written.
    """
    path = folder / CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if (folder / CHECKPOINTS).exists():
            raise ValueError(
                f"Expected {CONFIG} beside the checkpoints in {folder}, got none: give another "
                "folder."
            ) from None
        writable_folder(folder)
        write_json(path, wanted)
        return
    except ValueError as error:
        raise ValueError(f"Expected JSON in {path}, got {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"Expected the options of a run in {path}, got {found!r}.")
    names = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    if names:
        expected = ", ".join(f"{name}={found.get(name)}" for name in names)
        got = ", ".join(f"{name}={wanted.get(name)}" for name in names)
        raise ValueError(
            f"Expected the options of the run in {folder} ({expected}), got {got}: give them, or "
            "another folder."
        )
    writable_folder(folder)
