"""Short reprs of results: numbers as they are, arrays by their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

LONGEST = 60  # characters of a value that is shown as it is


def short_repr(result: Any) -> str:
    """
    Write a dataclass on one line; in the class, ``__repr__ = short_repr``.

    Arrays and tensors are shown by type and shape, long collections by size, other dataclasses by
    name. Left out are fields with ``repr=False``, and None where that is the default.

    Example::

        >>> from dataclasses import dataclass
        >>> import torch
        >>> @dataclass(frozen=True)
        ... class Found:
        ...     nats: float
        ...     draws: torch.Tensor
        ...     names: tuple[str, ...]
        ...     entropy: torch.Tensor | None = None
        ...     __repr__ = short_repr
        >>> Found(0.123456789, torch.zeros(5, 3), ("a", "b"))
        Found(nats=0.123457, draws=Tensor(5, 3), names=('a', 'b'))
        >>> Found(0.0, torch.zeros(()), tuple("abcdefghijklmnopqrstuvwxyz"), torch.ones(4))
        Found(nats=0, draws=0, names=tuple of 26, entropy=Tensor(4,))
    """
    shown = []
    for field in fields(result):
        value = getattr(result, field.name)
        if field.repr and not (value is None and field.default is None):
            shown.append(f"{field.name}={value_text(value)}")
    return f"{type(result).__qualname__}({', '.join(shown)})"


def value_text(value: Any) -> str:
    """
    Write a value on one line.

    >>> value_text({"a": 1}), value_text({k: [0.5] * 3 for k in range(9)}), value_text("x" * 99)
    ("{'a': 1}", 'dict of 9', 'str of 99')
    """
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):  # of a tensor or an array, whatever library they are of
        if shape:
            return f"{type(value).__name__}{tuple(shape)}"
        value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return f"{value:.6g}"
    if is_dataclass(value):
        return f"{type(value).__name__}(...)"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return f"{type(value).__name__}({', '.join(map(value_text, value))})"
    if isinstance(value, (str, tuple, list, Mapping)):
        return _collection_text(value)
    text = repr(value)
    return text if len(text) <= LONGEST and "\n" not in text else type(value).__name__


def _collection_text(value: Any) -> str:
    parts = value.values() if isinstance(value, Mapping) else value
    plain = all(part is None or isinstance(part, (str, int, float)) for part in parts)
    text = repr(value) if plain and len(value) <= LONGEST else ""
    return text if 0 < len(text) <= LONGEST else f"{type(value).__name__} of {len(value)}"
