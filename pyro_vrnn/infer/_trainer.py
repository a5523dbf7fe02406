"""One step of a torch optimiser on a module that returns a loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_vrnn.infer._batches import Batch
from pyro_vrnn.infer._nonfinite import bad_parameters, sources
from pyro_vrnn.infer._observed import check_batch_observes
from pyro_vrnn.infer.elbo_parts import ELBOParts
from pyro_vrnn.infer.evaluating import evaluating
from pyro_vrnn.infer.exact_kl_elbo import TraceExactKL_ELBO
from pyro_vrnn.infer.fit_result import KL
from pyro_vrnn.shapes import check_nonnegative_float, shape_text

OptimizerFn = Callable[[Iterable[Tensor]], torch.optim.Optimizer]
Row = dict[str, float]
MOST_SKIPPED = 20  # in a row, before training stops all the same


class Trainer:
    """
    An optimiser for a module that returns a loss.

    :param kl_weight: a number, or a function from the step's number to one.
    :param bool skip: leave out updates with numbers that are not finite, rather than stop.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        make_optimizer: OptimizerFn,
        *,
        clip_norm: float | None = None,
        kl_weight: float | Callable[[int], float] = 1.0,
        skip: bool = False,
    ) -> None:
        self.module, self.make_optimizer, self.clip_norm = module, make_optimizer, clip_norm
        self.kl_weight, self.skip = kl_weight, skip
        self._skipped_in_a_row = 0
        self.parameters: list[Tensor] = []
        self.optimizer: torch.optim.Optimizer | None = None
        self.elbo = getattr(module, "elbo", None)
        if kl_weight != 1.0 and not isinstance(self.elbo, TraceExactKL_ELBO):
            got = "another loss" if self.elbo is None else type(self.elbo).__name__
            raise ValueError(f"Expected kl_weight with TraceExactKL_ELBO only, got {got}.")

    def start(self, batch: Batch, where: str) -> torch.optim.Optimizer | None:
        """
        Make the parameters, where a first call does that, and the optimiser.

        :returns: None if the batch is one to leave out; another must be tried.
        """
        if isinstance(self.elbo, ELBO):
            check_batch_observes(getattr(self.module, "model", None), batch)
            # An autoguide has no parameters before its first call, which is not yet training.
            with torch.no_grad(), evaluating(self.module):
                loss = self._loss(batch, where)
            if loss is None or (self.skip and not bool(torch.isfinite(loss))):
                return None
        bad = bad_parameters(self.module)
        if bad:
            raise FloatingPointError(
                f"Expected finite numbers to start from, got others in {where}: "
                f"{'; '.join(f'parameter {name}' for name in bad)}."
            )
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        try:
            optimizer = self.make_optimizer(self.parameters)
        except ValueError as error:
            if self.parameters:
                raise
            raise ValueError(
                f"Expected a module with parameters to train, got a {type(self.module).__name__} "
                "without: a Pyro model is trained with its guide, by fit."
            ) from error
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise no_optimizer(f"a function that returns {type(optimizer).__name__}")
        self.optimizer = optimizer
        return optimizer

    def step(self, group: Sequence[Batch], number: int, where: str) -> Row | None:
        """
        Make one update from the mean gradient of some batches.

        :param int number: of the step, from 0.
        :param str where: for messages: which batch of which epoch.
        :returns: what there is to record; None if the update was left out.
        :raises FloatingPointError: for numbers that are not finite; the update is not made.
        """
        optimizer = self.optimizer
        assert optimizer is not None
        weight = self._set_kl_weight(number)
        optimizer.zero_grad(set_to_none=True)
        totals: dict[str, Tensor] = {}
        for batch in group:
            loss = self._loss(batch, where)
            if loss is None:
                self._leave_out()
                return None
            loss.backward()
            for name, value in self._terms(loss).items():
                totals[name] = totals[name] + value if name in totals else value
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if len(group) > 1:
            for gradient in gradients:
                gradient.div_(len(group))
        norm = self._clipped_norm(gradients)
        # One transfer to the host.
        numbers = [*(value / len(group) for value in totals.values()), norm]
        device = totals["loss"].device
        values = torch.stack([x.to(device, torch.float64) for x in numbers]).tolist()
        row = dict(zip([*totals, "gradient_norm"], values, strict=True))
        if not (math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"])):
            self._refuse(group[-1], row, where)
            self._leave_out()
            return None
        self._skipped_in_a_row = 0
        row |= {"learning_rate": float(optimizer.param_groups[0]["lr"]), "kl_weight": weight}
        optimizer.step()
        return row

    def _set_kl_weight(self, number: int) -> float:
        weight = self.kl_weight(number) if callable(self.kl_weight) else self.kl_weight
        weight = check_nonnegative_float(f"kl_weight in step {number}", weight)
        if isinstance(self.elbo, TraceExactKL_ELBO):
            self.elbo.kl_weight = weight
        return weight

    def _loss(self, batch: Batch, where: str) -> Tensor | None:
        try:
            loss = self.module(*batch[0], **batch[1])
        except ValueError as error:
            # Checks of models and distributions come before a loss that is not finite.
            found = list(sources(self.module, *batch))
            if not found:
                error.add_note(f"In {where}.")
                raise
            if self.skip and not bad_parameters(self.module):
                return None
            raise FloatingPointError(
                f"Expected finite numbers, got others in {where}: {'; '.join(found)}. ({error})"
            ) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = shape_text(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise TypeError(
                "Expected a module that returns a scalar loss, such as "
                f"baselines.GaussianLoss(network), got one that returns {got}."
            )
        return loss

    def _terms(self, loss: Tensor) -> dict[str, Tensor]:
        terms = {"loss": loss.detach().reshape(())}
        parts = getattr(self.elbo, "parts", None)
        if isinstance(parts, ELBOParts):
            terms["expected_log_likelihood"] = parts.expected_log_likelihood
            terms |= {KL + name: value for name, value in parts.kl.items()}
        return terms

    def _clipped_norm(self, gradients: list[Tensor]) -> Tensor:
        if not gradients:
            return torch.zeros(())
        if self.clip_norm is not None:
            return torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        return torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(g).to(gradients[0].device) for g in gradients])
        )

    def _refuse(self, batch: Batch, row: Row, where: str) -> None:
        """Raise an error that says where it came from, unless the update may be left out."""
        if self.skip and not bad_parameters(self.module):
            return
        found = list(sources(self.module, *batch))
        what = "loss" if not math.isfinite(row["loss"]) else "gradient_norm"
        raise FloatingPointError(
            f"Expected a finite {what.replace('_', ' ')}, got {row[what]} in {where}. Not finite: "
            f"{'; '.join(found) or 'nothing else'}."
        )

    def _leave_out(self) -> None:
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MOST_SKIPPED:
            raise FloatingPointError(
                f"Expected a finite update in {MOST_SKIPPED} batches, got none: is the learning "
                "rate too high?"
            )


def no_optimizer(got: str) -> TypeError:
    """Say what an optimiser must be."""
    return TypeError(
        "Expected optimizer to make a torch.optim.Optimizer of the parameters, such as "
        f"functools.partial(torch.optim.Adam, lr=0.01), got {got}: neither a pyro.optim object nor "
        "an optimiser that is already made will do."
    )
