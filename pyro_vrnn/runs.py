"""What a run depends on besides its configuration: seed, device, versions, threads."""

from __future__ import annotations

import platform
import random
from importlib import metadata

import numpy as np
import torch

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
