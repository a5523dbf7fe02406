"""Running moments of draws: Welford's sums, one class for all that do not keep their draws."""

from __future__ import annotations

import numpy as np
import torch

from pyro_vrnn.diagnostics._moments import Moments


def test_moments_of_integers_and_of_one_draw():
    moments = Moments()
    moments.add(torch.tensor([1, 3]))
    assert np.isnan(moments.array()[1]).all()
    moments.add(torch.tensor([4, 3]))
    np.testing.assert_allclose(moments.array(), [[2.5, 3.0], [4.5**0.5, 0.0]])


def test_moments_far_from_zero_keep_their_digits():
    generator = torch.Generator().manual_seed(0)
    draws = 1e6 + torch.randn(50, 3, generator=generator, dtype=torch.float64)
    moments = Moments()
    for draw in draws:
        moments.add(draw)
    expected = torch.stack((draws.mean(0), draws.std(0)))
    np.testing.assert_allclose(moments.array(), expected.numpy(), rtol=1e-12)
    assert torch.equal(moments.variance.sqrt(), torch.from_numpy(moments.array()[1]))
