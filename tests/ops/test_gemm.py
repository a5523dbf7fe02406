"""Products by oneDNN where it is there, by torch where it is not: the same results."""

from __future__ import annotations

import pytest
import torch

from pyro_vrnn.ops import gemm

WAYS = ("onednn", "torch", "missing")


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Send every product one way, whatever its size."""
    monkeypatch.setattr(gemm, "_WORTH", 2**62 if request.param == "torch" else 1)
    if request.param == "missing":
        monkeypatch.setattr(gemm, "_linear_is_right", lambda: False)
        monkeypatch.setattr(gemm, "_convolution_is_right", lambda: False)
    return request.param


def test_onednn_is_here():
    """Without it the tests of that way would test torch's products twice."""
    assert gemm._linear_is_right()
    assert gemm._convolution_is_right()


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("layout", ["plain", "transposed", "gaps"])
def test_products(way, bias, layout):
    x, weight = torch.randn(6, 5), torch.randn(7, 5)
    if layout == "transposed":
        x, weight = torch.randn(5, 6).t(), torch.randn(5, 7).t()
    if layout == "gaps":
        x, weight = torch.randn(6, 10)[:, ::2], torch.randn(14, 10)[::2, ::2]
    b = torch.randn(7) if bias else None
    expected = torch.nn.functional.linear(x, weight, b)
    torch.testing.assert_close(gemm.times_transpose(x, weight, b), expected, rtol=1e-5, atol=1e-5)


def test_weights_with_gaps_are_laid_out_first(monkeypatch):
    """oneDNN takes them, and a thousand times as long."""
    monkeypatch.setattr(gemm, "_WORTH", 0)
    taken = []
    monkeypatch.setattr(gemm, "_linear", lambda x, weight, bias: taken.append(weight))
    monkeypatch.setattr(gemm, "_linear_is_right", lambda: True)
    x, weight = torch.randn(6, 5), torch.randn(14, 10)[::2, ::2]
    gemm.times_transpose(x, weight)
    assert taken[0].is_contiguous()
    assert torch.equal(taken[0], weight)


@pytest.mark.parametrize("groups", [1, 4])
def test_grouped_products(way, groups):
    x, weight = torch.randn(6, groups * 5), torch.randn(groups, 7, 5)
    product = torch.einsum("rgd,gfd->rgf", x.view(6, groups, 5), weight).flatten(1)
    out = torch.randn(6, groups * 7)
    expected = out + product
    grouped = gemm.GroupedWeight(weight, 6)
    assert (grouped.packed is not None) == (way == "onednn")
    torch.testing.assert_close(grouped.times(x), product, rtol=1e-5, atol=1e-5)
    grouped.add(x, out)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5), (0, 5)], ids=str)
def test_linear_and_its_gradients(way, shape):
    x, weight, bias = torch.randn(shape), torch.randn(7, 5), torch.randn(7)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    pairs = []
    for function in (gemm.linear, torch.nn.functional.linear):
        y = function(*leaves)
        grads = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in grads), leaves)
        plain = torch.autograd.grad(function(*leaves).square().sum(), leaves)
        pairs.append([y, *grads, *second, *plain])
    torch.testing.assert_close(*pairs, rtol=1e-4, atol=1e-4)


def test_other_dtypes_go_to_torch(monkeypatch):
    monkeypatch.setattr(gemm, "_WORTH", 0)
    x, weight = torch.randn(6, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    assert not gemm.uses_onednn(x, 2**40)
    assert torch.equal(gemm.linear(x, weight), torch.nn.functional.linear(x, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gemm.linear(x.float(), weight.float()).dtype == torch.bfloat16


def test_an_operator_that_errs_is_not_relied_on():
    def raises():
        raise RuntimeError

    assert not gemm._gives(raises, torch.ones(1))
    assert not gemm._gives(lambda: torch.zeros(1), torch.ones(1))
    assert gemm._gives(lambda: torch.ones(1), torch.ones(1))
