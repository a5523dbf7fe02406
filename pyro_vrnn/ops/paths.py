"""Which path a recurrent network takes when none is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyro_vrnn.ops.compiled import why_not
from pyro_vrnn.ops.spanned import SpannedNoise
from pyro_vrnn.ops.weights import LayerWeights, MaskedWeight, SequenceBias, dtype_of

PATHS = ("auto", "reference", "fused", "unrolled", "compiled")


def choose_path(
    mode: str, device: str, weights: Sequence[LayerWeights], kind: str, wants_grad: bool
) -> tuple[str, str]:
    """
    Return the fastest path, and in words why it is not compiled code where that would be faster.

    On a CPU, compiled code is faster than torch's kernels but for an LSTM whose gradient is not
    asked for, which oneDNN runs.

    :param str kind: ``"one weight"``, ``"masks"`` or ``"particles"``.
    """
    plain = kind == "one weight"
    otherwise = "fused" if plain else "unrolled"
    if plain and (device != "cpu" or (mode == "LSTM" and not wants_grad)):
        return "fused", ""
    reason = why_not_compiled(device, weights)
    return (otherwise, f" (no compiled code: {reason})") if reason else ("compiled", "")


def why_not_compiled(device: str, weights: Sequence[LayerWeights]) -> str | None:
    """Say why compiled code cannot run these weights, or None if it can."""
    if torch.compiler.is_compiling() or _is_traced() or _is_transformed():
        return "a program that is traced or transformed holds torch's operations only"
    for weight in (w for layer in weights for w in layer):
        noise = weight.noise if isinstance(weight, MaskedWeight) else None
        if isinstance(weight, SequenceBias) or isinstance(noise, SpannedNoise):
            return "noise for each sequence is drawn step by step"
    return why_not(device, dtype_of(weights))


def _is_traced() -> bool:
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def _is_transformed() -> bool:
    """Whether torch.func transforms this call."""
    is_active = getattr(torch._C, "_are_functorch_transforms_active", None)
    return is_active is not None and bool(is_active())
