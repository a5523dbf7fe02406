"""Perplexity under draws: against loops over Pyro traces, and what must hold whatever the draws."""

from __future__ import annotations

import math
from dataclasses import fields

import pyro
import pytest
import torch
from pyro import poutine

import pyro_vrnn as vrnn
from pyro_vrnn.baselines import GRU, LSTM, Embedding, LanguageNetwork, Linear, function_draw
from pyro_vrnn.infer import LanguageScores, score_language, score_language_network
from pyro_vrnn.infer import _language_stream as stream
from pyro_vrnn.ops.recurrent import recurrent  # noqa: F401  (the slow path is Pyro's own)

V, E, H, LAYERS, N, T = 13, 6, 5, 2, 3, 7


def built(cell="lstm", *, scope="batch", tie=False, dtype=torch.float64, scale=0.1, **kwargs):
    """Return a model whose guide has weights far from 0, so that draws differ."""
    pyro.set_rng_seed(1)
    model = vrnn.models.LanguageModel(
        V, H if tie else E, H, LAYERS, cell=cell, tie_weights=tie, dtype=dtype
    )
    guide = vrnn.infer.AutoSpikeAndSlab(model, scope=scope, scale=scale, **kwargs)
    x = torch.randint(V, (N, T))
    guide(x, x)
    with torch.no_grad():
        for parameter in guide.locs.parameters():
            parameter.add_(0.7 * torch.randn_like(parameter))
    return model, guide


def text(lengths=False, num_windows=4):
    """Return windows that follow each other, the last one shorter; with lengths, ragged."""
    ids = torch.randint(V, (N, T * num_windows), generator=torch.Generator().manual_seed(2))
    windows = []
    for start in range(0, ids.shape[1] - 1, T):
        y = ids[:, start + 1 : start + T + 1]
        x = ids[:, start : start + y.shape[1]]
        part = (x, y, torch.tensor([y.shape[1], 3, y.shape[1] - 1])) if lengths else (x, y)
        windows.append(part)
    return windows


def network(cell=LSTM, drop_prob=0.4, method="variational", **kwargs):
    """Return a dropout network, in training mode."""
    torch.manual_seed(3)
    settings = {"drop_prob": drop_prob, "method": method, **kwargs}
    made = LanguageNetwork(
        Embedding(V, E, **settings), cell(E, H, LAYERS, batch_first=True, **settings),
        Linear(H, V, **settings),
    ).double()  # fmt: skip
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2)
    return made


def score(model, guide, windows, **kwargs):
    return score_language(model, guide, windows, progress=False, **kwargs)


def score_network(model, windows, **kwargs):
    return score_language_network(model, windows, progress=False, **kwargs)


def by_traces(model, values_of, windows, num_samples):
    """Return log p (S, n) and the distributions (S, n, V), one Pyro trace a draw and window."""
    logs, probs = [], []
    for draw in range(num_samples):
        state, row, dists = None, [], []
        for number, window in enumerate(windows):
            given = poutine.condition(model, data=values_of(draw, number))
            trace = poutine.trace(given).get_trace(*window, state=state)
            state = model.state
            site = trace.nodes["obs"]
            mask = torch.ones_like(window[1], dtype=torch.bool)
            if len(window) == 3:
                mask = torch.arange(mask.shape[1]) < window[2].unsqueeze(-1)
            row.append(site["fn"].log_prob(site["value"])[mask])
            dists.append(site["fn"].probs[mask])
        logs.append(torch.cat(row))
        probs.append(torch.cat(dists))
    return torch.stack(logs).detach(), torch.stack(probs).detach()


def weights_of(guide, monkeypatch_draws):
    """Return the weights that the scoring drew, by (draw, window)."""
    return lambda draw, number: monkeypatch_draws[draw, number]


@pytest.fixture
def drawn(monkeypatch):
    """Keep every network that is made, by its seed's key: (draw, window)."""
    kept = {}
    seeded = stream._seeded

    def keep(make, device, seed, *key):
        made = seeded(make, device, seed, *key)
        kept[key] = {name: p.detach().clone() for name, p in made.named_parameters()}
        return made

    monkeypatch.setattr(stream, "_seeded", keep)
    return kept


