"""A draw of a dropout network is its layers under one set of masks, as a plain network."""

from __future__ import annotations

import pytest
import torch

from pyro_vrnn.baselines import (
    GRU,
    LSTM,
    RNN,
    Embedding,
    LanguageNetwork,
    Linear,
    SequenceNetwork,
    function_draw,
    mean_network,
)

V, E, H = 11, 10, 9
PLAIN = {LSTM: torch.nn.LSTM, GRU: torch.nn.GRU, RNN: torch.nn.RNN}


def network(cell=LSTM, **kwargs):
    torch.manual_seed(0)
    settings = {"drop_prob": 0.4, **kwargs}
    return LanguageNetwork(
        Embedding(V, E, **{k: v for k, v in settings.items() if k != "gates"}),
        cell(E, H, 2, batch_first=True, **settings),
        Linear(H, V, **{k: v for k, v in settings.items() if k != "gates"}),
    ).double()


IDS = torch.randint(V, (3, 6), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("parametrization", ["non-inverted", "inverted"])
@pytest.mark.parametrize("gates", ["tied", "untied"])
@pytest.mark.parametrize("cell", [LSTM, GRU, RNN])
@pytest.mark.parametrize("scope", ["sequence", "batch"])
def test_masks_are_blocks_of_the_weights(cell, gates, scope, parametrization):
    """Every weight is 0 or its own (divided by 1 - p), block by block, in about the share p."""
    made = network(cell, gates=gates, scope=scope, parametrization=parametrization)
    torch.manual_seed(5)
    drawn = function_draw(made)
    assert type(drawn.rnn) is PLAIN[cell]
    assert (type(drawn.head), type(drawn.embedding)) == (torch.nn.Linear, torch.nn.Embedding)
    factor = 1 / 0.6 if parametrization == "inverted" else 1.0
    groups = {"LSTM": 4, "GRU": 3}.get(made.rnn.mode, 1) if gates == "untied" else 1
    kept = {}
    for name, weight in made.named_parameters():
        value = drawn.get_parameter(name)
        assert not value.requires_grad
        if "bias" in name:
            assert torch.equal(value, weight)
            continue
        ratio = (value / weight).detach()
        if name == "embedding.weight":
            blocks = ratio  # a word type is a row
        elif name.startswith("rnn"):
            blocks = ratio.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
        else:
            blocks = ratio.T
        torch.testing.assert_close(blocks, blocks[:, :1].expand_as(blocks))
        torch.testing.assert_close(blocks[:, 0], factor * (blocks[:, 0] > 0).double())
        kept[name] = blocks[:, 0] > 0
    share = torch.cat(list(kept.values())).double()
    assert abs(float(share.mean()) - 0.6) < 4.26 * (0.24 / len(share)) ** 0.5
    if groups > 1:
        one, other = kept["rnn.weight_hh_l0"].unflatten(0, (groups, -1))[:2]
        assert not torch.equal(one, other)


@pytest.mark.parametrize("method", ["variational", "gaussian"])
@pytest.mark.parametrize("cell", [LSTM, GRU])
def test_same_masks_in_the_network_itself(cell, method):
    """A network run in training with scope 'batch' under these masks gives the same logits."""
    made = network(cell, scope="batch", method=method, parametrization="inverted")
    torch.manual_seed(5)
    drawn = function_draw(made)
    torch.manual_seed(5)
    factors = made.embedding._draw("weight", V, 1)
    factors = made.embedding._scaled("weight", factors)
    masks = made.rnn.draw_masks(1), made.head.draw_masks(1)
    made.eval()
    vectors = torch.nn.functional.embedding(IDS, made.embedding.weight * factors)
    output, _ = made.rnn(vectors, masks=masks[0])
    torch.testing.assert_close(drawn(IDS), made.head(output, masks=masks[1]).detach())


def test_draws_differ_and_the_network_is_left_alone():
    made = network()
    before = {name: p.clone() for name, p in made.state_dict().items()}
    one, other = function_draw(made), function_draw(made)
    assert not torch.equal(one(IDS), other(IDS))
    assert made.training
    assert not one.training
    assert all(torch.equal(p, before[name]) for name, p in made.state_dict().items())
    assert one.state is not None
    assert made.state is None


@pytest.mark.parametrize("method", ["none", "naive", "non-recurrent", "variational", "gaussian"])
@pytest.mark.parametrize("parametrization", ["non-inverted", "inverted"])
def test_mean_network_is_the_network_in_evaluation(method, parametrization):
    made = network(method=method, parametrization=parametrization)
    plain = mean_network(made)
    assert type(plain.rnn) is torch.nn.LSTM
    torch.testing.assert_close(plain(IDS), made.eval()(IDS).detach())


def test_embedding_dropout_off():
    made = network()
    torch.manual_seed(5)
    drawn = function_draw(made, embedding_dropout=False)
    torch.testing.assert_close(drawn.embedding.weight, (0.6 * made.embedding.weight).detach())
    assert (drawn.head.weight == 0).any()


def test_padding_row_stays_zero_and_options_are_kept():
    table = Embedding(V, E, padding_idx=2, drop_prob=0.5)
    made = SequenceNetwork(GRU(E, H, bias=False), Linear(H, 9, bias=False), table)
    drawn = function_draw(made)
    assert drawn.embedding.padding_idx == 2
    assert not drawn.embedding.weight[2].any()
    assert drawn.head.bias is None
    assert drawn.rnn.bias is False
    assert drawn(IDS).shape == (3, 9)
    made = SequenceNetwork(RNN(E, H, nonlinearity="relu"), Linear(H, 9), Embedding(V, E))
    assert function_draw(made).rnn.nonlinearity == "relu"


def test_tied_parameters_get_masks_of_their_own():
    """Rows of the table and columns of the head, as in training."""
    settings = {"drop_prob": 0.4}
    table, head = Embedding(V, H, **settings), Linear(H, V, **settings)
    head.weight = table.weight
    made = LanguageNetwork(table, LSTM(H, H, batch_first=True, **settings), head)
    torch.manual_seed(0)
    drawn = function_draw(made)
    rows = (drawn.embedding.weight != 0).all(1) | (drawn.embedding.weight == 0).all(1)
    columns = (drawn.head.weight != 0).all(0) | (drawn.head.weight == 0).all(0)
    assert rows.all()
    assert columns.all()
    assert not torch.equal(drawn.head.weight, drawn.embedding.weight)


@pytest.mark.parametrize("method", ["naive", "non-recurrent"])
def test_methods_without_function_draws_are_refused(method):
    with pytest.raises(ValueError, match=f"got 'rnn' of '{method}', which has no masks that last"):
        function_draw(network(method=method))


def test_other_dropout_is_refused():
    made = torch.nn.Sequential(Linear(9, 9), torch.nn.Dropout(0.5))
    with pytest.raises(ValueError, match=r"got torch.nn's Dropout '1', whose masks do not last"):
        function_draw(made)
    assert not mean_network(made).training
    rnn = LanguageNetwork(Embedding(V, E), torch.nn.LSTM(E, H, 2, dropout=0.5), Linear(H, V))
    with pytest.raises(ValueError, match=r"got torch.nn's LSTM 'rnn'"):
        function_draw(rnn)
    with pytest.raises(TypeError, match="Expected a network that has layers, got the layer Linear"):
        function_draw(Linear(9, 9))
