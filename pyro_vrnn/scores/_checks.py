"""Checks that every score makes of its arrays; the wording follows :mod:`pyro_vrnn.shapes`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pyro_vrnn.shapes import FloatArray, finite_array, shape_text


def check_same_shape(name: str, value: FloatArray, like: FloatArray) -> FloatArray:
    """Return ``value`` if it has the shape of ``like``: scores broadcast no values."""
    if value.shape != like.shape:
        raise ValueError(
            f"Expected {name} of shape {shape_text(like.shape)}, got {shape_text(value.shape)}."
        )
    return value


def check_draws(name: str, draws: FloatArray, y: FloatArray) -> FloatArray:
    """Return ``draws`` if its shape is that of ``y`` behind one axis of draws."""
    if draws.shape[1:] != y.shape or draws.ndim == 0:
        expected = shape_text(("S", *y.shape))
        raise ValueError(f"Expected {name} of shape {expected}, got {shape_text(draws.shape)}.")
    return draws


def check_num_draws(draws: FloatArray) -> FloatArray:
    """Return ``draws`` if its first axis holds at least two."""
    num_draws = draws.shape[0] if draws.ndim else 0
    if num_draws < 2:
        raise ValueError(f"Expected at least 2 draws, got {num_draws}.")
    return draws


def positive_scale(scale: ArrayLike, like: FloatArray) -> FloatArray:
    """
    Return ``scale`` above 0 in the shape of ``like``: a number, or an array of as many axes.

    An array of fewer axes is refused: where S = N, NumPy would read one scale for each draw as
    one for each value.
    """
    array = finite_array("scale", scale)
    if not (array > 0).all():
        raise ValueError(f"Expected scale to be positive, got {array.min()}.")
    fits = array.ndim == 0 or (
        array.ndim == like.ndim
        and all(a in (1, b) for a, b in zip(array.shape, like.shape, strict=True))
    )
    if not fits:
        raise ValueError(
            f"Expected scale to be a number or of shape {shape_text(like.shape)} (sizes of 1 "
            f"broadcast), got {shape_text(array.shape)}."
        )
    return np.broadcast_to(array, like.shape)


def check_level(level: Any) -> float:
    """Return ``level`` as a float if it is a number inside (0, 1)."""
    if isinstance(level, bool) or not isinstance(level, (int, float)):
        raise TypeError(f"Expected level to be a number in (0, 1), got {level!r}.")
    if not 0.0 < level < 1.0:
        raise ValueError(f"Expected level in (0, 1), got {level}.")
    return float(level)


def missing_scoringrules() -> ImportError:
    """Return the error that says where the library of scoring rules comes from."""
    return ImportError(
        "Expected the package scoringrules, got no such module: pip install 'pyro-vrnn[demo]'."
    )
