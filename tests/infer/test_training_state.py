"""Optimisers and schedules go on bit for bit from tensors and JSON facts."""

from __future__ import annotations

import json
import math
from collections import Counter
from functools import partial

import pytest
import torch
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop, lr_scheduler

from pyro_vrnn.archives import DamagedArchiveError, read_archive, write_archive
from pyro_vrnn.infer import (
    load_optimizer_state,
    load_scheduler_state,
    optimizer_state,
    scheduler_state,
)
from pyro_vrnn.infer.training_state import flatten_state, restore_state

OPTIMIZERS = {
    "sgd": partial(SGD, lr=0.1),
    "sgd-momentum": partial(SGD, lr=0.1, momentum=0.9, nesterov=True),
    "adam": partial(Adam, lr=0.1),
    "adam-amsgrad": partial(Adam, lr=0.1, amsgrad=True, betas=(0.8, 0.95)),
    "adam-foreach": partial(Adam, lr=0.1, foreach=True),
    "adam-fused": partial(Adam, lr=0.1, fused=True),
    "adam-tensor-lr": partial(Adam, lr=torch.tensor(0.1)),
    "adamw": partial(AdamW, lr=0.1, weight_decay=0.01),
    "rmsprop": partial(RMSprop, lr=0.1, momentum=0.5, centered=True),
    "adagrad": partial(Adagrad, lr=0.1, lr_decay=0.1),
    "lbfgs": partial(torch.optim.LBFGS, lr=0.1, max_iter=2),
}


def network():
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))


def step(net, optimizer, seed):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))

    def closure():
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)


def by_file(tmp_path, state):
    tensors, facts = state
    write_archive(tmp_path / "a", tensors, facts, format="t", version=1)
    found = read_archive(tmp_path / "a", format="t", max_version=1)
    return found.tensors, found.facts


def weights(net):
    return torch.nn.utils.parameters_to_vector(net.parameters()).tolist()


