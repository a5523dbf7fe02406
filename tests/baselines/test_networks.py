"""Networks and losses against the Bayesian models at the same weights, and against torch."""

from __future__ import annotations

import math

import pytest
import torch
from pyro import poutine

import pyro_vrnn as vrnn
from pyro_vrnn import baselines
from pyro_vrnn.baselines import ForecastNetwork, GaussianLoss, SequenceNetwork, SoftmaxLoss
from tests.baselines.cases import OURS, THEIRS

double = {"dtype": torch.float64}
BAYESIAN = {"lstm": vrnn.nn.LSTM, "gru": vrnn.nn.GRU, "rnn": vrnn.nn.RNN}
LENGTHS = torch.tensor([4, 9, 6, 5, 8])
cells = pytest.mark.parametrize("cell", list(BAYESIAN))
families = pytest.mark.parametrize("family", ["ours", "torch"])
orders = pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
ragged = pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])


def rnn_of(family, cell, *args, **kwargs):
    if family == "ours":
        return OURS[cell](*args, method="variational", **kwargs, **double).eval()
    return THEIRS[cell](*args, **kwargs, **double)


def close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def sites(network):
    """Return the weights of a network in evaluation under the names of the model's sites."""
    found = {}
    for name, w in network.named_parameters():
        prefix, _, local = name.rpartition(".")
        owner = network.get_submodule(prefix)
        p = getattr(owner, "drop_probs", {}).get(local, 0.0)
        found[name] = w.detach() * (1 - p)
    if network.embedding is not None:
        found["embedding.weight"] = found["embedding.weight"][1:]  # padding has no site
    return found


@cells
@families
@orders
@ragged
@pytest.mark.parametrize("two_way", [False, True], ids=["one way", "two ways"])
def test_sequence_network_is_the_model(cell, family, batch_first, lengths, two_way):
    shape = {"num_layers": 2, "batch_first": batch_first, "bidirectional": two_way}
    network = SequenceNetwork(
        rnn_of(family, cell, 9, 4, **shape), torch.nn.Linear(8 if two_way else 4, 2, **double)
    )
    model = vrnn.models.SequenceRegression(BAYESIAN[cell](9, 4, **shape, **double), 2)
    x = torch.randn(5, 9, 9, **double)
    expected = poutine.condition(model, sites(network))(x, lengths=lengths)
    close(network(x, lengths), expected)


@families
@ragged
def test_sequence_network_of_ids(family, lengths):
    if family == "ours":
        table = baselines.Embedding(20, 9, padding_idx=0, **double).eval()
        head = baselines.Linear(4, 8, drop_prob=0.3, **double).eval()
    else:
        table, head = torch.nn.Embedding(20, 9, 0, **double), torch.nn.Linear(4, 8, **double)
    network = SequenceNetwork(rnn_of(family, "gru", 9, 4), head, table)
    model = vrnn.models.SequenceRegression(
        vrnn.nn.GRU(9, 4, **double), 8, embedding=vrnn.nn.Embedding(20, 9, 0, **double)
    )
    ids = torch.randint(0, 20, (5, 9))
    expected = poutine.condition(model, sites(network))(ids, lengths=lengths)
    close(network(ids, lengths), expected)


def series_of(n, columns):
    return torch.randn(n, columns, **double).cumsum(0) + 300


@cells
@families
@orders
@ragged
@pytest.mark.parametrize("lag", [None, 3], ids=["no-lag", "lag3"])
def test_forecast_network_is_the_forecaster(cell, family, batch_first, lengths, lag):
    network = ForecastNetwork(rnn_of(family, cell, 2, 4, batch_first=batch_first), 3, lag)
    model = vrnn.models.Forecaster(
        BAYESIAN[cell](2, 4, batch_first=batch_first, **double), 3, lag=lag
    )
    series = series_of(50, 2)
    network.fit_scaling(series)
    model.fit_scaling(series)
    assert network.min_window == model.min_window
    x = series.unfold(0, 9, 10).transpose(1, 2)  # (5, 9, 2)
    expected = poutine.condition(model, sites(network))(x, lengths=lengths)
    close(network(x, lengths), expected)


