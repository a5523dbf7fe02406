"""Who runs the steps of an unrolled layer: torch's operations, or compiled code."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from pyro_vrnn.ops.cell_kernels import KERNELS, Piece, StepProduct, Steps

Parts = tuple[Tensor, Tensor | None, Tensor | None]
"""
A weight: loc ``(F, D)``, its mask ``(K, N, D)``, contiguous, or None, and its noise ``(F, D)`` or
None; or loc ``(S, F, D)`` alone, of S particles.
"""


class LayerSteps(Protocol):
    """The way back through the steps of one layer, whose recurrent weight it knows."""

    def backward(self, piece: Piece, states: list[Tensor]) -> None:
        """Run the steps of a piece backward; ``states``: gradients of the state, written over."""

    def release(self) -> None:
        """Give back what the steps hold of the weights."""


class WindowSteps(LayerSteps, Protocol):
    """Steps that forward are given the input's product, some steps at a time."""

    def forward(
        self,
        steps: Steps,
        window: slice,
        rows: Tensor,  # pre-activations from the input, (*, t, N, G*H); may be written over
        gates: Tensor | None,  # what UnrolledLayer.gates returned
        h: Tensor,  # (T+1, *state)
        extra: Tensor | None,  # c, likewise, or (T, *state); of stride 0 if it is not to be kept
        bias_n: Tensor | None,  # of a GRU, (1, H) or (S, 1, H)
    ) -> None:
        """Run the steps of a window: write gates, h and extra."""


class PlainSteps:
    """Steps by torch's operations, on any device."""

    def __init__(self, mode: str, product: StepProduct) -> None:
        self._kernel, self._product = KERNELS[mode], product

    def forward(
        self,
        steps: Steps,
        window: slice,
        rows: Tensor,
        gates: Tensor | None,
        h: Tensor,
        extra: Tensor | None,
        bias_n: Tensor | None,
    ) -> None:
        """Run the steps of a window."""
        extras = () if extra is None else extra.unbind(0)
        self._kernel.forward(steps, window, rows, gates, h.unbind(0), extras, self._product, bias_n)

    def backward(self, piece: Piece, states: list[Tensor]) -> None:
        """Run the steps of a piece backward."""
        self._kernel.backward(piece, self._product, states)

    def release(self) -> None:
        """Give back the weights laid out for single steps."""
        self._product.release()