@pytest.mark.parametrize("lengths", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("draws", ["held", "window"])
@pytest.mark.parametrize(
    ("cell", "scope", "tie"),
    [("lstm", "sequence", False), ("gru", "batch", False), ("rnn", "batch", True)],
    ids=["lstm", "gru", "rnn-tied"],
)
@pytest.mark.parametrize("max_bytes", [1, 2**28], ids=["segments", "whole"])
def test_against_pyro_traces(drawn, cell, scope, tie, draws, lengths, max_bytes):
    model, guide = built(cell, scope=scope, tie=tie)
    windows = text(lengths)
    found = score(
        model, guide, windows, num_samples=5, draws=draws, entropies=True, max_bytes=max_bytes
    )
    sites = set(guide.sites)
    weights = {key: {n: w for n, w in made.items() if n in sites} for key, made in drawn.items()}
    assert weights[0, 0].keys() == sites
    logs, probs = by_traces(
        model,
        lambda draw, number: weights[draw, number if draws == "window" else 0],
        windows,
        5,
    )
    predictive = logs.logsumexp(0) - math.log(5)
    assert found.num_tokens == logs.shape[1] == found.targets.numel()
    assert found.nats_per_token == pytest.approx(float(-predictive.mean()), rel=1e-10)
    torch.testing.assert_close(found.draw_nats_per_token, -logs.mean(1), rtol=1e-10, atol=0)
    torch.testing.assert_close(found.log_predictive, predictive.float())
    total = torch.special.entr(probs.mean(0)).sum(-1)
    each = torch.special.entr(probs).sum(-1).mean(0)
    torch.testing.assert_close(found.entropy, total.float())
    torch.testing.assert_close(found.aleatoric, each.float())
    torch.testing.assert_close(found.epistemic, (total - each).float(), rtol=1e-4, atol=1e-6)
    by_number = logs.logcumsumexp(0) - torch.arange(1, 6).double().log().unsqueeze(-1)
    torch.testing.assert_close(found.nats_by_num_samples, -by_number.mean(1), rtol=1e-10, atol=0)
    variance = logs.exp().var(0) / (2 * 5 * predictive.exp().square())
    assert found.finite_sample_bias == pytest.approx(float(variance.mean()), rel=1e-9)


def everything(found):
    return {f.name: getattr(found, f.name) for f in fields(LanguageScores)}


def assert_same(one, other):
    """Bit for bit."""
    for name, value in everything(one).items():
        again = getattr(other, name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, again), name
        else:
            assert value == again, name


@pytest.mark.parametrize("draws", ["held", "window"])
def test_same_seed_same_draws(draws):
    model, guide = built(dtype=torch.float32)
    options = {"num_samples": 3, "draws": draws, "entropies": True}
    one = score(model, guide, text(), seed=5, **options)
    torch.manual_seed(99)  # the state of the generators does not matter
    assert_same(one, score(model, guide, text(), seed=5, **options))
    other = score(model, guide, text(), seed=6, **options)
    assert not torch.equal(one.draw_nats_per_token, other.draw_nats_per_token)


def test_segments_do_not_change_the_draws():
    model, guide = built()
    one, other = (
        score(model, guide, text(), num_samples=3, entropies=True, max_bytes=size)
        for size in (1, 2**20)
    )
    torch.testing.assert_close(one.draw_nats_per_token, other.draw_nats_per_token)
    assert torch.equal(one.log_predictive, other.log_predictive)
    assert torch.equal(one.epistemic, other.epistemic)


@pytest.mark.parametrize("scale", [0.0, 1e-4, 0.5])
@pytest.mark.parametrize("num_samples", [1, 2, 7])
@pytest.mark.parametrize("drop_prob", [0.0, 0.5])
def test_never_above_the_geometric_mean(scale, num_samples, drop_prob):
    model, guide = built(scale=scale, drop_prob=drop_prob, dtype=torch.float32)
    found = score(model, guide, text(), num_samples=num_samples)
    assert found.perplexity <= found.geometric_mean_perplexity
    if num_samples > 1 and (scale == 0.5 or drop_prob == 0.5):
        assert found.perplexity < found.geometric_mean_perplexity
        assert found.finite_sample_bias > 0


def test_one_draw_is_its_own_mean():
    model, guide = built(dtype=torch.float32)
    found = score(model, guide, text(), num_samples=1, entropies=True)
    assert found.perplexity == found.geometric_mean_perplexity == found.draw_perplexities.item()
    assert found.finite_sample_bias is None
    assert found.epistemic.max() < 1e-6


@pytest.mark.parametrize("draws", ["held", "window", "mean"])
def test_nothing_is_left_behind(draws):
    model, guide = built(dtype=torch.float32)
    x, y = text()[0]
    model(x, y)
    before, state = model.state, torch.get_rng_state()
    score(model, guide, text(), num_samples=None if draws == "mean" else 2, draws=draws)
    assert model.state is before
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert guide.training


def test_mean_is_the_guides_mean():
    model, guide = built()
    windows = text(lengths=True)
    found = score(model, guide, windows, draws="mean", entropies=True)
    logs, _ = by_traces(model, lambda draw, number: guide.mean(), windows, 1)
    assert found.nats_per_token == pytest.approx(float(-logs.mean()), rel=1e-10)
    assert (found.num_samples, found.draws) == (1, "mean")


def test_embedding_dropout_off(drawn):
    model, guide = built()
    on = score(model, guide, text(), num_samples=2)
    with_dropout = dict(drawn)
    off = score(model, guide, text(), num_samples=2, embedding_dropout=False)
    assert (on.embedding_dropout, off.embedding_dropout) == (True, False)
    for draw in range(2):
        one, other = with_dropout[draw, 0], drawn[draw, 0]
        name = "embedding.weight"
        assert torch.equal(other[name], guide.mean()[name])
        assert not torch.equal(one[name], other[name])
        rest = one.keys() - {name}
        assert all(torch.equal(one[n], other[n]) for n in rest)  # the same masks elsewhere
