r"""
Multi-layer, bidirectional recurrent networks as pure functions of (input, state, weights).

Four paths compute the same thing:

``"reference"``
    a Python loop over time around the cells of :mod:`~pyro_vrnn.ops.cells`. It is the definition;
    every other path is tested against it, values and gradients. A mask for each sequence is written
    out to a weight for each sequence here, and only here.
``"fused"``
    torch's library kernel (oneDNN, cuDNN), for two-dimensional weights only: in float32 on the
    CPU that kernel accepts weights with more dimensions, uses the first matrix and ignores the
    rest without an error.
``"unrolled"``
    hand-written forward and backward passes, for masks
    (:class:`~pyro_vrnn.ops.weights.MaskedWeight`) and particles.
``"compiled"``
    the same passes with their loops in C, on the CPU, where the machine has a compiler: see
    :mod:`~pyro_vrnn.ops.compiler`.

Shapes (T time, N sequences, D input, H hidden, S particles, L layers, R directions):
``x`` is ``(T, N, D)`` or ``(S, T, N, D)``, a state is ``(L*R, N, H)`` or ``(L*R, S, N, H)``.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from pyro_vrnn.ops.cells import CELLS, Cell, State, affine
from pyro_vrnn.ops.compiled import why_not
from pyro_vrnn.ops.fused import run_fused
from pyro_vrnn.ops.unrolled import run_unrolled
from pyro_vrnn.ops.weights import (
    LayerWeights,
    MaskedWeight,
    SequenceBias,
    differs_by_sequence,
    dtype_of,
)
from pyro_vrnn.shapes import check_choice, check_shape

__all__ = ["PATHS", "LayerWeights", "recurrent", "run_reference"]

PATHS = ("auto", "reference", "fused", "unrolled", "compiled")
_log = logging.getLogger(__name__)


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

    The path that is taken is logged once for each cell, at level INFO. The unrolled and compiled
    paths have no second derivative and say so; the others have what torch gives them.

    :param str mode: ``"RNN_TANH"``, ``"RNN_RELU"``, ``"LSTM"`` or ``"GRU"``.
    :param str path: ``"auto"`` (fused where there are neither particles nor masks, else compiled,
        else unrolled), ``"reference"``, ``"fused"``, ``"unrolled"``, ``"compiled"``.
    :returns: output of the last layer ``(T, N, R*H)`` or ``(S, T, N, R*H)``, and the last state.
    :raises ValueError: for an unknown mode or path, ``"fused"`` with particles or masks, masks that
        do not fit, or masks together with particles.
    :raises RuntimeError: for ``"compiled"`` where it cannot be had.
    """
    tensors = [w for layer in weights for w in layer if isinstance(w, Tensor)]
    if has_torch_function(tensors):  # such as a draw for each sequence, which brings its masks
        return handle_torch_function(
            recurrent, tensors, mode, x, state, weights,
            bidirectional=bidirectional, lengths=lengths, path=path,
        )  # fmt: skip
    check_choice("mode", mode, tuple(CELLS))
    check_choice("path", path, PATHS)
    masked = _check_masks(weights, x.shape[-2])
    particles = _num_particles(x, state, weights)
    if masked and particles:
        raise ValueError(
            "Expected either a mask for each sequence or weights, input and state with particle "
            f"dims, got masks and {particles} particles."
        )
    if path == "fused" and (masked or particles):
        raise ValueError(
            "Expected two-dimensional weights on the fused path, got weights, input or state "
            f"with {'masks' if masked else 'a particle dimension'}; use path='auto'."
        )
    if path == "auto":
        path, because = _choose(x.device, weights, masked or bool(particles))
        weights_are = "masks" if masked else "particles" if particles else "one weight"
        _log_path(mode, path, weights_are, because)
    elif path == "compiled" and (reason := _why_not(x.device, weights)):
        raise RuntimeError(f"Expected compiled code for path='compiled', got none: {reason}.")
    if path == "fused":
        flat = [tuple(w for w in layer if isinstance(w, Tensor)) for layer in weights]
        return run_fused(mode, x, state, flat, bidirectional=bidirectional, lengths=lengths)
    if path in ("unrolled", "compiled"):
        return run_unrolled(
            mode, x, state, weights,
            particles=particles, bidirectional=bidirectional, lengths=lengths,
            compiled=path == "compiled",
        )  # fmt: skip
    if masked:
        return _run_masked_reference(mode, x, state, weights, bidirectional, lengths)
    active = None if lengths is None else _active(lengths, x.shape[-3], x.device)
    return run_reference(mode, x, state, weights, bidirectional=bidirectional, active=active)


