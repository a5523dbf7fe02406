"""One training loop: for an ELBO as a torch module, and for any other module with a loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pyro.infer import ELBO

from pyro_vrnn.infer._guide_checks import check_order
from pyro_vrnn.infer._training import FitResult, OptimizerFn, check_options, run_training
from pyro_vrnn.infer.exact_kl_elbo import TraceExactKL_ELBO
from pyro_vrnn.nn.own_params import module_local_params
from pyro_vrnn.runs import check_device

__all__ = ["FitResult", "OptimizerFn", "fit", "fit_loss"]


def fit(
    model: torch.nn.Module,
    guide: torch.nn.Module,
    data: Iterable[Any],
    *,
    num_epochs: int,
    optimizer: OptimizerFn,
    elbo: ELBO | None = None,
    clip_norm: float | None = None,
    seed: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> FitResult:
    """
    Train a guide (and the model's learned parameters) by stochastic variational inference.

    The ELBO of the pair is made one :class:`torch.nn.Module`, under Pyro's module-local
    parameters, and its parameters go to a torch optimiser. Afterwards ``model`` and ``guide``
    hold the trained values; use them with :class:`~pyro.infer.Predictive` as after
    :class:`~pyro.infer.SVI`. (Two of Pyro's own guides with one name then still meet in its global
    store, unless ``pyro.settings.set(module_local_params=True)``; ours never do.) The same seed
    and data give the same result on the CPU, bit for bit. Not for several threads at once: Pyro's
    handlers and settings belong to the process.

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

    :param model: a Pyro model that is a module.
    :param guide: its guide, a module; an autoguide is built by a warm-up call, which draws random
        numbers.
    :param data: an iterable of batches that can be run through once an epoch, such as a
        :class:`~torch.utils.data.DataLoader`. A batch is a tuple of the model's positional
        arguments, or a dict of keyword arguments.
    :param int num_epochs: times to run through ``data``.
    :param optimizer: parameters -> :class:`torch.optim.Optimizer`, for instance
        ``functools.partial(torch.optim.Adam, lr=0.01)``.
    :param elbo: default :class:`~pyro_vrnn.infer.TraceExactKL_ELBO`, with the exact KL, which
        refuses guides without one, such as Pyro's autoguides: give :class:`~pyro.infer.Trace_ELBO`
        for those.
    :param float clip_norm: clip the gradient's norm to this; None to leave it.
    :param int seed: seed of all generators; None leaves them as they are.
    :param device: where model, guide and batches are put; None leaves them where they are.
    :param bool progress: show a progress bar.
    :returns: the history, a :class:`FitResult`.
    :raises TypeError: if an argument or a batch is of another type than said here.
    :raises ValueError: if ``data`` is empty, or runs out after the first epoch, or the device is
        not here.
    :raises FloatingPointError: if the loss is not finite; the step's update is not made.
    """
    check_options(num_epochs, clip_norm, optimizer)
    check_order(model)
    place = None if device is None else check_device(str(device))
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
        module.to(place)
    with module_local_params(model, guide):
        return run_training(
            elbo(model, guide),
            data,
            num_epochs=num_epochs,
            optimizer=optimizer,
            clip_norm=clip_norm,
            seed=seed,
            device=device,
            progress=progress,
            is_elbo=True,
        )


def fit_loss(
    loss: torch.nn.Module,
    data: Iterable[Any],
    *,
    num_epochs: int,
    optimizer: OptimizerFn,
    clip_norm: float | None = None,
    seed: int | None = None,
    device: torch.device | str | None = None,
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
    :returns: the history; its ``loss`` and ``epoch_loss`` are what the module returned.
    :raises TypeError: if an argument or a batch is of another type than said here.
    :raises ValueError: if ``data`` is empty, or runs out after the first epoch, or the device is
        not here.
    :raises FloatingPointError: if the loss is not finite; the step's update is not made.
    """
    check_options(num_epochs, clip_norm, optimizer)
    if not isinstance(loss, torch.nn.Module):
        raise TypeError(f"Expected loss to be a torch.nn.Module, got {type(loss).__name__}.")
    return run_training(
        loss.to(None if device is None else check_device(str(device))),
        data,
        num_epochs=num_epochs,
        optimizer=optimizer,
        clip_norm=clip_norm,
        seed=seed,
        device=device,
        progress=progress,
        is_elbo=False,
    )
