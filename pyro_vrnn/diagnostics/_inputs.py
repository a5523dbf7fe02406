"""
Constant data: what the model was given beside its observations.

An argument is an observation if its own memory is what a site observes, never for its values: an
input may equal the observations. What a model made of an argument (``y.float()``) is other memory;
of a site that observes such, the argument called ``y`` or as the site is the observation.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vrnn.diagnostics._collect import numpy_of
from pyro_vrnn.diagnostics._datasets import Variable
from pyro_vrnn.diagnostics._draws import Arguments, Program
from pyro_vrnn.diagnostics._sites import Names

ConstantData = bool | Mapping[str, Any] | None


def constant_variables(
    argument: str,
    wanted: ConstantData,
    model: Program,
    given: Arguments,
    observed: Mapping[str, Tensor],
    dims: Names,
    defaults: Names,
) -> dict[str, Variable]:
    """
    Return the variables of a group of constant data.

    :param wanted: name -> array; or True for the tensors among the model's arguments, by the names
        of these, the observed ones left out.
    :param given: those of the model, as :func:`apart` returns them.
    :param observed: the own values of observed sites, by name.
    :raises TypeError: if ``wanted`` is of another type.
    :raises ValueError: if True is asked of a model whose arguments have no names, or there are more
        names in ``dims`` than the array has dims.
    """
    if wanted is None or wanted is False:
        return {}
    if wanted is True:
        wanted = _tensors(argument, model, given, observed)
    if not isinstance(wanted, Mapping):
        raise TypeError(
            f"Expected {argument} to be a bool or a dict of arrays, got {type(wanted).__name__}."
        )
    return {name: _variable(name, value, dims, defaults) for name, value in wanted.items()}


def apart(given: Arguments) -> Arguments:
    """Return arguments no two tensors of which share memory: a second one is copied."""
    seen: set[int] = set()

    def own(value: Any) -> Any:
        place = _memory(value)
        if place is None:
            return value
        if place in seen:
            return value.clone()
        seen.add(place)
        return value

    return Arguments(
        [own(value) for value in given.args], {n: own(v) for n, v in given.kwargs.items()}
    )


def _tensors(
    argument: str, model: Program, given: Arguments, observed: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    program = model.forward if isinstance(model, torch.nn.Module) else model
    signature = inspect.signature(program)
    bound = signature.bind(*given.args, **given.kwargs).arguments
    found: dict[str, Any] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL and value:
            raise ValueError(
                f"Expected {argument}=True with a model whose arguments have names, got "
                f"*{name}: give {argument} a dict."
            )
        found |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    left_out = {name for site in observed for name in _observations(site, observed[site], tensors)}
    return {name: value for name, value in tensors.items() if name not in left_out}


def _observations(site: str, value: Tensor, tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the arguments that a site observes."""
    place = _memory(value)
    # A model that observes a part of an argument needs the rest of it as an input.
    same = [
        name
        for name, tensor in tensors.items()
        if tensor is value
        or (place is not None and _memory(tensor) == place and tensor.numel() == value.numel())
    ]
    return same or [name for name in (site, "y") if name in tensors][:1]


def _memory(value: Any) -> int | None:
    """Return where the memory of a tensor begins, whatever part of it the tensor shows."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.numel() == 0:
        return None
    return value.untyped_storage().data_ptr()


def _variable(name: str, value: Any, dims: Names, defaults: Names) -> Variable:
    array = numpy_of(value) if isinstance(value, Tensor) else np.asarray(value)
    given = dims.get(name)
    if given is None:
        given = list(defaults.get(name, ()))[: array.ndim]
    if isinstance(given, str) or len(given) > array.ndim:
        raise ValueError(f"Expected at most {array.ndim} names in dims[{name!r}], got {given!r}.")
    filled = [*given, *[None] * (array.ndim - len(given))]
    numbers = iter(range(array.ndim))
    return tuple(dim or f"{name}_dim_{next(numbers)}" for dim in filled), array
