"""Whether Triton's kernels run on a device: they are tried once, against the reference."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from pyro_vrnn.ops import triton_kernels
from pyro_vrnn.ops.compiler import switched_off
from pyro_vrnn.ops.reference import run_reference
from pyro_vrnn.ops.unrolled import run_unrolled
from pyro_vrnn.ops.weights import LayerWeights, MaskedWeight


@functools.cache
def why_not(device: str, dtype: torch.dtype) -> str | None:
    """
    Say why the kernels cannot run, or None if they can.

    Triton compiles at first use, for which it wants a C compiler and a GPU that it knows.
    """
    if reason := switched_off():
        return reason
    if not triton_kernels.INSTALLED:
        return "found no Triton"
    if device != "cuda" and not triton_kernels.interpreted():
        return f"they run on a GPU, not on {device}"
    if dtype not in (torch.float32, torch.float64):
        return f"they know float32 and float64, not {dtype}"
    try:
        found, expected = (_example(path, device, dtype) for path in ("triton", "reference"))
    except Exception as error:  # whatever a compiler or a driver raises
        line = next(iter(str(error).splitlines()), "")
        return f"Triton failed with {type(error).__name__}: {line}"
    pairs = zip(found, expected, strict=True)
    if all(torch.allclose(a, b, rtol=0.01, atol=0.01) for a, b in pairs):
        return None
    return "Triton gave other numbers than the reference"


def _example(path: str, device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return an LSTM's outputs and a gradient, with masks and numbers of order 1."""
    steps, sequences, hidden = 3, 2, 5

    def some(*shape: int) -> Tensor:
        numbers = torch.arange(1.0, 1 + torch.Size(shape).numel(), device=device, dtype=dtype)
        return (100 * numbers).sin().view(shape)

    with torch.inference_mode(False), torch.enable_grad():
        loc = some(4 * hidden, hidden).requires_grad_()
        mask = (some(sequences, 4, hidden) > 0).to(dtype)
        weights = [LayerWeights(MaskedWeight(loc, mask), MaskedWeight(loc, mask))]
        state = (some(1, sequences, hidden), some(1, sequences, hidden))
        arguments = ("LSTM", some(steps, sequences, hidden), state, weights)
        if path == "reference":
            output, _ = run_reference(*arguments)
        else:
            output, _ = run_unrolled(*arguments, path=path)
        (grad,) = torch.autograd.grad(output.square().sum(), loc)
    return output.detach(), grad
