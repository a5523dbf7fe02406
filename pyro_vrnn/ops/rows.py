"""Values that belong to keys, where keys recur: which of the equal ones speaks for all."""

from __future__ import annotations

import torch
from torch import Tensor


def representatives(keys: Tensor) -> Tensor:  # (n,) of int64 -> (n,)
    """
    Return, for each key, the first position of an equal key. Nothing waits for a GPU.

    >>> representatives(torch.tensor([7, 3, 7, 5, 3]))
    tensor([0, 1, 0, 3, 1])
    """
    in_order, order = keys.sort(stable=True)
    starts = torch.ones_like(in_order, dtype=torch.bool)
    torch.ne(in_order[1:], in_order[:-1], out=starts[1:])
    places = torch.arange(len(keys), device=keys.device)
    begin = torch.where(starts, places, 0).cummax(0).values
    return torch.empty_like(order).index_copy_(0, order, order.index_select(0, begin))
