"""The compiled code as Python sees it: its functions, and the packing of weights."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.ops.compiler import CannotCompileError, library

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
    matrices = weight.contiguous().view(-1, rows, columns)
    packed = weight.new_empty(len(matrices), parts * -(-units // width) * width * depth)
    write = lib.vrnn_pack_transposed if transposed else lib.vrnn_pack
    for one, out in zip(matrices, packed, strict=True):
        write(one.data_ptr(), out.data_ptr(), parts, units, depth, torch.get_num_threads())
    return packed


def pointer(x: Tensor | None) -> int | None:
    """Return where a tensor's numbers are, or None."""
    return None if x is None else x.data_ptr()


def call(function: Any, structure: ctypes.Structure) -> None:
    """Call one of the functions; raise a MemoryError if it found no memory."""
    if function(ctypes.byref(structure)):
        raise MemoryError("Expected memory for the products of a recurrent layer, found none.")
