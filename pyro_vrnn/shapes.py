"""
Argument checks.

The one place that words "Expected ..., got ...": every public door calls these, so that a
message reads the same wherever it is raised.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

FloatArray = NDArray[np.float64]
T = TypeVar("T")


def shape_text(shape: Iterable[int | str]) -> str:
    """
    Write a shape the way Python writes a tuple, with names left as they are.

    >>> shape_text(("N", "T", 16)), shape_text((3,))
    ('(N, T, 16)', '(3,)')
    """
    parts = [str(s) for s in shape]
    return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"


def check_positive_int(name: str, value: Any) -> int:
    """Return ``value`` as an int if it is an integer, NumPy's included, of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        got = f"a Tensor {shape_text(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise TypeError(f"Expected {name} to be a positive int, got {got}.")
    if value < 1:
        raise ValueError(f"Expected {name} to be a positive int, got {value}.")
    return int(value)


def check_positive_float(name: str, value: Any) -> float:
    """Return ``value`` as a float if it is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"Expected {name} to be a positive number, got {value!r}.")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"Expected {name} to be a positive number, got {value}.")
    return float(value)


def check_nonnegative_float(name: str, value: Any) -> float:
    """Return ``value`` as a float if it is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"Expected {name} to be a number of at least 0, got {value!r}.")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"Expected {name} to be a number of at least 0, got {value}.")
    return float(value)


def check_probability(name: str, value: Any) -> float:
    """Return ``value`` as a float if it is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"Expected {name} to be a number in [0, 1], got {value!r}.")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"Expected {name} in [0, 1], got {value}.")
    return float(value)


def check_share(name: str, value: Any) -> float:
    """Return ``value`` as a float if it is a number in (0, 1), such as a part of the data."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"Expected {name} to be a number in (0, 1), got {value!r}.")
    if not 0.0 < value < 1.0:
        raise ValueError(f"Expected {name} in (0, 1), got {value}.")
    return float(value)


def check_instance(name: str, value: Any, kind: type[T], hint: str = "") -> T:
    """
    Return ``value`` if it is of this class; ``hint`` says where one comes from.

    >>> check_instance("documents", "f.csv", dict, " (see read_dicts)")
    Traceback (most recent call last):
    ...
    TypeError: Expected documents to be of the class dict (see read_dicts), got str.
    """
    if not isinstance(value, kind):
        got = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise TypeError(f"Expected {name} to be of the class {kind.__name__}{hint}, got {got}.")
    return value


def check_sequence(name: str, value: Any, of: str) -> tuple[Any, ...]:
    """
    Return ``value`` as a tuple if it is a list or the like, and neither a string nor a mapping.

    >>> check_sequence("levels", 0.9, of="numbers")
    Traceback (most recent call last):
    ...
    TypeError: Expected levels to be a sequence of numbers, got 0.9.
    """
    is_array = isinstance(value, (np.ndarray, Tensor)) and value.ndim > 0
    is_list = isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))
    if not is_array and (not is_list or isinstance(value, (np.ndarray, Tensor))):
        got = repr(value) if isinstance(value, (str, int, float)) else type(value).__name__
        raise TypeError(f"Expected {name} to be a sequence of {of}, got {got}.")
    return tuple(value)


def check_path(name: str, value: Any) -> Path:
    """Return ``value`` as a path, if it is one or a string."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"Expected {name} to be a path, got {value!r:.80}.")
    return Path(value)


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> Any:
    """Return ``value`` if it is one of ``choices``."""
    if value not in choices:
        listed = ", ".join(repr(c) for c in choices)
        raise ValueError(f"Expected {name} to be one of {listed}, got {value!r}.")
    return value


def check_shape(name: str, value: Tensor, expected: Sequence[int | str]) -> Tensor:
    """
    Return ``value`` if its shape is ``expected``; a string in ``expected`` stands for any size.

    >>> check_shape("x", torch.zeros(2, 8), ("N", 16))
    Traceback (most recent call last):
    ...
    ValueError: Expected x of shape (N, 16), got (2, 8).
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"Expected {name} to be a Tensor, got {type(value).__name__}.")
    fits = value.dim() == len(expected) and all(
        isinstance(e, str) or e == s for e, s in zip(expected, value.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"Expected {name} of shape {shape_text(expected)}, got {shape_text(value.shape)}."
        )
    return value


def check_last_dim(name: str, value: Tensor, size: int) -> Tensor:
    """Return ``value`` if it is a tensor whose last dimension is ``size``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"Expected {name} to be a Tensor, got {type(value).__name__}.")
    if value.dim() < 1 or value.shape[-1] != size:
        raise ValueError(f"Expected {name} of shape (*, {size}), got {shape_text(value.shape)}.")
    return value


def check_dtype(
    name: str, value: Tensor, dtype: torch.dtype, *, owner: str = "the module"
) -> Tensor:
    """
    Return ``value`` if it has the weights' ``dtype``, or autocast will choose one for both.

    :param str owner: what holds the weights, and could be converted instead.
    """
    if value.dtype != dtype and not torch.is_autocast_enabled(value.device.type):
        other = f", or {owner} with .to({value.dtype})" if value.is_floating_point() else ""
        raise TypeError(
            f"Expected {name} of dtype {dtype} (the weights'), got {value.dtype}: "
            f"convert it with {name}.to({dtype}){other}."
        )
    return value


def check_finite(name: str, value: Tensor) -> Tensor:
    """Return ``value`` if it holds neither NaN nor infinity; name the first place otherwise."""
    bad = ~torch.isfinite(value)
    if bool(bad.any()):
        where = shape_text(bad.nonzero()[0].tolist())
        raise ValueError(
            f"Expected {name} to be finite, got {value[bad][0].item()} at index {where}."
        )
    return value


def check_range(name: str, value: Tensor, low: int, high: int) -> Tensor:
    """Return an integer tensor if all of it is in low..high; a GPU is waited for."""
    if value.numel():
        least, most = int(value.min()), int(value.max())
        if least < low or most > high:
            bad = least if least < low else most
            raise ValueError(f"Expected {name} in {low}..{high}, got {bad}.")
    return value


def check_classes(y: Any, num_sequences: int, num_classes: int, *, wait: bool = False) -> Tensor:
    """Return class ids ``(N,)`` if they are; a GPU's range is looked at only with ``wait``."""
    check_shape("y", y, (num_sequences,))
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"Expected y of an integer dtype (class ids), got {y.dtype}.")
    if wait or y.device.type == "cpu":
        check_range("y", y, 0, num_classes - 1)
    return y


