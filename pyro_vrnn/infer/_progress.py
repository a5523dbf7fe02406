"""The progress bar of a run: steps or epochs, the ELBO and its parts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from tqdm.auto import tqdm

from pyro_vrnn.infer._batches import Batches
from pyro_vrnn.infer.fit_result import KL


class Progress:
    """A bar over the steps if their number is known, else over the epochs."""

    def __init__(self, label: str, batches: Batches, num_epochs: int, accumulate: int) -> None:
        self.label, self.num_epochs = label, num_epochs
        self.num_batches: int | None = None  # of an epoch
        with contextlib.suppress(TypeError):  # a loader of a stream has no length
            self.num_batches = len(batches.data)  # type: ignore[arg-type]
        self.per_epoch = None if self.num_batches is None else -(-self.num_batches // accumulate)
        self._bar: Any = None
        self._held_out: dict[str, str] = {}

    @contextlib.contextmanager
    def shown(self, wanted: bool) -> Iterator[None]:
        """Show the bar in this context."""
        total = self.num_epochs * (self.per_epoch or 1)
        unit = "epoch" if self.per_epoch is None else "step"
        with tqdm(total=total, desc=self.label, unit=unit, disable=not wanted) as bar:
            self._bar = bar
            yield

    def resume(self, step: int, epoch: int) -> None:
        """Go on from here."""
        self._bar.update(epoch if self.per_epoch is None else step)

    def step(self, row: Mapping[str, float]) -> None:
        """Show what a step gave, nothing if its update was left out."""
        if self._bar.disable:
            return
        self._bar.set_postfix({**_parts(row), **self._held_out}, refresh=False)
        if self.per_epoch is not None:
            self._bar.update()

    def epoch(self, scores: Mapping[str, float], monitor: str) -> None:
        """Show the held-out score of an epoch."""
        if monitor in scores:
            self._held_out = {f"held-out {monitor}": f"{scores[monitor]:.4g}"}
        if self.per_epoch is None:
            self._bar.update()


def _parts(row: Mapping[str, float]) -> dict[str, str]:
    if "expected_log_likelihood" not in row:
        return {"loss": f"{row['loss']:.5g}"} if "loss" in row else {}
    expected = row["expected_log_likelihood"]
    kl = sum(value for name, value in row.items() if name.startswith(KL))
    return {
        "elbo": f"{expected - kl:.5g}",
        "log-likelihood": f"{expected:.5g}",
        "KL": f"{kl:.5g}",
    }
