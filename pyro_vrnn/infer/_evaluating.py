"""Modules in evaluation for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def evaluating(*programs: Any) -> Iterator[None]:
    """Put modules in evaluation, so that what they keep of batches, as BatchNorm does, stays."""
    roots = [program for program in programs if isinstance(program, torch.nn.Module)]
    modes = {module: module.training for root in roots for module in root.modules()}
    try:
        for root in roots:
            root.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
