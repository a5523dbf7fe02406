"""Checks of a model, a guide and the arguments they are run with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_callable(model: Any, guide: Any, label: str = "") -> None:
    """Refuse, with a TypeError, a model or a guide that cannot be called."""
    for name, value in (("model", model), ("guide", guide)):
        if not callable(value):
            got = type(value).__name__
            raise TypeError(f"Expected {name}{label} to be callable, got {got}.")


def check_arguments(name: str, args: Any, kwargs: Any) -> Mapping[str, Any]:
    """
    Return the keyword arguments, {} for None.

    :param str name: what they are called in messages: ``NAME_args`` and ``NAME_kwargs``.
    :raises TypeError: for what is no tuple and no dict.
    """
    # A tensor would be taken apart into its first dim.
    if not isinstance(args, (tuple, list)):
        raise TypeError(f"Expected {name}_args to be a tuple, got {type(args).__name__}.")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise TypeError(f"Expected {name}_kwargs to be a dict, got {type(kwargs).__name__}.")
    return kwargs or {}


def check_program(
    model: Any, guide: Any, model_args: Any, model_kwargs: Any, label: str = ""
) -> Mapping[str, Any]:
    """
    Return the keyword arguments of a model and a guide, {} for None.

    :param str label: what the model and guide are called in messages.
    :raises TypeError: for what cannot be called, or arguments that are no tuple and no dict.
    """
    check_callable(model, guide, label)
    return check_arguments("model", model_args, model_kwargs)
