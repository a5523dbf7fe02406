"""Constant data: what the model was given beside its observations."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
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
    observed: Collection[Tensor],
    dims: Names,
    defaults: Names,
) -> dict[str, Variable]:
    """
    Return the variables of a group of constant data.

    :param wanted: name -> array; or True for the tensors among the model's arguments, by the names
        of these, the observed ones left out.
    :param observed: the values of observed sites.
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


def _tensors(
    argument: str, model: Program, given: Arguments, observed: Collection[Tensor]
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
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, Tensor) and not any(_same(value, other) for other in observed)
    }


def _same(value: Tensor, other: Tensor) -> bool:
    return value is other or (
        value.shape == other.shape
        and value.device == other.device
        and bool(torch.equal(value, other))
    )


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
