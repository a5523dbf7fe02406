"""MC dropout: which layers drop, what is independent, the mean, and the modes left behind."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_vrnn import baselines
from pyro_vrnn.baselines import SequenceNetwork, mc_samples
from tests.baselines.cases import OURS, dropping, scopes

Z = 4.26
double = {"dtype": torch.float64}
LENGTHS = torch.tensor([3, 6, 1])


def linear_network(method="variational", scope="sequence"):
    """Return a network that is linear in its masks: of one step, h0 = 0, relu above 0."""
    rnn = baselines.RNN(9, 5, nonlinearity="relu", method=method, scope=scope, drop_prob=0.5,
                        **double)  # fmt: skip
    with torch.no_grad():
        rnn.weight_ih_l0.mul_(0.01)
        rnn.bias_ih_l0.fill_(1)
        rnn.bias_hh_l0.zero_()
    head = baselines.Linear(5, 8, method=method, scope=scope, drop_prob=0.5, **double)
    return SequenceNetwork(rnn, head)


@dropping
@scopes
def test_mean_of_a_linear_network_is_its_evaluation(method, scope):
    network, x = linear_network(method, scope), torch.rand(3, 1, 9, **double)
    samples = mc_samples(network, x, 2000)
    assert samples.shape == (2000, 3, 8)
    error = samples.std(0) / math.sqrt(2000)
    off = (samples.mean(0) - network.eval()(x)).abs()
    assert bool((off <= Z * error).all())


@scopes
def test_draws_differ_and_are_shared_as_the_scope_says(scope):
    network = linear_network(scope=scope)
    samples = mc_samples(network, torch.ones(1, 1, 9, **double).expand(3, 1, 9), 20)
    assert len({s.item() for s in samples[:, 0, 0]}) > 1
    same = torch.allclose(samples, samples[:, :1].expand_as(samples), rtol=0, atol=1e-10)
    assert same == (scope == "batch")


@pytest.mark.parametrize("max_batch", [1, 4, 7, 10_000])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
def test_cuts_change_nothing_else(max_batch, lengths, monkeypatch):
    """Without dropping every draw is the plain pass; no pass is larger than asked for."""
    network = SequenceNetwork(baselines.LSTM(9, 4, drop_prob=0.0), torch.nn.Linear(4, 2))
    x, sizes = torch.randn(3, 6, 9), []
    expected = network(x, lengths).detach().expand(5, 3, 2)
    network.head.register_forward_hook(lambda module, given, output: sizes.append(len(output)))
    torch.testing.assert_close(mc_samples(network, x, 5, lengths, max_batch=max_batch), expected)
    assert max(sizes) <= max_batch
    assert sum(sizes) == 15


def test_one_mask_for_the_call_is_not_cut():
    network, sizes = linear_network(scope="batch"), []
    network.head.register_forward_hook(lambda module, given, output: sizes.append(len(output)))
    mc_samples(network, torch.ones(3, 1, 9, **double), 4, max_batch=1)
    assert sizes == [3] * 4


@pytest.mark.parametrize("method", ["none", "naive", "non-recurrent"])
def test_other_methods_go_into_the_batch_whatever_the_scope(method):
    network, sizes = linear_network(method, "batch"), []
    network.head.register_forward_hook(lambda module, given, output: sizes.append(len(output)))
    mc_samples(network, torch.ones(3, 1, 9, **double), 4)
    assert sizes == [12]


@pytest.mark.parametrize("rnn", [torch.nn.LSTM, torch.nn.GRU], ids=["lstm", "gru"])
def test_dropout_of_torch_is_on(rnn):
    network = SequenceNetwork(rnn(9, 4, 2, dropout=0.5), torch.nn.Linear(4, 2)).eval()
    assert mc_samples(network, torch.randn(3, 6, 9), 10).std(0).min() > 0


def modes(network):
    return [module.training for module in network.modules()]


class Head(torch.nn.Module):
    def __init__(self, fail=False):
        super().__init__()
        self.norm, self.drop = torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5)
        self.fail = fail

    def forward(self, x):
        assert not self.norm.training
        assert self.drop.training
        if self.fail:
            raise RuntimeError("no")
        return self.drop(self.norm(x))


@pytest.mark.parametrize("training", [[True] * 5, [False] * 5, [False, True, True, False, False]],
                         ids=["train", "eval", "mixed"])  # fmt: skip
def test_modes_come_back(training):
    """Only layers that drop are put in training mode."""
    network = SequenceNetwork(torch.nn.GRU(9, 4, 2, dropout=0.5), Head())
    for module, mode in zip(network.modules(), training, strict=True):
        module.training = mode
    network.head.norm.training = False
    before = modes(network)
    samples = mc_samples(network, torch.randn(3, 6, 9), 10)
    assert modes(network) == before
    assert samples.std(0).min() > 0
    assert not samples.requires_grad


def test_modes_come_back_after_an_error():
    network = SequenceNetwork(baselines.GRU(9, 4), Head(fail=True)).eval()
    with pytest.raises(RuntimeError, match="no"):
        mc_samples(network, torch.randn(3, 6, 9), 10)
    assert modes(network) == [False] * 5


@pytest.mark.parametrize(("args", "message"), [
    ((0,), r"Expected num_samples to be a positive int, got 0\."),
    ((2, torch.tensor([7, 1, 1])), r"Expected lengths in 1\.\.6, got 7\."),
], ids=["num_samples", "lengths"])  # fmt: skip
def test_refuses(args, message):
    with pytest.raises(ValueError, match=message):
        mc_samples(linear_network(), torch.zeros(3, 6, 9, **double), *args)


def test_refuses_max_batch():
    with pytest.raises(ValueError, match=r"Expected max_batch to be a positive int, got 0\."):
        mc_samples(linear_network(), torch.zeros(3, 6, 9, **double), 2, max_batch=0)


def test_a_loss_is_no_network():
    network = SequenceNetwork(OURS["gru"](9, 4), torch.nn.Linear(4, 1))
    with pytest.raises(TypeError, match=r"Expected a network, got the loss GaussianLoss: give its"):
        baselines.mc_samples(baselines.GaussianLoss(network), torch.zeros(2, 3, 9), 3)
    with pytest.raises(TypeError, match=r"num_samples to be a positive int, got a Tensor \(2, 3\)"):
        baselines.mc_samples(network, 3, torch.zeros(2, 3))