def check_tokens(name: str, value: Any) -> Tensor:
    """Return token ids ``(N, T)`` if they are; their range is not looked at."""
    check_shape(name, value, ("N", "T"))
    if value.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"Expected {name} of dtype int64 or int32 (token ids), got {value.dtype}.")
    if value.numel() == 0:
        raise ValueError(
            f"Expected {name} of at least one sequence and one step, "
            f"got shape {shape_text(value.shape)}."
        )
    return value


def check_token_targets(
    y: Any, shape: Sequence[int], vocab_size: int, *, wait: bool = False
) -> Tensor:
    """Return target ids if they are; a GPU's range is looked at only with ``wait``."""
    check_shape("y", y, shape)
    check_tokens("y", y)
    if wait or y.device.type == "cpu":
        check_range("y", y, 0, vocab_size - 1)
    return y


def check_state(hx: Any, names: Sequence[str], shape: Sequence[int | str]) -> tuple[Tensor, ...]:
    """
    Return an initial state as a tuple of tensors, one for each of ``names``.

    Their shapes are not looked at. Where lengths stand in the state's place, as the argument after
    the input, the message says so.
    """
    is_list = isinstance(hx, (tuple, list))
    given = tuple(hx) if is_list else (hx,)
    fits = len(given) == len(names) and (is_list or len(names) == 1)
    if fits and all(isinstance(part, Tensor) for part in given) and not _like_lengths(hx):
        return given
    what = f"a pair ({', '.join(names)})" if len(names) == 2 else names[0]
    got = f"{type(hx).__name__} of {len(given)}" if is_list else type(hx).__name__
    got = f"a Tensor {shape_text(hx.shape)}" if isinstance(hx, Tensor) else got
    hint = ": are these lengths? Give them as lengths=..." if _like_lengths(hx) else "."
    raise TypeError(f"Expected hx to be {what} of shape {shape_text(shape)}, got {got}{hint}")


def _like_lengths(value: Any) -> bool:
    if isinstance(value, (np.ndarray, Tensor)):
        return value.ndim == 1 and not torch.as_tensor(value).is_floating_point()
    return isinstance(value, (tuple, list)) and all(isinstance(v, Integral) for v in value)


def check_lengths(lengths: Any, num_sequences: int, num_steps: int) -> Tensor:
    """Return ``lengths`` as an int64 CPU tensor of shape (N,), each in 1..T."""
    if num_sequences == 0:
        raise ValueError("Expected lengths of at least one sequence, got none.")
    try:
        lengths = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"Expected lengths to be integers of shape ({num_sequences},), "
            f"got {type(lengths).__name__}."
        ) from error
    if lengths.dim() > 1 and lengths.is_floating_point():
        raise TypeError(
            f"Expected lengths of shape ({num_sequences},), got {shape_text(lengths.shape)} of "
            f"{lengths.dtype}: is it a state? Give that as hx=..."
        )
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise TypeError(f"Expected lengths of an integer dtype, got {lengths.dtype}.")
    check_shape("lengths", lengths, (num_sequences,))
    return check_range("lengths", lengths.to(device="cpu", dtype=torch.int64), 1, num_steps)


def number_array(name: str, value: Any, what: str = "an array of numbers") -> NDArray[Any]:
    """
    Return a tensor, on whatever device, or anything like an array of numbers as an array.

    >>> number_array("y", object())
    Traceback (most recent call last):
    ...
    TypeError: Expected y to be an array of numbers, got object.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    problem: Exception | None = None
    try:
        array = np.asarray(value)
        array = array if array.dtype.kind in "biuf" else array.astype(np.float64)
    except (TypeError, ValueError) as error:
        problem = error
    if value is None or problem is not None:
        raise TypeError(f"Expected {name} to be {what}, got {type(value).__name__}.") from problem
    return array


def finite_array(name: str, value: ArrayLike) -> FloatArray:
    """
    Return ``value`` as a float64 array that is not empty and holds neither NaN nor infinity.

    >>> finite_array("y", [1.0, float("nan")])
    Traceback (most recent call last):
    ...
    ValueError: Expected y to be finite, got nan at index (1,).
    """
    array = np.asarray(number_array(name, value), dtype=np.float64)
    if array.size == 0:
        raise ValueError(f"Expected {name} to hold values, got shape {shape_text(array.shape)}.")
    bad = ~np.isfinite(array)
    if bad.any():
        where = np.argwhere(bad)[0].tolist()
        raise ValueError(
            f"Expected {name} to be finite, got {array[bad][0]} at index {shape_text(where)}."
        )
    return array
