"""Whether Triton's kernels run on a device: they are tried once, against the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vrnn.ops.compiler import switched_off
from pyro_vrnn.ops.reference import run_reference
from pyro_vrnn.ops.triton_steps import kernels
from pyro_vrnn.ops.unrolled import run_unrolled
from pyro_vrnn.ops.weights import LayerWeights, MaskedWeight

_OLDEST = (7, 0)  # compute capability that Triton compiles for
_known: dict[tuple[str, torch.dtype], str | None] = {}


def why_not(device: str, dtype: torch.dtype) -> str | None:
    """
    Say why the kernels cannot run, or None if they can.

    Triton compiles at first use, for which it wants a C compiler and a GPU that it knows. What was
    found holds for the process.

    :param str device: such as ``"cuda:0"``.
    :raises torch.OutOfMemoryError: if there is no memory to try them; that says nothing of them.
    """
    key = (device, dtype)
    if key not in _known:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return "a CUDA graph is being captured, before which they are to be tried once"
        _known[key] = _try(torch.device(device), dtype)
    return _known[key]


def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter, on any device (``TRITON_INTERPRET=1``)."""
    module = kernels()
    return not isinstance(module.forward_step, module.triton.JITFunction)


def _try(device: torch.device, dtype: torch.dtype) -> str | None:
    if reason := switched_off():
        return reason
    try:
        on_gpu = not interpreted()
    except ModuleNotFoundError:
        return "found no Triton"
    except Exception as error:  # of an installation that is not whole
        return f"Triton cannot be imported: {_line(error)}"
    if on_gpu and device.type != "cuda":
        return f"they run on a GPU, not on {device}"
    if dtype not in (torch.float32, torch.float64):
        return f"they know float32 and float64, not {dtype}"
    if on_gpu and torch.version.hip is None:
        capability = torch.cuda.get_device_capability(device)
        if capability < _OLDEST:
            return "Triton knows no GPU of compute capability {}.{}".format(*capability)
    try:
        found, expected = (_example(path, device, dtype) for path in ("triton", "reference"))
        pairs = zip(found, expected, strict=True)
        if all(torch.allclose(a, b, rtol=0.01, atol=0.01) for a, b in pairs):
            return None
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler or a driver raises
        return f"Triton failed with {_line(error)}"
    return "Triton gave other numbers than the reference"


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _example(path: str, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
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
