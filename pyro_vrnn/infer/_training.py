"""The loop itself: steps of a torch optimiser on a module that returns a loss, and its history."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vrnn.infer.elbo_parts import ELBOParts
from pyro_vrnn.runs import machine, set_seed, versions
from pyro_vrnn.shapes import check_positive_float, check_positive_int, shape_text

OptimizerFn = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


@dataclass
class FitResult:
    """
    What happened in a call of :func:`fit`.

    :ivar list loss: minus the ELBO estimate of every step, in nats, over the whole data.
    :ivar list epoch_loss: its mean in every epoch.
    :ivar list expected_log_likelihood: that term of every step's ELBO, in nats, over the whole
        data; empty if the ELBO does not keep its parts, as Pyro's own do not.
    :ivar dict kl: site -> its KL divergence in every step, 0 in one without the site. The ELBO is
        the expected log-likelihood less all of them.
    :ivar int steps_per_epoch: steps of one epoch.
    :ivar int seed: the seed, or None.
    :ivar float wall_time: seconds.
    :ivar dict versions: versions of Python and the packages.
    :ivar dict machine: platform, threads and GPU.
    """

    loss: list[float] = field(default_factory=list)
    epoch_loss: list[float] = field(default_factory=list)
    expected_log_likelihood: list[float] = field(default_factory=list)
    kl: dict[str, list[float]] = field(default_factory=dict)
    steps_per_epoch: int = 0
    seed: int | None = None
    wall_time: float = 0.0
    versions: dict[str, str] = field(default_factory=versions)
    machine: dict[str, str | int] = field(default_factory=machine)

    @property
    def elbo(self) -> list[float]:
        """The ELBO estimate of every step, in nats."""
        return [-loss for loss in self.loss]

    def _append(self, steps: list[_Step]) -> None:
        """Add an epoch's steps."""
        names = dict.fromkeys([*self.kl, *(name for step in steps for name in step.kl)])
        for name in names:
            before = self.kl.setdefault(name, [0.0] * len(self.loss))
            before += [step.kl.get(name, 0.0) for step in steps]
        losses = [step.loss for step in steps]
        self.loss += losses
        self.expected_log_likelihood += [
            step.expected_log_likelihood
            for step in steps
            if step.expected_log_likelihood is not None
        ]
        self.steps_per_epoch = len(losses)
        self.epoch_loss.append(math.fsum(losses) / len(losses))


class _Step(NamedTuple):
    loss: float
    expected_log_likelihood: float | None
    kl: dict[str, float]


def check_options(num_epochs: int, clip_norm: float | None, optimizer: OptimizerFn) -> None:
    """Refuse what no training can begin with."""
    check_positive_int("num_epochs", num_epochs)
    if clip_norm is not None:
        check_positive_float("clip_norm", clip_norm)
    if not callable(optimizer) or isinstance(optimizer, PyroOptim):
        raise _no_optimizer(f"{type(optimizer).__module__}.{type(optimizer).__name__}")


def run_training(
    loss_module: torch.nn.Module,
    data: Iterable[Any],
    *,
    num_epochs: int,
    optimizer: OptimizerFn,
    clip_norm: float | None,
    seed: int | None,
    device: torch.device | str | None,
    progress: bool,
    is_elbo: bool,
) -> FitResult:
    """Seed, run the epochs with a progress bar, and return the history."""
    if seed is not None:
        set_seed(seed)
    started = time.perf_counter()
    result = FitResult(seed=seed)
    trainer = _Trainer(loss_module, optimizer, clip_norm)
    with tqdm(
        total=num_epochs, desc="SVI" if is_elbo else "training", unit="epoch", disable=not progress
    ) as bar:
        for epoch in range(num_epochs):
            steps: list[_Step] = []
            for args, kwargs in _batches(data, device):
                steps.append(trainer.step(args, kwargs, where=(epoch, len(steps))))
            if not steps:
                raise ValueError(
                    "Expected data that can be run through once an epoch, "
                    f"got no batch in epoch {epoch}."
                )
            result._append(steps)
            last = result.epoch_loss[-1]
            shown = {"elbo": f"{-last:.5g}"} if is_elbo else {"loss": f"{last:.5g}"}
            bar.set_postfix(shown, refresh=False)
            bar.update()
    result.wall_time = time.perf_counter() - started
    return result


def _no_optimizer(got: str) -> TypeError:
    return TypeError(
        "Expected optimizer to make a torch.optim.Optimizer of the parameters, such as "
        f"functools.partial(torch.optim.Adam, lr=0.01), got {got}: neither a pyro.optim object nor "
        "an optimiser that is already made will do."
    )


class _Trainer:
    def __init__(
        self, loss_module: torch.nn.Module, optimizer: OptimizerFn, clip_norm: float | None
    ) -> None:
        self.loss_module = loss_module
        self.make_optimizer = optimizer
        self.clip_norm = clip_norm
        self.optimizer: torch.optim.Optimizer | None = None
        self.parameters: list[Tensor] = []

    def _start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.optim.Optimizer:
        if isinstance(getattr(self.loss_module, "elbo", None), ELBO):
            # An autoguide has no parameters before its first call.
            with torch.no_grad():
                self.loss_module(*args, **kwargs)
        self.parameters = [p for p in self.loss_module.parameters() if p.requires_grad]
        optimizer = self.make_optimizer(self.parameters)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise _no_optimizer(f"a function that returns {type(optimizer).__name__}")
        return optimizer

    def step(self, args: tuple[Any, ...], kwargs: dict[str, Any], where: tuple[int, int]) -> _Step:
        if self.optimizer is None:
            self.optimizer = self._start(args, kwargs)
        self.optimizer.zero_grad(set_to_none=True)
        loss: Tensor = self.loss_module(*args, **kwargs)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = shape_text(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise TypeError(
                "Expected a module that returns a scalar loss, such as "
                f"baselines.GaussianLoss(network), got one that returns {got}."
            )
        step = self._read(loss)
        if not math.isfinite(step.loss):
            raise FloatingPointError(
                f"Expected a finite loss, got {step.loss} in epoch {where[0]}, batch {where[1]}."
            )
        loss.backward()
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()
        return step

    def _read(self, loss: Tensor) -> _Step:
        """Move the loss, and its parts if the ELBO keeps them, to the host in one transfer."""
        parts = getattr(getattr(self.loss_module, "elbo", None), "parts", None)
        if not isinstance(parts, ELBOParts):
            return _Step(loss.item(), None, {})
        scalars = [loss.detach(), parts.expected_log_likelihood, *parts.kl.values()]
        value, log_likelihood, *kl = torch.stack([x.to(loss.device) for x in scalars]).tolist()
        return _Step(value, log_likelihood, dict(zip(parts.kl, kl, strict=True)))


def _batches(
    data: Iterable[Any], device: torch.device | str | None
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    def place(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    for batch in data:
        if isinstance(batch, dict):
            yield (), {name: place(value) for name, value in batch.items()}
        elif isinstance(batch, (tuple, list)):
            yield tuple(place(value) for value in batch), {}
        else:
            raise TypeError(
                "Expected a batch to be a tuple of the model's arguments or a dict of them, "
                f"got {type(batch).__name__}."
            )
