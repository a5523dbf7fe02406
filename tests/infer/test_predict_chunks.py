"""Prediction in chunks: no cut changes the result, memory is bounded, seeds repeat."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pyro_vrnn as vrnn
from pyro_vrnn.infer import _predict_job, _predict_plan, _predict_summaries
from pyro_vrnn.infer._predict_summaries import Collector, draw_quantiles
from tests.infer.test_predict import (
    MOMENTS,
    Spy,
    assert_close,
    assert_same,
    models,
    predict,
    prepared,
    strategies,
)


def cut_small(monkeypatch, num_bytes):
    monkeypatch.setattr(
        _predict_plan, "CPU_BYTES", dict.fromkeys(_predict_plan.CPU_BYTES, num_bytes)
    )


@strategies
@models
def test_chunks_do_not_change_the_result(make, strategy, monkeypatch):
    model, guide, x = prepared(make)
    run = partial(predict, model, guide, x, num_samples=20, strategy=strategy, seed=1)
    spy = Spy(monkeypatch)
    whole = run(quantiles=(0.1, 0.9))
    assert spy.sizes == [(20, len(x))]
    spy.sizes.clear()
    cut_small(monkeypatch, 10_000)
    parts = run(quantiles=(0.1, 0.9))
    assert len(spy.sizes) > 1
    assert sum(draws * sequences for draws, sequences in spy.sizes) == 20 * len(x)
    smallest = run(max_bytes=1)
    assert set(spy.sizes[-20 * len(x) :]) == {(1, 1)}
    assert_same(whole, parts)
    assert_same(whole, smallest)


@strategies
def test_blocks_of_draws_are_the_same_under_every_cut(strategy, monkeypatch):
    monkeypatch.setattr(_predict_job, "BLOCK_BYTES", {"cpu": 20_000})
    model, guide, x = prepared()
    run = partial(predict, model, guide, x, num_samples=20, strategy=strategy, seed=1)
    spy = Spy(monkeypatch)
    whole = run()
    assert 1 < max(draws for draws, _ in spy.sizes) < 10
    assert_same(whole, run(max_bytes=1))


@strategies
def test_quantiles_are_held_for_some_sequences_at_a_time(strategy, monkeypatch):
    """The next sequences see the same weights, and their observations have noise of their own."""
    model, guide, x = prepared()
    x = x[:1].expand(6, -1, -1)
    spy = Spy(monkeypatch)
    widths, begin = [], Collector.begin

    def spied(self, cut):
        widths.append(cut.stop - cut.start)
        begin(self, cut)

    monkeypatch.setattr(Collector, "begin", spied)
    row = 50 * 2 * 8  # S draws of two float64
    run = partial(
        predict, model, guide, x, num_samples=50, strategy=strategy, seed=1, quantiles=(0.5,)
    )
    cut = run(max_bytes=2 * row)
    assert widths == [2, 2, 2]
    assert sum(draws * sequences for draws, sequences in spy.sizes) == 50 * 6
    assert_same(cut, run())
    for name in MOMENTS:
        value = getattr(cut, name)
        assert_close(value, value[:1].expand_as(value))
    assert len({float(v) for v in cut.quantiles[0, :, 0]}) == 6


@strategies
def test_a_draw_is_one_function(strategy, monkeypatch):
    """Two equal sequences have equal means in every draw, also in different chunks."""
    cut_small(monkeypatch, 1)
    model, guide, x = prepared()
    x = torch.cat([x, x[:1]])
    p = predict(model, guide, x, num_samples=30, strategy=strategy, return_draws=True)
    assert torch.equal(p.mean_draws[:, 0], p.mean_draws[:, -1])
    assert len({float(v) for v in p.mean_draws[:, 0, 0]}) == 30
    assert not torch.equal(p.draws[:, 0], p.draws[:, -1])


class Largest(TorchDispatchMode):
    """Keep the number of elements of the largest tensor that is made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numbers = max(self.numbers, out.untyped_storage().nbytes() // out.element_size())
        return out


@strategies
def test_memory_does_not_grow_with_draws(strategy, monkeypatch):
    monkeypatch.setattr(_predict_job, "BLOCK_BYTES", {"cpu": 100_000})
    model, guide, x = prepared()
    numbers = []
    for num_samples in (64, 640):
        with Largest() as largest:
            predict(model, guide, x, num_samples=num_samples, strategy=strategy)
        numbers.append(largest.numbers)
    assert numbers[0] == numbers[1]


def test_quantiles_in_pieces(monkeypatch):
    draws = torch.randn(20, 7, 3)
    monkeypatch.setattr(_predict_summaries, "SORTED_AT_ONCE", 50)
    found = draw_quantiles(draws, (0.3, 0.6))
    np.testing.assert_allclose(found, np.quantile(draws.numpy(), (0.3, 0.6), axis=0), rtol=1e-5)


# Seeds, devices, progress


def test_same_seed_same_result():
    model, guide, x = prepared()
    run = partial(predict, model, guide, x, num_samples=9, return_draws=True, quantiles=(0.5,))
    first = run()
    again, other = run(seed=first.seed), run()
    for name in (*MOMENTS, "draws", "mean_draws", "quantiles"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name)) or "aleatoric" in name
    assert other.seed != first.seed


