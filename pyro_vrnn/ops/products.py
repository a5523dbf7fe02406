r"""
The products of an unrolled network, in the layout that its kernels keep gates in.

Gates stand in a buffer ``(B, T, M, F)``: B matrices of M rows, each made by one matrix of weights.

=================================  ==========  =====  ========
weights                            B           M      F
=================================  ==========  =====  ========
a mask for each gate ("untied")    G           N      H
one mask for all gates, or none    1           N      G*H
S particles                        S           N      G*H
=================================  ==========  =====  ========

A product adds :math:`W x` to such a buffer for all steps at once, or for one step, and turns the
gradient of the buffer into those of its input and weights. Nothing here records gradients.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pyro_vrnn.ops.gemm import times_transpose, uses_onednn
from pyro_vrnn.ops.weights import MaskedWeight

_PIECE_ROWS = 2048  # rows of a temporary in products over all steps, so that it stays in the cache

WeightGrads = tuple[Tensor | None, Tensor | None]  # of loc and of noise


class MaskedProduct:
    """Weights ``M diag(z_n) + E`` (or a plain M) on inputs ``(*, N, D)``."""

    def __init__(self, weight: Tensor | MaskedWeight, matrices: int) -> None:
        loc, mask, noise = weight if isinstance(weight, MaskedWeight) else (weight, None, None)
        self.matrices = matrices
        self.rows = loc.shape[0] // matrices
        self.loc = loc.unflatten(0, (matrices, self.rows))  # (B, F, D)
        self.noise = None if noise is None else noise.unflatten(0, (matrices, self.rows))
        # (1 or B, N, D)
        self.mask = None if mask is None else mask.transpose(0, 1).contiguous()
        self._step_mask = None if mask is None else self.mask.expand(matrices, -1, -1)

    def _masked(self, x: Tensor, k: int, out: Tensor) -> Tensor:  # (t, N, D) -> (t*N, D)
        """Return the k-th product's input, in memory that is used again."""
        if self.mask is None:
            return x.flatten(0, 1)
        if k == 0 or len(self.mask) > 1:
            torch.mul(x, self.mask[k if len(self.mask) > 1 else 0], out=out.view_as(x))
        return out

    def fill(
        self,
        x: Tensor,  # (T, N, D)
        out: Tensor,  # (B, T, N, F), written over
        bias: Tensor | None,  # (B*F,)
    ) -> None:
        """Write the product for all steps."""
        biases = [None] * self.matrices if bias is None else bias.unflatten(0, (-1, self.rows))
        scratch = _Scratch(x)
        for steps in _pieces(x):
            piece = x[steps]
            plain = piece.flatten(0, 1)
            for k in range(self.matrices):
                masked = self._masked(piece, k, scratch.rows(plain))
                into = out[k, steps].flatten(0, 1)
                into.copy_(times_transpose(masked, self.loc[k], biases[k]))
                if self.noise is not None:
                    into.add_(times_transpose(plain, self.noise[k]))

    def input_grad(self, grad: Tensor, dims: int) -> Tensor:  # (B, T, N, F) -> (T, N, D)
        """Turn the gradient for all steps into the input's."""
        result = grad.new_empty(*grad.shape[1:3], self.loc.shape[-1])
        for steps in _pieces(result):
            total: Tensor | None = None
            for k in range(self.matrices):
                rows = grad[k, steps].flatten(0, 1)
                part = times_transpose(rows, self.loc[k].t()).view_as(result[steps])
                if self.mask is not None:
                    part.mul_(self.mask[k if len(self.mask) > 1 else 0])
                if self.noise is not None:
                    part.add_(times_transpose(rows, self.noise[k].t()).view_as(part))
                total = part if total is None else total.add_(part)
            result[steps] = total
        return result

    def weight_grad(
        self,
        grad: Tensor,  # (B, T, N, F)
        x: Tensor,  # (T, N, D)
        *,
        noise_too: bool,
    ) -> WeightGrads:
        """Return the gradients of loc and noise, each from one product over all steps."""
        for_loc = torch.zeros_like(self.loc, memory_format=torch.contiguous_format)
        for_noise = torch.zeros_like(for_loc) if noise_too else None
        scratch, inputs, gates = _Scratch(x), _Scratch(x), _Scratch(grad[0])
        for steps in _pieces(x):
            piece = x[steps]
            plain = piece.flatten(0, 1)
            for k in range(self.matrices):
                masked = self._masked(piece, k, scratch.rows(plain))
                rows = gates.transposed(grad[k, steps].flatten(0, 1))
                for_loc[k] += times_transpose(rows, inputs.transposed(masked))
                if for_noise is not None:
                    for_noise[k] += times_transpose(rows, inputs.transposed(plain))
        return for_loc.flatten(0, 1), None if for_noise is None else for_noise.flatten(0, 1)

    def prepare_steps(self, num_sequences: int) -> None:
        """Lay out what the products of single steps use again and again."""
        weight = self.loc if self.noise is None else torch.cat([self.loc, self.noise], -1)
        self._step_weight = weight  # (B, F, D or 2D)
        self._step_input = weight.new_empty(self.matrices, num_sequences, weight.shape[-1])
        self._one_by_one = uses_onednn(weight, num_sequences * weight[0].numel())
        self._transposed = weight.mT
        if self._one_by_one:  # oneDNN is a quarter faster with the inputs' dim first in memory
            self._transposed = self._transposed.contiguous()

    def step(self, h: Tensor, out: Tensor) -> None:  # (n, D), (B, n, F)
        """Add the product of one step for the first n sequences."""
        n, columns = h.shape
        if self._step_mask is None and self.noise is None:
            x = h.expand(self.matrices, n, columns)
        else:
            x = self._step_input[:, :n]
            first = x if self.noise is None else x[..., :columns]
            if self._step_mask is None:
                first.copy_(h)
            else:
                torch.mul(h, self._step_mask[:, :n], out=first)
            if self.noise is not None:
                x[..., columns:] = h
        if self._one_by_one:
            for k in range(self.matrices):
                out[k].add_(times_transpose(x[k], self._transposed[k].t()))
        else:
            out.baddbmm_(x, self._transposed)

    def step_grad(self, grad: Tensor) -> Tensor:  # (B, n, F) -> (n, D)
        """Turn the gradient of one step into the input's."""
        n = grad.shape[1]
        total: Tensor | None = None
        if self._one_by_one:
            for k in range(self.matrices):
                part = self._unmask(times_transpose(grad[k], self._step_weight[k].t()), k, n)
                total = part if total is None else total.add_(part)
            assert total is not None
            return total
        product = self._unmask(torch.bmm(grad, self._step_weight), slice(None), n)
        return product[0] if self.matrices == 1 else product.sum(0)

    def _unmask(self, product: Tensor, k: int | slice, n: int) -> Tensor:
        """Turn the gradient of the masked input (and of the input to the noise) into the input's."""
        columns = self.loc.shape[-1]
        first = product if self.noise is None else product[..., :columns]
        if self._step_mask is not None:
            first.mul_(self._step_mask[k, :n] if isinstance(k, int) else self._step_mask[:, :n])
        return first if self.noise is None else first.add_(product[..., columns:])


