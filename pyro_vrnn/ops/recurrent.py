r"""
Multi-layer, bidirectional recurrent networks as pure functions of (input, state, weights).

Five paths compute the same thing:

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
``"triton"``
    the same passes on a GPU, with one Triton kernel for all that is not a product in a step: see
    :mod:`~pyro_vrnn.ops.triton_steps`.

Shapes (T time, N sequences, D input, H hidden, S particles, L layers, R directions):
``x`` is ``(T, N, D)`` or ``(S, T, N, D)``, a state is ``(L*R, N, H)`` or ``(L*R, S, N, H)``.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from pyro_vrnn.ops.cells import CELLS, State
from pyro_vrnn.ops.fused import run_fused
from pyro_vrnn.ops.paths import GENERATED, PATHS, choose_path, why_not
from pyro_vrnn.ops.reference import run_reference, still_running
from pyro_vrnn.ops.unrolled import run_unrolled
from pyro_vrnn.ops.weights import LayerWeights, MaskedWeight, SequenceBias
from pyro_vrnn.shapes import check_choice, check_shape

__all__ = ["PATHS", "LayerWeights", "recurrent"]

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

    The path that is taken is logged once for each cell, at level INFO. The second derivative of the
    unrolled, compiled and Triton paths is the reference's, at its speed.

    :param str mode: ``"RNN_TANH"``, ``"RNN_RELU"``, ``"LSTM"`` or ``"GRU"``.
    :param str path: ``"auto"`` (:func:`~pyro_vrnn.ops.paths.choose_path`), ``"reference"``,
        ``"fused"``, ``"unrolled"``, ``"compiled"``, ``"triton"``.
    :returns: output of the last layer ``(T, N, R*H)`` or ``(S, T, N, R*H)``, and the last state.
    :raises ValueError: for an unknown mode or path, ``"fused"`` with particles or masks, masks that
        do not fit, or masks together with particles.
    :raises RuntimeError: for ``"compiled"`` or ``"triton"`` where it cannot be had.
    """
    tensors = [w for layer in weights for w in layer if isinstance(w, Tensor)]
    if has_torch_function(tensors):  # such as a draw for each sequence, which brings its masks
        return handle_torch_function(
            recurrent, tensors, mode, x, state, weights,
            bidirectional=bidirectional, lengths=lengths, path=path,
        )  # fmt: skip
    weights = [LayerWeights(*layer) for layer in weights]
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
        kind = "masks" if masked else "particles" if particles else "one weight"
        with_lengths = lengths is not None
        path, because = choose_path(mode, x, state, weights, kind, has_lengths=with_lengths)
        _log_path(mode, path, kind + " and lengths" * with_lengths, because)
    elif path in GENERATED and (reason := why_not(path, x, state, weights)):
        raise RuntimeError(f"Expected {GENERATED[path]} for path='{path}', got none: {reason}.")
    if path == "fused":
        flat = [tuple(w for w in layer if isinstance(w, Tensor)) for layer in weights]
        return run_fused(mode, x, state, flat, bidirectional=bidirectional, lengths=lengths)
    if path == "unrolled" or path in GENERATED:
        return run_unrolled(
            mode, x, state, weights,
            particles=particles, bidirectional=bidirectional, lengths=lengths,
            path=path,
        )  # fmt: skip
    active = None if lengths is None else still_running(lengths, x.shape[-3], x.device)
    return run_reference(mode, x, state, weights, bidirectional=bidirectional, active=active)


@functools.cache
def _log_path(mode: str, path: str, kind: str, because: str) -> None:
    _log.info("%s with %s runs on the %s path%s", mode, kind, path, because)


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
