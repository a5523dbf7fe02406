"""Models for the guide's tests, and how often and in what pattern a guide drops."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch

import pyro_vrnn as vrnn
from pyro_vrnn.distributions import WeightSite
from pyro_vrnn.ops.recurrent import LayerWeights, recurrent

CELLS = {"lstm": (vrnn.nn.LSTM, 4), "gru": (vrnn.nn.GRU, 3), "rnn": (vrnn.nn.RNN, 1)}


def classifier(cell="lstm", *, device=None, dtype=torch.float32, **kwargs):
    """
    Return an embedding, two bidirectional layers and 9 outputs, and one batch of ids.

    V = 7 ids, E = 8, H = 5, N = 4, T = 6.
    """
    options = {"device": device, "dtype": dtype}
    rnn = CELLS[cell][0](8, 5, 2, bidirectional=True, **options, **kwargs)
    model = vrnn.models.SequenceRegression(rnn, 9, embedding=vrnn.nn.Embedding(7, 8, **options))
    ids = torch.arange(24, device=device).reshape(4, 6) % 7
    return model, ids, torch.zeros(4, 9, **options)


def small(cell="lstm", *, num_data=None, dtype=torch.float64, **kwargs):
    """Return a SequenceRegression of H = 5 and a batch of N = 4, T = 6, D = 8; one output."""
    model = vrnn.models.SequenceRegression(
        CELLS[cell][0](8, 5, dtype=dtype), 1, num_data=num_data, **kwargs
    )
    return model, torch.randn(4, 6, 8, dtype=dtype), torch.randn(4, 1, dtype=dtype)


def by_hand(x, y=None):
    """A Pyro model written as a function: an RNN of H = 5 on D = 8 inputs, by our operations."""
    w_ih = weight("w_ih", (5, 8), WeightSite("weight_ih"))
    w_hh = weight("w_hh", (5, 5), WeightSite("weight_hh"))
    head = weight("head", (5,))
    state = (torch.zeros(1, x.shape[0], 5),)
    _, (h,) = recurrent("RNN_TANH", x.transpose(0, 1), state, [LayerWeights(w_ih, w_hh)])
    with pyro.plate("data", len(x)):
        return pyro.sample("obs", dist.Normal(h[0] @ head, 1.0), obs=y)


def weight(name, shape, record=None):
    prior = dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape))
    return pyro.sample(name, prior, infer={} if record is None else {"weight_site": record})


def always_slab(guide):
    """Give every mean of a built guide the value 100: far from 0, whatever the scale."""
    with torch.no_grad():
        for parameter in guide.locs.parameters():
            parameter.fill_(100.0)
    return guide


def dropped(guide, name, num_draws):
    """Return where draws of a site lie at the spike, as (num_draws, *shape) of bool."""
    with pyro.plate("draws", num_draws):
        return guide()[name].abs() < 50


def standard_error(p, count):
    """Return the standard error of a frequency of ``count`` independent events."""
    return (p * (1 - p) / count) ** 0.5
