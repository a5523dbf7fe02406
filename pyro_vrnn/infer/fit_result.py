"""The history of a training run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pyro_vrnn.infer._columns import Columns
from pyro_vrnn.reprs import value_text
from pyro_vrnn.runs import machine, versions

KL = "kl."  # what columns of divergences begin with
MOST_SCORES = 4  # in a repr
FACTS = (
    "steps_per_epoch",
    "seed",
    "wall_time",
    "versions",
    "machine",
    "skipped",
    "best_epoch",
    "stopped",
    "resumed_from",
)


@dataclass
class FitResult:
    """
    What happened in a call of :func:`fit`, those that it resumed included.

    One number a step:

    :ivar list loss: what was minimised: minus the ELBO estimate, in nats over the whole data, with
        ``kl_weight`` if one was given.
    :ivar list expected_log_likelihood: that term of the ELBO, in nats, over the whole data; empty
        if the ELBO does not keep its parts, as Pyro's own do not.
    :ivar dict kl: site -> its KL divergence, 0 in a step without the site. The ELBO is the expected
        log-likelihood less all of them.
    :ivar list gradient_norm: of all parameters, before clipping.
    :ivar list learning_rate: of the first parameter group.
    :ivar list kl_weight: empty if it was 1 throughout.

    One an epoch:

    :ivar list epoch_loss: mean of ``loss``.
    :ivar dict validation: name of a held-out score -> its values; see :class:`HeldOut`.

    And of the run:

    :ivar int steps_per_epoch: steps of one epoch.
    :ivar list skipped: ``[epoch, batch]`` of each update that was left out for numbers that are not
        finite.
    :ivar int best_epoch: the epoch with the best monitored score, or None.
    :ivar str stopped: why training ended: ``"epochs"``, ``"patience"`` or ``"callback"``; None
        while it runs.
    :ivar list resumed_from: the steps at which a run went on from a checkpoint.
    :ivar int seed: the seed, or None.
    :ivar float wall_time: seconds, all runs together.
    :ivar dict versions: versions of Python and the packages.
    :ivar dict machine: platform, threads and GPU.
    """

    steps_per_epoch: int = 0
    seed: int | None = None
    wall_time: float = 0.0
    versions: dict[str, str] = field(default_factory=versions)
    machine: dict[str, str | int] = field(default_factory=machine)
    skipped: list[list[int]] = field(default_factory=list)
    best_epoch: int | None = None
    stopped: str | None = None
    resumed_from: list[int] = field(default_factory=list)
    steps: Columns = field(default_factory=Columns, repr=False)
    epochs: Columns = field(default_factory=Columns, repr=False)

    def __repr__(self) -> str:
        """Write on one line how far the run came, its last scores, and why it ended."""
        rows = self.epochs
        last = {name: rows.since(name, rows.length - 1)[0] for name in rows.names()}
        shown = {
            "epochs": rows.length,
            "steps": self.steps.length,
            "epoch_loss": last.pop("loss", None),
            **{f"validation[{name!r}]": score for name, score in list(last.items())[:MOST_SCORES]},
            "best_epoch": self.best_epoch,
            "stopped": self.stopped,
            "skipped": len(self.skipped) or None,
            "resumed_from": self.resumed_from or None,
            "seed": self.seed,
            "wall_time": self.wall_time,
        }
        found = {n: v for n, v in shown.items() if v is not None or n == "stopped"}
        return f"FitResult({', '.join(f'{n}={value_text(v)}' for n, v in found.items())})"

    @property
    def loss(self) -> list[float]:
        """What was minimised in every step, in nats."""
        return self.steps["loss"]

    @property
    def elbo(self) -> list[float]:
        """The ELBO estimate of every step, in nats, without a ``kl_weight``."""
        if not self.kl_weight:
            return [-loss for loss in self.loss]
        parts = zip(self.expected_log_likelihood, *self.kl.values(), strict=True)
        return [expected - math.fsum(kl) for expected, *kl in parts]

    @property
    def expected_log_likelihood(self) -> list[float]:
        """The expected log-likelihood of every step, in nats."""
        return self.steps["expected_log_likelihood"]

    @property
    def kl(self) -> dict[str, list[float]]:
        """Site -> KL divergence of every step."""
        losses = self.loss  # NaN where a step itself is lost
        return {
            name.removeprefix(KL): [
                0.0 if math.isnan(value) and not math.isnan(loss) else value
                for value, loss in zip(self.steps[name], losses, strict=True)
            ]
            for name in self.steps.names()
            if name.startswith(KL)
        }

    @property
    def gradient_norm(self) -> list[float]:
        """The norm of the gradient in every step, before clipping."""
        return self.steps["gradient_norm"]

    @property
    def learning_rate(self) -> list[float]:
        """The learning rate of the first parameter group in every step."""
        return self.steps["learning_rate"]

    @property
    def kl_weight(self) -> list[float]:
        """The weight of the KL in every step; empty if it was 1 throughout."""
        weights = self.steps["kl_weight"]
        known = (weight for weight in weights if not math.isnan(weight))  # not of a lost block
        return [] if all(weight == 1 for weight in known) else weights

    @property
    def epoch_loss(self) -> list[float]:
        """The mean loss of every epoch."""
        return self.epochs["loss"]

    @property
    def validation(self) -> dict[str, list[float]]:
        """Name of a held-out score -> its value in every epoch."""
        return {name: self.epochs[name] for name in self.epochs.names() if name != "loss"}

    def state(self, after: tuple[int, int] = (0, 0)) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all of it, or what comes after so many steps and epochs: tensors, and JSON."""
        steps, epochs = self.steps.part(after[0]), self.epochs.part(after[1])
        tensors = {f"step.{name}": values for name, values in steps.items()}
        tensors |= {f"epoch.{name}": values for name, values in epochs.items()}
        return tensors, {name: getattr(self, name) for name in FACTS}

    def load_state(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Take what :meth:`state` returned."""
        for start, columns in (("step.", self.steps), ("epoch.", self.epochs)):
            columns.load(_below(tensors, start))
        for name in FACTS:
            setattr(self, name, facts[name])


def _below(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    names: Iterable[str] = (name for name in tensors if name.startswith(start))
    return {name.removeprefix(start): tensors[name] for name in names}