def nll_of(model, weights, *args):
    trace = poutine.trace(poutine.condition(model, weights)).get_trace(*args)
    trace.compute_log_prob()
    return -trace.nodes["obs"]["log_prob_sum"]


@pytest.mark.parametrize("tau", [2.0, [1.0, 2.0, 5.0]], ids=["one tau", "tau by output"])
@pytest.mark.parametrize("learn_tau", [True, False], ids=["learned", "fixed"])
@ragged
def test_gaussian_loss_is_the_forecasters(tau, learn_tau, lengths):
    """Raw units, N / B and overlap: the model's log-likelihood, and the penalty beside it."""
    rnn = rnn_of("ours", "lstm", 1, 4, drop_prob={"weight_hh": 0.3})
    network, series = ForecastNetwork(rnn, 3, lag=3), series_of(50, 1)
    model = vrnn.models.Forecaster(
        vrnn.nn.LSTM(1, 4, **double), 3, lag=3, tau=torch.tensor(tau), learn_tau=learn_tau,
        num_data=40, overlap=2.5,
    )  # fmt: skip
    network.fit_scaling(series)
    model.fit_scaling(series)
    loss = GaussianLoss(
        network, tau=torch.tensor(tau), learn_tau=learn_tau, num_data=40, weight=1 / 2.5,
        prior_scale=0.5,
    )  # fmt: skip
    x, y = series.unfold(0, 9, 10).transpose(1, 2), torch.randn(5, 3, **double) + 300
    expected = nll_of(model, sites(network), x, y, lengths)
    actual = loss(x, y, lengths) - baselines.l2_penalty(network, 0.5)
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=0)  # the model's tau is float32


@cells
def test_gaussian_loss_of_a_sequence_network(cell):
    network = SequenceNetwork(rnn_of("torch", cell, 9, 4), torch.nn.Linear(4, 2, **double))
    model = vrnn.models.SequenceRegression(BAYESIAN[cell](9, 4, **double), 2, tau=3.0)
    x, y = torch.randn(5, 9, 9, **double), torch.randn(5, 2, **double)
    prior = sum(w.square().sum() for w in network.parameters()) / 2
    close(GaussianLoss(network, tau=3.0)(x, y), nll_of(model, sites(network), x, y) + prior)


def test_tau_is_learned():
    """At zero error the gradient of -log p in log tau is -1/2 for each observation."""
    network = SequenceNetwork(rnn_of("torch", "rnn", 9, 4), torch.nn.Linear(4, 2, **double))
    loss = GaussianLoss(network, tau=7.0, learn_tau=True, num_data=20)
    x = torch.randn(5, 9, 9, **double)
    loss(x, network(x).detach()).backward()
    assert loss.log_tau.grad.item() == pytest.approx(-0.5 * 20 * 2)
    assert loss.tau.item() == pytest.approx(7.0)
    fixed = GaussianLoss(network, tau=7.0)
    assert "log_tau" in dict(fixed.named_buffers())


@ragged
@pytest.mark.parametrize("num_data", [None, 40])
def test_softmax_loss(lengths, num_data):
    network = SequenceNetwork(rnn_of("ours", "gru", 9, 4), baselines.Linear(4, 3, **double))
    x, y = torch.randn(5, 9, 9, **double), torch.tensor([0, 1, 2, 2, 1])
    log_probs = network(x, lengths).log_softmax(-1)
    nll = -sum(log_probs[n, k] for n, k in enumerate(y)) * (1 if num_data is None else 8)
    actual = SoftmaxLoss(network, num_data=num_data, prior_scale=2.0)(x, y, lengths)
    close(actual, nll + baselines.l2_penalty(network, 2.0))


