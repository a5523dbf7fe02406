"""The measurement data, where it is at hand: real texts that are no part of the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "PYRO_VRNN_DATA"


def shared_data(name: str) -> Path:
    """
    Return a folder of the measurement data, or skip the test that asks for it.

    The data is looked for in the folder that the environment variable names, otherwise in
    ``shared/data`` beside the checkout. A folder that was named and lacks the data is a failure.
    """
    named = os.environ.get(VARIABLE)
    root = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = root / name
    if not folder.is_dir():
        assert not named, f"Expected {name} in the folder that {VARIABLE} names, got none."
        pytest.skip(f"no measurement data: set {VARIABLE} to the folder that holds {name}")
    return folder
