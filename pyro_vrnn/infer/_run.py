"""The loop of a training run: epochs and steps, schedule, validation, early stopping."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pyro_vrnn.infer._batches import Batch
from pyro_vrnn.infer._interrupts import RUN_LOCK
from pyro_vrnn.infer._options import checked_scores
from pyro_vrnn.infer._run_state import Scores, StoredRun
from pyro_vrnn.infer.checkpoints import Checkpoint
from pyro_vrnn.infer.fit_result import FitResult
from pyro_vrnn.runs import set_seed


class Run(StoredRun):
    """One call of :func:`~pyro_vrnn.infer.fit`."""

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
            if self.trainer.optimizer is None and not self._start(batch):
                self.result.skipped.append([self.at.epoch, self.at.batch])
                self.at.batch += 1
                continue
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
        if self.trainer.optimizer is None:
            raise FloatingPointError(
                f"Expected a batch of finite numbers in epoch {self.at.epoch}, got none."
            )
        self._end_epoch()

    def _start(self, batch: Batch) -> bool:
        where = f"epoch {self.at.epoch}, batch {self.at.batch}"
        optimizer = self.trainer.start(batch, where)
        if optimizer is None:
            return False
        if self.options.scheduler is not None:
            self.scheduler = self._made_schedule(optimizer)
        if self.folder is not None and self.at.step == 0:
            self._save()
        return True

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
        self.at.ended = True
        losses = self.result.steps.since("loss", self.at.first_step)
        scores = {"loss": math.fsum(losses) / len(losses) if losses else math.nan}
        self.result.steps_per_epoch = len(losses)
        if self.options.validates:
            scores |= self._validated()
        self.result.epochs.append(scores)
        improved = self._judge(scores)
        if self.scheduler is not None and self.options.schedule == "epoch":
            if isinstance(self.scheduler, ReduceLROnPlateau):
                score = self.options.height(scores)  # higher is better
                self.scheduler.step(score if self.scheduler.mode == "max" else -score)
            else:
                self.scheduler.step()
        self.at.epoch += 1
        self.progress.epoch(scores, self.options.watched)
        self._after("epoch")
        self._mark_start()
        if self.result.stopped is None and self.at.epoch >= self.options.num_epochs:
            self.result.stopped = "epochs"
        if self.folder is not None:
            self._save(best=improved)
        elif improved and self.options.validates:
            self._best = {n: v.clone() for n, v in self.trainer.module.state_dict().items()}
        self._keep_time()

    def _validated(self) -> Scores:
        validation = self.options.validation
        try:
            if callable(validation):
                return checked_scores(validation(), self.options.monitor)
            return self.score(validation)
        except Exception as error:
            error.add_note(f"In the validation after epoch {self.at.epoch}.")
            if self.folder is not None:
                self._save()  # the epoch is not lost
            raise

    def _judge(self, scores: Scores) -> bool:
        """Say whether this epoch is the best, and stop when patience is at its end."""
        if not self.options.validates:
            return False
        score = self.options.height(scores)
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
            if getattr(callback, "every", "epoch") != what:
                continue
            answer = callback(self.result)
            if not (answer is None or isinstance(answer, (bool, np.bool_))):
                raise TypeError(
                    "Expected callbacks to return True (stop), False or None, "
                    f"got {type(answer).__name__}."
                )
            if answer:
                self.result.stopped = "callback"