def equal(a, b):
    """Whether two states are the same in value, type and dtype."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_goes_on_bit_for_bit(make, tmp_path):
    net = network()
    optimizer = make(net.parameters())
    for seed in range(3):
        step(net, optimizer, seed)
    state, saved = by_file(tmp_path, optimizer_state(optimizer)), weights(net)
    was = optimizer.state_dict()
    fresh = network()
    torch.nn.utils.vector_to_parameters(torch.tensor(saved), fresh.parameters())
    other = make(fresh.parameters())
    load_optimizer_state(other, *state)
    assert equal(other.state_dict(), was)
    for seed in range(3, 6):
        step(net, optimizer, seed)
        step(fresh, other, seed)
    assert weights(fresh) == weights(net) != saved


def grouped(net, **options):
    first, _, last = net
    return Adam([{"params": first.parameters(), "lr": 0.2}, {"params": [*last.parameters()]}],
                lr=0.1, **options)  # fmt: skip


def test_several_groups_and_one_that_had_no_gradient(tmp_path):
    net = network()
    net[0].requires_grad_(False)
    optimizer = grouped(net)
    step(net, optimizer, 0)
    other = grouped(network())
    load_optimizer_state(other, *by_file(tmp_path, optimizer_state(optimizer)))
    assert equal(other.state_dict(), optimizer.state_dict())
    assert [group["lr"] for group in other.param_groups] == [0.2, 0.1]


def test_the_loaded_state_is_a_copy():
    net = network()
    optimizer = Adam(net.parameters())
    step(net, optimizer, 0)
    tensors, facts = optimizer_state(optimizer)
    tensors = {name: value.clone() for name, value in tensors.items()}
    kept = {name: value.clone() for name, value in tensors.items()}
    other = Adam((again := network()).parameters())
    load_optimizer_state(other, tensors, facts)
    step(again, other, 1)
    assert equal(tensors, kept)


def test_another_class_or_shapes():
    state = optimizer_state(Adam(network().parameters()))
    with pytest.raises(ValueError, match="state of the optimizer SGD, got that of Adam"):
        load_optimizer_state(SGD(network().parameters(), lr=0.1), *state)
    with pytest.raises(ValueError, match=r"shapes \(3, 4\) \(3,\), got \(3, 4\) \(3,\) \(1, 3\)"):
        load_optimizer_state(Adam(network()[0].parameters()), *state)
    with pytest.raises(ValueError, match=r"shapes \(3, 4\) \(3,\) \| \(1, 3\) \(1,\), got"):
        load_optimizer_state(grouped(network()), *state)


def test_a_function_in_a_group_is_refused():
    optimizer = Adam(network().parameters())
    optimizer.param_groups[0]["hook"] = print
    message = r"optimizer\['param_groups'\]\[0\]\['hook'\] to be a tensor, .*got builtin_function"
    with pytest.raises(TypeError, match=message):
        optimizer_state(optimizer)


SCHEDULERS = {
    "step": partial(lr_scheduler.StepLR, step_size=2),
    "multi-step": partial(lr_scheduler.MultiStepLR, milestones=[2, 4, 4]),
    "exponential": partial(lr_scheduler.ExponentialLR, gamma=0.9),
    "cosine": partial(lr_scheduler.CosineAnnealingLR, T_max=5),
    "restarts": partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=2),
    "one-cycle": partial(lr_scheduler.OneCycleLR, max_lr=1.0, total_steps=10),
    "cyclic": partial(lr_scheduler.CyclicLR, base_lr=0.1, max_lr=1.0, step_size_up=2),
    "lambda": partial(lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 0.9**epoch),
    "sequential": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.ConstantLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.5)],
        milestones=[4],
    ),
}


def scheduled(make):
    optimizer = SGD(network().parameters(), lr=0.1, momentum=0.9)
    return optimizer, make(optimizer)


def rates(optimizer, scheduler, steps, *args):
    found = []
    for _ in range(steps):
        optimizer.step()
        scheduler.step(*args)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_schedule_goes_on_bit_for_bit(make, tmp_path):
    optimizer, scheduler = scheduled(make)
    rates(optimizer, scheduler, 3)
    state = by_file(tmp_path, scheduler_state(scheduler))
    other_optimizer, other = scheduled(make)
    load_optimizer_state(other_optimizer, *optimizer_state(optimizer))
    load_scheduler_state(other, *state)
    assert equal(other.state_dict(), scheduler.state_dict())
    assert rates(other_optimizer, other, 4) == rates(optimizer, scheduler, 4)


def test_a_plateau_s_infinity_is_kept(tmp_path):
    optimizer, scheduler = scheduled(partial(lr_scheduler.ReduceLROnPlateau, patience=0))
    state = by_file(tmp_path, scheduler_state(scheduler))
    scheduler.best = 1.0
    load_scheduler_state(scheduler, *state)
    assert scheduler.best == math.inf
    assert rates(optimizer, scheduler, 2, 1.0) == [0.1, pytest.approx(0.01)]


def test_schedule_refused():
    _, scheduler = scheduled(SCHEDULERS["step"])
    _, other = scheduled(SCHEDULERS["cosine"])
    with pytest.raises(ValueError, match=r"state of the scheduler CosineAnnealingLR, got .*StepLR"):
        load_scheduler_state(other, *scheduler_state(scheduler))
    scheduler.f = print
    with pytest.raises(TypeError, match=r"scheduler\['f'\] to be a tensor, number.*got builtin"):
        scheduler_state(scheduler)


VALUES = {
    "containers": [1, (2.5, [None, True]), {"a": {3: "x"}, 4: ()}, Counter({5: 2})],
    "floats": [math.inf, -math.inf, 0.1, -0.0],
    "tensor": torch.ones(2),
    "alike-places": {"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}},
    "int-and-string-keys": {1: torch.ones(1), "1": torch.zeros(1)},
    "empty": {},
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_state_round_trip(value):
    tensors, facts = flatten_state("x", value)
    assert equal(restore_state(tensors, json.loads(json.dumps(facts, allow_nan=False))), value)


def test_nan_round_trip():
    assert math.isnan(restore_state(*flatten_state("x", math.nan)))


@pytest.mark.parametrize(
    "facts",
    [{}, {"a": 1}, {"tensor": "x"}, {"dict": 3}, {"dict": [[{}, 1]]}, {"float": "a"},
     {"tuple": 1}, {"tensor": "x", "dict": []}],
    ids=str,
)  # fmt: skip
def test_facts_of_no_state(facts):
    with pytest.raises(DamagedArchiveError, match=r"Expected the facts of a state, got \{"):
        restore_state({}, [facts])


@pytest.mark.parametrize("key", [1.5, None, True, (1,)])
def test_keys_refused(key):
    with pytest.raises(TypeError, match=r"the keys of x\[0\] to be strings or ints, got"):
        flatten_state("x", [{key: 1}])
