"""The plain language network and its loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pyro_vrnn import baselines

V, E, H, N, T = 13, 5, 6, 4, 7
CELLS = {
    "lstm": (torch.nn.LSTM, baselines.LSTM),
    "gru": (torch.nn.GRU, baselines.GRU),
    "rnn": (torch.nn.RNN, baselines.RNN),
}


@pytest.fixture(autouse=True)
def _on_device(device: torch.device) -> Iterator[None]:
    with device:
        yield


def plain(cell: str, **kwargs: Any) -> baselines.LanguageNetwork:
    torch.manual_seed(0)
    rnn = CELLS[cell][0](E, H, 2, **kwargs)
    return baselines.LanguageNetwork(torch.nn.Embedding(V, E), rnn, torch.nn.Linear(H, V)).double()


def dropping(cell: str, **kwargs: Any) -> baselines.LanguageNetwork:
    torch.manual_seed(0)
    return baselines.LanguageNetwork(
        baselines.Embedding(V, E, **kwargs),
        CELLS[cell][1](E, H, 2, batch_first=True, **kwargs),
        baselines.Linear(H, V, **kwargs),
    ).double()


def words(*shape: int) -> torch.Tensor:
    return torch.randint(
        V, shape, generator=torch.Generator("cpu").manual_seed(2), device="cpu"
    ).to(torch.get_default_device())


LENGTHS = torch.tensor([T, 1, 4, 2])


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_layers_of_torch_and_ours_without_dropout_are_one(
    cell: str, batch_first: bool, lengths: Any
) -> None:
    theirs, ours = plain(cell, batch_first=batch_first), dropping(cell, method="none")
    ours.load_state_dict(theirs.state_dict())
    start = torch.randn(2, N, H).double()
    state = (start, start) if cell == "lstm" else start
    x, valid = (
        words(N, T),
        torch.arange(T) < (LENGTHS if lengths is not None else torch.full((N,), T)).unsqueeze(-1),
    )
    a, b = theirs(x, lengths, state), ours(x, lengths, state)
    torch.testing.assert_close(a[valid], b[valid], rtol=0, atol=1e-10)
    for one, other in zip(theirs.state, ours.state, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_masks_belong_to_the_sequence_and_word_types_go_together() -> None:
    network = dropping(
        "lstm", drop_prob={"embedding": 0.5, "weight_ih": 0.0, "weight_hh": 0.0, "linear": 0.0}
    )
    x = torch.tensor([[3] * T, [3] * T])
    rows = network.embedding(x)
    assert torch.equal(rows[:, :1].expand_as(rows), rows)
    differ = {bool((r[0, 0] == r[1, 0]).all()) for r in (network.embedding(x) for _ in range(30))}
    assert differ == {False, True}


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
def test_the_loss_is_the_likelihood_of_all_tokens_and_the_penalty(lengths: Any) -> None:
    network = plain("gru", batch_first=True)
    x, y = words(N, T), words(N, T)
    loss = baselines.LanguageLoss(network, num_data=300, prior_scale=0.5)
    log_p = network(x).log_softmax(-1).gather(-1, y.unsqueeze(-1)).squeeze(-1)
    count = N * T
    if lengths is not None:
        log_p, count = log_p[torch.arange(T) < lengths.unsqueeze(-1)], int(lengths.sum())
    penalty = sum(p.square().sum() for p in network.parameters()) / (2 * 0.5**2)
    expected = -300 / count * log_p.sum() + penalty
    torch.testing.assert_close(loss(x, y, lengths), expected, rtol=1e-12, atol=0)


def test_the_state_is_kept_without_its_graph_and_forgotten_on_demand() -> None:
    network = dropping("lstm")
    loss = baselines.LanguageLoss(network)
    x = words(N, T)
    assert network.state is None
    loss(x, x)
    assert loss.state is network.state
    assert not any(part.requires_grad for part in network.state)
    network.reset_state()
    assert loss.state is None


def test_two_windows_with_the_state_are_one_text() -> None:
    network = plain("lstm", batch_first=True)
    x = words(N, 2 * T)
    whole = network(x)
    parts = [network(x[:, :T]), network(x[:, T:], state=network.state)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-10)


def test_uniform_logits_cost_log_v_a_token() -> None:
    network = plain("rnn")
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter.zero_()
    loss = baselines.LanguageLoss(network, prior_scale=None)
    value = loss(words(N, T), words(N, T)).item()
    assert value == pytest.approx(N * T * math.log(V), rel=1e-12)


def test_parts_that_do_not_fit_are_refused() -> None:
    embedding, head = torch.nn.Embedding(V, E), torch.nn.Linear(H, V)
    with pytest.raises(TypeError, match="Expected rnn to be an RNN, LSTM or GRU"):
        baselines.LanguageNetwork(embedding, torch.nn.Linear(E, H), head)
    with pytest.raises(ValueError, match="it would read the tokens that it predicts"):
        baselines.LanguageNetwork(embedding, torch.nn.GRU(E, H, bidirectional=True), head)
    with pytest.raises(ValueError, match="Expected an embedding of 6 dims and a head of 6 inputs"):
        baselines.LanguageNetwork(embedding, torch.nn.GRU(6, H), head)


def test_data_that_do_not_fit_are_refused() -> None:
    network = plain("gru")
    with pytest.raises(TypeError, match="Expected x of dtype int64"):
        network(torch.zeros(2, 3))
    loss = baselines.LanguageLoss(network, num_data=5)
    with pytest.raises(ValueError, match="Expected a batch of at most num_data=5 target tokens"):
        loss(words(2, 3), words(2, 3))
    with pytest.raises(ValueError, match="Expected y of shape"):
        loss(words(2, 3), words(3, 2))
