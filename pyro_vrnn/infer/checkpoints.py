"""Checkpoints of a run: the last few and the best, each an archive."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from pyro_vrnn.archives import (
    DamagedArchiveError,
    archive_names,
    clear_leftovers,
    read_archive,
    read_sealed,
    remove_archive,
    sealed,
    write_archive,
)
from pyro_vrnn.files import write_json
from pyro_vrnn.shapes import check_path, check_positive_int

FORMAT, VERSION = "pyro_vrnn checkpoint", 1
BEST = "best.json"
_STEP = re.compile(r"step-(\d{9,})")


class Checkpoint(NamedTuple):
    """
    A step of a run and what was saved there.

    :param int step: the step.
    :param dict tensors: name -> tensor, on the CPU.
    :param dict facts: what JSON makes of the facts.
    """

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class CheckpointFolder:
    """
    A folder of checkpoints, ``step-000000123`` and so on, and ``best.json`` that names the best.

    One that is saved appears when it is whole, and only then are older ones removed; a crash at any
    moment leaves the last whole one.

    Example::

        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as scratch:
        ...     folder = CheckpointFolder(scratch, keep_last=2)
        ...     for step in (10, 20, 30, 40):
        ...         _ = folder.save(step, {"w": torch.ones(2)}, {"loss": 1.0}, best=step == 10)
        ...     folder.steps(), folder.load_last().step, folder.load_best().step
        ([10, 30, 40], 40, 10)

    :param path: the folder; made by the first :meth:`save`.
    :param int keep_last: how many of the last checkpoints are kept, beside the best.
    :raises ValueError: if ``keep_last`` is below 1.
    """

    def __init__(self, path: str | Path, *, keep_last: int = 3) -> None:
        self.path = check_path("path", path)
        self.keep_last = check_positive_int("keep_last", keep_last)

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        *,
        best: bool = False,
    ) -> Path:
        """
        Save a step, then remove those that are no longer kept.

        Steps after this one, of a run that went on further, are left alone until they are saved
        again.

        :param int step: at least 0; a checkpoint of this step is replaced.
        :param tensors: as for :func:`~pyro_vrnn.archives.write_archive`, and ``facts`` too.
        :param bool best: keep it as the best, until another is.
        :returns: the archive's folder.
        :raises OSError: if it cannot be written; the others are still there.
        """
        content = {"step": _check_step(step), "facts": facts}
        place = write_archive(self._place(step), tensors, content, format=FORMAT, version=VERSION)
        if best:
            write_json(self.path / BEST, sealed({"version": VERSION, "step": step}))
        self._prune(step)
        return place

    def steps(self) -> list[int]:
        """Return the steps whose folder is there, whole or not, the earliest first."""
        matches = [_STEP.fullmatch(name) for name in archive_names(self.path)]
        return sorted(int(match[1]) for match in matches if match)

    def load(self, step: int) -> Checkpoint:
        """
        Load the checkpoint of one step.

        :raises FileNotFoundError: if there is none.
        :raises DamagedArchiveError: if it is not what was saved.
        """
        place = self._place(_check_step(step))
        try:
            archive = read_archive(place, format=FORMAT, max_version=VERSION)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"Expected a checkpoint of step {step} in {self.path}, got steps {self.steps()}."
            ) from error
        kept, facts = archive.facts.get("step"), archive.facts.get("facts")
        if kept != step or not isinstance(facts, dict):
            raise DamagedArchiveError(f"Expected step {step} in {place}, got step {kept}.")
        return Checkpoint(step, archive.tensors, facts)

    def load_last(self) -> Checkpoint | None:
        """
        Load the newest checkpoint that is whole; None if there is none at all.

        One that is damaged is skipped with a :class:`UserWarning` that says which, why, and what
        is used instead.

        :raises DamagedArchiveError: if there are some, but none is whole.
        """
        skipped = []
        for step in reversed(self.steps()):
            try:
                found = self.load(step)
            except (DamagedArchiveError, FileNotFoundError) as error:
                skipped.append(f"step {step} ({error})")
                continue
            if skipped:
                warnings.warn(
                    f"Expected whole checkpoints in {self.path}, got damaged ones: "
                    f"{'; '.join(skipped)}. Step {step} is used instead.",
                    stacklevel=2,
                )
            return found
        if skipped:
            raise DamagedArchiveError(
                f"Expected a whole checkpoint in {self.path}, got only damaged ones: "
                f"{'; '.join(skipped)}."
            )
        return None

    def load_best(self) -> Checkpoint | None:
        """
        Load the best checkpoint; None if none was saved as that.

        :raises DamagedArchiveError: if it, or the file that names it, is not what was saved.
        """
        step = self._best_step()
        return None if step is None else self.load(step)

    def _place(self, step: int) -> Path:
        return self.path / f"step-{step:09d}"

    def _best_step(self) -> int | None:
        try:
            content = read_sealed(self.path / BEST)
        except FileNotFoundError:
            return None
        step, version = content.get("step"), content.get("version")
        if version != VERSION or type(step) is not int:
            raise DamagedArchiveError(
                f"Expected a step and version {VERSION} in {self.path / BEST}, got {content}."
            )
        return step

    def _prune(self, saved: int) -> None:
        clear_leftovers(self.path, lambda name: _STEP.fullmatch(name) is not None)
        try:
            best = self._best_step()
        except DamagedArchiveError as error:
            # Which one to keep is not known, so all are.
            warnings.warn(f"{error} Nothing is removed until a best is saved.", stacklevel=3)
            return
        earlier = [step for step in self.steps() if step <= saved]
        for step in earlier[: -self.keep_last]:
            if step != best:
                with contextlib.suppress(FileExistsError):  # somebody put files of theirs in it
                    remove_archive(self._place(step))


def _check_step(step: Any) -> int:
    if isinstance(step, bool) or not isinstance(step, int):
        raise TypeError(f"Expected step to be an int of at least 0, got {step!r}.")
    if step < 0:
        raise ValueError(f"Expected step to be an int of at least 0, got {step}.")
    return step
