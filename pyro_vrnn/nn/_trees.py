from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from pyro.nn import PyroModule
from pyro.nn.module import to_pyro_module_
from torch import nn

from pyro_vrnn.nn.weights import WeightModule

_FROZEN = "_bayesianize_frozen"
_PYRO_ATTRIBUTES = ("_pyro_name", "_pyro_context", "_pyro_params", "_pyro_samples")


def deepcopy_with(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Deep-copy a tree, with ``memo``'s modules in the places of those whose ids it holds."""
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        raise RuntimeError(
            f"Expected a module that copy.deepcopy can copy, got a {type(module).__name__} of "
            f"which it says: {error}"
        ) from error


def to_pyro(root: nn.Module) -> None:
    """
    Make a tree that holds PyroModules one model, in place, with the dotted paths as site names.

    Modules that have trained parameters of their own are converted too, so that SVI sees them.
    Frozen parameters become buffers: reading one through Pyro would make it trainable again.
    """
    _freeze(root)
    for part in list(root.modules()):
        seen_by_svi = any(isinstance(p, PyroModule) for p in part.modules())
        if not isinstance(part, PyroModule) and (
            seen_by_svi or any(True for _ in part.parameters())
        ):
            # Set aside: the conversion would put PyroModules behind their siblings.
            children, parameters = part._modules, part._parameters
            part._modules, part._parameters = {}, {}
            to_pyro_module_(part, recurse=False)
            part._modules, part._parameters = children, parameters
    places = Counter(id(part) for _, part in root.named_modules(remove_duplicate=False))
    for part in root.modules():
        if isinstance(part, WeightModule):
            part._at_many_places = places[id(part)] > 1
    root.__dict__["_pyro_name"] = ""
    _renew_contexts(root)


def to_plain(root: nn.Module) -> None:
    """
    Undo :func:`to_pyro`, in place, as far as classes and frozen parameters go.

    PyroModules of a class of their own, or with sites or constrained parameters, stay.
    """
    thawed: dict[int, nn.Parameter] = {}
    for part in list(root.modules()):
        cls = _plain_class(part)
        if cls is not None:
            part.__class__ = cls
            for attribute in _PYRO_ATTRIBUTES:
                del part.__dict__[attribute]
        for name in part.__dict__.pop(_FROZEN, ()):
            value = part._buffers.pop(name)
            assert value is not None
            frozen = nn.Parameter(value, requires_grad=False)
            part._parameters[name] = thawed.setdefault(id(value), frozen)


def _plain_class(part: nn.Module) -> type[nn.Module] | None:
    """Return the class that ``part`` had before Pyro's mixin, or None if it is no such mixture."""
    if not isinstance(part, PyroModule) or part._pyro_params or part._pyro_samples:
        return None
    base = type(part).__bases__[0]
    mixed = issubclass(base, nn.Module) and PyroModule[base] is type(part)
    return base if mixed else None


def _freeze(root: nn.Module) -> None:
    frozen: dict[int, torch.Tensor] = {}
    for part in root.modules():
        if isinstance(part, PyroModule):
            continue
        names = [n for n, p in part._parameters.items() if p is not None and not p.requires_grad]
        for name in names:
            parameter = part._parameters.pop(name)
            assert parameter is not None
            part._buffers[name] = frozen.setdefault(id(parameter), parameter.detach())
        if names:
            part.__dict__[_FROZEN] = names


def _renew_contexts(root: nn.Module) -> None:
    """Let each PyroModule below no other be the root of its own calls."""
    parts = [part for part in root.modules() if isinstance(part, PyroModule)]
    own = {}
    for part in parts:
        context = copy.copy(part._pyro_context)  # keeps whether parameters are module-local
        context.used, context.active, context.cache = False, 0, {}
        part._pyro_context = own[id(part)] = context
    for part in parts:
        if part._pyro_context is own[id(part)]:
            part._pyro_set_supermodule(part._pyro_name, part._pyro_context)
