"""Checks of a model, a guide and the arguments they are run with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_program(
    model: Any, guide: Any, model_args: Any, model_kwargs: Any, label: str = ""
) -> Mapping[str, Any]:
    """
    Return the keyword arguments, {} for None.

    :param str label: what the model and guide are called in messages.
    :raises TypeError: for what cannot be called, or arguments that are no tuple and no dict.
    """
    for name, value in (("model", model), ("guide", guide)):
        if not callable(value):
            got = type(value).__name__
            raise TypeError(f"Expected {name}{label} to be callable, got {got}.")
    # A tensor would be taken apart into its first dim.
    if not isinstance(model_args, (tuple, list)):
        raise TypeError(f"Expected model_args to be a tuple, got {type(model_args).__name__}.")
    if model_kwargs is not None and not isinstance(model_kwargs, Mapping):
        raise TypeError(f"Expected model_kwargs to be a dict, got {type(model_kwargs).__name__}.")
    return model_kwargs or {}
