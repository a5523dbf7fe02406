"""Programs run to read a result off them, not to train."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from pyro.poutine.messenger import Messenger

from pyro_vrnn.nn.own_params import own_parameters


def underlying(program: Any) -> Any:
    """Return what handlers of Pyro's, partials and bound methods are made of."""
    while True:
        if isinstance(program, partial):
            args = program.args
            is_handled = len(args) > 1 and isinstance(args[0], Messenger)
            program = args[1] if is_handled else program.func
        elif isinstance(getattr(program, "__self__", None), torch.nn.Module):
            program = program.__self__
        else:
            return program


@contextlib.contextmanager
def evaluating(*programs: Any) -> Iterator[None]:
    """Put modules in evaluation, so that what they keep of batches, as BatchNorm does, stays."""
    found = [underlying(program) for program in programs]
    roots = [program for program in found if isinstance(program, torch.nn.Module)]
    modes = {module: module.training for root in roots for module in root.modules()}
    try:
        for root in roots:
            root.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def reading(*programs: Any) -> Iterator[None]:
    """
    Let programs run as every result is read off them: in evaluation, with their own parameters.

    Plain dropout is off and BatchNorm takes its running statistics, as in validation. What the
    weight guides draw does not depend on the mode.
    """
    with evaluating(*programs), own_parameters(*programs):
        yield
