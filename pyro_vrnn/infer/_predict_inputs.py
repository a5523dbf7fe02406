"""The arguments of a prediction, cut along the sequences."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.shapes import check_lengths, shape_text

Arguments = tuple[Tensor, Mapping[str, Any]]  # of some sequences


class Inputs:
    """The arguments of the model for all sequences, and for some of them."""

    def __init__(
        self,
        x: Tensor,
        lengths: Tensor | None,
        model_kwargs: Mapping[str, Any] | None,
        shared: Collection[str],
        device: torch.device,
    ) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"Expected x to be a Tensor, got {type(x).__name__}.")
        if x.dim() == 0 or len(x) == 0:
            raise ValueError(f"Expected x of at least one sequence, got {shape_text(x.shape)}.")
        if model_kwargs is not None and not isinstance(model_kwargs, Mapping):
            raise TypeError(
                f"Expected model_kwargs to be a dict, got {type(model_kwargs).__name__}."
            )
        if isinstance(shared, str):
            raise TypeError(f"Expected shared to be a collection of names, got {shared!r}.")
        self.x, self.device = x, device
        kwargs = dict(model_kwargs or {})
        unknown = sorted(set(shared) - set(kwargs))
        if unknown:
            raise ValueError(
                f"Expected the names in shared to be in model_kwargs ({', '.join(kwargs)}), "
                f"got {', '.join(map(repr, unknown))}."
            )
        self.whole: dict[str, Any] = {}
        self.cut: dict[str, Tensor] = {}
        for name, value in kwargs.items():
            if not isinstance(value, Tensor) or name in shared:
                self.whole[name] = value.to(device) if isinstance(value, Tensor) else value
            elif value.dim() == 0 or len(value) != len(x):
                raise ValueError(
                    f"Expected model_kwargs[{name!r}] of {len(x)} rows, one a sequence, or its "
                    f"name in shared, got shape {shape_text(value.shape)}."
                )
            else:
                self.cut[name] = value
        self.lengths = None
        if lengths is not None:
            self.lengths = check_lengths(lengths, len(x), x.shape[1] if x.dim() > 1 else 1)

    def rows(self, rows: slice) -> Arguments:
        """Return the arguments of these sequences, on the device."""
        kwargs = {name: value[rows].to(self.device) for name, value in self.cut.items()}
        kwargs |= self.whole
        if self.lengths is not None:
            kwargs["lengths"] = self.lengths[rows]  # on the CPU, where they are read
        x = self.x[rows].to(self.device)
        if x.dim() == 3:  # time first in memory, as RNN kernels want it: no copy in every draw
            x = x.transpose(0, 1).contiguous().transpose(0, 1)
        return x, kwargs

    def repeated(self, kwargs: Mapping[str, Any], times: int) -> dict[str, Any]:
        """Return keyword arguments of some sequences for ``times`` copies of them."""
        own = {*self.cut, *(["lengths"] if self.lengths is not None else [])}
        return {n: repeat_rows(v, times) if n in own else v for n, v in kwargs.items()}

    def given(self) -> Arguments:
        """Return the arguments of all sequences, where they are."""
        kwargs = {**self.cut, **self.whole}
        if self.lengths is not None:
            kwargs["lengths"] = self.lengths
        return self.x, kwargs


def repeat_rows(x: Tensor, times: int) -> Tensor:
    """
    Return all rows of ``x``, then all again, in the memory layout of ``x``.

    >>> repeat_rows(torch.tensor([1, 2]), 3)
    tensor([1, 2, 1, 2, 1, 2])
    """
    if x.dim() != 3:
        return x.repeat(times, *(1,) * (x.dim() - 1))
    by_time = x.transpose(0, 1)
    return by_time.repeat(1, times, 1).transpose(0, 1)
