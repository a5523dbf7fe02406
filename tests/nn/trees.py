"""Trees of torch.nn modules, "trained", and what bayesianize makes of them."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.util import prune_subsample_sites
from torch import nn

import pyro_vrnn as vrnn


class Tagger(nn.Module):
    """An embedding, a recurrent layer inside a container, and a head inside a Sequential."""

    def __init__(self, cell="lstm", dtype=torch.float64):
        super().__init__()
        options = {"dtype": dtype}
        self.embedding = nn.Embedding(11, 6, padding_idx=2, **options)
        make = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell]
        rnn = make(6, 5, 2, batch_first=True, bidirectional=True, bias=False, **options)
        self.parts = nn.ModuleDict({"rnn": rnn})
        self.head = nn.Sequential(
            nn.ReLU(), nn.Linear(10, 7, **options), nn.Tanh(), nn.Linear(7, 3, **options)
        )

    def forward(self, ids):
        self.parts["rnn"].flatten_parameters()
        output, _ = self.parts["rnn"](self.embedding(ids))
        return self.head(output)


class TiedLanguageModel(nn.Module):
    """Word ids to logits, the output layer's weight being the embedding."""

    def __init__(self, dtype=torch.float64, padding_idx=None):
        super().__init__()
        self.encoder = nn.Embedding(11, 6, padding_idx, dtype=dtype)
        self.rnn = nn.GRU(6, 6, dtype=dtype)
        self.decoder = nn.Linear(6, 11, dtype=dtype)
        self.decoder.weight = self.encoder.weight

    def forward(self, ids):
        return self.decoder(self.rnn(self.encoder(ids))[0])


class UsedTwice(nn.Module):
    """One layer at two places, below two containers."""

    def __init__(self):
        super().__init__()
        layer = nn.Linear(4, 4)
        self.first = nn.Sequential(layer, nn.Tanh())
        self.second = nn.ModuleList([layer])
        self.unregistered = [layer]

    def forward(self, x):
        return self.unregistered[0](self.second[0](self.first(x)))


class Observed(PyroModule):
    """A network with a Gaussian likelihood."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, y=None):
        loc = self.net(x)
        with pyro.plate("data", len(x)):
            return pyro.sample("obs", dist.Normal(loc, 1.0).to_event(loc.dim() - 1), obs=y)


def ids():
    return torch.arange(20).reshape(4, 5) % 11


def sites(model, *args):
    """Return the sample sites of one call, by name, without plates."""
    trace = prune_subsample_sites(poutine.trace(model).get_trace(*args))
    return {name: trace.nodes[name] for name in trace.stochastic_nodes}


def starts(module):
    """Return the values that a guide starts from, by site."""
    return {
        layer.site_names[name]: record.initial(layer._weight_shapes[name])
        for layer in module.modules()
        if isinstance(layer, vrnn.nn.weights.WeightModule)
        for name, record in layer._weight_sites.items()
    }
