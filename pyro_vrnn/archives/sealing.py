"""JSON that says what it cannot keep, and files of it that hold their own SHA-256."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_SEALED_BYTES = 1 << 20  # a manifest has some hundred


class DamagedArchiveError(ValueError):
    """An archive, or a file beside one, that is not what was written."""


def check_json(name: str, value: Any) -> Any:
    """
    Return ``value`` as JSON keeps it, or say which part JSON cannot.

    >>> check_json("facts", {"shape": (2, 3)})
    {'shape': [2, 3]}
    >>> check_json("facts", {"a": [{1, 2}]})
    Traceback (most recent call last):
    ...
    TypeError: Expected facts['a'][0] to be a number, string, list or dict, got set.

    :raises TypeError: for a type that JSON does not have, or a key that is no string.
    :raises ValueError: for NaN and infinity.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"Expected {name} to be finite, got {value}.")
        return float(value)
    if isinstance(value, (list, tuple)):
        return [check_json(f"{name}[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"Expected the keys of {name} to be strings, got {key!r}.")
        return {key: check_json(f"{name}[{key!r}]", item) for key, item in value.items()}
    raise TypeError(
        f"Expected {name} to be a number, string, list or dict, got {type(value).__name__}."
    )


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON content with a SHA-256 of itself, for :func:`read_sealed`."""
    return {**content, "sha256": sha256(json_bytes(dict(content)))}


def read_sealed(path: Path) -> dict[str, Any]:
    """
    Read a JSON file of :func:`sealed` content.

    :raises FileNotFoundError: if it is not there.
    :raises DamagedArchiveError: if any bit of it was changed.
    """
    with path.open("rb") as stream:
        data = stream.read(MAX_SEALED_BYTES + 1)
    if len(data) > MAX_SEALED_BYTES:
        raise damaged(path.parent, path.name, f"of at most {MAX_SEALED_BYTES} bytes", "more")
    content = parse_json(path.parent, path.name, data)
    seal = content.pop("sha256", None)
    try:
        expected = sealed(content)
        # The text too: white space and repeated keys change no value.
        whole = seal == expected["sha256"] and data == json_bytes(expected)
    except RecursionError:
        whole = False
    if not whole:
        raise damaged(path.parent, path.name, "whose SHA-256 is the one it holds", "another")
    return content


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def parse_json(folder: Path, name: str, data: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    try:
        content = json.loads(data.decode(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise damaged(folder, name, "to be JSON", f"{type(error).__name__}: {error}") from error
    if not isinstance(content, dict):
        raise damaged(folder, name, "to be a JSON object", f"a {type(content).__name__}")
    return content


def damaged(folder: Path, name: str, expected: str, got: Any) -> DamagedArchiveError:
    return DamagedArchiveError(f"Expected '{name}' in {folder} {expected}, got {got}.")
