"""Prediction of classes: probabilities are averaged over draws, and entropies split."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from pyro.infer.autoguide import AutoDelta
from pyro.nn import PyroModule

import pyro_vrnn as vrnn
from tests.models.cases import GUIDES

V = 3
Z = 4.26
FIELDS = ("probs", "entropy", "expected_entropy", "mutual_information")
predict = partial(vrnn.infer.predict, progress=False)
strategies = pytest.mark.parametrize("strategy", ["loop", "batched"])


class Classifier(PyroModule):
    """One class a sequence, or one a step; as ids or one-hot."""

    def __init__(self, every_step=False, one_hot=False):
        super().__init__()
        self.rnn = vrnn.nn.GRU(2, 4, batch_first=True, dtype=torch.float64)
        self.head = vrnn.nn.Linear(4, V, dtype=torch.float64, prior_scale=3.0)
        self.every_step, self.one_hot = every_step, one_hot

    def forward(self, x, y=None, lengths=None):
        output, state = self.rnn(x, lengths=lengths)
        h = output if self.every_step else state[-1]  # (*P, N, T, H) or (*P, N, H)
        logits = self.head(h, particles=h.dim() - (3 if self.every_step else 2))
        fn = (dist.OneHotCategorical if self.one_hot else dist.Categorical)(logits=logits)
        with pyro.plate("data", len(x)):
            pyro.sample("obs", fn.to_event(1) if self.every_step else fn, obs=y)
        return logits


class Steps(Classifier):
    """One class a step, the steps a plate of their own."""

    def forward(self, x, y=None, lengths=None):
        output, _ = self.rnn(x, lengths=lengths)
        logits = self.head(output, particles=output.dim() - 3)
        with pyro.plate("data", len(x), dim=-2), pyro.plate("time", x.shape[1], dim=-1):
            pyro.sample("obs", dist.Categorical(logits=logits), obs=y)


KINDS = {
    "ids": (Classifier, (), ()),
    "one-hot": (partial(Classifier, one_hot=True), (), (V,)),
    "steps": (partial(Classifier, every_step=True), (6,), (6,)),
    "plates": (Steps, (6,), (6,)),
    "one-hot-steps": (partial(Classifier, every_step=True, one_hot=True), (6,), (6, V)),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def prepared(kind="ids"):
    """Return a model, its guide and x of 5 sequences, 6 steps."""
    make, _, _ = KINDS[kind]
    model, x = make(), torch.randn(5, 6, 2, dtype=torch.float64)
    y = poutine.trace(model).get_trace(x).nodes["obs"]["value"]
    guide = GUIDES["untied"](model)
    guide(x, y)
    return model, guide, x


def entropy(probs):
    return -(probs * probs.log()).sum(-1)


# With two plates, weights drawn in a plate outside them do not reach the output as (S, N, T).
@pytest.mark.parametrize(
    ("kind", "strategy"),
    [(k, s) for k in KINDS for s in ("loop", "batched") if (k, s) != ("plates", "batched")],
)
def test_fields(kind, strategy):
    model, guide, x = prepared(kind)
    _, out, observation = KINDS[kind]
    p = predict(model, guide, x, num_samples=11, strategy=strategy, return_draws=True, seed=1)
    assert p.mean_draws.shape == (11, 5, *out, V)
    assert p.draws.shape == (11, 5, *observation)
    probs = p.mean_draws.mean(0)
    expected = {
        "probs": probs,
        "entropy": entropy(probs),
        "expected_entropy": entropy(p.mean_draws).mean(0),
        "mutual_information": entropy(probs) - entropy(p.mean_draws).mean(0),
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(p, name), value, rtol=1e-10, atol=1e-10)
    assert (p.mutual_information > 0).all()
    assert p.mean is p.variance is p.epistemic_variance is p.aleatoric_variance is None


@kinds
def test_loop_batched_and_small_chunks_agree(kind):
    model, guide, x = prepared(kind)
    run = partial(predict, model, guide, x, num_samples=20, seed=1)
    loop = run(strategy="loop")
    other_way = run(strategy="auto" if kind == "plates" else "batched")
    assert other_way.strategy == ("loop" if kind == "plates" else "batched")
    for other in (other_way, run(max_bytes=1), run(return_draws=True)):
        for name in FIELDS:
            a, b = getattr(loop, name), getattr(other, name)
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_two_plates_of_the_observation_refuse_batches():
    model, guide, x = prepared("plates")
    message = r"of shape \(2, 5, 6, 3\), one row a sequence, got \(2, 2, 5, 6, 3\)"
    with pytest.raises(ValueError, match=message):
        predict(model, guide, x, num_samples=4, strategy="batched")


def test_equal_draws_have_no_mutual_information():
    model, _, x = prepared()
    guide = AutoDelta(model)
    guide(x, torch.zeros(5, dtype=torch.int64))
    p = predict(model, guide, x, num_samples=7)
    assert (p.mutual_information >= 0).all()
    torch.testing.assert_close(p.entropy, p.expected_entropy)


@strategies
def test_probabilities_at_each_draw(strategy):
    model, guide, x = prepared()
    drawn = []

    def recorder(*args):
        trace = poutine.trace(guide).get_trace(*args)
        drawn.append({name: trace.nodes[name]["value"] for name in guide.sites})

    p = predict(
        model, recorder, x, num_samples=4, strategy=strategy, parallel_guide=False,
        return_draws="mean",
    )  # fmt: skip
    logits = torch.stack([poutine.condition(model, w)(x) for w in drawn[-4:]])
    torch.testing.assert_close(p.mean_draws, logits.softmax(-1), rtol=1e-10, atol=1e-10)


@strategies
def test_classes_of_predictive(strategy):
    model, guide, x = prepared()
    n = 2000
    theirs = Predictive(model, guide=guide, num_samples=n, parallel=True)(x)["obs"]
    p = predict(model, guide, x, num_samples=n, strategy=strategy, return_draws=True, seed=1)
    for k in range(V):
        frequency = (theirs == k).double().mean(0)
        error = (p.probs[:, k] * (1 - p.probs[:, k]) / n).sqrt()
        assert ((frequency - p.probs[:, k]).abs() < Z * 2**0.5 * error).all()
        own = (p.draws == k).double().mean(0)
        assert ((own - p.probs[:, k]).abs() < Z * error).all()


def test_certain_classes():
    """A draw may give a class probability 0: its entropy is 0, not NaN."""

    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        probs = torch.stack([(w > 0).float(), (w <= 0).float()])
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Categorical(probs.expand(len(x), 2)), obs=y)

    def guide(x, y=None):
        pyro.sample("w", dist.Normal(0.0, 1.0))

    p = predict(model, guide, torch.zeros(3), num_samples=400)
    torch.testing.assert_close(p.expected_entropy, torch.zeros(3))
    torch.testing.assert_close(p.mutual_information, p.entropy)
    assert (p.probs[:, 0] - 0.5).abs().max() < Z * (0.25 / 400) ** 0.5


def test_bernoulli_has_moments():
    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Bernoulli(logits=x @ w), obs=y)

    def guide(x, y=None):
        pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    p = predict(model, guide, torch.randn(4, 3), num_samples=50, return_draws="mean")
    torch.testing.assert_close(p.variance, p.mean * (1 - p.mean))
    torch.testing.assert_close(p.mean, p.mean_draws.mean(0))


def test_observations_are_not_drawn_where_none_is_asked_for():
    """A draw from many classes costs more than the network."""
    drawn = []

    class Counted(dist.Categorical):
        def sample(self, *args, **kwargs):
            drawn.append(self)
            return super().sample(*args, **kwargs)

    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(V), 1.0).to_event(1))
        pyro.sample("obs", Counted(logits=x.unsqueeze(-1) * w), obs=y)

    def guide(x, y=None):
        pyro.sample("w", dist.Normal(torch.zeros(V), 1.0).to_event(1))

    run = partial(predict, model, guide, torch.randn(4), num_samples=20, strategy="loop")
    run()
    once = len(drawn)
    run(return_draws="observation")
    assert (once, len(drawn)) == (1, 22)  # one for shapes, and then one for each draw