def _why_not(device: torch.device, weights: Sequence[LayerWeights]) -> str | None:
    """Say why compiled code cannot run, or None if it can."""
    if any(map(differs_by_sequence, weights)):
        return "it knows no noise or biases for each sequence"
    return why_not(device.type, dtype_of(weights))


def _choose(
    device: torch.device, weights: Sequence[LayerWeights], unrolled: bool
) -> tuple[str, str]:
    """Return the fastest path, and why it is not a faster one."""
    if not unrolled:
        return "fused", ""
    if torch.compiler.is_compiling():  # which cannot look into compiled code
        return "unrolled", " (under torch.compile)"
    reason = _why_not(device, weights)
    return ("unrolled", f" (no compiled code: {reason})") if reason else ("compiled", "")


@functools.cache
def _log_path(mode: str, path: str, weights_are: str, because: str) -> None:
    _log.info("%s with %s runs on the %s path%s", mode, weights_are, path, because)


def _check_masks(weights: Sequence[LayerWeights], num_sequences: int) -> bool:
    masked = [w for layer in weights for w in layer[:2] if isinstance(w, MaskedWeight)]
    for weight in masked:
        weight.check()
        if len(weight.mask) != num_sequences:
            raise ValueError(
                f"Expected a mask for each of {num_sequences} sequences, got {len(weight.mask)}."
            )
    biases = [b for layer in weights for b in layer[2:] if isinstance(b, SequenceBias)]
    for bias in biases:
        check_shape("a bias for each sequence", bias.value, (num_sequences, "F"))
    return bool(masked or biases)


def _num_particles(x: Tensor, state: State, weights: Sequence[LayerWeights]) -> int:
    """Return the size of the particle dim, or 0 where nothing has one."""
    ranked = [(x, 3), (state[0], 3)]
    for layer in weights:
        ranked += [(w, 2) for w in layer[:2] if isinstance(w, Tensor)]
        ranked += [(b, 1) for b in layer[2:] if isinstance(b, Tensor)]
    # The particle dim of a state comes second.
    sizes = [t.shape[-1 - rank] for t, rank in ranked if t.dim() > rank and t is not state[0]]
    if state[0].dim() > 3:
        sizes.append(state[0].shape[1])
    return max(sizes, default=0)


def run_reference(
    mode: str,
    x: Tensor,
    state: State,
    weights: Sequence[LayerWeights],
    *,
    bidirectional: bool = False,
    active: Tensor | None = None,  # (T, N, 1)
) -> tuple[Tensor, State]:
    """Run the slow path; arguments as in :func:`recurrent`."""
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


def _run_masked_reference(
    mode: str,
    x: Tensor,  # (T, N, D)
    state: State,
    weights: Sequence[LayerWeights],
    bidirectional: bool,
    lengths: Tensor | None,
) -> tuple[Tensor, State]:
    """Make each sequence a particle with weights of its own: what the masks mean."""
    dense = [
        layer._replace(
            **{
                name: weight.dense()
                for name, weight in layer._asdict().items()
                if isinstance(weight, (MaskedWeight, SequenceBias))
            }
        )
        for layer in weights
    ]
    active = None if lengths is None else _active(lengths, x.shape[0], x.device).unsqueeze(-1)
    output, last = run_reference(
        mode,
        x.transpose(0, 1).unsqueeze(2),  # (N, T, 1, D)
        tuple(s.unsqueeze(2) for s in state),
        dense,
        bidirectional=bidirectional,
        active=active,
    )
    return output.squeeze(2).transpose(0, 1), tuple(s.squeeze(2) for s in last)


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
