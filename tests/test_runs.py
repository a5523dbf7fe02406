"""Seeds, versions and the machine of a run."""

from __future__ import annotations

import json
import platform
import random

import numpy as np
import pytest
import torch

from pyro_vrnn.runs import (
    RECORDED_PACKAGES,
    machine,
    rng_state,
    set_rng_state,
    set_seed,
    versions,
)


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


def all_draws():
    """Draws of every kind, an odd number of normals: each generator keeps one in hand."""
    return (
        numbers(),
        random.gauss(0.0, 1.0),
        float(np.random.standard_normal()),  # noqa: NPY002
        torch.randn(5).tolist(),
        random.getrandbits(70),
        np.random.permutation(5).tolist(),  # noqa: NPY002
    )


@pytest.mark.parametrize("before", [0, 1, 2], ids=["fresh", "one-in-hand", "none-in-hand"])
def test_rng_state_round_trip_by_way_of_json(before):
    set_seed(5)
    for _ in range(before):
        all_draws()
    tensors, facts = rng_state()
    facts = json.loads(json.dumps(facts, allow_nan=False))
    tensors = {name: value.clone() for name, value in tensors.items()}
    first = all_draws()
    assert all_draws() != first
    set_rng_state(tensors, facts)
    assert all_draws() == first


def test_rng_state_of_a_device_that_is_not_here():
    tensors, facts = rng_state()
    here = sum(name.startswith("cuda:") for name in tensors)
    more = {f"cuda:{index}": tensors["torch"] for index in range(here + 1)}
    with pytest.raises(ValueError, match=f"at most {here} CUDA devices.* got {here + 1}"):
        set_rng_state({**tensors, **more}, facts)


def test_rng_state_of_another_numpy_generator(monkeypatch):
    monkeypatch.setattr(np.random, "get_state", lambda legacy: {"bit_generator": "PCG64"})
    with pytest.raises(ValueError, match="to be MT19937, got PCG64"):
        rng_state()


@pytest.mark.gpu
def test_rng_state_of_the_gpu():
    state = rng_state()
    first = torch.rand(3, device="cuda")
    set_rng_state(*state)
    assert torch.equal(torch.rand(3, device="cuda"), first)
