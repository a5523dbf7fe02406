"""Running moments of draws that are not kept."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


class Moments:
    """Mean and variance of each element over draws that come one by one, in float64 (Welford)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.squares = torch.zeros(())
        self.dtype = torch.float64

    def add(self, value: Tensor) -> None:
        """Take one more draw."""
        if self.count == 0:
            self.dtype = value.dtype if value.is_floating_point() else torch.float64
            self.mean = torch.zeros_like(value, dtype=torch.float64)
            self.squares = torch.zeros_like(self.mean)
        self.count += 1
        before = value - self.mean
        self.mean += before / self.count
        self.squares += before.mul_(value - self.mean)

    @property
    def variance(self) -> Tensor:
        """The variance, with divisor S - 1; NaN of one draw."""
        return self.squares / (self.count - 1 if self.count > 1 else torch.nan)

    def array(self) -> NDArray[Any]:
        """Return mean and standard deviation stacked in front, in the dtype of the draws."""
        stacked = torch.stack((self.mean, self.variance.sqrt())).to(self.dtype)
        return stacked.detach().cpu().numpy()
