"""Seeds, versions and the machine of a run."""

from __future__ import annotations

import json
import platform
import random

import numpy as np
import pytest
import torch

from pyro_vrnn.runs import RECORDED_PACKAGES, machine, set_seed, versions


def numbers():
    legacy = np.random.rand()  # noqa: NPY002 - what other packages draw from
    return random.random(), legacy, torch.rand(()).item()


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**32 + 7, 2**63])
def test_a_seed_fixes_all_generators(seed):
    set_seed(seed)
    first = numbers()
    assert numbers() != first
    set_seed(seed)
    assert numbers() == first


def test_seeds_differ():
    results = []
    for seed in (0, 1, 2):
        set_seed(seed)
        results.append(torch.rand(()).item())
    assert len(set(results)) == 3


@pytest.mark.gpu
def test_a_seed_fixes_the_gpu():
    set_seed(3)
    first = torch.rand(3, device="cuda")
    set_seed(3)
    assert torch.equal(torch.rand(3, device="cuda"), first)


@pytest.mark.parametrize("seed", [-1, 1.0, None, True, "1"])
def test_seed_refused(seed):
    with pytest.raises(ValueError, match=f"Expected seed to be a non-negative int, got {seed!r}."):
        set_seed(seed)


def test_versions():
    found = versions()
    assert set(found) == {"python", *RECORDED_PACKAGES}
    assert found["python"] == platform.python_version()
    assert torch.__version__.startswith(found["torch"].split("+")[0])
    assert found["numpy"] == np.__version__


def test_a_package_that_is_missing(monkeypatch):
    monkeypatch.setattr("pyro_vrnn.runs.RECORDED_PACKAGES", ("no-such-package-here",))
    assert versions()["no-such-package-here"] == "not installed"


def test_machine():
    facts = machine()
    assert facts["torch_threads"] == torch.get_num_threads()
    assert ("gpu" in facts) == torch.cuda.is_available()
    json.dumps({**facts, **versions()}, allow_nan=False)
