"""What one unrolled layer is made of: its products, who runs its steps, and memory for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.ops.cell_kernels import KERNELS, Steps
from pyro_vrnn.ops.cells import GATES, State
from pyro_vrnn.ops.compiled import on_large_pages
from pyro_vrnn.ops.compiled_product import CompiledBatch, CompiledProduct
from pyro_vrnn.ops.compiled_steps import CompiledSteps
from pyro_vrnn.ops.layer_steps import LayerSteps, Parts, PlainSteps, WindowSteps
from pyro_vrnn.ops.products import BatchedProduct, MaskedProduct, SpannedProduct
from pyro_vrnn.ops.spanned import SpannedNoise
from pyro_vrnn.ops.triton_steps import TritonSteps
from pyro_vrnn.ops.weights import MaskedWeight

# Rows of sequences and steps, and numbers in their gates: for what is to stay in the cache ...
_PIECE = (512, 2**20)
# ... and for the weights' gradients, whose products want as many rows as memory allows. Compiled
# code takes as many in all it does, as it lays out the weights for each call.
_WINDOW = (1024, 2**22)
_STEPS = 8  # for compiled code, at least, if the numbers allow it
# On a GPU each window costs launches, and memory alone bounds it.
_ON_GPU = (2**30, 2**26)


@dataclass(frozen=True)
class UnrolledLayer:
    """What the layer's function is told besides tensors."""

    mode: str
    steps: Steps
    particles: int  # S, or 0 for none
    save: bool  # whether a gradient will be asked for
    path: str  # "unrolled", "compiled" or "triton"

    @property
    def num_gates(self) -> int:
        return GATES[self.mode]

    @property
    def compiled(self) -> bool:
        return self.path == "compiled"

    def product(self, weight: Tensor, mask: Tensor | None, noise: Any) -> Any:
        if self.particles and self.compiled and weight.dim() == 3:
            return CompiledBatch(weight)
        if self.particles:
            return BatchedProduct(weight, self.particles)
        if isinstance(noise, SpannedNoise):
            assert mask is not None
            return SpannedProduct(MaskedWeight(weight, mask, noise))
        whole = weight if mask is None else MaskedWeight(weight, mask, noise)
        return CompiledProduct(whole) if self.compiled else MaskedProduct(whole)

    def parts(self, product: Any, weight: Tensor) -> Parts:
        """Return a weight of :meth:`product` as steps take it."""
        return (weight, None, None) if self.particles else (weight, product.mask, product.noise)

    def compiled_steps(self, product: Any, weight: Tensor) -> CompiledSteps:
        """Return compiled steps with the recurrent weight."""
        return CompiledSteps(self.mode, self.parts(product, weight), self.particles)

    def window_steps(self, product: Any, weight: Tensor) -> WindowSteps:
        """Return other steps with it."""
        if self.path == "unrolled":
            return PlainSteps(self.mode, product)
        return TritonSteps(self.mode, self.parts(product, weight), self.particles)

    def steps_with(self, product: Any, weight: Tensor) -> LayerSteps:
        """Return who runs the steps with the recurrent weight."""
        steps = self.compiled_steps if self.compiled else self.window_steps
        return steps(product, weight)

    def windows(self, rows: Tensor) -> list[slice]:
        """Cut the steps by the size of their ``rows``, in the order of the recurrence."""
        return self._cut(_WINDOW, rows)

    def pieces(self, rows: Tensor, within: slice | None = None) -> list[slice]:
        """Cut the steps, or those of a window, into smaller pieces."""
        return self._cut(_PIECE if self.path == "unrolled" else _WINDOW, rows, within)

    def _cut(self, size: tuple[int, int], rows: Tensor, within: slice | None = None) -> list[slice]:
        num_rows, numbers = size if rows.device.type == "cpu" else _ON_GPU
        by_rows = num_rows // max(rows.shape[-2], 1)
        if self.compiled:  # which takes some sequences through all of these steps
            by_rows = max(by_rows, _STEPS)
        by_numbers = numbers // max(rows[..., 0, :, :].numel(), 1)
        return self.steps.windows(min(by_rows, by_numbers), within)

    def rows(self, like: Tensor, hidden: int, num_steps: int) -> Tensor:
        """Return memory for gates, ``(*, t, N, G*H)``."""
        leading = (self.particles,) if self.particles else ()
        shape = (num_steps, self.steps.num_sequences, self.num_gates * hidden)
        return self.new(like, *leading, *shape)

    def new(self, like: Tensor, *shape: int) -> Tensor:
        """Return memory that nothing was written to."""
        new = like.new_empty(*shape)
        return on_large_pages(new) if self.compiled else new

    def gates(self, h: Tensor) -> Tensor | None:
        """Return room for the activated gates: of all steps, of one after the other, or none."""
        if KERNELS[self.mode].keeps_gates and self.save:
            return self.new(h, self.num_gates, self.steps.num_steps, *h.shape[1:])
        if KERNELS[self.mode].keeps_gates and self.path == "unrolled":
            return h.new_empty(self.num_gates, 1, *h.shape[1:])
        return None

    def extra(self, h: Tensor, state: State) -> Tensor | None:
        """Return room for what a cell keeps besides h: an LSTM's c, a GRU's recurrent part of n."""
        like = {"LSTM": h, "GRU": h[1:]}.get(self.mode)
        if like is None:
            return None
        # What is not to be kept is one memory under every step's name.
        extra = torch.empty_like(like) if self.save else torch.empty_like(h[0]).expand_as(like)
        if self.mode == "LSTM":
            extra[self.steps.first].copy_(state[1])
        return extra

    def biases(
        self, bias_ih: Tensor | None, bias_hh: Tensor | None, hidden: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return what is added for all steps at once, and what waits for a GRU's reset gate."""
        if bias_ih is None or bias_hh is None:
            return None, None
        if self.mode != "GRU":
            return bias_ih + bias_hh, None
        outside = bias_hh.clone()
        outside[..., 2 * hidden :] = 0
        of_n = bias_hh[..., 2 * hidden :]
        each = of_n.dim() == 2 and not self.particles  # (N, H)
        return bias_ih + outside, of_n if each else of_n.unsqueeze(-2)
