"""Steps behind the longest sequence of a batch change neither values nor gradients."""

from __future__ import annotations

import pytest
import torch

import pyro_vrnn as vrnn
from pyro_vrnn.infer import AutoSpikeAndSlab, TraceExactKL_ELBO


@pytest.mark.parametrize("scale", [0.0, 0.01], ids=["masks", "noise"])
@pytest.mark.parametrize("scope", ["batch", "sequence"])
@pytest.mark.parametrize("cell", [vrnn.nn.LSTM, vrnn.nn.GRU, vrnn.nn.RNN])
def test_padding_behind_the_longest_sequence(cell, scope, scale):
    lengths = torch.tensor([5, 3, 6, 2])
    y = torch.randn(4, 1, dtype=torch.float64)
    long = torch.randn(4, 9, 3, dtype=torch.float64)
    model = vrnn.models.SequenceRegression(cell(3, 8, dtype=torch.float64), 1, num_data=4)
    guide = AutoSpikeAndSlab(model, drop_prob=0.3, scale=scale, scope=scope)
    guide(long, y, lengths)
    elbo = TraceExactKL_ELBO()(model, guide)

    def gradients(x):
        torch.manual_seed(1)
        loss = elbo(x, y, lengths)
        parameters = list(elbo.parameters())
        return [loss, *torch.autograd.grad(loss, parameters, allow_unused=True)]

    for padded, short in zip(gradients(long), gradients(long[:, :6]), strict=True):
        assert (padded is None) == (short is None)
        if padded is not None:
            torch.testing.assert_close(padded, short, rtol=1e-10, atol=1e-10)
