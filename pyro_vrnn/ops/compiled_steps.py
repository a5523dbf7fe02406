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
from pyro_vrnn.ops.layer_steps import Parts

_MODES = ("RNN_TANH", "RNN_RELU", "LSTM", "GRU")  # in the order of the C code


class _Weight(ctypes.Structure):
    """``Weight`` of the C code."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("depth", "groups", "next")),
        *((name, ctypes.c_void_p) for name in ("loc", "noise", "mask")),
    ]


class _Layer(ctypes.Structure):
    """``Layer`` of the C code."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("mode", "gates", "hidden", "sequences", "particles")),
        *((name, ctypes.c_long) for name in ("start", "stop", "reverse", "threads")),
        ("active", ctypes.c_void_p),
        *((name, _Weight) for name in ("recurrent", "input")),
        *((name, ctypes.c_void_p) for name in ("h", "extra")),
        ("extra_step", ctypes.c_long),
        ("kept", ctypes.c_void_p),
        *((name, ctypes.c_long) for name in ("kept_gate", "kept_step")),
        ("x", ctypes.c_void_p),
        ("next_x", ctypes.c_long),
        ("bias", ctypes.c_void_p),
        ("next_bias", ctypes.c_long),
        ("bias_n", ctypes.c_void_p),
        ("next_bias_n", ctypes.c_long),
        ("rows", ctypes.c_void_p),
        ("next_rows", ctypes.c_long),
        *((name, ctypes.c_void_p) for name in ("outputs", "inner", "to_h", "to_c")),
    ]


class _LaidOut:
    """A weight as the steps take it: packed, or each particle's as it is."""

    def __init__(self, parts: Parts, num_gates: int) -> None:
        loc, mask, noise = parts
        self._mask, self._depth = mask, loc.shape[-1]
        # Weights of each particle are packed when its turn comes.
        self._each = loc.contiguous() if loc.dim() == 3 else None
        masks = 1 if mask is None else len(mask)
        self._packed = PackedWeight(loc, noise, row_parts=num_gates, masks=masks)

    def given(self, *, columns: bool = False) -> _Weight:
        """Return it for the C code, to be multiplied by its rows or columns."""
        weight = _Weight(depth=self._depth, mask=pointer(self._mask))
        weight.groups = 0 if self._mask is None else len(self._mask)
        if self._each is None:
            weight.loc, weight.noise = self._packed.pointers(columns=columns)
        else:
            weight.loc, weight.next = pointer(self._each), self._each[0].numel()
        return weight

    def release(self) -> None:
        """Give back what is packed."""
        self._packed.release()


class CompiledSteps:
    """
    The steps of a layer, in which forward the input's product is made too.

    :param str mode: of the layer.
    :param recurrent: the recurrent weight.
    :param int particles: S, or 0.
    """

    def __init__(self, mode: str, recurrent: Parts, particles: int) -> None:
        loc = recurrent[0]
        self._mode, self._gates, self._hidden = mode, GATES[mode], loc.shape[-1]
        self._particles = particles
        self._weight = _LaidOut(recurrent, self._gates)
        self._active: Any = None
        self._lib = functions(loc.dtype)
        assert self._lib.vrnn_layer_size() == ctypes.sizeof(_Layer)

    def forward(
        self,
        steps: Steps,
        x: Tensor,  # (T, N, D) or (S, T, N, D)
        weight: Parts,  # the input's
        biases: tuple[Tensor | None, Tensor | None],  # what UnrolledLayer.biases returned
        gates: Tensor | None,  # (G, T, *state), or None if they are not to be kept
        h: Tensor,  # (T+1, *state)
        extra: Tensor | None,  # likewise, or (T, *state); of stride 0 if not to be kept
    ) -> None:
        """Run all steps."""
        from_input = _LaidOut(weight, self._gates)
        x = x.contiguous()
        bias, bias_n = (None if b is None else b.contiguous() for b in biases)
        layer = self._layer(steps, slice(0, steps.num_steps), h, gates, extra)
        layer.recurrent, layer.input = self._weight.given(), from_input.given()
        layer.x, layer.next_x = pointer(x), x[0].numel() if x.dim() == 4 else 0
        layer.bias, layer.bias_n = pointer(bias), pointer(bias_n)
        layer.next_bias = bias.stride(0) if bias is not None and bias.dim() == 2 else 0
        layer.next_bias_n = bias_n.stride(0) if bias_n is not None and bias_n.dim() == 3 else 0
        call(self._lib.vrnn_forward, layer)

    def backward(self, piece: Piece, states: list[Tensor]) -> None:
        """Run the steps of a piece backward."""
        layer = self._layer(piece.steps, piece.window, piece.h, piece.gates, piece.extra)
        layer.recurrent = self._weight.given(columns=True)
        layer.rows = pointer(piece.rows)
        layer.next_rows = piece.rows.stride(0) if self._particles else 0
        layer.outputs, layer.inner = pointer(piece.outputs), pointer(piece.inner)
        layer.to_h = pointer(states[0])
        layer.to_c = pointer(states[-1])
        call(self._lib.vrnn_backward, layer)

    def release(self) -> None:
        """Give back the packed weights."""
        self._weight.release()

    def _layer(self, steps: Steps, window: slice, h: Tensor, gates: Any, extra: Any) -> _Layer:
        layer = _Layer(
            mode=_MODES.index(self._mode),
            gates=self._gates,
            hidden=self._hidden,
            sequences=steps.num_sequences,
            particles=max(self._particles, 1),
            start=window.start,
            stop=window.stop,
            reverse=steps.reverse,
            threads=num_threads(),
            h=pointer(h),
            extra=pointer(extra),
            extra_step=0 if extra is None else extra.stride(0),
        )
        if gates is not None:
            layer.kept, layer.kept_gate = pointer(gates), gates.stride(0)
            layer.kept_step = gates.stride(1)
        if steps.active is not None:
            self._active = (ctypes.c_long * steps.num_steps)(*steps.active)
            layer.active = ctypes.cast(self._active, ctypes.c_void_p)
        return layer
