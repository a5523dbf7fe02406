"""One sequence and noise: only what its states span is drawn, and the law is the same."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive

import pyro_vrnn as vrnn
from pyro_vrnn.distributions import WeightSite
from pyro_vrnn.infer import _predict_plan
from pyro_vrnn.infer._predict_job import Job
from pyro_vrnn.infer._predict_spans import SpanDraws
from pyro_vrnn.ops.particles import linear, take_rows
from pyro_vrnn.ops.recurrent import LayerWeights, recurrent
from tests.infer.cases import CELLS, classifier, small, weight

Z = 4.26
MOMENTS = ("mean", "variance", "epistemic_variance", "aleatoric_variance")
predict = partial(vrnn.infer.predict, progress=False)
cells = pytest.mark.parametrize("cell", list(CELLS))


def series(cell="lstm", *, dtype=torch.float64, layers=1, two_way=False, steps=5):
    """Return a SequenceRegression of H = 12, D = 9, and one sequence: fewer steps than either."""
    rnn = CELLS[cell][0](9, 12, layers, bidirectional=two_way, dtype=dtype)
    model = vrnn.models.SequenceRegression(rnn, 2, tau=4.0)
    return model, torch.randn(1, steps, 9, dtype=dtype), torch.zeros(1, 2, dtype=dtype)


def one(make):
    def of(cell="lstm", **options):
        model, x, y = make(cell, **{"dtype": torch.float64, **options})
        return model, x[:1], y[:1]

    return of


def language(cell="lstm", *, tied=False, dtype=torch.float64):
    model = vrnn.models.LanguageModel(9, 12, 12, 1, cell=cell, tie_weights=tied, dtype=dtype)
    return model, torch.tensor([[3, 1, 3, 8, 0]]), torch.tensor([[1, 3, 8, 0, 2]])


def twice(x, y=None):
    """A model by hand that uses its weights on x, and again on what comes of it."""
    w = weight("w", (7, 7), WeightSite("linear"))
    b = weight("b", (7,), WeightSite("bias"))
    rows = weight("rows", (4, 7), WeightSite("embedding"))
    w_ih = weight("w_ih", (7, 7), WeightSite("weight_ih"))
    first = torch.tanh(linear(x, w, b))
    second = linear(first + take_rows(rows, torch.arange(len(x)) * 0 + 2), w, b)
    state = (torch.zeros(1, len(x), 7, dtype=x.dtype),)
    both = torch.stack([first, second])
    _, (h,) = recurrent("RNN_TANH", both, state, [LayerWeights(w_ih, w, b, b)])
    with pyro.plate("data", len(x)):
        return pyro.sample("obs", dist.Normal(h[0], 1.0).to_event(1), obs=y)


def by_hand():
    return twice, torch.randn(1, 7), torch.zeros(1, 7)


def trained(make, *args, guide=vrnn.infer.AutoSpikeAndSlab, q=None, **options):
    model, x, y = make(*args, **options)
    guide = guide(model, **{"scale": 0.15, **(q or {})})
    guide(x, y)
    return model, guide, x


def standard_error(draws):
    return draws.std(0) / len(draws) ** 0.5


# The same functions


GUIDES = {
    "untied": {"drop_prob": 0.3},
    "tied": {"drop_prob": 0.3, "gates": "tied"},
    "noise": {"drop_prob": 0.0},
    "partly": {"drop_prob": 0.3, "scale": {"weight_hh": 0, "bias": 0}},
    "biases": {"drop_prob": 0.0, "scale": {"weight_ih": 0, "weight_hh": 0, "linear": 0}},
    "inverted": {"drop_prob": 0.3, "parametrization": "inverted"},
}
MODELS = {
    "series": series,
    "two layers, two ways": partial(series, layers=2, two_way=True),
    "whole": partial(series, steps=14),
    "ids": one(classifier),
    "language": language,
    "tied table": partial(language, tied=True),
}


def folded_and_written(model, guide, x, monkeypatch, **options):
    """Return a prediction, and the means of the model at its draws, written out."""
    used, fold = [], SpanDraws.folded

    def spy(self, masks, num_sequences):
        used.append((self, masks, fold(self, masks, num_sequences)))
        return used[-1][-1]

    monkeypatch.setattr(SpanDraws, "folded", spy)
    found = predict(
        model, guide, x, strategy="folded", return_draws="mean", num_samples=9, seed=3, **options
    )
    draws, masks, values = used[-1]
    kwargs = {"lengths": options["lengths"]} if "lengths" in options else {}
    means = []
    for n in range(9):
        w = {name: v[n] for name, v in draws.written(masks, values).items()}
        fn = poutine.trace(poutine.condition(model, w)).get_trace(x, **kwargs).nodes["obs"]["fn"]
        means.append(fn.probs if hasattr(fn, "probs") else fn.mean)
    return found, torch.stack(means)


@cells
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_each_draw_is_a_function(cell, make, dtype, monkeypatch):
    model, guide, x = trained(make, cell, dtype=dtype)
    found, means = folded_and_written(model, guide, x, monkeypatch)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found.mean_draws, means, rtol=tolerance, atol=tolerance)
    assert found.strategy == "folded"
    assert found.mean_draws.std(0).max() > 1e-3


@cells
@pytest.mark.parametrize("q", GUIDES.values(), ids=GUIDES)
def test_each_draw_of_a_guide_is_a_function(cell, q, monkeypatch):
    model, guide, x = trained(series, cell, q=q)
    found, means = folded_and_written(model, guide, x, monkeypatch, lengths=torch.tensor([3]))
    torch.testing.assert_close(found.mean_draws, means, rtol=1e-10, atol=1e-10)
    assert found.mean_draws.std(0).max() > 1e-3


def test_weights_that_are_used_twice(monkeypatch):
    model, guide, x = trained(by_hand)
    found, means = folded_and_written(model, guide, x, monkeypatch)
    torch.testing.assert_close(found.mean_draws, means, rtol=1e-5, atol=1e-5)


# The law


def compare(ours, theirs, draws, their_draws):
    """Compare means, variances and, by Kolmogorov and Smirnov, the draws of y."""
    error = (standard_error(ours) ** 2 + standard_error(theirs) ** 2).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < Z * error).all()
    squares = [(d - d.mean(0)) ** 2 for d in (ours, theirs)]
    error = sum(standard_error(s) ** 2 for s in squares).sqrt()
    assert ((squares[0].mean(0) - squares[1].mean(0)).abs() < Z * error).all()
    sizes = [len(draws), len(their_draws)]
    bound = (np.log(2 / 2e-5) / 2 * sum(1 / n for n in sizes)) ** 0.5
    pairs = zip(draws.flatten(1).T, their_draws.flatten(1).T, strict=True)
    for pair in pairs:
        both = torch.cat(pair).sort().values
        ranks = [torch.searchsorted(s.sort().values, both, right=True) / len(s) for s in pair]
        assert (ranks[0] - ranks[1]).abs().max() < bound


NETS = {"one layer": {}, "2 layers, 2 ways": {"layers": 2, "two_way": True}}


@cells
@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_the_law_is_that_of_the_loop(cell, net):
    model, guide, x = trained(series, cell, q={"drop_prob": {"weight_hh": 0.2}}, **net)
    run = partial(
        predict, model, guide, x, lengths=torch.tensor([4]), return_draws=True, num_samples=1500
    )
    ours, theirs = run(strategy="folded", seed=1), run(strategy="loop", seed=2)
    compare(ours.mean_draws, theirs.mean_draws, ours.draws, theirs.draws)


def test_the_law_is_that_of_predictive():
    model, guide, x = trained(series, q={"drop_prob": 0.2, "scale": 0.3}, dtype=torch.float32)
    theirs = Predictive(model, guide=guide, num_samples=2000, parallel=True)(x)
    ours = predict(
        model, guide, x, num_samples=2000, strategy="folded", seed=2, return_draws=True,
        quantiles=(0.1, 0.9),
    )  # fmt: skip
    compare(ours.mean_draws, theirs["loc"], ours.draws, theirs["obs"])
    for level, found in zip(ours.quantile_levels, ours.quantiles, strict=True):
        share = (theirs["obs"] < found).double().mean(0)
        assert ((share - level).abs() < Z * (2 * level * (1 - level) / 2000) ** 0.5).all()


def outputs(x, y=None):
    """All outputs of a linear layer: their joint law is known."""
    w = weight("w", (3, 9), WeightSite("linear"))
    b = weight("b", (3,), WeightSite("bias"))
    loc = pyro.deterministic("loc", linear(x, w, b, batch_dim=0), event_dim=2)
    with pyro.plate("data", len(x)):
        return pyro.sample("obs", dist.Normal(loc, 1.0).to_event(2), obs=y)


def test_a_linear_model_s_joint_law_is_known():
    x = torch.randn(1, 4, 9)
    guide = vrnn.infer.AutoSpikeAndSlab(outputs, drop_prob=0.0, scale={"linear": 0.2, "bias": 0.5})
    guide(x, torch.zeros(1, 4, 3))
    n = 8000
    p = predict(outputs, guide, x, num_samples=n, strategy="folded", return_draws="mean", seed=1)
    draws = p.mean_draws[:, 0].transpose(1, 2).reshape(n, 12).double()  # (n, F*T)
    x, loc, bias = (a.double() for a in (x, *(guide.distribution(s).loc for s in ("w", "b"))))
    mean = (loc @ x[0].T + bias[:, None]).flatten()
    gram = 0.04 * (x[0] @ x[0].T) + 0.25
    expected = torch.kron(torch.eye(3, dtype=torch.float64), gram)
    size = expected.diagonal()
    assert ((draws.mean(0) - mean).abs() < Z * (size / n).sqrt()).all()
    centred = draws - mean
    error = ((size[:, None] * size + expected**2) / n).sqrt()
    assert ((centred.T @ centred / n - expected).abs() < Z * error).all()


@pytest.mark.parametrize(
    "guide", [vrnn.infer.AutoMeanFieldNormal, vrnn.infer.AutoMultiplicativeNormal]
)
def test_other_guides_with_one_scale(guide):
    model, guide, x = trained(series, guide=guide, q={"learn_scale": False})
    run = partial(predict, model, guide, x, return_draws=True, num_samples=1500)
    ours, theirs = run(strategy="folded", seed=1), run(strategy="batched", seed=2)
    compare(ours.mean_draws, theirs.mean_draws, ours.draws, theirs.draws)


# Numbers and memory


def test_same_seed_same_result():
    model, guide, x = trained(series)
    run = partial(predict, model, guide, x, num_samples=50, strategy="folded", return_draws=True)
    first, again, other = run(seed=1), run(seed=1), run(seed=2)
    for name in (*MOMENTS[:3], "draws", "mean_draws"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


@pytest.mark.parametrize("max_bytes", [3000, 30_000])
@pytest.mark.parametrize("make", [series, one(classifier)], ids=["series", "ids"])
def test_cuts_do_not_change_the_draws(make, max_bytes):
    model, guide, x = trained(make)
    run = partial(predict, model, guide, x, num_samples=40, seed=1, strategy="folded")
    whole, cut = run(), run(max_bytes=max_bytes)
    for name in MOMENTS:
        torch.testing.assert_close(getattr(cut, name), getattr(whole, name), rtol=1e-9, atol=1e-9)


def test_memory_is_counted(monkeypatch):
    """A run keeps the directions of its draws; a block holds their normals."""
    model, guide, x = trained(series, steps=5)
    plans, sizes = [], []
    make, run = _predict_plan.make_plan, SpanDraws._draw
    monkeypatch.setattr(
        "pyro_vrnn.infer._predict_job.make_plan",
        lambda *args: plans.append((args, make(*args))) or plans[-1][1],
    )

    def spy(self, size):
        weights = run(self, size)
        sizes.append((size * self.held_bytes, sum(8 * w.numel() for w in weights.values())))
        return weights

    monkeypatch.setattr(SpanDraws, "_draw", spy)
    predict(model, guide, x, num_samples=40, strategy="folded", max_bytes=50_000)
    (sizes_of, *_), plan = plans[-1]
    # Products: 5 with weight_ih, 5 with weight_hh, 1 with the head; D = 9, H = 12.
    assert sizes_of.basis == 8 * (5 * 9 + 5 * 12 + 12)
    assert plan.draws == 50_000 // (sizes_of.basis + sizes_of.sequence_and_outputs)
    normals = 5 * 48 + 5 * 48 + 2 + 2 * 48 + 2
    masks = 4 * 12 + 4 * 9
    assert all(held == drawn for held, drawn in sizes)
    assert sizes[-1][1] == 40 * 8 * (normals + masks)


def test_far_fewer_normals_than_weights():
    model, guide, x = trained(partial(series, steps=2))
    draws = []
    spans = Job._spanned

    def spy(self):
        draws.append(spans(self)[0])
        return draws[-1], None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "_spanned", spy)
        assert predict(model, guide, x, num_samples=4).strategy == "folded"
    assert draws[0].held_bytes < draws[0].nbytes / 3


# Which way is taken, and what is refused


def test_auto_spans_where_that_is_less():
    model, guide, x = trained(series, steps=40, dtype=torch.float32)
    run = partial(predict, num_samples=4)
    assert run(model, guide, x[:, :2]).strategy == "folded"
    assert run(model, guide, x).strategy == "batched"
    assert run(model, guide, x[:, :2].repeat(2, 1, 1)).strategy == "batched"
    assert run(model, guide, x[:, :2], num_samples=1).strategy == "loop"
    options = {"seed": 1, "return_draws": True}
    a, b = (run(model, guide, x, strategy=s, **options).draws for s in ("auto", "batched"))
    assert torch.equal(a, b)


def test_plans():
    def sizes(weights, work):
        return _predict_plan.Sizes(weights=weights, sequence=1, outputs=1, work=work)

    pay = _predict_plan.spans_pay
    assert pay(sizes(30_000, 10**8), 10_000, "cpu")
    assert not pay(sizes(30_000, 10**8), 10_001, "cpu")
    assert pay(sizes(30_000, 10**6), 30_000, "cpu")
    assert not pay(sizes(8_000, 10**6), 8_000, "cpu")
    assert not pay(sizes(30_000, 10**6), 100, "gpu")


def product(x, y=None):
    w = weight("w", (9,))
    with pyro.plate("data", len(x)):
        return pyro.sample("obs", dist.Normal(x @ w, 1.0), obs=y)


def test_a_model_of_other_products_is_not_folded(caplog):
    x = torch.randn(1, 9)
    guide = vrnn.infer.AutoSpikeAndSlab(product, drop_prob=0.0, block_shapes={"w": (9,)})
    guide(x, torch.zeros(1))
    with caplog.at_level("INFO"):
        assert predict(product, guide, x, num_samples=4).strategy == "loop"
    assert "not run together ('folded'): that gave TypeError: Expected site 'w'" in caplog.text
    with pytest.raises(ValueError, match=r"got TypeError: Expected site 'w'.* use strategy='loop'"):
        predict(product, guide, x, num_samples=4, strategy="folded")


@pytest.mark.parametrize("what", ["scales", "sequences", "single weights", "another guide"])
def test_refused(what):
    model, x, y = small()
    guide = vrnn.infer.AutoSpikeAndSlab(model, learn_scale=what == "scales")
    if what == "single weights":
        guide = vrnn.infer.AutoDropConnect(model)
    if what == "another guide":
        guide = pyro.infer.autoguide.AutoNormal(model)
    guide(x, y)
    x = x if what == "sequences" else x[:1]
    with pytest.raises(ValueError, match=r"one scale for all weights .* one sequence, got another"):
        predict(model, guide, x, num_samples=4, strategy="folded")
    assert predict(model, guide, x, num_samples=4).strategy == "batched"
