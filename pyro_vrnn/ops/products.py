r"""
The products of an unrolled network with its weights: for all steps at once, or for one step.

Gates stand in rows, ``(t, N, G*H)``, or ``(S, t, N, G*H)`` with S particles. The product of one
step is added to such rows; backward, the gradient of the rows is turned into those of the input and
of the weights. Nothing here records gradients.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from pyro_vrnn.ops.gemm import GroupedWeight, times_transpose
from pyro_vrnn.ops.spanned import SpannedNoise
from pyro_vrnn.ops.weights import MaskedWeight

WeightGrads = tuple[Tensor, Tensor | None]  # of loc and of noise


class ProductGrads(Protocol):
    """Gradients of the product with one weight for all steps."""

    def input_grad(self, rows: Tensor, out: Tensor) -> None:
        """Write the input's gradient from the rows' for all steps."""

    def left_factor(self, rows: Tensor) -> Tensor:
        """Lay out the rows' gradient for :meth:`weight_grad`."""

    def weight_grad(self, left: Tensor, x: Tensor, *, noise_too: bool) -> WeightGrads:
        """Return the gradients of loc and noise, from products over all steps."""


class Product(ProductGrads, Protocol):
    """The product with one weight for all steps, and its gradients."""

    def fill(self, x: Tensor, out: Tensor, bias: Tensor | None) -> None:
        """Write the product of all steps."""

    def release(self) -> None:
        """Give back what is held of the weights, laid out."""


class MaskedProduct:
    r"""
    Weights ``M diag(z_n) + E`` (or a plain M) on inputs ``(*, N, D)``.

    K masks, one for each gate ("untied") or for all (K = 1), make K products with inputs of their
    own. Noise is one more product over all steps; in those of a single step, the input without a
    mask stands beside each of the K inputs, and the weights are ``[M E]``: C = D or 2*D columns.
    """

    def __init__(self, weight: Tensor | MaskedWeight) -> None:
        loc, mask, noise = weight if isinstance(weight, MaskedWeight) else (weight, None, None)
        assert not isinstance(noise, SpannedNoise)
        self._groups = 1 if mask is None else mask.shape[1]
        # Masks of one gate, and of all sequences of a step, are to be together in memory.
        self.mask = None if mask is None else mask.transpose(0, 1).contiguous()  # (K, N, D)
        self._columns = loc.shape[-1]
        self._loc = loc.unflatten(0, (self._groups, -1))  # (K, F, D)
        self.noise = noise  # (K*F, D)
        self._forward: dict[int, _StepForward] = {}
        self._backward: dict[int, _StepBackward] = {}

    def fill(
        self,
        x: Tensor,  # (t, N, D)
        out: Tensor,  # (t, N, G*H), written over
        bias: Tensor | None,  # (G*H,) or (N, G*H)
    ) -> None:
        """Write the product for all steps."""
        if bias is None or bias.dim() == 1:
            self._fill(x, out, bias)
        else:
            self._fill(x, out, None)
            out.add_(bias)

    def _fill(self, x: Tensor, out: Tensor, bias: Tensor | None) -> None:
        rows, plain = out.flatten(0, 1), x.reshape(-1, self._columns)
        if self.mask is None:
            rows.copy_(times_transpose(plain, self._loc[0], bias))
            return
        if self.noise is not None:
            rows.copy_(times_transpose(plain, self.noise, bias))
        biases = [None] * self._groups if bias is None else bias.chunk(self._groups)
        masked = torch.empty_like(plain)
        for k, into in enumerate(rows.chunk(self._groups, -1)):
            torch.mul(x, self.mask[k], out=masked.view_as(x))
            if self.noise is None:
                into.copy_(times_transpose(masked, self._loc[k], biases[k]))
            else:
                into.add_(times_transpose(masked, self._loc[k]))

    def input_grad(self, rows: Tensor, out: Tensor) -> None:  # (t, N, G*H), (t, N, D)
        """Write the input's gradient from the rows' for all steps."""
        flat = rows.flatten(0, 1)
        total = None if self.noise is None else times_transpose(flat, self.noise.t())
        for k, gate in enumerate(flat.chunk(self._groups, -1)):
            part = times_transpose(gate, self._loc[k].t())
            if self.mask is not None:
                part.view_as(out).mul_(self.mask[k])
            total = part if total is None else total.add_(part)
        assert total is not None
        out.copy_(total.view_as(out))

    @staticmethod
    def left_factor(rows: Tensor) -> Tensor:  # (t, N, G*H) -> (G*H, t*N)
        """Lay out the rows' gradient for :meth:`weight_grad`."""
        return rows.flatten(0, 1).t().contiguous()

    def weight_grad(self, left: Tensor, x: Tensor, *, noise_too: bool) -> WeightGrads:  # (t, N, D)
        """Return the gradients of loc and noise, from products over all steps."""
        plain = x.reshape(-1, self._columns)
        for_noise = times_transpose(left, plain.t()) if noise_too else None
        if self.mask is None:
            return times_transpose(left, plain.t()), for_noise
        masked = torch.empty_like(plain)
        for_loc = left.new_empty(len(left), self._columns)
        gates = zip(self.mask, left.chunk(self._groups), for_loc.chunk(self._groups), strict=True)
        for mask, gate, into in gates:
            torch.mul(x, mask, out=masked.view_as(x))
            into.copy_(times_transpose(gate, masked.t()))  # gate by gate, in memory used again
        return for_loc, for_noise

    def _step_weights(self) -> list[Tensor]:  # of (K, F, D)
        if self.noise is None:
            return [self._loc]
        return [self._loc, self.noise.unflatten(0, (self._groups, -1))]

    def _forward_step(self, h: Tensor, n: int) -> _StepForward:
        rows = _rounded(n, h.shape[0])
        if rows not in self._forward:
            parts = self._step_weights()
            weight = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
            self._forward[rows] = _StepForward(weight, self.mask, self._columns, rows)
        return self._forward[rows]

    def add(self, h: Tensor, out: Tensor, n: int) -> None:  # (N, D), (N, G*H)
        """Add the product of one step for the first n sequences; the other rows are not used."""
        step = self._forward_step(h, n)
        step.weight.add(step.inputs(h), _first(out, step.rows))

    def times(self, h: Tensor, n: int) -> Tensor:  # (N, D) -> (n or more, G*H)
        """Return that product."""
        step = self._forward_step(h, n)
        return step.weight.times(step.inputs(h))

    def times_weight(self, grad: Tensor, out: Tensor) -> Tensor:  # (N, G*H), (n, D)
        """Write the gradient of h, for the first n sequences, from that of the product."""
        rows = _rounded(out.shape[0], grad.shape[0])
        if rows not in self._backward:
            transposed = torch.cat([w.mT for w in self._step_weights()], 1).contiguous()
            self._backward[rows] = _StepBackward(transposed, self.mask, self._columns, rows)
        return self._backward[rows].write(grad, out)

    def release(self) -> None:
        """Give back the weights laid out for products of single steps."""
        self._forward.clear()
        self._backward.clear()


