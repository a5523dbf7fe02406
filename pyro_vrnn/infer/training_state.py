"""State of optimisers and schedules as tensors and JSON facts, exactly and without pickle."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from pyro_vrnn.archives import DamagedArchiveError, check_plain_tensor
from pyro_vrnn.shapes import shape_text

State = tuple[dict[str, Tensor], dict[str, Any]]


def optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """
    Return what a torch optimiser keeps, for :func:`load_optimizer_state`.

    Example::

        >>> weight = torch.ones(2, requires_grad=True)
        >>> adam = torch.optim.Adam([weight], lr=0.1)
        >>> weight.sum().backward(); adam.step()
        >>> tensors, facts = optimizer_state(adam)
        >>> list(tensors)
        ['state.0.step', 'state.0.exp_avg', 'state.0.exp_avg_sq']

    :returns: tensors, and facts that JSON can say: groups of parameters, their shapes.
    :raises TypeError: if a value of a group is a function or the like; the message names it.
    """
    tensors, facts = flatten_state("optimizer", optimizer.state_dict())
    return tensors, {
        "class": type(optimizer).__name__,
        "shapes": _shapes(optimizer),
        "state": facts,
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """
    Give an optimiser the state of another of its class, with parameters of the same shapes.

    :param tensors: from :func:`optimizer_state`, and ``facts`` too.
    :raises ValueError: if class, groups or shapes differ.
    """
    _check_class("optimizer", optimizer, facts)
    here, there = _shapes(optimizer), facts.get("shapes")
    if here != there:
        raise ValueError(
            f"Expected the state of an optimizer of parameters of shapes {_shapes_text(here)}, "
            f"got {_shapes_text(there)}."
        )
    optimizer.load_state_dict(restore_state(tensors, facts["state"]))


def scheduler_state(scheduler: LRScheduler) -> State:
    """
    Return what a learning-rate schedule keeps, for :func:`load_scheduler_state`.

    Functions, such as those of :class:`~torch.optim.lr_scheduler.LambdaLR`, are not kept.

    :raises TypeError: if a value is neither number, string, tensor, list nor dict; the message
        names it.
    """
    tensors, facts = flatten_state("scheduler", scheduler.state_dict())
    return tensors, {"class": type(scheduler).__name__, "state": facts}


def load_scheduler_state(
    scheduler: LRScheduler, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """
    Give a schedule the state of another of its class; the learning rate is the optimiser's.

    :param tensors: from :func:`scheduler_state`, and ``facts`` too.
    :raises ValueError: if the class differs.
    """
    _check_class("scheduler", scheduler, facts)
    scheduler.load_state_dict(restore_state(tensors, facts["state"]))


def flatten_state(name: str, value: Any) -> tuple[dict[str, Tensor], Any]:
    """
    Split nested containers into tensors and what JSON can say of the rest, exactly.

    Tuples, keys that are ints, infinities and :class:`~collections.Counter` are kept as they are.

    >>> tensors, facts = flatten_state("s", {0: {"step": torch.tensor(3.0), "betas": (0.9, 0.99)}})
    >>> tensors
    {'0.step': tensor(3.)}
    >>> restore_state(tensors, facts)
    {0: {'step': tensor(3.), 'betas': (0.9, 0.99)}}

    :param str name: what messages call ``value``.
    :returns: tensors by their place, and facts, for :func:`restore_state`.
    :raises TypeError: for a part of another type; the message names it.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _flatten(name, value, (), tensors)


def restore_state(tensors: Mapping[str, Tensor], facts: Any) -> Any:
    """
    Return what :func:`flatten_state` split; the tensors are copies.

    :raises DamagedArchiveError: if the facts are none of that function's.
    """
    if isinstance(facts, list):
        return [restore_state(tensors, item) for item in facts]
    if not isinstance(facts, dict):
        return facts
    try:
        ((tag, content),) = facts.items()
        if tag == "tensor":
            return tensors[content].clone()
        if tag == "float":
            return float(content)
        if tag == "tuple":
            return tuple(restore_state(tensors, item) for item in content)
        if tag in ("dict", "counter"):
            items = {key: restore_state(tensors, item) for key, item in content}
            return Counter(items) if tag == "counter" else items
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedArchiveError(f"Expected the facts of a state, got {facts!r:.80}.") from error
    raise DamagedArchiveError(f"Expected the facts of a state, got {facts!r:.80}.")


def _check_class(what: str, given: Any, facts: Mapping[str, Any]) -> None:
    here, there = type(given).__name__, facts.get("class")
    if here != there:
        raise ValueError(f"Expected the state of the {what} {here}, got that of {there}.")


def _shapes(optimizer: torch.optim.Optimizer) -> list[list[list[int]]]:
    return [[list(p.shape) for p in group["params"]] for group in optimizer.param_groups]


def _shapes_text(shapes: Any) -> str:
    return " | ".join(" ".join(map(shape_text, group)) for group in shapes or ())


def _flatten(name: str, value: Any, path: tuple[str, ...], tensors: dict[str, Tensor]) -> Any:
    def inner(key: Any, item: Any) -> Any:
        return _flatten(f"{name}[{key!r}]", item, (*path, str(key)), tensors)

    if value is None or isinstance(value, (bool, str, int)):
        return int(value) if type(value) is not bool and isinstance(value, int) else value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, Tensor):
        check_plain_tensor(name, value)
        key = ".".join(path) or "value"
        while key in tensors:
            key += "_"
        tensors[key] = value
        return {"tensor": key}
    if type(value) in (list, tuple):
        items = [inner(i, item) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict):
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(f"Expected the keys of {name} to be strings or ints, got {key!r}.")
        tag = "counter" if isinstance(value, Counter) else "dict"
        return {tag: [[key, inner(key, item)] for key, item in value.items()]}
    raise TypeError(
        f"Expected {name} to be a tensor, number, string, list, tuple or dict, "
        f"got {type(value).__name__}."
    )