def test_state_dict_has_the_names_of_the_sites():
    network = SequenceNetwork(
        baselines.LSTM(9, 4), baselines.Linear(4, 1), baselines.Embedding(20, 9)
    )
    model = vrnn.models.SequenceRegression(
        vrnn.nn.LSTM(9, 4), 1, embedding=vrnn.nn.Embedding(20, 9)
    )
    trace = poutine.trace(model).get_trace(torch.zeros(2, 3, dtype=torch.int64))
    latents = set(trace.nodes) - {"obs", "loc", "data", "_INPUT", "_RETURN"}
    assert set(network.state_dict()) == latents


def sequence_network():
    return SequenceNetwork(baselines.LSTM(9, 4), torch.nn.Linear(4, 2))


ERRORS = {
    "cell": (
        lambda: SequenceNetwork(torch.nn.LSTMCell(9, 4), torch.nn.Linear(4, 2)),
        TypeError, "Expected rnn to be an RNN, LSTM or GRU of torch.nn or pyro_vrnn.baselines, got",
    ),
    "embedding": (
        lambda: SequenceNetwork(
            baselines.LSTM(9, 4), torch.nn.Linear(4, 2), torch.nn.Embedding(5, 8)
        ),
        ValueError, r"Expected an embedding of 9 dims, the rnn's input_size, got 8\.",
    ),
    "shape of x": (
        lambda: sequence_network()(torch.zeros(5, 9)),
        ValueError, r"Expected x of shape \(N, T, 9\), got \(5, 9\)\.",
    ),
    "empty": (
        lambda: sequence_network()(torch.zeros(0, 5, 9)),
        ValueError, r"Expected x of at least one sequence and one step, got shape \(0, 5, 9\)\.",
    ),
    "dtype": (
        lambda: sequence_network()(torch.zeros(2, 5, 9, **double)),
        TypeError, "Expected x of dtype torch.float32",
    ),
    "lengths": (
        lambda: sequence_network()(torch.zeros(2, 5, 9), torch.tensor([6, 1])),
        ValueError, r"Expected lengths in 1\.\.5, got 6\.",
    ),
    "lag": (
        lambda: ForecastNetwork(baselines.GRU(1, 4), 4, lag=3),
        ValueError, r"Expected lag of at least horizon=4, got 3\.",
    ),
    "horizon": (
        lambda: ForecastNetwork(baselines.GRU(1, 4), 0),
        ValueError, r"Expected horizon to be a positive int, got 0\.",
    ),
    "window": (
        lambda: ForecastNetwork(baselines.GRU(1, 4), 2, lag=3)(torch.zeros(1, 3, 1)),
        ValueError, r"Expected windows of at least 4 steps \(lag 3\), got 3 in x of shape \(1, 3, ",
    ),
    "few values": (
        lambda: ForecastNetwork(baselines.GRU(1, 4), 2, lag=3).fit_scaling(torch.zeros(4)),
        ValueError, r"Expected over 4 values, got 4\.",
    ),
    "tau": (
        lambda: GaussianLoss(sequence_network(), tau=-1.0),
        ValueError, r"Expected tau to be positive and finite, got -1\.0\.",
    ),
    "dims of tau": (
        lambda: GaussianLoss(sequence_network(), tau=torch.ones(1, 2)),
        ValueError, r"Expected tau of shape \(\) or \(out,\), got \(1, 2\)\.",
    ),
    "size of tau": (
        lambda: GaussianLoss(sequence_network(), tau=torch.ones(3))(
            torch.zeros(5, 6, 9), torch.zeros(5, 2)
        ),
        ValueError, r"Expected tau of shape \(2,\), got \(3,\)\.",
    ),
    "batch": (
        lambda: GaussianLoss(sequence_network(), num_data=4)(
            torch.zeros(5, 6, 9), torch.zeros(5, 2)
        ),
        ValueError, r"Expected a batch of at most num_data=4 sequences, got 5\.",
    ),
    "y": (
        lambda: GaussianLoss(sequence_network())(torch.zeros(5, 6, 9), torch.zeros(5)),
        ValueError, r"Expected y of shape \(5, 2\), got \(5,\)\.",
    ),
    "weight": (
        lambda: GaussianLoss(sequence_network(), weight=0.0),
        ValueError, r"Expected weight to be a positive number, got 0\.0\.",
    ),
    "class ids": (
        lambda: SoftmaxLoss(sequence_network())(torch.zeros(5, 6, 9), torch.zeros(4).long()),
        ValueError, r"Expected y of shape \(5,\), got \(4,\)\.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS.values(), ids=ERRORS)
def test_errors(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_constants_of_the_gaussian_are_in():
    """At y = f, tau = 2 and no weights: log(2 pi) / 2 - log(2) / 2 for each number."""
    network = SequenceNetwork(torch.nn.RNN(1, 1), torch.nn.Linear(1, 3))
    for p in network.parameters():
        torch.nn.init.zeros_(p)
    loss = GaussianLoss(network, tau=2.0)(torch.zeros(4, 5, 1), torch.zeros(4, 3))
    assert loss.item() == pytest.approx(12 * 0.5 * math.log(2 * math.pi / 2), rel=1e-6)


def dropping_sequence():
    head = baselines.Linear(4, 8, drop_prob=0.5, **double)
    return SequenceNetwork(OURS["gru"](9, 4, **double), head)


def dropping_forecast():
    head = baselines.Linear(4, 3, drop_prob={"weight": 0.5}, **double)
    return ForecastNetwork(OURS["gru"](9, 4, **double), 3, 4, head=head)


@pytest.mark.parametrize("make", [dropping_sequence, dropping_forecast])
def test_held_masks_are_those_of_rnn_and_head(make):
    network = make()
    x = torch.randn(5, 9, 9, **double)
    masks = network.draw_masks(5)
    assert set(masks) == {"rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight"}
    first, again = (network(x, masks=masks) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, network(x))
    loss, target = GaussianLoss(network), torch.zeros_like(first)
    assert torch.equal(loss(x, target, masks=masks), loss(x, target, masks=masks))


def test_held_masks_of_the_head_drop_its_inputs():
    network = dropping_sequence()
    masks = network.draw_masks(5)
    off = {**masks, "head.weight": torch.zeros_like(masks["head.weight"])}
    output = network(torch.randn(5, 9, 9, **double), masks=off)
    close(output, network.head.bias.expand(5, -1))


def test_masks_that_do_not_last_are_not_held():
    network = SequenceNetwork(OURS["gru"](9, 4, method="naive"), torch.nn.Linear(4, 1))
    assert network.draw_masks(5) == {}


def test_no_prior_no_penalty():
    network = SequenceNetwork(OURS["gru"](9, 4, **double).eval(), torch.nn.Linear(4, 1, **double))
    x, y = torch.randn(5, 6, 9, **double), torch.randn(5, 1, **double)
    free, penalised = GaussianLoss(network, prior_scale=None), GaussianLoss(network)
    close(penalised(x, y) - free(x, y), baselines.l2_penalty(network))


CLASSES = {
    "ignored by torch": (torch.full((5,), -100), ValueError, r"Expected y in 0..2, got -100"),
    "too high": (torch.tensor([0, 1, 2, 3, 0]), ValueError, r"Expected y in 0..2, got 3"),
    "real": (torch.zeros(5), TypeError, r"y of an integer dtype \(class ids\), got torch.float32"),
}


@pytest.mark.parametrize(("y", "error", "message"), CLASSES.values(), ids=CLASSES)
def test_softmax_takes_classes(y, error, message):
    loss = SoftmaxLoss(
        SequenceNetwork(OURS["gru"](9, 4, **double), torch.nn.Linear(4, 3, **double))
    )
    x = torch.randn(5, 6, 9, **double)
    with pytest.raises(error, match=message):
        loss(x, y)
    assert loss(x, torch.zeros(5, dtype=torch.int32)).isfinite()
