"""Conditioned on the same weights, our layers are torch.nn's: values, states, gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pyro_vrnn.ops import recurrent as recurrent_ops
from tests.nn.cases import assert_close, cells, conditioned, flat, make_twins, parameters

# (constructor's sizes, T, N). T = N = H and T = N = D hide a transposed dim.
SIZES = {
    "plain": ((3, 5), 7, 4),
    "one-feature": ((1, 5), 7, 4),
    "two-layers": ((3, 5, 2), 7, 4),
    "T=1": ((3, 5), 1, 4),
    "N=1": ((3, 5), 7, 1),
    "T=N=H": ((3, 5), 5, 5),
    "T=N=D": ((3, 5), 3, 3),
}


@pytest.fixture(params=["reference", "auto"])
def path(request, monkeypatch):
    """Run a test on the slow path and on the chosen one."""
    if request.param == "reference":
        monkeypatch.setattr(recurrent_ops, "run_fused", None)  # must not be reached
        monkeypatch.setattr(
            recurrent_ops.recurrent,
            "__kwdefaults__",
            {**recurrent_ops.recurrent.__kwdefaults__, "path": "reference"},
        )
    return request.param


@cells
@pytest.mark.parametrize(("args", "t", "n"), SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two-way"])
def test_values(cell, args, t, n, bidirectional, bias, path, device):
    ours, theirs = make_twins(cell, *args, bias=bias, bidirectional=bidirectional, device=device)
    x = torch.randn(t, n, args[0], dtype=torch.float64, device=device)
    expected = flat(theirs(x))
    actual = flat(conditioned(ours, parameters(theirs))(x))
    assert_close(actual, expected, torch.float64)


@cells
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two-way"])
@pytest.mark.parametrize("with_lengths", [False, True], ids=["full", "lengths"])
def test_gradients(cell, bidirectional, with_lengths, path, device, dtype):
    ours, theirs = make_twins(
        cell, 3, 5, 2, batch_first=True, bidirectional=bidirectional, device=device, dtype=dtype
    )
    x = torch.randn(4, 6, 3, dtype=dtype, device=device, requires_grad=True)
    lengths = torch.tensor([2, 6, 1, 4]) if with_lengths else None
    directions = 2 if bidirectional else 1
    h_0, c_0 = (
        torch.randn(2 * directions, 4, 5, dtype=dtype, device=device, requires_grad=True)
        for _ in range(2)
    )
    hx = (h_0, c_0) if cell == "lstm" else h_0
    weights = parameters(theirs)
    wrt = [x, *(hx if cell == "lstm" else [hx]), *weights.values()]

    if with_lengths:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, state = theirs(packed, hx)
        y, _ = pad_packed_sequence(y, batch_first=True)
        expected = flat((y, state))
    else:
        expected = flat(theirs(x, hx))
    actual = flat(conditioned(ours, weights)(x, hx, lengths))
    assert_close(actual, expected, dtype)
    probes = [torch.randn_like(t) for t in expected]
    assert_close(
        torch.autograd.grad(actual, wrt, probes), torch.autograd.grad(expected, wrt, probes), dtype
    )


@cells
@pytest.mark.parametrize("enforce_sorted", [False, True], ids=["any-order", "sorted"])
def test_packed_sequence(cell, enforce_sorted, path, device):
    ours, theirs = make_twins(cell, 3, 5, 2, bidirectional=True, device=device)
    lengths = torch.tensor([6, 4, 4, 1] if enforce_sorted else [4, 6, 1, 4])
    x = torch.randn(6, 4, 3, dtype=torch.float64, device=device)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted)
    expected, expected_state = theirs(packed)
    actual, state = conditioned(ours, parameters(theirs))(packed)
    assert torch.equal(actual.batch_sizes, expected.batch_sizes)
    assert_close(flat((actual.data, state)), flat((expected.data, expected_state)), torch.float64)
    assert_close(pad_packed_sequence(actual), pad_packed_sequence(expected), torch.float64)


@cells
@pytest.mark.parametrize("batch_first", [False, True])
def test_unbatched_input(cell, batch_first, device):
    ours, theirs = make_twins(cell, 3, 5, 2, batch_first=batch_first, device=device)
    x = torch.randn(7, 3, dtype=torch.float64, device=device)
    h_0 = torch.randn(2, 5, dtype=torch.float64, device=device)
    hx = (h_0, 2 * h_0) if cell == "lstm" else h_0
    actual = flat(conditioned(ours, parameters(theirs))(x, hx))
    assert_close(actual, flat(theirs(x, hx)), torch.float64)


@cells
def test_names_and_shapes_are_torchs(cell):
    ours, theirs = make_twins(cell, 3, 5, 2, bidirectional=True)
    shapes = {name: ours.prior(name).event_shape for name in ours._weight_sites}
    assert shapes == {name: p.shape for name, p in theirs.named_parameters()}


@cells
def test_repr_is_torchs(cell):
    ours, theirs = make_twins(cell, 3, 5, 2, bias=False, batch_first=True, bidirectional=True)
    assert repr(ours) == repr(theirs)


@cells
def test_train_and_eval_do_not_matter(cell, device):
    ours, theirs = make_twins(cell, 3, 5, device=device)
    x = torch.randn(7, 4, 3, dtype=torch.float64, device=device)
    train, evaluate = (conditioned(m(), parameters(theirs))(x)[0] for m in (ours.train, ours.eval))
    assert torch.equal(train, evaluate)


def test_gru_with_half_its_columns_dropped_stays_in_range(device):
    """Keras 20276: with p = 0.5 and inverted scaling its states grew without bound."""
    ours, theirs = make_twins("gru", 3, 5, device=device)
    weights = {k: 20 * v.detach() for k, v in parameters(theirs).items()}
    mask = torch.rand(5, device=device) < 0.5
    weights["weight_hh_l0"] = weights["weight_hh_l0"] * mask
    x = torch.randn(500, 4, 3, dtype=torch.float64, device=device)
    output, _ = conditioned(ours, weights)(x)
    assert output.abs().max() <= 1
