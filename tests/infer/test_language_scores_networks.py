"""Perplexity of dropout networks under draws, and of plain networks."""

from __future__ import annotations

import math

import pytest
import torch

import pyro_vrnn as vrnn
from pyro_vrnn.baselines import LSTM, Embedding, LanguageNetwork, Linear
from pyro_vrnn.infer import _language_stream as stream
from pyro_vrnn.infer import score_language, score_language_network

V, E, H, N, T, S = 13, 9, 8, 3, 5, 4


def network(method="variational", drop_prob=0.4, **kwargs):
    torch.manual_seed(3)
    settings = {"drop_prob": drop_prob, "method": method, **kwargs}
    made = LanguageNetwork(
        Embedding(V, E, **settings),
        LSTM(E, H, 2, batch_first=True, **settings),
        Linear(H, V, **settings),
    ).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3)
    return made


def text(num_windows=3):
    ids = torch.randint(V, (N, T * num_windows + 1), generator=torch.Generator().manual_seed(2))
    starts = range(0, T * num_windows, T)
    return [(ids[:, i : i + T], ids[:, i + 1 : i + T + 1]) for i in starts]


def score(made, windows=None, **kwargs):
    return score_language_network(made, windows or text(), progress=False, **kwargs)


def log_likelihoods(run, windows):
    state, found = None, []
    for x, y in windows:
        logits, state = run(x, state)
        found.append(logits.log_softmax(-1).gather(-1, y.unsqueeze(-1)).flatten())
    return torch.cat(found).detach()


@pytest.mark.parametrize("method", ["variational", "gaussian"])
def test_held_draws_are_the_networks_masks_held(method, monkeypatch):
    """The brute force: each layer of the network itself under masks held over all windows."""
    made = network(method, parametrization="inverted")
    keys = []
    seeded = stream._seeded
    monkeypatch.setattr(
        stream, "_seeded", lambda make, device, seed, *key: (
            keys.append(key), seeded(make, device, seed, *key)
        )[1],
    )  # fmt: skip
    found = score(made, num_samples=S, seed=7)
    assert set(keys) == {(draw, 0) for draw in range(S)}
    made.eval()
    logs = []
    for draw in range(S):
        _seed_as(7, draw)
        factors = made.embedding._scaled("weight", made.embedding._draw("weight", V, 1))
        rnn, head = made.rnn.draw_masks(1), made.head.draw_masks(1)
        table = made.embedding.weight * factors

        def run(x, state, table=table, rnn=rnn, head=head):
            output, last = made.rnn(torch.nn.functional.embedding(x, table), state, masks=rnn)
            return made.head(output, masks=head), last

        logs.append(log_likelihoods(run, text()))
    logs = torch.stack(logs)
    expected = -(logs.logsumexp(0) - math.log(S)).mean()
    assert found.nats_per_token == pytest.approx(float(expected), rel=1e-10)
    torch.testing.assert_close(found.draw_nats_per_token, -logs.mean(1))
    assert found.perplexity < found.geometric_mean_perplexity


def _seed_as(seed, draw):
    """Seed torch as the scoring does for a draw."""

    def make():
        raise StopIteration

    with pytest.raises(StopIteration):
        stream._seeded(make, torch.device("cpu"), seed, draw, 0)


@pytest.mark.parametrize("method", ["none", "naive", "non-recurrent", "variational"])
def test_means_are_the_network_in_evaluation(method):
    made = network(method)
    found = score(made, draws="mean")
    assert (found.num_samples, found.draws) == (1, "mean")
    assert made.training  # left in its mode
    made.eval()

    def run(x, state):
        logits = made(x, state=state)
        return logits, made.state

    assert found.nats_per_token == pytest.approx(-float(log_likelihoods(run, text()).mean()))


def test_plain_torch_layers():
    torch.manual_seed(0)
    made = LanguageNetwork(
        torch.nn.Embedding(V, E), torch.nn.GRU(E, H, batch_first=True), torch.nn.Linear(H, V)
    )
    found = score(made, draws="mean", entropies=True)
    assert made.state is None
    assert found.epistemic.max() < 1e-6
    with pytest.raises(ValueError, match="Expected draws='mean' for a network without layers that"):
        score(made, num_samples=2)


def test_the_limit_of_a_guide_without_noise():
    """A guide with scale 0 and a network with the same weights have the same law of draws."""
    model = vrnn.models.LanguageModel(V, E, H, 2, dtype=torch.float64)
    guide = vrnn.infer.AutoSpikeAndSlab(model, scale=0.0, drop_prob=0.4)
    guide(*text()[0])
    made = network()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            guide.locs.get_parameter(f"{name}_unconstrained").copy_(parameter)
    count = 200
    one = score_language(model, guide, text(), num_samples=count, seed=1, progress=False)
    other = score(made, num_samples=count, seed=2)
    draws = one.draw_nats_per_token, other.draw_nats_per_token
    error = sum(float(d.var()) / count for d in draws) ** 0.5
    assert abs(float(draws[0].mean() - draws[1].mean())) < 4.26 * error
    means = [
        score_language(model, guide, text(), draws="mean", progress=False),
        score(made, draws="mean"),
    ]
    assert means[0].nats_per_token == pytest.approx(means[1].nats_per_token, rel=1e-12)


def test_zero_probability_has_no_entropy():
    """Where a probability is 0, p log p is 0 and not NaN."""
    made = network("none")
    with torch.no_grad():
        made.head.bias[5] = -math.inf
    found = score(made, draws="mean", entropies=True)
    assert found.perplexity == math.inf  # the text has the word
    assert found.entropy.isfinite().all()
    torch.testing.assert_close(found.aleatoric, found.entropy)
    assert (found.entropy < math.log(V - 1)).all()


def test_windows_redraw():
    made = network()
    held, window = (score(made, num_samples=2, draws=d) for d in ("held", "window"))
    first = slice(0, N * T)
    assert torch.equal(held.log_predictive[first], window.log_predictive[first])
    assert not torch.equal(held.log_predictive, window.log_predictive)


def test_no_network():
    with pytest.raises(TypeError, match="Expected a LanguageModel or LanguageNetwork, got Linear"):
        score(torch.nn.Linear(2, 2), num_samples=2)
    with pytest.raises(ValueError, match="Expected draws='mean' for a network"):
        score(network("naive"), num_samples=2)


def test_a_model_is_sent_to_the_other_door():
    model = vrnn.models.LanguageModel(5, 4, 4)
    with pytest.raises(TypeError, match="Expected a LanguageNetwork, got a LanguageModel: use"):
        vrnn.infer.score_language_network(model, [], draws="mean")
