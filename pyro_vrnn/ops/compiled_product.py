"""Gradients of products for all steps in compiled code, ``csrc/products.c``: masks and noise in."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from pyro_vrnn.ops.compiled import call, functions, num_threads, on_large_pages, pointer
from pyro_vrnn.ops.products import WeightGrads
from pyro_vrnn.ops.spanned import SpannedNoise
from pyro_vrnn.ops.weights import MaskedWeight


class _Product(ctypes.Structure):
    """``Product`` of the C code."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("rows", "sequences", "columns", "width")),
        *((name, ctypes.c_long) for name in ("groups", "threads")),
        *((name, ctypes.c_void_p) for name in ("mask", "x", "gates", "loc", "noise")),
        *((name, ctypes.c_void_p) for name in ("for_x", "for_loc", "for_noise")),
        *((name, ctypes.c_long) for name in ("particles", "next_x", "next_gates", "next_loc")),
        ("next_for_x", ctypes.c_long),
    ]
    held: Tensor | None = None  # what it points to and nobody else keeps


class CompiledProduct:
    """
    The gradients of :class:`~pyro_vrnn.ops.products.MaskedProduct`.

    Forward, products are made in the steps.
    """

    def __init__(self, weight: Tensor | MaskedWeight) -> None:
        mask, noise = None, None
        if isinstance(weight, MaskedWeight):
            weight, mask, noise = weight
        assert not isinstance(noise, SpannedNoise)
        self._loc, self.noise = weight, noise
        self.mask = None if mask is None else mask.transpose(0, 1).contiguous()  # (K, N, D)
        self._lib = functions(self._loc.dtype)
        assert self._lib.vrnn_product_size() == ctypes.sizeof(_Product)

    def input_grad(self, rows: Tensor, out: Tensor) -> None:  # (t, N, G*H), (t, N, D)
        """Write the input's gradient from the rows' for all steps; both are contiguous."""
        product = self._product(out, rows)
        loc, noise = self._loc.contiguous(), self.noise
        noise = None if noise is None else noise.contiguous()
        product.loc, product.noise = pointer(loc), pointer(noise)
        product.for_x = pointer(out)
        call(self._lib.vrnn_input_grad, product)

    @staticmethod
    def left_factor(rows: Tensor) -> Tensor:  # (t, N, G*H)
        """Return what :meth:`weight_grad` takes: the rows as they are."""
        return rows

    def weight_grad(self, left: Tensor, x: Tensor, *, noise_too: bool) -> WeightGrads:  # (t, N, D)
        """Return the gradients of loc and noise, from products over all steps."""
        x = x.contiguous()
        if x.numel() == 0:  # nothing would be written
            zeros = torch.zeros_like(self._loc)
            return zeros, zeros.clone() if noise_too else None
        loc = torch.empty_like(self._loc, memory_format=torch.contiguous_format)
        noise = on_large_pages(torch.empty_like(loc)) if noise_too else None
        on_large_pages(loc)
        product = self._product(x, left)
        product.x, product.for_loc, product.for_noise = pointer(x), pointer(loc), pointer(noise)
        call(self._lib.vrnn_weight_grad, product)
        return loc, noise

    def _product(self, x: Tensor, rows: Tensor) -> _Product:
        num_steps, num_sequences, columns = x.shape
        return _Product(
            rows=num_steps * num_sequences,
            sequences=num_sequences,
            columns=columns,
            width=rows.shape[-1],
            groups=0 if self.mask is None else len(self.mask),
            threads=num_threads(),
            mask=pointer(self.mask),
            gates=pointer(rows),
        )


class CompiledBatch:
    """Those of :class:`~pyro_vrnn.ops.products.BatchedProduct`, for weights of each particle."""

    def __init__(self, weight: Tensor) -> None:  # (S, F, D)
        self._weight = weight.contiguous()
        self._lib = functions(weight.dtype)

    def input_grad(self, rows: Tensor, out: Tensor) -> None:  # (S, t, N, F)
        """Write the input's gradient for all steps, (t, N, D) or (S, t, N, D)."""
        each = rows.new_empty(*rows.shape[:-1], self._weight.shape[-1])
        product = self._product(each, rows)
        product.for_x, product.next_for_x = pointer(each), each[0].numel()
        call(self._lib.vrnn_input_grad, product)
        out.copy_(each.sum(0) if out.dim() == 3 else each)

    @staticmethod
    def left_factor(rows: Tensor) -> Tensor:  # (S, t, N, F)
        """Return what :meth:`weight_grad` takes: the rows as they are."""
        return rows

    def weight_grad(self, left: Tensor, x: Tensor, *, noise_too: bool) -> WeightGrads:
        """Return the weights' gradient, from one product a particle over all steps."""
        if x.numel() == 0:  # nothing would be written
            return torch.zeros_like(self._weight), None
        grad = torch.empty_like(self._weight)
        product = self._product(x, left)
        product.for_loc = pointer(grad)
        call(self._lib.vrnn_weight_grad, product)
        return grad, None

    def _product(self, x: Tensor, rows: Tensor) -> _Product:
        x, rows_of_one = x.contiguous(), rows[0]
        product = _Product(
            rows=rows_of_one.shape[:-1].numel(),
            sequences=rows.shape[-2],
            columns=x.shape[-1],
            width=rows.shape[-1],
            threads=num_threads(),
            x=pointer(x),
            gates=pointer(rows),
            loc=pointer(self._weight),
            particles=len(self._weight),
            next_x=x[0].numel() if x.dim() == 4 and len(x) > 1 else 0,
            next_gates=rows_of_one.numel(),
            next_loc=self._weight[0].numel(),
        )
        product.held = x
        return product
