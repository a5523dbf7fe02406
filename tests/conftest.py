"""Options and fixtures of the whole suite: device, dtype, a clean Pyro for every test."""

from __future__ import annotations

import os

import pyro
import pytest
import torch
from hypothesis import settings

# Before the kernels are defined: without a GPU they are tested in Triton's interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# No deadline: machines differ. The same examples in every run.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="device to run the tests on, e.g. cuda")
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_configure():
    torch.set_num_threads(1)  # tensors in tests are small


def pytest_collection_modifyitems(config, items):
    skips = {}
    if not config.getoption("--slow"):
        skips["slow"] = pytest.mark.skip(reason="slow: run with --slow")
    if not torch.cuda.is_available():
        skips["gpu"] = pytest.mark.skip(reason="needs an NVIDIA GPU, none is here")
    for item in items:
        for name, mark in skips.items():
            if name in item.keywords:
                item.add_marker(mark)


@pytest.fixture
def device(request):
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(autouse=True)
def _clean_pyro():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(True):
        yield
