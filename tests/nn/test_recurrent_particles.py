"""Batched weights of every shape Pyro makes: right, and different, for every particle."""

from __future__ import annotations

import pytest
import torch

from tests.nn.cases import assert_close, cells, conditioned, flat, make_twins, parameters

LEADING = {
    "predictive": lambda s: (s,),
    "vectorize": lambda s: (s, 1),
    "two-plates": lambda s: (s, 1, 1),
}
OUTPUT = {"predictive": (), "vectorize": (), "two-plates": (1,)}
leading = pytest.mark.parametrize("leading", list(LEADING))


def draw(theirs, num_particles, shape):
    """Return S draws of every weight under leading dims ``shape``, and each draw by itself."""
    draws = {
        k: 0.5 * torch.randn(num_particles, *p.shape).to(p) for k, p in parameters(theirs).items()
    }
    batched = {k: v.reshape(*shape(num_particles), *v.shape[1:]) for k, v in draws.items()}
    return batched, [{k: v[i] for k, v in draws.items()} for i in range(num_particles)]


@cells
@leading
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two-way"])
@pytest.mark.parametrize("sizes", [(6, 4, 7), (5, 5, 5)], ids=["S,N,T differ", "S=N=T=H"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_each_particle_is_right(cell, leading, bidirectional, sizes, bias, device, dtype):
    s, n, t = sizes
    ours, theirs = make_twins(
        cell,
        3,
        5,
        2,
        bias=bias,
        batch_first=True,
        bidirectional=bidirectional,
        device=device,
        dtype=dtype,
    )
    batched, single = draw(theirs, s, LEADING[leading])
    x = torch.randn(n, t, 3, dtype=dtype, device=device)
    lengths = torch.randint(1, t + 1, (n,))
    y, *state = flat(conditioned(ours, batched)(x, lengths=lengths))
    expected = [flat(conditioned(ours, w)(x, lengths=lengths)) for w in single]
    inner = OUTPUT[leading]
    assert y.shape[: 1 + len(inner)] == (s, *inner)
    assert_close(y, torch.stack([e[0] for e in expected]).reshape(y.shape), dtype)
    for k, part in enumerate(state, start=1):
        wanted = torch.stack([e[k] for e in expected], dim=1)
        assert_close(part, wanted.reshape(part.shape), dtype)
    assert len({float(v) for v in y.flatten(1).sum(1)}) == s


@cells
def test_gradient_reaches_every_particle(cell, device, dtype):
    """float32 `nn.LSTM` on the CPU takes the first matrix and returns rubbish gradients."""
    ours, theirs = make_twins(cell, 3, 5, device=device, dtype=dtype)
    batched, single = draw(theirs, 4, LEADING["vectorize"])
    batched = {k: v.requires_grad_() for k, v in batched.items()}
    x = torch.randn(6, 2, 3, dtype=dtype, device=device)
    conditioned(ours, batched)(x)[0].square().sum().backward()
    for i, weights in enumerate(single):
        weights = {k: v.requires_grad_() for k, v in weights.items()}
        conditioned(ours, weights)(x)[0].square().sum().backward()
        for name, weight in weights.items():
            torch.testing.assert_close(
                batched[name].grad[i, 0],
                weight.grad,
                rtol=1e-4,
                atol=1e-4 * weight.grad.abs().max(),
            )


@leading
def test_layer_on_layer_keeps_the_particles(leading, device):
    """The second network's input carries particles: it is not mixed up over them."""
    first, torch_first = make_twins("lstm", 3, 4, batch_first=True, device=device)
    second, torch_second = make_twins("gru", 4, 4, batch_first=True, device=device)
    w1, single1 = draw(torch_first, 4, LEADING[leading])
    w2, single2 = draw(torch_second, 4, LEADING[leading])
    x = torch.randn(4, 4, 3, dtype=torch.float64, device=device)
    h = conditioned(first, w1)(x)[0]
    y = conditioned(second, w2)(h)[0]
    expected = [
        conditioned(second, b)(conditioned(first, a)(x)[0])[0]
        for a, b in zip(single1, single2, strict=True)
    ]
    assert_close(y, torch.stack(expected).reshape(y.shape), torch.float64)


def test_some_weights_with_particles_and_some_without(device):
    ours, theirs = make_twins("lstm", 3, 5, 2, bidirectional=True, device=device)
    fixed = {k: v.detach() for k, v in parameters(theirs).items()}
    draws = torch.randn(6, 20, 5, dtype=torch.float64, device=device)
    x = torch.randn(7, 4, 3, dtype=torch.float64, device=device)
    y, h, c = flat(conditioned(ours, {**fixed, "weight_hh_l1_reverse": draws})(x))
    for i in range(6):
        expected = flat(conditioned(ours, {**fixed, "weight_hh_l1_reverse": draws[i]})(x))
        assert_close([y[i], h[:, i], c[:, i]], expected, torch.float64)


def test_initial_state_with_particles(device):
    ours, theirs = make_twins("gru", 3, 5, device=device)
    batched, single = draw(theirs, 6, LEADING["vectorize"])
    x = torch.randn(7, 4, 3, dtype=torch.float64, device=device)
    h_0 = torch.randn(1, 6, 4, 5, dtype=torch.float64, device=device)
    y, _ = conditioned(ours, batched)(x, h_0)
    expected = [conditioned(ours, w)(x, h_0[:, i])[0] for i, w in enumerate(single)]
    assert_close(y, torch.stack(expected), torch.float64)
