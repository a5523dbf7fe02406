"""Learned parameters that belong to one instance, whatever Pyro's settings say."""

from __future__ import annotations

import itertools
from typing import Any

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
