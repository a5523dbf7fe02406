r"""
Multi-layer, bidirectional recurrent networks as pure functions of (input, state, weights).

Two paths compute the same thing:

``"reference"``
    a Python loop over time around the cells of :mod:`~pyro_vrnn.ops.cells`. It is the definition;
    every other path is tested against it, values and gradients. It alone accepts particles.
``"fused"``
    torch's library kernel (oneDNN, cuDNN), for two-dimensional weights only: in float32 on the
    CPU that kernel accepts weights with more dimensions, uses the first matrix and ignores the
    rest without an error.

Shapes (T time, N sequences, D input, H hidden, S particles, L layers, R directions):
``x`` is ``(T, N, D)`` or ``(S, T, N, D)``, a state is ``(L*R, N, H)`` or ``(L*R, S, N, H)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vrnn.ops.cells import CELLS, Cell, State, affine
from pyro_vrnn.ops.fused import run_fused
from pyro_vrnn.shapes import check_choice

PATHS = ("auto", "reference", "fused")


class LayerWeights(NamedTuple):
    """Weights of one layer in one direction, under torch.nn's names; biases may be None."""

    weight_ih: Tensor  # (G*H, D) or (S, G*H, D)
    weight_hh: Tensor  # (G*H, H) or (S, G*H, H)
    bias_ih: Tensor | None = None  # (G*H,) or (S, G*H)
    bias_hh: Tensor | None = None  # (G*H,) or (S, G*H)


def recurrent(
    mode: str,
    x: Tensor,  # (T, N, D) or (S, T, N, D)
    state: State,  # each (L*R, N, H) or (L*R, S, N, H)
    weights: Sequence[LayerWeights],  # layer by layer, forward before backward
    *,
    bidirectional: bool = False,
    lengths: Tensor | None = None,  # (N,), int64, on the CPU
    path: str = "auto",
) -> tuple[Tensor, State]:
    """
    Run a stack of recurrent layers.

    With ``lengths``, steps at or past a sequence's length give zeros, leave the state as it was,
    and the backward direction starts at the last valid step, as packed sequences do in torch.

    :param str mode: ``"RNN_TANH"``, ``"RNN_RELU"``, ``"LSTM"`` or ``"GRU"``.
    :param str path: ``"auto"`` (fused where there are no particles), ``"reference"``, ``"fused"``.
    :returns: output of the last layer ``(T, N, R*H)`` or ``(S, T, N, R*H)``, and the last state.
    :raises ValueError: for an unknown mode or path, or ``"fused"`` with particles.
    """
    check_choice("mode", mode, tuple(CELLS))
    check_choice("path", path, PATHS)
    particles = max(
        x.dim() - 3,
        state[0].dim() - 3,
        *(0 if w is None else w.dim() - 2 for layer in weights for w in layer[:2]),
        *(0 if b is None else b.dim() - 1 for layer in weights for b in layer[2:]),
    )
    if path == "fused" and particles > 0:
        raise ValueError(
            "Expected two-dimensional weights on the fused path, got weights, input or state "
            "with a particle dimension; use path='auto'."
        )
    if path != "reference" and particles == 0:
        flat = [tuple(w for w in layer if w is not None) for layer in weights]
        return run_fused(mode, x, state, flat, bidirectional=bidirectional, lengths=lengths)
    return run_reference(mode, x, state, weights, bidirectional=bidirectional, lengths=lengths)


def run_reference(
    mode: str,
    x: Tensor,
    state: State,
    weights: Sequence[LayerWeights],
    *,
    bidirectional: bool = False,
    lengths: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Run the slow path; arguments as in :func:`recurrent`."""
    directions = 2 if bidirectional else 1
    active = None if lengths is None else _active(lengths, x.shape[-3], x.device)
    finals: list[State] = []
    for first in range(0, len(weights), directions):
        outputs = []
        for k in range(first, first + directions):
            initial = tuple(s[k] for s in state)
            output, final = _unroll(
                CELLS[mode], x, initial, weights[k], active=active, backward=k > first
            )
            outputs.append(output)
            finals.append(final)
        x = torch.cat(torch.broadcast_tensors(*outputs), dim=-1)
    # Where only some layers have particles, all states get their dim.
    return x, tuple(
        torch.stack(torch.broadcast_tensors(*parts)) for parts in zip(*finals, strict=True)
    )


def _active(lengths: Tensor, num_steps: int, device: torch.device) -> Tensor:
    """Return which sequences are still running at each step, as (T, N, 1)."""
    steps = torch.arange(num_steps, device=device).unsqueeze(-1)
    return (steps < lengths.to(device)).unsqueeze(-1)


def _unroll(
    cell: Cell,
    x: Tensor,  # (*, T, N, D)
    state: State,  # each (*, N, H)
    weights: LayerWeights,
    *,
    active: Tensor | None,
    backward: bool,
) -> tuple[Tensor, State]:
    num_steps, num_sequences = x.shape[-3], x.shape[-2]
    weight_ih, bias_ih = weights.weight_ih, weights.bias_ih
    hoisted = torch.is_grad_enabled()
    if hoisted:  # one product for all steps; backward keeps them all in any case
        gates_x = affine(x.flatten(-3, -2), weight_ih, bias_ih)
        gates_x = gates_x.unflatten(-2, (num_steps, num_sequences))  # (*, T, N, G*H)
    outputs: list[Tensor] = [x] * num_steps
    for t in reversed(range(num_steps)) if backward else range(num_steps):
        now = gates_x[..., t, :, :] if hoisted else affine(x[..., t, :, :], weight_ih, bias_ih)
        new = cell(now, state, weights.weight_hh, weights.bias_hh)
        if active is None:
            outputs[t], state = new[0], new
        else:
            outputs[t] = torch.where(active[t], new[0], 0.0)
            state = tuple(torch.where(active[t], n, s) for n, s in zip(new, state, strict=True))
    return torch.stack(outputs, dim=-3), state
