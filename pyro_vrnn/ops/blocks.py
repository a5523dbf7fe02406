"""
Blocks of a weight tensor: sums over each, and factors spread over each, without copies.

An event of shape (E_1, ..., E_n) is tiled by blocks of shape (B_1, ..., B_n) into a grid of shape
(E_1 / B_1, ..., E_n / B_n). Its view (grid_1, block_1, ..., grid_n, block_n) lets a reduction over
the block dims and a broadcast over the grid dims do all the work.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_PIECE = 2**17  # elements held in float64 at a time: more would not stay in the cache


def grid_shape(event_shape: tuple[int, ...], block_shape: tuple[int, ...]) -> tuple[int, ...]:
    """
    Return how many blocks tile an event along each dim.

    >>> grid_shape((8, 5), (4, 1))
    (2, 5)

    :raises ValueError: if the blocks do not tile the event.
    """
    tiles = len(event_shape) == len(block_shape) and not any(
        e % b for e, b in zip(event_shape, block_shape, strict=True)
    )
    if not tiles:
        raise ValueError(
            f"Expected block_shape to tile an event of shape {tuple(event_shape)}, "
            f"got {tuple(block_shape)}."
        )
    return tuple(e // b for e, b in zip(event_shape, block_shape, strict=True))


def interleave(x: Tensor, block_shape: tuple[int, ...]) -> Tensor:
    """View ``(*batch, *event)`` as ``(*batch, grid_1, block_1, ..., grid_n, block_n)``."""
    n = len(block_shape)
    batch, event = x.shape[: x.dim() - n], x.shape[x.dim() - n :]
    pairs = zip(grid_shape(event, block_shape), block_shape, strict=True)
    return x.reshape(*batch, *[size for pair in pairs for size in pair])


def block_dims(num_event_dims: int) -> tuple[int, ...]:
    """Return the block dims of an interleaved tensor, counted from the end."""
    return tuple(range(-2 * num_event_dims + 1, 0, 2))


def spread(x: Tensor, num_event_dims: int) -> Tensor:
    """View ``(*batch, *grid)`` as ``(*batch, grid_1, 1, ..., grid_n, 1)``."""
    batch, grid = x.shape[: x.dim() - num_event_dims], x.shape[x.dim() - num_event_dims :]
    return x.reshape(*batch, *[size for g in grid for size in (g, 1)])


def scale_blocks(x: Tensor, factor: Tensor, block_shape: tuple[int, ...]) -> Tensor:
    """
    Multiply each block of ``x`` by its own factor.

    Shapes: ``x`` is ``(*batch, *event)``, ``factor`` ``(*batch, *grid)``; the batches broadcast.

    >>> scale_blocks(torch.ones(4, 2), torch.tensor([[2.0, 3.0]]), (4, 1))[0]
    tensor([2., 3.])
    """
    n = len(block_shape)
    product = interleave(x, block_shape) * spread(factor, n)
    return product.reshape(*product.shape[: product.dim() - 2 * n], *x.shape[x.dim() - n :])


def is_flat(x: Tensor, num_event_dims: int) -> bool:
    """Whether ``x`` has one value for a whole event (its event dims are missing or of size 1)."""
    return all(size == 1 for size in x.shape[max(x.dim() - num_event_dims, 0) :])


def sum_event(
    x: Tensor,  # broadcasts to (*batch, *event)
    event_shape: tuple[int, ...],
) -> Tensor:  # broadcasts to batch
    """
    Sum ``x``, broadcast to the event, over the event dims, in float64 and without broadcasting it.

    >>> sum_event(torch.tensor([[1.0], [2.0]]), (2, 3)), sum_event(torch.tensor(0.5), (2, 3))
    (tensor(9., dtype=torch.float64), tensor(3., dtype=torch.float64))
    """
    n = len(event_shape)
    x = x.reshape((1,) * (n - x.dim()) + x.shape)
    repeats = math.prod(event_shape) // max(math.prod(x.shape[x.dim() - n :]), 1)
    return x.sum(tuple(range(-n, 0)), dtype=torch.float64) * repeats


def block_square_sums(
    x: Tensor,  # (*batch, *event)
    block_shape: tuple[int, ...],
) -> Tensor:  # (*batch, *grid)
    """
    Sum of squares of each block, in float64, without a float64 copy of ``x``.

    >>> block_square_sums(torch.arange(8.0).reshape(4, 2), (2, 1))
    tensor([[ 4., 10.],
            [52., 74.]], dtype=torch.float64)
    """
    value: Tensor = _BlockSquareSums.apply(x, tuple(block_shape))  # type: ignore[no-untyped-call]
    return value


def block_square_ratios(
    x: Tensor,  # (*batch, *event)
    scale: Tensor,  # broadcasts to x
    block_shape: tuple[int, ...],
    square_sums: Tensor | None = None,
) -> Tensor:  # (*batch, *grid)
    """
    Sum of ``(x / scale) ** 2`` over each block, in float64.

    :param torch.Tensor square_sums: those of ``x``, where the caller has them already; used if
        ``scale`` is flat.
    """
    if not is_flat(scale, len(block_shape)):
        value: Tensor = _BlockSquareRatios.apply(  # type: ignore[no-untyped-call]
            x, scale, tuple(block_shape)
        )
        return value
    if square_sums is None:
        square_sums = block_square_sums(x, block_shape)
    return square_sums / scale.to(torch.float64).square()


class _BlockSquareSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, block_shape: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.block_shape = block_shape
        return _square_sums(interleave(x, block_shape), block_dims(len(block_shape)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return scale_blocks(x, (2 * grad).to(x.dtype), ctx.block_shape), None


class _BlockSquareRatios(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, block_shape: tuple[int, ...]) -> Tensor:
        ratio = x / scale
        ctx.save_for_backward(ratio, scale)
        ctx.block_shape, ctx.x_shape = block_shape, x.shape
        return _square_sums(interleave(ratio, block_shape), block_dims(len(block_shape)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        ratio, scale = ctx.saved_tensors
        for_x = scale_blocks(ratio, (2 * grad).to(ratio.dtype), ctx.block_shape).div_(scale)
        for_scale = None
        if ctx.needs_input_grad[1]:
            for_scale = (for_x * ratio).neg_().sum_to_size(scale.shape)
        return for_x.sum_to_size(ctx.x_shape), for_scale, None


def _square_sums(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    if x.dtype == torch.float64:
        return x.square().sum(dims)
    if x.numel() <= _PIECE:
        return x.to(torch.float64).square_().sum(dims)
    wide = [size > 1 for size in x.shape].index(True)
    halves = [_square_sums(half, dims) for half in x.chunk(2, wide)]
    if wide - x.dim() in dims:
        return halves[0] + halves[1]
    grid_dim = wide - sum(x.dim() + d < wide for d in dims)
    return torch.cat(halves, grid_dim)