def test_weights_do_not_depend_on_draws_of_y():
    model, guide, x = prepared()
    run = partial(predict, model, guide, x, num_samples=300, seed=4)
    assert_same(run(), run(return_draws=True))


def test_generators_are_left_alone():
    model, guide, x = prepared()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    predict(model, guide, x, num_samples=3, seed=1, return_draws=True)
    assert torch.equal(torch.rand(3), expected)


def test_device(device):
    model, guide, x = prepared()
    cpu = predict(model, guide, x, num_samples=3)
    p = predict(model, guide, x, num_samples=3, device=device, return_draws=True)
    assert cpu.mean.device.type == "cpu"
    assert p.mean.device.type == p.draws.device.type == device.type
    assert next(guide.parameters()).device.type == device.type


@pytest.mark.gpu
def test_gpu_takes_sequences_from_the_cpu():
    model, guide, x = prepared()
    state = torch.cuda.get_rng_state()
    run = partial(predict, model, guide, x, num_samples=200, device="cuda", seed=1)
    p = run(return_draws=True)
    assert torch.equal(state, torch.cuda.get_rng_state())
    assert p.draws.is_cuda
    assert torch.equal(p.draws, run(return_draws=True).draws)
    for strategy in ("loop", "batched"):
        assert_same(p, run(strategy=strategy))


@pytest.mark.parametrize("progress", [False, True])
def test_progress(progress, capsys):
    model, guide, x = prepared()
    vrnn.infer.predict(model, guide, x, num_samples=7, progress=progress)
    assert ("7/7" in capsys.readouterr().err) is progress


def test_auto_chooses_by_size():
    small = _predict_plan.Sizes(weights=1, sequence=1, outputs=1, work=1000)
    choose = _predict_plan.choose_strategy
    assert choose(small, 100, 1, "cpu") == "batched"
    assert choose(small, 1, 1, "cpu") == "loop"
    assert choose(small, 100, 10**5, "cpu") == "loop"
    assert choose(small, 100, 10**4, "cpu") == "loop"
    assert choose(small, 100, 10**4, "compiled") == "batched"
    assert choose(small, 100, 10**5, "compiled") == "loop"
    assert choose(small, 100, 10**5, "gpu") == "batched"
    large = _predict_plan.Sizes(weights=1, sequence=1, outputs=1, work=10**9)
    for masks, sequences, strategy in ((True, 8, "folded"), (True, 9, "loop"), (False, 8, "loop")):
        assert choose(large, 100, sequences, "cpu", masks=masks) == strategy
    assert choose(small, 100, 100, "cpu", masks=True) == "folded"


@pytest.mark.parametrize("strategy", ["loop", "batched"])
@pytest.mark.parametrize("budget", [1, 10**5, 10**7])
@pytest.mark.parametrize("outputs", [1, 1000])
def test_plans_keep_to_the_budget(strategy, budget, outputs):
    sizes = _predict_plan.Sizes(weights=5000, sequence=3000, outputs=outputs, work=1)
    plan = _predict_plan.make_plan(sizes, strategy, 64, 500, budget, "gpu")
    assert 1 <= plan.draws <= 64
    assert 1 <= plan.sequences <= 500
    one = sizes.sequence_and_outputs
    if strategy == "batched":
        used = plan.draws * (5000 + plan.sequences * one)
        assert used <= budget or plan.draws == plan.sequences == 1
    else:
        assert plan.sequences * one <= budget or plan.sequences == 1
        assert plan.draws * plan.sequences * 48 * outputs <= budget or plan.draws == 1
