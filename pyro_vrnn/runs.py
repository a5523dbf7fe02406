"""What a run depends on besides its configuration: seed, device, versions, threads."""

from __future__ import annotations

import contextlib
import platform
import random
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

RECORDED_PACKAGES = ("pyro-vrnn", "torch", "pyro-ppl", "numpy", "arviz")


def check_seed(seed: int) -> int:
    """Return ``seed`` if it is an int of at least 0."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"Expected seed to be a non-negative int, got {seed!r}.")
    return seed


def check_device(device: str) -> torch.device:
    """
    Return the device of this name, if tensors can be made on it.

    :raises ValueError: otherwise.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"Expected a device that is here, got {device!r}: {reason}") from error
    return torch.device(device)


def set_seed(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators (every device) with ``seed``."""
    check_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the global generator is what others draw from
    torch.manual_seed(seed)


def rng_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """
    Return the state of Python's, NumPy's and torch's global generators, every CUDA device's too.

    >>> state = rng_state()
    >>> first = torch.rand(())
    >>> set_rng_state(*state)
    >>> bool(torch.rand(()) == first)
    True

    :returns: tensors, and facts that JSON can say, for :func:`set_rng_state`.
    :raises ValueError: if NumPy's global generator is no MT19937.
    """
    _, words, gauss = random.getstate()
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002
    assert isinstance(legacy, dict)
    if legacy["bit_generator"] != "MT19937":
        raise ValueError(
            f"Expected NumPy's global generator to be MT19937, got {legacy['bit_generator']}."
        )
    tensors = {
        "python": torch.tensor(words),
        "numpy": torch.from_numpy(legacy["state"]["key"].astype(np.int64)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"cuda:{index}"] = state
    facts = {
        "python_gauss": gauss,
        "numpy_position": int(legacy["state"]["pos"]),
        "numpy_has_gauss": int(legacy["has_gauss"]),
        "numpy_gauss": float(legacy["gauss"]),
    }
    return tensors, facts


def set_rng_state(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """
    Give the global generators a state of :func:`rng_state`; they then draw the same numbers.

    A device without a state in ``tensors`` keeps its own.

    :raises ValueError: if there is the state of a CUDA device that is not here.
    """
    devices = sorted(name for name in tensors if name.startswith("cuda:"))
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if len(devices) > here:
        raise ValueError(
            f"Expected the states of at most {here} CUDA devices, as many as are here, "
            f"got {len(devices)}."
        )
    random.setstate((3, tuple(tensors["python"].tolist()), facts["python_gauss"]))
    key = tensors["numpy"].numpy().astype(np.uint32)
    position, has_gauss = facts["numpy_position"], facts["numpy_has_gauss"]
    np.random.set_state(  # noqa: NPY002
        ("MT19937", key, position, has_gauss, facts["numpy_gauss"])
    )
    torch.set_rng_state(tensors["torch"])
    for name in devices:
        torch.cuda.set_rng_state(tensors[name], name)


@contextlib.contextmanager
def lent_generators() -> Iterator[None]:
    """Leave the global generators as they were before."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(*state)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    found["torch"] = str(torch.__version__)  # with the build, such as +cpu
    return found


def machine() -> dict[str, str | int]:
    """Return the platform, the number of torch threads and the name of the GPU, if any."""
    facts: dict[str, str | int] = {
        "platform": platform.platform(),
        "torch_threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts
