"""Perplexity under draws: against loops over Pyro traces, and what must hold whatever the draws."""

from __future__ import annotations

import math
from dataclasses import fields

import pyro
import pytest
import torch
from pyro import poutine

import pyro_vrnn as vrnn
from pyro_vrnn.infer import LanguageScores, score_language
from pyro_vrnn.infer import _language_stream as stream
from pyro_vrnn.infer.language_scores import _scores

V, E, H, LAYERS, N, T, S = 13, 6, 5, 2, 3, 7, 4


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


def text(lengths=False, num_windows=3):
    """Return windows that follow each other, the last one shorter; with lengths, ragged."""
    ids = torch.randint(V, (N, T * num_windows), generator=torch.Generator().manual_seed(2))
    windows = []
    for start in range(0, ids.shape[1] - 1, T):
        y = ids[:, start + 1 : start + T + 1]
        x = ids[:, start : start + y.shape[1]]
        part = (x, y, torch.tensor([y.shape[1], 3, y.shape[1] - 1])) if lengths else (x, y)
        windows.append(part)
    return windows


def score(model, guide, windows, **kwargs):
    return score_language(model, guide, windows, progress=False, **kwargs)


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


@pytest.mark.parametrize(
    ("cell", "scope", "tie", "draws", "lengths", "max_bytes"),
    [
        ("lstm", "sequence", False, "held", False, 2**28),
        ("lstm", "sequence", False, "window", True, 1),
        ("lstm", "batch", False, "held", True, 1),
        ("gru", "batch", False, "held", True, 2**28),
        ("gru", "sequence", False, "window", False, 1),
        ("rnn", "batch", True, "held", False, 1),
        ("lstm", "batch", True, "window", False, 2**28),
    ],
    ids=[
        "lstm", "lstm-window-ragged-segments", "lstm-ragged-segments", "gru-ragged",
        "gru-window-segments", "rnn-tied-segments", "lstm-tied-window",
    ],
)  # fmt: skip
def test_against_pyro_traces(drawn, cell, scope, tie, draws, lengths, max_bytes):
    model, guide = built(cell, scope=scope, tie=tie)
    windows = text(lengths)
    found = score(
        model, guide, windows, num_samples=S, draws=draws, entropies=True, max_bytes=max_bytes
    )
    sites = set(guide.sites)
    weights = {key: {n: w for n, w in made.items() if n in sites} for key, made in drawn.items()}
    assert weights[0, 0].keys() == sites
    logs, probs = by_traces(
        model,
        lambda draw, number: weights[draw, number if draws == "window" else 0],
        windows,
        S,
    )
    predictive = logs.logsumexp(0) - math.log(S)
    assert found.num_tokens == logs.shape[1] == found.targets.numel()
    assert found.nats_per_token == pytest.approx(float(-predictive.mean()), rel=1e-10)
    torch.testing.assert_close(found.draw_nats_per_token, -logs.mean(1), rtol=1e-10, atol=0)
    torch.testing.assert_close(found.log_predictive, predictive.float())
    total = torch.special.entr(probs.mean(0)).sum(-1)
    each = torch.special.entr(probs).sum(-1).mean(0)
    torch.testing.assert_close(found.entropy, total.float())
    torch.testing.assert_close(found.aleatoric, each.float())
    torch.testing.assert_close(found.epistemic, (total - each).float(), rtol=1e-4, atol=1e-6)
    by_number = logs.logcumsumexp(0) - torch.arange(1, S + 1).double().log().unsqueeze(-1)
    torch.testing.assert_close(found.nats_by_num_samples, -by_number.mean(1), rtol=1e-10, atol=0)
    variance = logs.exp().var(0) / (2 * S * predictive.exp().square())
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


def test_rounding_does_not_put_it_above_the_geometric_mean():
    """Draws that agree: the running sum may end one unit in the last place too high."""
    draws = torch.tensor([1.0, 1.0], dtype=torch.float64)
    one = torch.tensor([-1.0], dtype=torch.float64)
    sums = stream.Sums(draws, draws * (1 + 2**-52), [one], [2 * one], targets=[torch.tensor([0])])
    found = _scores(sums, 2, draws="held", embedding_dropout=True, seed=0)
    assert found.perplexity == found.geometric_mean_perplexity


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


def test_segments_hold_what_fits():
    """Segments hold as many windows as fit, at least one, and all of them without a limit."""
    windows = [(torch.zeros(2, 3, dtype=torch.int64),) * 2] * 5
    sizes = [
        [len(part) for part in stream._segments(windows, 9, most)] for most in (1, 12, 17, None)
    ]
    assert sizes == [[1] * 5, [2, 2, 1], [2, 2, 1], [5]]


def test_segments_bound_the_memory(monkeypatch):
    """No table of probabilities is larger than max_bytes, and without entropies there is none."""
    model, guide = built()
    most = 2 * N * T * V * 8  # two windows
    shapes = []
    close = stream._Tokens.close

    def look(self, *args):
        shapes.append(None if self.probs is None else tuple(self.probs.shape))
        close(self, *args)

    monkeypatch.setattr(stream._Tokens, "close", look)
    score(model, guide, text(num_windows=5), num_samples=2, entropies=True, max_bytes=most)
    score(model, guide, text(num_windows=5), num_samples=2)
    assert shapes == [(2 * N * T, V), (2 * N * T, V), (N * (T - 1), V), None]


def test_order_of_the_tokens():
    model, guide = built()
    windows = text(lengths=True)
    found = score(model, guide, windows, num_samples=1)
    expected = [
        int(y[n, t]) for _, y, lengths in windows for n in range(N) for t in range(int(lengths[n]))
    ]
    assert found.targets.tolist() == expected


def test_standard_error_is_of_the_mean():
    model, guide = built()
    found = score(model, guide, text(), num_samples=2)
    values = -found.log_predictive.double()
    expected = values.std() / found.num_tokens**0.5
    assert found.standard_error == pytest.approx(float(expected), rel=1e-5)
    assert found.perplexity == math.exp(found.nats_per_token)
    torch.testing.assert_close(found.draw_perplexities, found.draw_nats_per_token.exp())


X = torch.zeros(2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_samples": None}, ValueError, "Expected num_samples=, the number of draws, with"),
        ({"num_samples": 0}, ValueError, "Expected num_samples to be a positive int, got 0"),
        ({"draws": "token"}, ValueError, "Expected draws to be one of 'held', 'window', 'mean'"),
        ({"draws": "mean"}, ValueError, "Expected no num_samples with draws='mean', got 2"),
        ({"seed": -1}, ValueError, "Expected seed to be a non-negative int, got -1"),
        ({"max_bytes": 0}, ValueError, "Expected max_bytes to be a positive int, got 0"),
        ({"device": "nowhere"}, ValueError, "Expected a device that is here, got 'nowhere'"),
        ({"windows": []}, ValueError, "Expected at least one window, got none"),
        ({"windows": [X]}, TypeError, r"Expected windows \(x, y\) .*, got Tensor as window 0"),
        ({"windows": [(X, X), (X,)]}, TypeError, "got 1 parts as window 1"),
        ({"windows": [(X, X[:, :2])]}, ValueError, r"Expected y of shape \(2, 3\), got \(2, 2\)"),
        ({"windows": [(X, X + V)]}, ValueError, "Expected y in 0..12, got 13"),
        ({"windows": [(X.float(), X)]}, TypeError, "Expected x of dtype int64 or int32"),
        ({"windows": [(X, X, torch.tensor([0, 3]))]}, ValueError, "Expected lengths in 1..3"),
    ],
    ids=[
        "no-samples", "samples", "draws", "mean", "seed", "bytes", "device", "empty", "bare",
        "one-part", "shape", "range", "dtype", "lengths",
    ],
)  # fmt: skip
def test_errors(change, error, message):
    model, guide = built()
    arguments = {"windows": [(X, X)], "num_samples": 2, **change}
    with pytest.raises(error, match=message):
        score(model, guide, **arguments)


def test_programs_that_are_none():
    model, guide = built()
    regression = vrnn.models.SequenceRegression(
        vrnn.nn.GRU(E, H), 1, embedding=vrnn.nn.Embedding(V, E)
    )
    other = vrnn.infer.AutoSpikeAndSlab(regression)
    other(X, torch.zeros(2, 1))
    tied = built(tie=True)
    for programs, options, error, message in (
        ((guide, guide), {}, TypeError, "Expected a model before its guide"),
        ((model, model), {}, TypeError, "Expected guide to be one of pyro_vrnn.infer's, got Lan"),
        ((model, vrnn.infer.AutoSpikeAndSlab(model)), {}, RuntimeError, "that has its sites"),
        ((regression, other), {}, TypeError, "Expected a LanguageModel or .*, got SequenceNetw"),
        (tied, {"embedding_dropout": False}, ValueError, "Expected embedding_dropout=True of a mo"),
    ):
        with pytest.raises(error, match=message):
            score(*programs, [(X, X)], num_samples=1, **options)


def test_progress_counts_tokens(capsys):
    model, guide = built()
    score_language(model, guide, text(), num_samples=2)
    shown = capsys.readouterr().err
    assert f"{2 * N * (3 * T - 1)}" in shown.replace(".0", "")
    assert "token/s" in shown
