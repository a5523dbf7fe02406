r"""
Steps of a layer on a GPU: one product and one Triton kernel each, forward and backward.

They take the place of :mod:`~pyro_vrnn.ops.cell_kernels` in the unrolled passes: the same
pre-activations come in, the same gates and states are kept. By torch's operations a step with masks
is ten launches forward and as many backward, each on little work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.ops.cell_kernels import Piece, Step, Steps
from pyro_vrnn.ops.cells import GATES
from pyro_vrnn.ops.layer_steps import Parts

_BLOCK = 128  # numbers of a state for each program


def kernels() -> Any:
    """
    Return the module of the kernels.

    :raises ImportError: without Triton.
    """
    from pyro_vrnn.ops import _triton_kernels

    return _triton_kernels


class TritonSteps:
    """
    The steps of a layer; see :class:`~pyro_vrnn.ops.layer_steps.WindowSteps`.

    Parameters are those of :class:`~pyro_vrnn.ops.compiled_steps.CompiledSteps`.
    """

    def __init__(self, mode: str, recurrent: Parts, particles: int) -> None:
        loc, mask, noise = recurrent
        self._mode, self._gates, self._hidden = mode, GATES[mode], loc.shape[-1]
        self._mask, self._particles = mask, particles
        self._has_noise = noise is not None
        loc = loc.contiguous()  # else each product would copy it
        self._groups = 1 if mask is None else len(mask)
        if particles:
            self._weight = loc.expand(particles, -1, -1)
        else:
            parts = [w.unflatten(0, (self._groups, -1)) for w in (loc, noise) if w is not None]
            self._weight = parts[0] if len(parts) == 1 else torch.cat(parts, -1)  # (K, F, C)
        self._constants = {
            "MODE": mode,
            "GATES": self._gates,
            "MASKS": 0 if mask is None else self._groups,
            "NOISE": int(self._has_noise),
            "BLOCK": _BLOCK,
        }

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
        sequences, hidden = steps.num_sequences, self._hidden
        batch, width, _ = self._weight.shape
        states = h.view(len(h), max(self._particles, 1), sequences, hidden).unbind(0)
        walk = list(steps.forward(window))
        operand = None if self._mask is None else self._inputs(h[walk[0].old], self._mask)
        product = h.new_empty(batch, sequences, width)
        weight = self._weight.mT
        apart = self._groups > 1  # each gate's product by itself
        bias_n = None if bias_n is None else bias_n.contiguous()
        common = (
            *(sequences, hidden, rows.stride(0) if self._particles else 0),
            product.stride(0) if self._particles else 0,
            product.stride(0) if apart else hidden,
            *(width, 0 if gates is None else gates.stride(0)),
            bias_n.stride(0) if bias_n is not None and bias_n.dim() == 3 else 0,
        )
        # A pointer that is not used is any pointer.
        tensors = (rows, product, h, *_or(h, extra, gates, bias_n, self._mask, operand))
        grid, constants = self._grid(sequences), self._constants
        constants = constants | {"KEEPS": gates is not None, "BIAS": bias_n is not None}
        run = kernels().forward_step[grid]
        with torch.cuda.device_of(h):
            for step in walk:
                inputs = states[step.old] if operand is None else operand
                torch.bmm(inputs, weight, out=product)
                places = self._places(step, window, rows, gates, h, extra)
                run(*tensors, *places, step.active, *common, **constants)

    def backward(self, piece: Piece, states: list[Tensor]) -> None:
        """Run the steps of a piece backward."""
        steps, window, rows, h, outputs = (
            piece.steps, piece.window, piece.rows, piece.h, piece.outputs
        )  # fmt: skip
        sequences, hidden, inner = steps.num_sequences, self._hidden, piece.inner
        batch, _, columns = self._weight.shape
        each = [self._by_group(row) for row in rows.unbind(-3)]
        to_h, to_c = states[0], states[-1]
        parts = h.new_zeros(batch, sequences, columns)
        tensors = (
            *(rows, inner if inner is not None else h, parts, h),
            *_or(h, piece.extra, piece.gates, outputs, self._mask),
            *(to_h, to_c),
        )
        common = (
            *(sequences, hidden, rows.stride(0) if self._particles else 0),
            0 if piece.gates is None else piece.gates.stride(0),
        )
        constants = self._constants | {"OUTPUTS": outputs is not None}
        grid = self._grid(sequences)
        run = kernels().backward_step[grid]
        with torch.cuda.device_of(h):
            for step in steps.backward(window):
                k = step.time - window.start
                places = self._places(step, window, rows, piece.gates, h, piece.extra)
                run(
                    *tensors,
                    *places,
                    0 if outputs is None else step.time * outputs.stride(0),
                    0 if inner is None else k * inner.stride(0),
                    step.active,
                    *common,
                    **constants,
                )
                torch.bmm(each[k], self._weight, out=parts)
        to_h.add_(self._gathered(parts).view_as(to_h))

    def release(self) -> None:
        """Give back the weights, which are a copy where there is noise."""
        self._weight = self._weight.new_empty(0)

    def _grid(self, sequences: int) -> tuple[int]:
        return (-(-sequences * self._hidden // _BLOCK) * max(self._particles, 1),)

    def _places(
        self,
        step: Step,
        window: slice,
        rows: Tensor,
        gates: Tensor | None,
        h: Tensor,
        extra: Tensor | None,
    ) -> tuple[int, ...]:
        """Return where a step stands: row, old, new, extra_old, extra_new, gate_step."""
        state, kept = h.stride(0), 0 if extra is None else extra.stride(0)
        new = step.new if self._mode == "LSTM" else step.time
        return (
            (step.time - window.start) * rows.stride(-3),
            step.old * state,
            step.new * state,
            step.old * kept,
            new * kept,
            0 if gates is None else step.time * gates.stride(1),
        )

    def _inputs(self, h: Tensor, mask: Tensor) -> Tensor:  # (N, H), (K, N, H) -> (K, N, C)
        masked = h * mask
        return torch.cat([masked, h.expand_as(masked)], -1) if self._has_noise else masked

    def _by_group(self, row: Tensor) -> Tensor:  # (*, N, G*H) -> (K or S, N, F)
        return row if self._particles else row.unflatten(-1, (self._groups, -1)).transpose(0, 1)

    def _gathered(self, parts: Tensor) -> Tensor:  # (K or S, N, C) -> (*state)
        if self._mask is None:
            return parts
        plain, noise = parts.tensor_split([self._hidden], -1)
        gathered = (plain * self._mask).sum(0)
        return gathered + noise.sum(0) if self._has_noise else gathered


def _or(other: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(other if tensor is None else tensor for tensor in tensors)
