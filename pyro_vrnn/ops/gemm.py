"""
Matrix products on the CPU by the faster of torch's two libraries.

torch's own float32 products go to MKL, which runs at about half speed on AMD processors
(``benchmarks/speed.py`` measures both), while ``nn.LSTM`` goes to oneDNN. The products here go
to oneDNN as well, through the operators that torch's compiler uses for linear layers and
convolutions; where those are missing, switched off or give another result, they go to torch's
ordinary products.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_WORTH = 3 * 2**19  # multiplications a thread, below which the call costs more than it saves


def times_transpose(
    x: Tensor,  # (R, D)
    weight: Tensor,  # (F, D)
    bias: Tensor | None = None,  # (F,)
) -> Tensor:  # (R, F)
    r"""
    :math:`x W^\top + b`, without a gradient.

    >>> times_transpose(torch.ones(2, 3), torch.ones(4, 3), torch.ones(4))[0]
    tensor([4., 4., 4., 4.])
    """
    if uses_onednn(x, x.shape[0] * weight.numel()) and _linear_is_right():
        if not weight.is_contiguous() and not weight.t().is_contiguous():
            weight = weight.contiguous()  # oneDNN is a thousand times slower on such weights
        return _linear(x, weight, bias)
    return x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())


def uses_onednn(x: Tensor, multiplications: int) -> bool:
    """Whether a product with ``x`` of this size may go to oneDNN."""
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and multiplications >= _WORTH * torch.get_num_threads()
        and bool(torch.backends.mkldnn.enabled)
    )


class GroupedWeight:
    r"""
    G matrices side by side, each multiplied by its own part of the columns of x.

    For products of one shape again and again, without a gradient: oneDNN takes them as a
    convolution of one pixel in G groups, one call for all G, with weights laid out once for this
    number of rows and a result that may be added to what is there.

    >>> GroupedWeight(torch.ones(2, 4, 3), num_rows=5).times(torch.ones(5, 6)).shape
    torch.Size([5, 8])
    """

    def __init__(self, weight: Tensor, num_rows: int) -> None:  # (G, F, D)
        self._groups = len(weight)
        large = uses_onednn(weight, num_rows * weight.numel())
        self.packed = _pack(weight, num_rows) if large and _convolution_is_right() else None
        self._weight = weight if self.packed is None else weight.new_empty(0)  # held once

    def add(self, x: Tensor, out: Tensor) -> None:  # (R, G*D), (R, G*F)
        r"""Add :math:`x W^\top` to ``out``; both are contiguous."""
        if self.packed is not None:
            _convolve_into(out, x, self.packed, self._groups)
        elif self._groups == 1:
            out.addmm_(x, self._weight[0].t())
        elif out.device.type == "cpu":  # where bmm is slow on a result that has gaps
            self._split(out).add_(torch.bmm(self._split(x), self._weight.mT))
        else:
            self._split(out).baddbmm_(self._split(x), self._weight.mT)

    def times(self, x: Tensor) -> Tensor:  # (R, G*D) -> (R, G*F)
        r"""Return :math:`x W^\top`."""
        if self.packed is not None:
            return _convolve(x, self.packed, self._groups)
        if self._groups == 1:
            return x @ self._weight[0].t()
        return torch.bmm(self._split(x), self._weight.mT).transpose(0, 1).flatten(1)

    def _split(self, x: Tensor) -> Tensor:  # (R, G*D) -> (G, R, D)
        return x.unflatten(1, (self._groups, -1)).transpose(0, 1)


# The calls of oneDNN. Rows are the pixels of one image whose channels come last in memory.

_POINT = ([0, 0], [1, 1], [1, 1])  # padding, stride, dilation


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return product


def _pack(weight: Tensor, num_rows: int) -> Tensor:  # (G, F, D)
    groups, _, columns = weight.shape
    filters = weight.reshape(-1, columns, 1, 1)
    packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
        filters, *_POINT, groups, [1, groups * columns, 1, num_rows]
    )
    return packed


def _image(x: Tensor) -> Tensor:  # (R, C) -> (1, C, 1, R)
    rows, channels = x.shape
    return x.as_strided((1, channels, 1, rows), (rows * channels, 1, rows * channels, channels))


def _convolve(x: Tensor, packed: Tensor, groups: int) -> Tensor:
    product: Tensor = torch.ops.mkldnn._convolution_pointwise.default(
        _image(x), packed, None, *_POINT, groups, "none", [], ""
    )
    return product.as_strided(
        (x.shape[0], product.shape[1]), (product.stride(3), product.stride(1))
    )


def _convolve_into(out: Tensor, x: Tensor, packed: Tensor, groups: int) -> None:
    torch.ops.mkldnn._convolution_pointwise_.binary(
        _image(out), _image(x), packed, None, *_POINT, groups, "add", 1.0, None, [], None
    )


# The operators are not part of torch's public interface: each is tried once before it is relied on.


@functools.cache
def _linear_is_right() -> bool:
    x, weight, bias = _arange(2, 3).t(), _arange(4, 2), _arange(4)
    expected = torch.addmm(bias, x, weight.t())
    return _gives(lambda: _linear(x, weight, bias), expected)


@functools.cache
def _convolution_is_right() -> bool:
    x, weight = _arange(3, 4), _arange(2, 5, 2)
    expected = torch.einsum("rgd,gfd->rgf", x.view(3, 2, 2), weight).flatten(1)

    def into() -> Tensor:
        out = torch.ones(3, 10)
        _convolve_into(out, x, _pack(weight, 3), 2)
        return out - 1

    return _gives(into, expected) and _gives(lambda: _convolve(x, _pack(weight, 3), 2), expected)


def _arange(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)


def _gives(product: Callable[[], Tensor], expected: Tensor) -> bool:
    try:
        return torch.backends.mkldnn.is_available() and torch.equal(product(), expected)
    except (RuntimeError, TypeError, AttributeError):
        return False


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return times_transpose(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        if torch.is_grad_enabled():  # create_graph: by differentiable products
            for_x, for_weight = grad @ weight, grad.t() @ x
        else:
            for_x = times_transpose(grad, weight.t()) if needs_x else None
            for_weight = times_transpose(grad.t(), x.t()) if needs_weight else None
        return for_x, for_weight, grad.sum(0) if needs_bias else None


def linear(
    x: Tensor,  # (*, D)
    weight: Tensor,  # (F, D)
    bias: Tensor | None = None,  # (F,)
) -> Tensor:  # (*, F)
    r"""
    :func:`torch.nn.functional.linear`, by oneDNN where that is the faster one.

    >>> linear(torch.ones(5, 2, 3), torch.ones(4, 3)).shape
    torch.Size([5, 2, 4])
    """
    tensors = (x, weight) if bias is None else (x, weight, bias)
    plain = torch.is_autocast_enabled(x.device.type) or len({t.dtype for t in tensors}) > 1
    if plain or not uses_onednn(x, x.numel() * weight.shape[0]):
        return torch.nn.functional.linear(x, weight, bias)
    rows: Tensor = _Linear.apply(  # type: ignore[no-untyped-call]
        x.reshape(-1, x.shape[-1]), weight, bias
    )
    return rows.reshape(*x.shape[:-1], weight.shape[0])