class BatchedProduct:
    """Weights ``(S, F, D)``, or ``(F, D)`` for all S particles, on inputs ``(S, *, N, D)``."""

    def __init__(self, weight: Tensor, particles: int) -> None:
        self.weight = weight
        self.shared = weight.dim() == 2
        self._batch = weight.expand(particles, *weight.shape) if self.shared else weight

    def fill(
        self,
        x: Tensor,  # (T, N, D) or (S, T, N, D)
        out: Tensor,  # (S, T, N, F), written over
        bias: Tensor | None,  # (F,) or (S, F)
    ) -> None:
        """Write the product for all steps."""
        rows = out.flatten(1, 2)
        if self.shared and x.dim() == 3:
            rows.copy_(times_transpose(x.flatten(0, 1), self.weight).expand_as(rows))
        elif self.shared:
            rows.copy_(times_transpose(x.flatten(0, 2), self.weight).view_as(rows))
        else:
            torch.bmm(self._spread(x), self._batch.mT, out=rows)
        if bias is not None:
            rows.add_(bias.unsqueeze(-2))

    def _spread(self, x: Tensor) -> Tensor:  # (S, T*N, D)
        return x.flatten(-3, -2).expand(len(self._batch), -1, -1)

    def input_grad(self, grad: Tensor, dims: int) -> Tensor:  # (S, T, N, F)
        """Turn the gradient for all steps into the input's, (T, N, D) or (S, T, N, D)."""
        product = torch.bmm(grad.flatten(1, 2), self._batch).unflatten(1, grad.shape[1:3])
        return product.sum(0) if dims == 3 else product

    def weight_grad(self, grad: Tensor, x: Tensor, *, noise_too: bool) -> WeightGrads:
        """Return the weights' gradient, from one product over all steps."""
        product = torch.bmm(grad.flatten(1, 2).mT, self._spread(x))
        return product.sum(0) if self.shared else product, None

    def prepare_steps(self, num_sequences: int) -> None:
        """Do nothing: the weights are laid out as steps use them."""

    def step(self, h: Tensor, out: Tensor) -> None:  # (S, n, D), (S, n, F)
        """Add the product of one step."""
        out.baddbmm_(h, self._batch.mT)

    def step_grad(self, grad: Tensor) -> Tensor:  # (S, n, F) -> (S, n, D)
        """Turn the gradient of one step into the input's."""
        return torch.bmm(grad, self._batch)


class _Scratch:
    """Memory for one piece of steps, used again for the next: fresh memory costs more than a copy."""

    def __init__(self, x: Tensor) -> None:  # (T, N, D)
        rows = min(x.shape[0], _piece_steps(x)) * x.shape[1]
        self._memory = x.new_empty(rows * x.shape[2])

    def rows(self, like: Tensor) -> Tensor:  # (R, D)
        return self._memory[: like.numel()].view_as(like)

    def transposed(self, x: Tensor) -> Tensor:  # (R, D) -> (D, R)
        return self._memory[: x.numel()].view(x.shape[1], x.shape[0]).copy_(x.t())


def _piece_steps(x: Tensor) -> int:
    return max(1, _PIECE_ROWS // max(x.shape[1], 1))


def _pieces(x: Tensor) -> Iterator[slice]:  # (T, N, D)
    """Cut the steps into pieces of at most 2,048 rows each."""
    size = _piece_steps(x)
    for start in range(0, x.shape[0], size):
        yield slice(start, start + size)
