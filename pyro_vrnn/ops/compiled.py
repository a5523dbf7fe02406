"""The compiled code as Python sees it: its functions, and weights laid out for them."""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.ops.compiler import CannotCompileError, load_library

_LARGE = 2**22  # bytes
_DEFINES: dict[torch.dtype, tuple[str, ...]] = {torch.float32: (), torch.float64: ("DOUBLE",)}


@functools.cache
def functions(dtype: torch.dtype) -> Any:
    """
    Return the library for a dtype; the first call on a machine compiles it.

    :raises CannotCompileError: if it cannot be had.
    """
    lib = load_library(*_DEFINES[dtype])
    lib.vrnn_pack.argtypes = [ctypes.c_long, *[ctypes.c_void_p] * 2, *[ctypes.c_long] * 4]
    lib.vrnn_pack.restype = None
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


class PackedWeight:
    """
    A weight (G*H, D) and its noise, if any, laid out: rows, or columns for the way back.

    The units, which are rows or columns, come in panels of one vector's width, padded with zeros.

    :param int row_parts: equal parts of the rows whose products ``x W^T`` are apart.
    :param int masks: K, the parts of the rows whose products ``grad W`` are apart, where these are
        asked for; noise has none.
    """

    def __init__(
        self, loc: Tensor, noise: Tensor | None, *, row_parts: int, masks: int = 1
    ) -> None:
        self._weights, self._row_parts, self._masks = (loc, noise), row_parts, masks
        self._packed: dict[bool, list[Tensor | None]] = {}

    def pointers(self, *, columns: bool) -> list[int | None]:
        """Return where loc and noise are; they are laid out when they are first asked for."""
        if columns not in self._packed:
            parts = (self._masks, 1) if columns else (self._row_parts, self._row_parts)
            self._packed[columns] = [
                None if weight is None else _pack(weight, k, columns)
                for weight, k in zip(self._weights, parts, strict=True)
            ]
        return [pointer(weight) for weight in self._packed[columns]]

    def release(self) -> None:
        """Give back what is laid out."""
        self._packed.clear()


def _pack(weight: Tensor, parts: int, columns: bool) -> Tensor:
    lib, weight = functions(weight.dtype), weight.contiguous()
    units, depth = weight.shape[0] // parts, weight.shape[1]
    if columns:
        units, depth = depth, units
    width = lib.vrnn_width()
    packed = on_large_pages(weight.new_empty(parts * -(-units // width) * width * depth))
    lib.vrnn_pack(columns, pointer(weight), pointer(packed), parts, units, depth, num_threads())
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


_PROCESS = os.getpid()


def num_threads() -> int:
    """
    Return torch's number of threads, 1 in a forked process.

    Threads do not survive a fork, and a child that waits for them would wait for ever.
    """
    return torch.get_num_threads() if os.getpid() == _PROCESS else 1


def call(function: Any, structure: ctypes.Structure) -> None:
    """Call one of the functions; raise a MemoryError if it found no memory."""
    if function(ctypes.byref(structure)):
        raise MemoryError("Expected memory for the products of a recurrent layer, found none.")
