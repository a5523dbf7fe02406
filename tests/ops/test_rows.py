"""Keys that recur."""

from __future__ import annotations

import pytest
import torch

from pyro_vrnn.ops.rows import representatives


@pytest.mark.parametrize("size", [0, 1, 7, 500])
@pytest.mark.parametrize("distinct", [1, 5, 10_000])
def test_the_first_of_equal_keys_speaks_for_all(size, distinct, device):
    keys = torch.randint(distinct, (size,), device=device)
    first: dict[int, int] = {}
    expected = [first.setdefault(key, place) for place, key in enumerate(keys.tolist())]
    assert representatives(keys).tolist() == expected