class SpannedProduct(MaskedProduct):
    """Weights ``M diag(z_n) + E_n``, with a noise for each sequence; forward only."""

    def __init__(self, weight: MaskedWeight) -> None:
        assert isinstance(weight.noise, SpannedNoise)
        super().__init__(weight._replace(noise=None))
        self._spanned = weight.noise

    def _fill(self, x: Tensor, out: Tensor, bias: Tensor | None) -> None:
        super()._fill(x, out, bias)
        out.add_(self._spanned.times_each(x.transpose(0, 1)).transpose(0, 1))

    def add(self, h: Tensor, out: Tensor, n: int) -> None:
        """Add the product of one step; rows of sequences that have ended are not used."""
        if n > 0:
            super().add(h, out, n)
            self._spanned.add(h, out)

    def times(self, h: Tensor, n: int) -> Tensor:
        """Return that product."""
        product = super().times(h, n)
        return product + self._spanned.times(h)[: len(product)] if n > 0 else product


def _rounded(n: int, num_sequences: int) -> int:
    """Round a number of rows up to one of few, as each has weights that are laid out for it."""
    if n == num_sequences:
        return n
    quarter = -(-num_sequences // 4)
    return min(-(-n // quarter) * quarter, num_sequences)


def _first(x: Tensor, n: int) -> Tensor:
    return x if x.shape[0] == n else x[:n]


class _StepForward:
    """The inputs of one step, in memory that the next step uses again."""

    def __init__(
        self,
        weight: Tensor,  # (K, F, C)
        mask: Tensor | None,  # (K, N, D)
        columns: int,  # D
        rows: int,
    ) -> None:
        groups, _, width = weight.shape
        self.rows = rows
        self.weight = GroupedWeight(weight, rows)
        self._mask = None if mask is None else mask[:, :rows]
        if mask is not None:
            memory = weight.new_empty(rows, groups, width)
            self._flat = memory.flatten(1)
            self._masked = memory[..., :columns].transpose(0, 1)
            self._plain = memory[..., columns:].transpose(0, 1) if width > columns else None

    def inputs(self, h: Tensor) -> Tensor:  # (N, D) -> (R, K*C)
        h = _first(h, self.rows)
        if self._mask is None:
            return h
        torch.mul(h, self._mask, out=self._masked)
        if self._plain is not None:
            self._plain.copy_(h)
        return self._flat


class _StepBackward:
    """The way back."""

    def __init__(
        self,
        transposed: Tensor,  # (K, C, F)
        mask: Tensor | None,  # (K, N, D)
        columns: int,
        rows: int,
    ) -> None:
        self._weight = GroupedWeight(transposed, rows)
        self._rows, self._columns, self._has_noise = rows, columns, transposed.shape[1] > columns
        # (R, K, D)
        self._mask = None if mask is None else mask[:, :rows].transpose(0, 1).contiguous()

    def write(self, grad: Tensor, out: Tensor) -> Tensor:  # (N, G*H), (n, D)
        product = self._weight.times(_first(grad, self._rows))
        if self._mask is None:
            return out.copy_(_first(product, out.shape[0]))
        # Not -1: in steps behind the longest sequence there are no rows.
        each = product.shape[1] // self._columns
        parts = product.view(self._rows, each, self._columns)  # (R, K or K*2, D)
        masked = parts[:, ::2] if self._has_noise else parts
        masked.mul_(self._mask)
        return torch.sum(_first(parts, out.shape[0]), 1, out=out)


class BatchedProduct:
    """Weights ``(S, F, D)``, or ``(F, D)`` for all S particles, on inputs ``(S, *, N, D)``."""

    def __init__(self, weight: Tensor, particles: int) -> None:
        self._weight = weight
        self._shared = weight.dim() == 2
        self._batch = weight.expand(particles, *weight.shape) if self._shared else weight

    def fill(
        self,
        x: Tensor,  # (t, N, D) or (S, t, N, D)
        out: Tensor,  # (S, t, N, F), written over
        bias: Tensor | None,  # (F,) or (S, F)
    ) -> None:
        """Write the product for all steps."""
        rows = out.flatten(1, 2)
        if self._shared and x.dim() == 3:
            rows.copy_(times_transpose(x.flatten(0, 1), self._weight).expand_as(rows))
        elif self._shared:
            rows.copy_(times_transpose(x.flatten(0, 2), self._weight).view_as(rows))
        else:
            torch.bmm(self._spread(x), self._batch.mT, out=rows)
        if bias is not None:
            rows.add_(bias.unsqueeze(-2))

    def _spread(self, x: Tensor) -> Tensor:  # (S, t*N, D)
        return x.flatten(-3, -2).expand(len(self._batch), -1, -1)

    def input_grad(self, rows: Tensor, out: Tensor) -> None:  # (S, t, N, F)
        """Write the input's gradient for all steps, (t, N, D) or (S, t, N, D)."""
        product = torch.bmm(rows.flatten(1, 2), self._batch).unflatten(1, rows.shape[1:3])
        out.copy_(product.sum(0) if out.dim() == 3 else product)

    @staticmethod
    def left_factor(rows: Tensor) -> Tensor:  # (S, t, N, F) -> (S, F, t*N)
        """Lay out the rows' gradient for :meth:`weight_grad`."""
        return rows.flatten(1, 2).mT

    def weight_grad(self, left: Tensor, x: Tensor, *, noise_too: bool) -> WeightGrads:
        """Return the weights' gradient, from one product over all steps."""
        product = torch.bmm(left, self._spread(x))
        return product.sum(0) if self._shared else product, None

    def add(self, h: Tensor, out: Tensor, n: int) -> None:  # (S, N, D), (S, N, F)
        """Add the product of one step for the first n sequences."""
        out[:, :n].baddbmm_(h[:, :n], self._batch.mT)

    def times(self, h: Tensor, n: int) -> Tensor:  # (S, N, D) -> (S, n, F)
        """Return that product."""
        return torch.bmm(h[:, :n], self._batch.mT)

    def times_weight(self, grad: Tensor, out: Tensor) -> Tensor:  # (S, N, F), (S, n, D)
        """Write the gradient of h, for the first n sequences, from that of the product."""
        return torch.bmm(grad[:, : out.shape[1]], self._batch, out=out)

    def release(self) -> None:
        """Do nothing: single steps hold nothing."""
