"""The compiled code as Python sees it: its functions, and the packing of weights."""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.ops.compiler import CannotCompileError, library

_LARGE = 2**22  # bytes
_DEFINES: dict[torch.dtype, tuple[str, ...]] = {torch.float32: (), torch.float64: ("DOUBLE",)}


@functools.cache
def functions(dtype: torch.dtype) -> Any:
    """
    Return the library for a dtype; the first call on a machine compiles it.

    :raises CannotCompileError: if it cannot be had.
    """
    lib = library(*_DEFINES[dtype])
    for name in ("vrnn_pack", "vrnn_pack_transposed"):
        pack = getattr(lib, name)
        pack.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_long] * 4
        pack.restype = None
    lib.vrnn_large_pages.argtypes = [ctypes.c_void_p, ctypes.c_long]
    lib.vrnn_large_pages.restype = None
    return lib


@functools.cache
def why_not(device: str, dtype: torch.dtype) -> str | None:
    """Say why compiled code cannot run, or None if it can."""
    if device != "cpu":
        return f"it runs on the CPU, not on {device}"
    if dtype not in _DEFINES:
        return f"it knows float32 and float64, not {dtype}"
    try:
        functions(dtype)
    except CannotCompileError as error:
        return str(error)
    return None


def pack(weight: Tensor, parts: int, *, transposed: bool = False) -> Tensor:  # (*, F, D)
    """
    Lay out the rows of a weight, in K equal parts, for products ``x W^T`` by part.

    ``transposed``: its columns, for products ``grad W``. The units, which are rows or columns, come
    in panels of one vector's width, padded with zeros.

    :returns: ``(S or 1, numbers)``.
    """
    lib = functions(weight.dtype)
    rows, columns = weight.shape[-2:]
    units, depth = (columns, rows // parts) if transposed else (rows // parts, columns)
    width = lib.vrnn_width()
    matrices = weight.contiguous().reshape(weight.shape[:-2].numel(), rows, columns)
    packed = weight.new_empty(len(matrices), parts * -(-units // width) * width * depth)
    on_large_pages(packed)
    write = lib.vrnn_pack_transposed if transposed else lib.vrnn_pack
    for one, out in zip(matrices, packed, strict=True):
        write(pointer(one), pointer(out), parts, units, depth, num_threads())
    return packed


def on_large_pages(x: Tensor) -> Tensor:
    """
    Return a tensor that was just made, before anything is written to it.

    Large memory that a call takes and gives back is new to the process each time. On Linux a page
    of 4 KiB costs about as much to get as to fill: these tensors ask for larger ones.
    """
    if x.nbytes >= _LARGE:
        functions(x.dtype).vrnn_large_pages(x.data_ptr(), x.nbytes)
    return x


def pointer(x: Tensor | None) -> int | None:
    """
    Return where a tensor's numbers are, or None.

    :raises RuntimeError: for a tensor without memory, such as a fake one.
    """
    if x is None or x.numel() == 0:
        return None
    address = x.data_ptr()
    if address == 0:
        raise RuntimeError("Expected a tensor with memory for compiled code; use path='unrolled'.")
    return address


class _Team:
    """Threads do not survive a fork, and a child that waits for them would wait for ever."""

    forked = False


def _after_fork() -> None:
    _Team.forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def num_threads() -> int:
    """Return torch's number of threads, 1 in a forked process."""
    return 1 if _Team.forked else torch.get_num_threads()


def call(function: Any, structure: ctypes.Structure) -> None:
    """Call one of the functions; raise a MemoryError if it found no memory."""
    if function(ctypes.byref(structure)):
        raise MemoryError("Expected memory for the products of a recurrent layer, found none.")
