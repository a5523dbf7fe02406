"""One training loop: for an ELBO as a torch module, and for any other module with a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO

from pyro_vrnn.infer._batches import Batches, as_batches
from pyro_vrnn.infer._data_size import check_num_data
from pyro_vrnn.infer._interrupts import RUN_LOCK
from pyro_vrnn.infer._options import Options, SchedulerFn, ScoresFn
from pyro_vrnn.infer._run import Run
from pyro_vrnn.infer._trainer import OptimizerFn, Trainer
from pyro_vrnn.infer.evaluating import evaluating
from pyro_vrnn.infer.exact_kl_elbo import TraceExactKL_ELBO
from pyro_vrnn.infer.fit_result import FitResult
from pyro_vrnn.infer.held_out import check_independent_batches, held_out
from pyro_vrnn.infer.pairs import check_pair
from pyro_vrnn.nn.own_params import module_local_params
from pyro_vrnn.shapes import check_choice

__all__ = ["OptimizerFn", "fit", "fit_loss"]


def fit(
    model: torch.nn.Module,
    guide: torch.nn.Module,
    data: Iterable[Any],
    *,
    num_epochs: int,
    optimizer: OptimizerFn,
    elbo: ELBO | None = None,
    batch_size: int | None = None,
    clip_norm: float | None = None,
    scheduler: SchedulerFn | None = None,
    schedule: str = "epoch",
    accumulate: int = 1,
    kl_weight: float | Callable[[int], float] = 1.0,
    validation: Iterable[Any] | ScoresFn | None = None,
    monitor: str = "expected_log_likelihood",
    validation_draws: int = 10,
    patience: int | None = None,
    nonfinite: str = "stop",
    callbacks: Sequence[Callable[[FitResult], Any]] = (),
    seed: int | None = None,
    device: torch.device | str | None = None,
    checkpoint_dir: str | Path | None = None,
    checkpoint_every: int | None = None,
    keep_last: int = 3,
    resume: bool = True,
    progress: bool = True,
) -> FitResult:
    """
    Train a guide (and the model's learned parameters) by stochastic variational inference.

    The ELBO of the pair is made one :class:`torch.nn.Module`, under Pyro's module-local
    parameters, and its parameters go to a torch optimiser. Afterwards ``model`` and ``guide``
    hold the trained values; use them with :class:`~pyro.infer.Predictive` as after
    :class:`~pyro.infer.SVI`. (Two of Pyro's own guides with one name then still meet in its global
    store, unless ``pyro.settings.set(module_local_params=True)``; ours never do.) The same seed
    and data give the same result on the CPU, bit for bit. Pyro's handlers and settings belong to
    the process, so a second call in another thread waits for the first.

    With ``checkpoint_dir`` the run goes on from the newest whole checkpoint there, as if it had not
    been interrupted, bit for bit on one device; SIGINT and SIGTERM end it after the step that is
    being made, with a checkpoint. Inside an epoch that holds for lists of batches, loaders of a
    dataset, and data with ``state_dict`` and ``load_state_dict``; others start the epoch again and
    a warning says so. The optimiser's state, its learning rate included, comes with the checkpoint.

    Example::

        >>> from functools import partial
        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.SequenceRegression(vrnn.nn.GRU(1, 4), 1, num_data=8)
        >>> guide = vrnn.infer.AutoSpikeAndSlab(model)
        >>> batches = [(torch.zeros(4, 10, 1), torch.zeros(4, 1))] * 2
        >>> adam = partial(torch.optim.Adam, lr=0.01)
        >>> result = fit(model, guide, batches, num_epochs=3, optimizer=adam, progress=False)
        >>> len(result.loss), len(result.epoch_loss)
        (6, 3)

    :param model: a Pyro model that is a module. One of ours is warned of if it has no ``num_data``
        and an epoch more than one batch, or if its ``num_data`` is not the dataset's size.
    :param guide: its guide, a module; an autoguide is built by a warm-up call, which draws random
        numbers.
    :param data: an iterable of batches that can be run through once an epoch, such as a
        :class:`~torch.utils.data.DataLoader`. A batch is a tuple of the model's positional
        arguments, or a dict of keyword arguments. Or a :class:`~torch.utils.data.Dataset` of such
        tuples, together with ``batch_size``: it is shuffled by the seed.
    :param int num_epochs: times to run through ``data``.
    :param optimizer: parameters -> :class:`torch.optim.Optimizer`, for instance
        ``functools.partial(torch.optim.Adam, lr=0.01)``.
    :param elbo: default :class:`~pyro_vrnn.infer.TraceExactKL_ELBO`, with the exact KL, which
        refuses guides without one, such as Pyro's autoguides: give :class:`~pyro.infer.Trace_ELBO`
        for those.
    :param int batch_size: of a dataset.
    :param float clip_norm: clip the gradient's norm to this; None to leave it.
    :param scheduler: optimiser -> a schedule of :mod:`torch.optim.lr_scheduler`. One that watches
        a score, ``ReduceLROnPlateau``, gets the monitored one in the direction of its ``mode``, or
        the epoch's loss.
    :param str schedule: step it after each ``"epoch"`` or ``"step"`` (``OneCycleLR`` and other
        schedules that count steps need ``"step"``).
    :param int accumulate: batches whose mean gradient makes one step.
    :param kl_weight: what the KL is multiplied by, a number or step -> number; 1 unless you want
        annealing or a tempered posterior. It is recorded, and the history's ELBO is without it.
    :param validation: held-out batches; after every epoch :func:`~pyro_vrnn.infer.held_out` scores
        them. At the end the parameters of the best epoch are restored. Or a function without
        arguments that returns scores of its own, name -> number, recorded under these names.
    :param str monitor: which score is best: ``"expected_log_likelihood"`` or ``"nll"``, per
        observation. (The ELBO's KL belongs to the training data.) Of a function's scores it may be
        any, and lower is better but for ``"expected_log_likelihood"``.
    :param int validation_draws: draws of the guide for a score.
    :param int patience: stop after so many epochs without a better score.
    :param str nonfinite: ``"stop"``, or ``"skip"`` to leave out updates with NaN or infinity in the
        data, loss or gradient, and count them in ``result.skipped``.
    :param callbacks: called with the history after every epoch, or every step if they have an
        attribute ``every = "step"``; training stops when one returns True.
    :param int seed: seed of all generators; None leaves them as they are.
    :param device: where model, guide and batches are put; None leaves them where they are.
    :param checkpoint_dir: a folder for checkpoints: at step 0, after every epoch, and as follows.
    :param int checkpoint_every: also after so many steps.
    :param int keep_last: how many are kept, beside the best.
    :param bool resume: False to refuse a folder that has checkpoints.
    :param bool progress: show a progress bar.
    :returns: the history, a :class:`FitResult`.
    :raises TypeError: if an argument or a batch is of another type than said here.
    :raises ValueError: if ``data`` is empty, or runs out after the first epoch; if the device is
        not here, or the checkpoints are another run's.
    :raises FloatingPointError: for numbers that are not finite; the message names where they are,
        the step's update is not made, and the last checkpoint stays.
    :raises DamagedArchiveError: if there are checkpoints, but none is whole.
    """
    options = Options.among(locals())
    check_pair(model, guide)
    elbo = TraceExactKL_ELBO() if elbo is None else elbo
    if not isinstance(elbo, ELBO):
        got = f"the class {elbo.__name__}" if isinstance(elbo, type) else type(elbo).__name__
        raise TypeError(f"Expected elbo to be a pyro.infer.ELBO such as Trace_ELBO(), got {got}.")
    for name, module in (("model", model), ("guide", guide)):
        if not isinstance(module, torch.nn.Module):
            raise TypeError(
                f"Expected {name} to be a torch.nn.Module, got {type(module).__name__}; for plain "
                "functions use pyro.infer.SVI."
            )
    own = ("expected_log_likelihood", "nll")
    if not callable(validation):
        check_choice("monitor", monitor, own)
        check_independent_batches("validation", validation)
    place = options.place
    for module in (model, guide):
        module.to(place)

    def score(batches: Any) -> dict[str, float]:
        scores = held_out(model, guide, batches, num_draws=validation_draws, device=place)
        return {name: getattr(scores, name) for name in own}

    with RUN_LOCK, module_local_params(model, guide):
        batches = Batches(as_batches(data, batch_size, seed), place)
        check_num_data(model, batches, kl_weight)
        trainer = Trainer(
            elbo(model, guide),
            optimizer,
            clip_norm=clip_norm,
            kl_weight=kl_weight,
            skip=nonfinite == "skip",
        )
        before = elbo.kl_weight if isinstance(elbo, TraceExactKL_ELBO) else 1.0
        try:
            return Run(trainer, batches, options, "SVI", score).run()
        finally:
            if isinstance(elbo, TraceExactKL_ELBO):
                elbo.kl_weight = before


def fit_loss(
    loss: torch.nn.Module,
    data: Iterable[Any],
    *,
    num_epochs: int,
    optimizer: OptimizerFn,
    batch_size: int | None = None,
    clip_norm: float | None = None,
    scheduler: SchedulerFn | None = None,
    schedule: str = "epoch",
    accumulate: int = 1,
    validation: Iterable[Any] | ScoresFn | None = None,
    monitor: str = "held_out_loss",
    patience: int | None = None,
    nonfinite: str = "stop",
    callbacks: Sequence[Callable[[FitResult], Any]] = (),
    seed: int | None = None,
    device: torch.device | str | None = None,
    checkpoint_dir: str | Path | None = None,
    checkpoint_every: int | None = None,
    keep_last: int = 3,
    resume: bool = True,
    progress: bool = True,
) -> FitResult:
    """
    Train any module that returns a loss, as :func:`fit` trains an ELBO.

    For the plain networks of :mod:`pyro_vrnn.baselines`, so that a comparison differs in nothing
    but the method.

    Example::

        >>> from functools import partial
        >>> from pyro_vrnn import baselines
        >>> network = baselines.SequenceNetwork(baselines.GRU(1, 4), baselines.Linear(4, 1))
        >>> loss = baselines.GaussianLoss(network, num_data=8)
        >>> batches = [(torch.zeros(4, 10, 1), torch.zeros(4, 1))] * 2
        >>> adam = partial(torch.optim.Adam, lr=0.01)
        >>> result = fit_loss(loss, batches, num_epochs=3, optimizer=adam, progress=False)
        >>> len(result.loss)
        6

    :param loss: a module whose call on a batch returns a scalar; it is trained as it is, in
        ``.train()`` mode or not.
    :param data: as for :func:`fit`, and so are the other parameters.
    :param validation: held-out batches, whose mean loss in ``.eval()`` mode is the score
        ``"held_out_loss"``; or a function of scores, as for :func:`fit`.
    :param str monitor: which of a function's scores is best.
    :returns: the history; its ``loss`` and ``epoch_loss`` are what the module returned.
    :raises TypeError: if an argument or a batch is of another type than said here.
    :raises ValueError: as :func:`fit`.
    :raises FloatingPointError: as :func:`fit`.
    """
    options = Options.among(locals())
    if not isinstance(loss, torch.nn.Module):
        raise TypeError(f"Expected loss to be a torch.nn.Module, got {type(loss).__name__}.")
    if not callable(validation):
        check_choice("monitor", monitor, ("held_out_loss",))
    place = options.place
    loss.to(place)

    def score(batches: Any) -> dict[str, float]:
        return {"held_out_loss": _mean_loss(loss, Batches(batches, place))}

    with RUN_LOCK:
        batches = Batches(as_batches(data, batch_size, seed), place)
        trainer = Trainer(loss, optimizer, clip_norm=clip_norm, skip=nonfinite == "skip")
        return Run(trainer, batches, options, "training", score).run()


@torch.no_grad()
def _mean_loss(loss: torch.nn.Module, batches: Batches) -> float:
    with evaluating(loss):
        values = [float(loss(*args, **kwargs)) for args, kwargs in batches.epoch()]
    if not values:
        raise ValueError("Expected held-out data of at least one batch, got none.")
    return sum(values) / len(values)
