"""Recurrent layers by definition, a Python loop: what every other path is tested against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vrnn.ops.cells import CELLS, Cell, State, affine
from pyro_vrnn.ops.weights import LayerWeights, MaskedWeight, SequenceBias


def run_reference(
    mode: str,
    x: Tensor,  # (T, N, D) or (S, T, N, D)
    state: State,  # each (L*R, N, H) or (L*R, S, N, H)
    weights: Sequence[LayerWeights],
    *,
    bidirectional: bool = False,
    active: Tensor | None = None,  # (T, N, 1), whether a sequence is still running
) -> tuple[Tensor, State]:
    """Run the slow path; arguments as in :func:`~pyro_vrnn.ops.recurrent.recurrent`."""
    if not any(isinstance(w, (MaskedWeight, SequenceBias)) for layer in weights for w in layer):
        return _run(mode, x, state, weights, bidirectional, active)
    # Each sequence is a particle with weights of its own: that is what masks mean.
    output, last = _run(
        mode,
        x.transpose(0, 1).unsqueeze(2),  # (N, T, 1, D)
        tuple(s.unsqueeze(2) for s in state),
        [_dense(layer) for layer in weights],
        bidirectional,
        None if active is None else active.unsqueeze(-1),
    )
    return output.squeeze(2).transpose(0, 1), tuple(s.squeeze(2) for s in last)


def still_running(lengths: Tensor, num_steps: int, device: torch.device) -> Tensor:  # (T, N, 1)
    """Return which sequences are still running at each step."""
    steps = torch.arange(num_steps, device=device).unsqueeze(-1)
    return (steps < lengths.to(device)).unsqueeze(-1)


def _dense(layer: LayerWeights) -> LayerWeights:
    parts = layer._asdict().items()
    own = {k: w.dense() for k, w in parts if isinstance(w, (MaskedWeight, SequenceBias))}
    return layer._replace(**own)


def _run(
    mode: str,
    x: Tensor,
    state: State,
    weights: Sequence[LayerWeights],
    bidirectional: bool,
    active: Tensor | None,
) -> tuple[Tensor, State]:
    directions = 2 if bidirectional else 1
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
    weight_ih, weight_hh, bias_ih, bias_hh = weights
    assert isinstance(weight_ih, Tensor)
    assert isinstance(weight_hh, Tensor)
    assert not isinstance(bias_ih, SequenceBias)
    assert not isinstance(bias_hh, SequenceBias)
    gates_x = affine(x.flatten(-3, -2), weight_ih, bias_ih)
    gates_x = gates_x.unflatten(-2, (num_steps, num_sequences))  # (*, T, N, G*H)
    outputs: list[Tensor] = [x] * num_steps
    for t in reversed(range(num_steps)) if backward else range(num_steps):
        new = cell(gates_x[..., t, :, :], state, weight_hh, bias_hh)
        if active is None:
            outputs[t], state = new[0], new
        else:
            outputs[t] = torch.where(active[t], new[0], 0.0)
            state = tuple(torch.where(active[t], n, s) for n, s in zip(new, state, strict=True))
    return torch.stack(outputs, dim=-3), state
