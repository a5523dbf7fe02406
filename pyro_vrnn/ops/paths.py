"""Which path a recurrent network takes when none is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from pyro_vrnn.ops import compiled, triton_check
from pyro_vrnn.ops.cells import State
from pyro_vrnn.ops.spanned import SpannedNoise
from pyro_vrnn.ops.weights import LayerWeights, MaskedWeight, SequenceBias, dtype_of

PATHS = ("auto", "reference", "fused", "unrolled", "compiled", "triton")
GENERATED = {"compiled": "compiled code", "triton": "Triton kernels"}  # made at first use

# Sequences from which compiled code runs an LSTM's matrices faster than oneDNN does. Forward and
# backward it took 0.4 to 1.0 of the time from 128 on (H from 32 to 650, one and two threads), and
# 0.6 to 1.2 for 8 to 64; forward alone 0.5 to 1.1 and 0.6 to 1.3.
_MANY = 128


def choose_path(
    mode: str,
    x: Tensor,
    state: State,
    weights: Sequence[LayerWeights],
    kind: str,
    *,
    has_lengths: bool = False,
) -> tuple[str, str]:
    """
    Return the fastest path, and in words why it is not generated code where that would be faster.

    On a CPU that is compiled code, but for an LSTM with matrices and few sequences, of one length,
    which oneDNN runs. Elsewhere it is Triton, but for matrices, which cuDNN runs.

    :param str kind: ``"one weight"``, ``"masks"`` or ``"particles"``.
    """
    plain, on_cpu = kind == "one weight", x.device.type == "cpu"
    if plain and (not on_cpu or (mode == "LSTM" and not has_lengths and _suits_onednn(x))):
        return "fused", ""
    path = "compiled" if on_cpu else "triton"
    reason = why_not(path, x, state, weights)
    if not reason:
        return path, ""
    otherwise = "fused" if plain else "unrolled"
    no_code = on_cpu and reason == compiled.why_not("cpu", dtype_of(weights))
    if has_lengths and no_code and _is_trained(x, state, weights):
        # Torch's loop over packed steps is slow backward: 7 times at (T, N, H) = (200, 128, 128).
        otherwise = "unrolled"
    return otherwise, f" (no {GENERATED[path]}: {reason})"


def _suits_onednn(x: Tensor) -> bool:
    """Whether there are few sequences, in a dtype that oneDNN knows, or no choice."""
    return _holds_operations() or (x.shape[-2] < _MANY and x.dtype != torch.float64)


def _is_trained(x: Tensor, state: State, weights: Sequence[LayerWeights]) -> bool:
    tensors = [x, *state, *(w for layer in weights for w in layer if isinstance(w, Tensor))]
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def why_not(path: str, x: Tensor, state: State, weights: Sequence[LayerWeights]) -> str | None:
    """Say why one of the ``GENERATED`` paths cannot run these, or None if it can."""
    if _holds_operations():
        return "a program that is traced or transformed holds torch's operations only"
    tensors = [x, *state]
    for weight in (w for layer in weights for w in layer):
        if isinstance(weight, SequenceBias) or (
            isinstance(weight, MaskedWeight) and isinstance(weight.noise, SpannedNoise)
        ):
            return "noise for each sequence is drawn step by step"
        parts = weight if isinstance(weight, MaskedWeight) else (weight,)
        tensors += [part for part in parts if isinstance(part, Tensor)]
    for tensor in tensors:
        if type(tensor) not in (Tensor, Parameter):  # it may have no memory
            return f"it takes tensors, not {type(tensor).__name__}"
    of_path, dtype = compiled if path == "compiled" else triton_check, dtype_of(weights)
    reasons = (of_path.why_not(place, dtype) for place in {str(t.device) for t in tensors})
    return next(filter(None, reasons), None)


def _holds_operations() -> bool:
    """Whether this call is traced or transformed, for which it must be torch's operations."""
    return torch.compiler.is_compiling() or is_traced() or _is_transformed() or _is_watched()


def is_traced() -> bool:
    """Whether torch.jit traces this call."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def _is_watched() -> bool:
    """Whether a dispatch mode sees torch's operations, as make_fx does, or a count of them."""
    stack = getattr(torch._C, "_len_torch_dispatch_stack", None)
    return stack is not None and bool(stack())


def _is_transformed() -> bool:
    """Whether torch.func transforms this call, or forward-mode AD goes along."""
    is_active = getattr(torch._C, "_are_functorch_transforms_active", None)
    return (is_active is not None and bool(is_active())) or (
        getattr(forward_ad, "_current_level", -1) >= 0
    )
