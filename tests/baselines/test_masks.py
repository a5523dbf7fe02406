"""What is dropped: columns, tied over time or not, by sequence, gate and direction, how often."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_vrnn import baselines
from pyro_vrnn.baselines._stepwise import grouped_affine, run_naive_layer
from pyro_vrnn.ops.weights import LayerWeights
from tests.baselines.cases import (
    GATES,
    H,
    N,
    T,
    assert_close,
    cells,
    dropping,
    flat,
    forms,
    gate_masks,
    make,
    matrices,
    ones_masks,
    scopes,
    sequences,
    tied_methods,
    twin,
)  # fmt: skip

Z = 4.26


def within(estimates, expected):
    """Whether independent estimates (n, ...) have the expected mean, elementwise."""
    error = estimates.std(0) / math.sqrt(len(estimates))
    off = (estimates.mean(0) - expected).abs()
    assert bool((off <= Z * error + 1e-12).all()), (off / error).max()


@cells
@scopes
@gate_masks
@tied_methods
def test_masks_of_every_weight(cell, scope, gates, method):
    net = make(cell, scope=scope, gates=gates, method=method)
    masks = net.draw_masks(N)
    assert sorted(masks) == sorted(matrices(net))  # both directions
    k = GATES[cell] if gates == "untied" else 1
    n = N if scope == "sequence" else 1
    assert {name: tuple(m.shape) for name, m in masks.items()} == {
        name: (n, k, w.shape[1]) for name, w in net.named_parameters() if name in masks
    }


@forms
def test_bernoulli_masks_are_zeros_and_ones(parametrization):
    masks = make(parametrization=parametrization).draw_masks(N)
    assert {float(v) for mask in masks.values() for v in mask.unique()} == {0.0, 1.0}


@gate_masks
def test_masks_of_sequences_and_gates_differ(gates):
    mask = baselines.LSTM(9, 64, gates=gates, drop_prob=0.5).draw_masks(3)["weight_hh_l0"]
    assert not torch.equal(mask[0], mask[1])
    assert mask.shape[1] == (1 if gates == "tied" else 4)
    assert gates == "tied" or not torch.equal(mask[:, 0], mask[:, 1])


@tied_methods
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_frequency_and_variance(method, p):
    """Mean 1 - p and variance p (1 - p), or mean 1 and variance p / (1 - p)."""
    net = baselines.GRU(40, 50, drop_prob=p, method=method, dtype=torch.float64)
    factors = torch.cat([m.flatten() for m in net.draw_masks(50).values()])
    mean, variance = (1 - p, p * (1 - p)) if method == "variational" else (1.0, p / (1 - p))
    within(factors, torch.tensor(mean).double())
    within((factors - mean).square(), torch.tensor(variance).double())


@cells
@scopes
@pytest.mark.parametrize("column", [0, 3])
def test_dropped_column_is_an_input_unit_at_all_steps(cell, scope, column):
    """h[column] is hidden from W_hh at all steps: the dense weight without that column, not row."""
    net, x = make(cell, scope=scope, drop_prob=0.5), sequences()
    masks = ones_masks(net)
    masks["weight_hh_l0_reverse"][..., column] = 0
    weights = {name: w.detach().clone() for name, w in net.named_parameters()}
    weights["weight_hh_l0_reverse"][:, column] = 0
    assert_close(flat(net(x, masks=masks)), flat(twin(net, cell, weights)(x)))


@cells
def test_dropped_input_does_not_matter_at_any_step(cell):
    net, x = make(cell, drop_prob=0.5), sequences()
    masks = ones_masks(net)
    masks["weight_ih_l0"][1, :, 2] = masks["weight_ih_l0_reverse"][1, :, 2] = 0
    changed = x.clone()
    changed[:, 1, 2] += 100
    assert_close(flat(net(changed, masks=masks)), flat(net(x, masks=masks)))
    changed[:, 0, 2] += 1
    assert not torch.equal(net(changed, masks=masks)[0], net(x, masks=masks)[0])


@tied_methods
def test_equal_sequences_part_only_by_sequence(method):
    x = sequences()[:, :1].expand(-1, N, -1)
    alike, _ = make(method=method, scope="batch", drop_prob=0.5)(x)
    apart, _ = make(method=method, scope="sequence", drop_prob=0.5)(x)
    assert_close(alike, alike[:, :1].expand_as(alike))
    assert all(not torch.allclose(apart[:, 0], apart[:, k]) for k in range(1, N))


@tied_methods
def test_masks_stay_over_time(method):
    """A relu network without recurrence on a constant input is constant where masks are."""
    net = steady(method)
    output, _ = net(torch.ones(T, N, 9))
    assert_close(output, output[:1].expand_as(output), torch.float32)


@pytest.mark.parametrize("method", ["naive", "non-recurrent"])
def test_masks_change_at_every_step(method):
    output, _ = steady(method)(torch.ones(T, N, 9))
    assert all(not torch.allclose(output[0], output[t]) for t in range(1, T))


def steady(method):
    net = baselines.RNN(9, H, nonlinearity="relu", method=method, drop_prob={"weight_ih": 0.5})
    torch.nn.init.zeros_(net.weight_hh_l0)
    torch.nn.init.uniform_(net.weight_ih_l0)
    return net


@pytest.mark.parametrize("method", ["naive", "variational"])
def test_recurrent_masks_change_only_in_the_naive_method(method):
    """h = 1, 1 + z_2, ... by a relu network that adds up: with a mask that stays, 1 or t."""
    net = baselines.RNN(1, 1, nonlinearity="relu", bias=False, method=method, drop_prob=0.5)
    torch.nn.init.ones_(net.weight_ih_l0)
    torch.nn.init.ones_(net.weight_hh_l0)
    sums = net(torch.ones(T, 300, 1))[0][-1].flatten()
    seen = set(sums.tolist())
    assert seen == (
        {1.0, float(T)} if method == "variational" else set(map(float, range(1, T + 1)))
    )


def test_few_inputs_are_kept_by_default():
    """The guide's exception: first layer, fewer than 8 inputs; a mapping's entry is as given."""
    few = baselines.LSTM(7, 5, 2, bidirectional=True, drop_prob=0.5).drop_probs
    assert [name for name, p in few.items() if p == 0] == ["weight_ih_l0", "weight_ih_l0_reverse"]
    assert set(baselines.LSTM(8, 5, drop_prob=0.5).drop_probs.values()) == {0.5}
    named = baselines.LSTM(7, 5, 2, drop_prob={"weight_ih": 0.5}).drop_probs
    assert named == {
        "weight_ih_l0": 0.5, "weight_hh_l0": 0.25, "weight_ih_l1": 0.5, "weight_hh_l1": 0.25
    }  # fmt: skip


def test_weight_before_kind():
    drop_prob = {"weight_hh_l1_reverse": 0.9, "weight_hh": 0.1, "weight_ih": 0.0}
    probs = make(drop_prob=drop_prob).drop_probs
    assert probs.pop("weight_hh_l1_reverse") == 0.9
    assert {name: p for name, p in probs.items() if "_hh" in name} == dict.fromkeys(
        ["weight_hh_l0", "weight_hh_l0_reverse", "weight_hh_l1"], 0.1
    )


@pytest.mark.parametrize(
    ("method", "expected"),
    [("none", [0, 0]), ("non-recurrent", [0.5, 0]), ("naive", [0.5, 0.5])],
    ids=["none", "non-recurrent", "naive"],
)
def test_what_a_method_never_drops_has_p_0(method, expected):
    assert list(baselines.GRU(9, 4, method=method, drop_prob=0.5).drop_probs.values()) == expected


@cells
@pytest.mark.parametrize("two_way", [False, True], ids=["one way", "two ways"])
def test_naive_loop_with_ones_is_the_kernel(cell, two_way):
    net, x, lengths = make(cell, two_way=two_way, layers=1), sequences(), torch.tensor([6, 2, 3, 1])
    masks = torch.ones(T, N, GATES[cell], 9).double(), torch.ones(T, N, GATES[cell], H).double()
    suffix = "_l0_reverse" if two_way else "_l0"
    weights = LayerWeights(
        *(getattr(net, k + suffix) for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    )
    state = (torch.zeros(N, H).double(),) * (1 + (cell == "lstm"))
    output, final = run_naive_layer(
        net.mode, x, state, weights, masks, backward=two_way, lengths=lengths
    )
    expected, last = twin(net, cell)(
        torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    )
    expected = torch.nn.utils.rnn.pad_packed_sequence(expected)[0][..., -H:]
    last = last if cell == "lstm" else (last,)
    assert_close([output, *final], [expected, *(s[-1] for s in last)])


@cells
@pytest.mark.parametrize("method", ["naive", "non-recurrent"])
def test_methods_of_every_step_are_torch_under_ones(cell, method, monkeypatch):
    """Layers, directions and their initial states stand where they belong."""
    net, x = make(cell, method=method, drop_prob=0.5), sequences()
    monkeypatch.setattr(net, "_draw", lambda name, *shape: x.new_ones(shape))
    h_0, c_0 = torch.randn(2, 4, N, H).double()
    hx = (h_0, c_0) if cell == "lstm" else h_0
    assert_close(flat(net(x, hx)), flat(twin(net, cell)(x, hx)))


@pytest.mark.parametrize("steps", [1, 4])
def test_naive_masks_hide_columns_of_one_gate_at_one_step(steps):
    net = baselines.GRU(9, H, dtype=torch.float64)
    x, mask = sequences(steps=steps), torch.ones(steps, N, 3, 9).double()
    mask[-1, 2, 1, 4] = 0
    actual = grouped_affine(x, net.weight_ih_l0, net.bias_ih_l0, mask)
    expected = x @ net.weight_ih_l0.T + net.bias_ih_l0
    gone = x[-1, 2, 4] * net.weight_ih_l0[:, 4]
    gone[:H] = gone[2 * H :] = 0
    expected[-1, 2] -= gone
    assert_close(actual, expected)


@dropping
@forms
def test_gru_stays_in_bounds(method, parametrization):
    """Up to p = 0.9, with large weights, over many steps (keras 20276)."""
    net = baselines.GRU(9, H, method=method, drop_prob=0.9, parametrization=parametrization)
    with torch.no_grad():
        net.weight_hh_l0.mul_(50)
    output, _ = net(torch.randn(200, N, 9))
    assert float(output.detach().abs().max()) <= 1


def test_gru_carry_is_never_masked():
    """With everything dropped and an update gate of 1, h stays what it was."""
    net = baselines.GRU(9, H, drop_prob=0.5)
    with torch.no_grad():
        net.bias_ih_l0[H : 2 * H] = 100
    h_0 = torch.rand(1, N, H)
    masks = {name: torch.zeros_like(m) for name, m in net.draw_masks(N).items()}
    assert_close(net(torch.randn(T, N, 9), h_0, masks=masks)[1], h_0, torch.float32)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("two_way", [False, True], ids=["one way", "two ways"])
def test_non_recurrent_is_torch_dropout(cell, two_way):
    """Bit for bit the same masks between layers from the same seed."""
    drop_prob = {"weight_ih_l0": 0.0, "weight_ih": 0.4}
    if two_way:
        drop_prob["weight_ih_l0_reverse"] = 0.0
    net = make(
        cell, layers=3, two_way=two_way, method="non-recurrent", drop_prob=drop_prob,
        parametrization="inverted",
    )  # fmt: skip
    theirs, x = twin(net, cell), sequences()
    theirs.dropout = 0.4
    torch.manual_seed(4)
    actual = flat(net(x))
    torch.manual_seed(4)
    expected = flat(theirs(x))
    assert_close(actual, expected)
    torch.manual_seed(5)
    assert not torch.equal(net(x)[0], actual[0])


@dropping
def test_inverted_masks_have_mean_one(method):
    """Where the network is linear in masks of one step (relu above 0), E over masks is M's."""
    net = baselines.RNN(
        9, H, nonlinearity="relu", method=method, drop_prob=0.4, parametrization="inverted",
        dtype=torch.float64,
    )  # fmt: skip
    with torch.no_grad():
        net.weight_ih_l0.mul_(0.01)
        net.bias_ih_l0.fill_(1)
        net.bias_hh_l0.zero_()
    x = torch.rand(1, 1, 9).double().expand(1, 4000, 9)
    expected = net.eval()(x[:, :1])[0][0, 0].detach()
    within(net.train()(x)[0][0].detach(), expected)


@forms
def test_tied_masks_of_one_step_have_the_mean_weights(parametrization):
    net = baselines.RNN(
        9, H, nonlinearity="relu", bias=False, drop_prob=0.4, parametrization=parametrization,
        dtype=torch.float64,
    )  # fmt: skip
    with torch.no_grad():
        net.weight_ih_l0.abs_()
        net.weight_hh_l0.abs_()
    h_0 = torch.rand(1, 1, H).double().expand(1, 4000, H).contiguous()
    x = torch.rand(1, 1, 9).double().expand(1, 4000, 9)
    expected = net.eval()(x, h_0)[0][0, 0].detach()
    within(net.train()(x, h_0)[0][0].detach(), expected)
