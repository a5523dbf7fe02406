r"""
The cells' loops over time in compiled code, ``csrc/steps.c``.

They take the place of :mod:`~pyro_vrnn.ops.cell_kernels` in the unrolled passes, step for step and
tensor for tensor: the same pre-activations come in, the same gates and states are kept.
"""

from __future__ import annotations

import ctypes
from typing import Any

from torch import Tensor

from pyro_vrnn.ops.cell_kernels import Piece, Steps
from pyro_vrnn.ops.cells import GATES
from pyro_vrnn.ops.compiled import PackedWeight, call, functions, num_threads, pointer

_MODES = ("RNN_TANH", "RNN_RELU", "LSTM", "GRU")  # in the order of the C code


class _Layer(ctypes.Structure):
    """``Layer`` of the C code."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("mode", "gates", "hidden", "sequences", "particles")),
        *((name, ctypes.c_long) for name in ("start", "stop", "reverse", "groups", "threads")),
        ("active", ctypes.c_void_p),
        ("loc", ctypes.c_void_p),
        ("noise", ctypes.c_void_p),
        ("particle_weights", ctypes.c_long),
        ("mask", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("particle_rows", ctypes.c_long),
        ("kept", ctypes.c_void_p),
        ("kept_gate", ctypes.c_long),
        ("kept_step", ctypes.c_long),
        ("h", ctypes.c_void_p),
        ("extra", ctypes.c_void_p),
        ("extra_step", ctypes.c_long),
        ("bias_n", ctypes.c_void_p),
        ("particle_bias", ctypes.c_long),
        ("outputs", ctypes.c_void_p),
        ("inner", ctypes.c_void_p),
        ("to_h", ctypes.c_void_p),
        ("to_c", ctypes.c_void_p),
    ]


class CompiledSteps:
    """
    The steps of a layer; see :class:`~pyro_vrnn.ops.layer_steps.LayerSteps`.

    :param str mode: of the layer.
    :param loc: ``(G*H, H)``, or ``(S, G*H, H)`` for S particles.
    :param mask: ``(K, N, H)``, contiguous, or None.
    :param noise: ``(G*H, H)``, or None.
    :param int particles: S, or 0.
    """

    def __init__(
        self, mode: str, loc: Tensor, mask: Tensor | None, noise: Tensor | None, particles: int
    ) -> None:
        self._mode, self._gates, self._hidden = mode, GATES[mode], loc.shape[-1]
        self._mask, self._particles = mask, particles
        # Weights of each particle are laid out when its turn comes.
        self._each = loc.contiguous() if loc.dim() == 3 else None
        masks = 1 if mask is None else len(mask)
        self._weight = PackedWeight(loc, noise, row_parts=self._gates, masks=masks)
        self._active: Any = None  # of the one layer that these steps are of
        self._lib = functions(loc.dtype)
        assert self._lib.vrnn_layer_size() == ctypes.sizeof(_Layer)

    def forward(
        self,
        steps: Steps,
        window: slice,
        rows: Tensor,  # (*, t, N, G*H), contiguous
        gates: Tensor | None,  # (G, T, *state), or None if they are not to be kept
        h: Tensor,  # (T+1, *state)
        extra: Tensor | None,  # likewise, or (T, *state); of stride 0 if not to be kept
        bias_n: Tensor | None,
    ) -> None:
        """Run the steps of a window."""
        layer = self._layer(steps, window, rows, h, extra, backward=False)
        if gates is not None:
            layer.kept, layer.kept_gate = pointer(gates), gates.stride(0)
            layer.kept_step = gates.stride(1)
        if bias_n is not None:
            bias_n = bias_n.contiguous()
            layer.bias_n = pointer(bias_n)
            layer.particle_bias = bias_n.stride(0) if bias_n.dim() == 3 else 0
        call(self._lib.vrnn_forward, layer)

    def backward(self, piece: Piece, states: list[Tensor]) -> None:
        """Run the steps of a piece backward."""
        layer = self._layer(
            piece.steps, piece.window, piece.rows, piece.h, piece.extra, backward=True
        )
        if piece.gates is not None:
            layer.kept, layer.kept_gate = pointer(piece.gates), piece.gates.stride(0)
            layer.kept_step = piece.gates.stride(1)
        layer.outputs, layer.inner = pointer(piece.outputs), pointer(piece.inner)
        layer.to_h = pointer(states[0])
        layer.to_c = pointer(states[-1])
        call(self._lib.vrnn_backward, layer)

    def release(self) -> None:
        """Give back the packed weights."""
        self._weight.release()

    def _layer(
        self, steps: Steps, window: slice, rows: Tensor, h: Tensor, extra: Any, *, backward: bool
    ) -> _Layer:
        each = self._each
        loc, noise = (
            self._weight.pointers(columns=backward) if each is None else (pointer(each), None)
        )
        layer = _Layer(
            mode=_MODES.index(self._mode),
            gates=self._gates,
            hidden=self._hidden,
            sequences=steps.num_sequences,
            particles=max(self._particles, 1),
            start=window.start,
            stop=window.stop,
            reverse=steps.reverse,
            groups=0 if self._mask is None else len(self._mask),
            threads=num_threads(),
            loc=loc,
            noise=noise,
            particle_weights=0 if each is None else each[0].numel(),
            mask=pointer(self._mask),
            rows=pointer(rows),
            particle_rows=rows.stride(0) if self._particles else 0,
            h=pointer(h),
            extra=pointer(extra),
            extra_step=0 if extra is None else extra.stride(0),
        )
        if steps.active is not None:
            if self._active is None:
                self._active = (ctypes.c_long * steps.num_steps)(*steps.active)
            layer.active = ctypes.cast(self._active, ctypes.c_void_p)
        return layer
