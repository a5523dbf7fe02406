"""What a run depends on besides its configuration: seed, device, versions, threads."""

from __future__ import annotations

import platform
import random
from importlib import metadata

import numpy as np
import torch

RECORDED_PACKAGES = ("pyro-vrnn", "torch", "pyro-ppl", "numpy", "arviz")


def set_seed(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators (every device) with ``seed``."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"Expected seed to be a non-negative int, got {seed!r}.")
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
