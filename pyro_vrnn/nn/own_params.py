"""Learned parameters that belong to one instance, whatever Pyro's settings say."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule

_serial = itertools.count()


class OwnParamsModule(PyroModule):
    """
    A :class:`~pyro.nn.PyroModule` that shares no parameters with another instance.

    Pyro's global parameter store is keyed by name: a second module of the same name silently
    starts from the first one's trained values. Here each instance, copies included, adds a number
    of its own to the names of its :class:`~pyro.nn.PyroParam` attributes. Names of sample sites
    are unchanged.
    """

    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self._owner = next(_serial)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._owner = next(_serial)

    def _pyro_get_fullname(self, name: str) -> str:
        fullname = super()._pyro_get_fullname(name)
        return f"{fullname}#{self._owner}" if name in self._pyro_params else fullname


def pyro_contexts(*programs: Callable[..., Any]) -> list[Any]:
    """Return Pyro's record of each PyroModule in the programs that are modules."""
    return [
        part._pyro_context
        for program in programs
        if isinstance(program, torch.nn.Module)
        for part in program.modules()
        if isinstance(part, PyroModule)
    ]


@contextlib.contextmanager
def module_local_params(*programs: Callable[..., Any]) -> Iterator[None]:
    """Let modules built under Pyro's default setting run under module-local parameters."""
    for context in pyro_contexts(*programs):
        # Pyro 1.9 makes this only if the setting was on when the module was built.
        if not hasattr(context, "param_state"):
            context.param_state = {"params": {}, "constraints": {}}
    with pyro.settings.context(module_local_params=True):
        yield


@contextlib.contextmanager
def own_parameters(*programs: Callable[..., Any]) -> Iterator[None]:
    """
    Let what was trained under module-local parameters, as by ``fit``, run under them.

    Under Pyro's default a module takes the value of a namesake in the parameter store, which
    another guide of the same class may have left, and loses its own. The last state that a
    language model keeps is afterwards what it was.
    """
    trained = any(hasattr(context, "param_state") for context in pyro_contexts(*programs))
    states = [
        (module, module.state)
        for program in programs
        if isinstance(program, torch.nn.Module)
        for module in program.modules()
        if hasattr(module, "reset_state")
    ]
    try:
        with module_local_params(*programs) if trained else contextlib.nullcontext():
            yield
    finally:
        for module, state in states:
            setattr(module, "state", state)  # noqa: B010 - mypy takes it for a tensor or module
