"""One draw of a dropout network as a plain network: masks that serve every sequence and step."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyro_vrnn.baselines._dropping import ColumnDropping, Dropping
from pyro_vrnn.baselines.embedding import Embedding
from pyro_vrnn.baselines.linear import Linear
from pyro_vrnn.baselines.recurrent import GRU, LSTM, RNN, DroppingRecurrent
from pyro_vrnn.ops.weights import MaskedWeight

Network = TypeVar("Network", bound=torch.nn.Module)

_THEIRS: dict[type[Dropping], type[torch.nn.Module]] = {
    RNN: torch.nn.RNN,
    LSTM: torch.nn.LSTM,
    GRU: torch.nn.GRU,
    Linear: torch.nn.Linear,
    Embedding: torch.nn.Embedding,
}
_RECURRENT = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional")


@torch.no_grad()
def function_draw(network: Network, *, embedding_dropout: bool = True) -> Network:
    """
    Return a copy with one set of masks in its weights, one for all sequences and steps.

    It is what a draw of q(w) is to dropout seen as variational inference, and what
    ``guide.to_torch(model, "sample")`` is to a guide: layers that drop become torch.nn's, an
    embedding's word types are dropped as rows of the table, and the copy is in ``.eval()`` mode.
    Masks come from torch's generator.

    Example::

        >>> from pyro_vrnn.baselines import GRU, Embedding, LanguageNetwork, Linear
        >>> network = LanguageNetwork(Embedding(20, 8), GRU(8, 8), Linear(8, 20, drop_prob=0.5))
        >>> function_draw(network).head
        Linear(in_features=8, out_features=20, bias=True)

    :param network: with layers of this package's baselines; others are copied as they are.
    :param bool embedding_dropout: False leaves embeddings at their means, another q.
    :raises ValueError: if a layer drops by a method whose masks do not last for a sequence, or if
        it is of torch.nn and drops.
    """
    return _plain(network, sampled=True, embedding_dropout=embedding_dropout)


@torch.no_grad()
def mean_network(network: Network) -> Network:
    """
    Return a copy with every weight at its mean, the "standard dropout approximation".

    It gives what the network gives in ``.eval()`` mode, from torch.nn's layers.

    >>> from pyro_vrnn.baselines import Linear
    >>> mean_network(torch.nn.Sequential(Linear(8, 9, drop_prob=0.5)))[0]
    Linear(in_features=8, out_features=9, bias=True)

    :param network: with layers of this package's baselines; others are copied as they are.
    """
    return _plain(network, sampled=False, embedding_dropout=True)


def drops_function_wise(network: torch.nn.Module) -> bool:
    """Whether some layer has masks that make a draw a function."""
    return any(
        layer.has_tied_masks and any(layer.drop_probs.values())
        for layer in network.modules()
        if isinstance(layer, Dropping)
    )


def _plain(network: Network, *, sampled: bool, embedding_dropout: bool) -> Network:
    if isinstance(network, Dropping):
        raise TypeError(
            f"Expected a network that has layers, got the layer {type(network).__name__} alone."
        )
    twins: dict[int, Any] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, Dropping):
            draws = sampled and (embedding_dropout or not isinstance(layer, Embedding))
            twins[id(layer)] = _twin(layer, _draw(name, layer) if draws else _means(layer))
        elif sampled and _drops_by_torch(layer):
            raise ValueError(
                f"Expected layers of pyro_vrnn.baselines that drop, got torch.nn's "
                f"{type(layer).__name__} '{name}', whose masks do not last for a sequence."
            )
    return copy.deepcopy(network, twins).eval()


def _drops_by_torch(layer: torch.nn.Module) -> bool:
    dropout = isinstance(layer, torch.nn.modules.dropout._DropoutNd) and layer.p > 0
    return dropout or (isinstance(layer, torch.nn.RNNBase) and layer.dropout > 0)


def _means(layer: Dropping) -> dict[str, Tensor]:
    """Return the weights that can be dropped, at their means."""
    return {name: layer._mean_weight(name) for name in layer.drop_probs}


def _draw(where: str, layer: Dropping) -> dict[str, Tensor]:
    """Return the weights that can be dropped, under one set of masks."""
    if not any(layer.drop_probs.values()):
        return _means(layer)
    if not layer.has_tied_masks:
        raise ValueError(
            f"Expected layers of method 'variational' or 'gaussian', got '{where}' of "
            f"{layer.method!r}, which has no masks that last for a sequence."
        )
    if isinstance(layer, ColumnDropping):
        masks = layer.draw_masks(1)
        return {
            name: MaskedWeight(layer._parameter(name), layer._scaled(name, mask)).dense()[0]
            for name, mask in masks.items()
        }
    assert isinstance(layer, Embedding)
    factors = layer._scaled("weight", layer._draw("weight", layer.num_embeddings, 1))
    return {"weight": layer.weight * factors}


def _twin(layer: Dropping, weights: dict[str, Tensor]) -> torch.nn.Module:
    """Return torch.nn's layer with these weights in place of its own."""
    kind = next(ours for ours in type(layer).__mro__ if ours in _THEIRS)
    # On the meta device, nothing is initialised: no time spent, no random numbers used.
    twin = _THEIRS[kind](**_options(layer), device="meta")
    for name, parameter in layer.named_parameters(recurse=False):
        value = weights.get(name, parameter).detach().clone()
        setattr(twin, name, torch.nn.Parameter(value, requires_grad=False))
    if isinstance(twin, torch.nn.RNNBase):
        twin.flatten_parameters()  # cuDNN warns of weights that are not in one piece
    return twin


def _options(layer: Dropping) -> dict[str, Any]:
    if isinstance(layer, DroppingRecurrent):
        names: tuple[str, ...] = _RECURRENT
        if isinstance(layer, RNN):
            names = (*names, "nonlinearity")
        return {name: getattr(layer, name) for name in names}
    if isinstance(layer, Linear):
        return {
            "in_features": layer.in_features,
            "out_features": layer.out_features,
            "bias": layer.bias is not None,
        }
    assert isinstance(layer, Embedding)
    names = ("num_embeddings", "embedding_dim", "padding_idx", "max_norm", "norm_type")
    return {name: getattr(layer, name) for name in names}
