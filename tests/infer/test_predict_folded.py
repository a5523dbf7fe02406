"""Draws that are masks: many of them in one run of the network, and the same as one by one."""

from __future__ import annotations

import pytest
import torch

import pyro_vrnn as vrnn
from pyro_vrnn.infer import _predict_plan, predict
from pyro_vrnn.infer._predict_inputs import repeat_rows
from pyro_vrnn.infer._predict_masks import MaskDraws
from tests.infer.cases import CELLS, classifier, small

strategies = pytest.mark.parametrize("strategy", ["batched", "folded"])


def trained(make, cell="lstm", **options):
    model, x, y = make(cell, dtype=torch.float64)
    guide = vrnn.infer.AutoSpikeAndSlab(model, **{"scale": 0, "drop_prob": 0.4, **options})
    guide(x, y)
    return model, guide, x


def same(a, b):
    for name in ("mean", "epistemic_variance", "aleatoric_variance", "draws", "quantiles"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-9)


@strategies
@pytest.mark.parametrize("cell", list(CELLS))
@pytest.mark.parametrize("gates", ["tied", "untied"])
@pytest.mark.parametrize("make", [small, classifier], ids=["series", "ids"])
@pytest.mark.parametrize("lengths", [None, [1, 5, 3, 5]], ids=["full", "lengths"])
def test_the_draws_are_those_of_the_loop(strategy, cell, gates, make, lengths):
    model, guide, x = trained(make, cell, gates=gates)
    options = {
        "num_samples": 20,
        "lengths": None if lengths is None else torch.tensor(lengths),
        "seed": 3,
        "progress": False,
        "return_draws": "mean",
    }
    loop = predict(model, guide, x, strategy="loop", **options)
    found = predict(model, guide, x, strategy=strategy, **options)
    assert found.strategy == strategy
    torch.testing.assert_close(found.mean_draws, loop.mean_draws, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.variance, loop.variance, rtol=1e-9, atol=1e-9)
    assert loop.mean_draws.std(0).max() > 1e-3


@pytest.mark.parametrize("max_bytes", [1, 3000, 2**28])
def test_cuts_do_not_change_the_draws(max_bytes):
    model, guide, x = trained(small)
    whole = predict(model, guide, x, num_samples=30, seed=1, strategy="folded", progress=False)
    cut = predict(
        model, guide, x, num_samples=30, seed=1, max_bytes=max_bytes, progress=False,
        strategy="folded",
    )  # fmt: skip
    torch.testing.assert_close(cut.mean, whole.mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("strategy", ["loop", "folded"])
def test_one_function_a_draw(strategy):
    """Two equal sequences have one prediction in a draw, whatever the scope in training."""
    model, guide, x = trained(small, scope="sequence")
    twins = x[:1].expand(3, -1, -1)
    found = predict(
        model, guide, twins, num_samples=10, strategy=strategy, return_draws="mean", progress=False
    )
    torch.testing.assert_close(found.mean_draws[:, 0], found.mean_draws[:, 2])
    assert found.mean_draws.std(0).max() > 1e-3


def test_auto_folds_few_sequences_only(monkeypatch):
    model, guide, x = trained(small)
    for how in ("compiled", "cpu"):  # as if the network were large
        monkeypatch.setitem(_predict_plan.BATCHED_WORK, how, 0)
    few = predict(model, guide, x[:1], num_samples=4, progress=False)
    many = predict(model, guide, x.repeat(500, 1, 1), num_samples=4, progress=False)
    assert (few.strategy, many.strategy) == ("folded", "loop")


@pytest.mark.parametrize(
    "options",
    [{"scale": 0.1}, {"scale": {"bias": 0.1}}, {"drop_prob": {}, "drop": 0.0}],
    ids=["noise", "noise of biases", "no masks"],
)
def test_other_guides_are_not_folded(options):
    if options.pop("drop", None) is not None:
        options["drop_prob"] = 0.0
    if isinstance(options.get("scale"), dict):
        options["scale"] = {"weight_ih": 0, "weight_hh": 0, "linear": 0, **options["scale"]}
    model, guide, x = trained(small, **options)
    with pytest.raises(ValueError, match=r"Expected an AutoSpikeAndSlab guide with scale=0 .*got"):
        predict(model, guide, x, num_samples=4, strategy="folded", progress=False)
    assert predict(model, guide, x, num_samples=4, progress=False).strategy != "folded"


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 4), (3, 2, 4, 5)], ids=str)
def test_rows_are_repeated_in_order(shape):
    x = torch.randn(shape)
    assert torch.equal(repeat_rows(x, 4), torch.cat([x] * 4))


@pytest.mark.parametrize("strategy", ["loop", "batched", "folded"])
def test_weights_that_are_written_out_count_in_max_bytes(strategy, monkeypatch):
    """A block holds masks, a thousand times smaller than the weights of a batched run."""
    model, guide, x = trained(small)
    x = x[:1, :1]  # so that a run has room for many sequences, and few networks
    one = sum(8 * site.shape.numel() for site in guide.sites.values())
    written, dense = [], MaskDraws.dense

    def spy(self, masks):
        values = dense(self, masks)
        written.append(sum(8 * value.numel() for value in values.values()))
        return values

    monkeypatch.setattr(MaskDraws, "dense", spy)
    predict(model, guide, x, num_samples=60, strategy=strategy, max_bytes=10 * one, progress=False)
    assert max(written) <= 10 * one
