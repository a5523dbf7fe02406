"""Models, guides and ELBOs that must work together."""

from __future__ import annotations

from functools import partial

import pyro.infer
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

import pyro_vrnn as vrnn

CELLS = {"lstm": vrnn.nn.LSTM, "gru": vrnn.nn.GRU, "rnn": vrnn.nn.RNN}
GUIDES = {
    "untied": partial(vrnn.infer.AutoSpikeAndSlab, drop_prob=0.3, scale=0.1),
    "tied": partial(vrnn.infer.AutoSpikeAndSlab, drop_prob=0.3, scale=0.1, gates="tied"),
    "learn-scale": partial(vrnn.infer.AutoSpikeAndSlab, scale=0.1, learn_scale=True),
    "AutoNormal": AutoNormal,
}
ELBOS = {"Trace": pyro.infer.Trace_ELBO, "MeanField": pyro.infer.TraceMeanField_ELBO}

cells = pytest.mark.parametrize("cell", list(CELLS))
guides = pytest.mark.parametrize("guide_name", list(GUIDES))
elbos = pytest.mark.parametrize("elbo", ELBOS.values(), ids=ELBOS)
modes = pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])


def regression(cell="lstm", device=None, dtype=torch.float32, **kwargs):
    """Return a small SequenceRegression and one batch (x, y) of N = 6, T = 5, D = 3."""
    rnn = CELLS[cell](3, 4, 2, bidirectional=True, device=device, dtype=dtype)
    model = vrnn.models.SequenceRegression(rnn, 2, **kwargs)
    x = torch.randn(6, 5, 3, device=device, dtype=dtype)
    return model, x, torch.randn(6, 2, device=device, dtype=dtype)


def forecaster(cell="lstm", device=None, dtype=torch.float32, **kwargs):
    """Return a small Forecaster and one batch (x, y) of N = 6, T = 9, horizon 2."""
    rnn = CELLS[cell](1, 4, device=device, dtype=dtype)
    model = vrnn.models.Forecaster(rnn, 2, **{"lag": 3, **kwargs})
    series = torch.randn(40, dtype=dtype, device=device).cumsum(0) + 300
    model.fit_scaling(series)
    pieces = series.unfold(0, 11, 5)[:6]
    return model, pieces[:, :9, None].contiguous(), pieces[:, 9:].contiguous()


def classification(cell="lstm", device=None, dtype=torch.float32, **kwargs):
    """Return a small SequenceClassification and one batch (x, y) of N = 6, T = 5, D = 3; C = 4."""
    rnn = CELLS[cell](3, 4, 2, bidirectional=True, device=device, dtype=dtype)
    model = vrnn.models.SequenceClassification(rnn, 4, **kwargs)
    x = torch.randn(6, 5, 3, device=device, dtype=dtype)
    return model, x, torch.randint(4, (6,), device=device)


def output(draws):
    """Return what a model gave: its means, or its logits."""
    return draws["logits" if "logits" in draws else "loc"]


MODELS = {"regression": regression, "forecaster": forecaster, "classification": classification}
models = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
