from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vrnn.nn.embedding import Embedding
from pyro_vrnn.nn.linear import Linear
from pyro_vrnn.nn.recurrent import GRU, LSTM, RNN
from pyro_vrnn.nn.weights import WeightModule

OURS: dict[type[nn.Module], type[WeightModule]] = {
    nn.RNN: RNN,
    nn.LSTM: LSTM,
    nn.GRU: GRU,
    nn.Linear: Linear,
    nn.Embedding: Embedding,
}
THEIRS: dict[type[WeightModule], type[nn.Module]] = {ours: theirs for theirs, ours in OURS.items()}

_RECURRENT = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional")
_OPTIONS: dict[type[WeightModule], tuple[str, ...]] = {
    RNN: (*_RECURRENT, "nonlinearity"),
    LSTM: _RECURRENT,
    GRU: _RECURRENT,
    Linear: ("in_features", "out_features"),
    Embedding: ("num_embeddings", "embedding_dim", "padding_idx"),
}


def our_twin(layer: nn.Module) -> WeightModule:
    """Return our layer with the options of torch.nn's, and its weights as the guide's start."""
    ours = OURS[type(layer)]
    options = _options(layer, ours)
    weights = {name: p.detach() for name, p in layer.named_parameters(recurse=False)}
    if ours is Linear:
        options["bias"] = "bias" in weights
    first = next(iter(weights.values()))
    twin = ours(**options, device=first.device, dtype=first.dtype)
    if isinstance(twin, Embedding) and twin.padding_idx is not None:
        keep = torch.arange(twin.num_embeddings, device=first.device) != twin.padding_idx
        weights["weight"] = weights["weight"][keep]
    twin.start_from(weights)
    return twin.train(layer.training)


def torch_twin(layer: WeightModule, weights: Mapping[str, nn.Parameter]) -> nn.Module:
    """
    Return torch.nn's layer with the options of ours, holding these parameters.

    :param weights: weight name -> parameter, as :func:`torch_shaped` makes its value.
    """
    options = _options(layer, type(layer))
    if isinstance(layer, Linear):
        options["bias"] = "bias" in weights
    # On the meta device, nothing is initialised: no time spent, no random numbers used.
    twin = THEIRS[type(layer)](**options, device="meta", dtype=layer.factory_kwargs["dtype"])
    for name, parameter in weights.items():
        setattr(twin, name, parameter)
    if isinstance(twin, nn.RNNBase):
        twin.flatten_parameters()  # cuDNN warns of weights that are not in one piece
    return twin.train(layer.training)


def torch_shaped(layer: WeightModule, value: Tensor) -> Tensor:
    """Return a copy of a site's value as torch.nn's layer holds it, a padding row of 0 included."""
    value = value.detach().to(**layer.factory_kwargs)
    if not isinstance(layer, Embedding) or layer.padding_idx is None:
        return value.clone()
    row = value.new_zeros(1, layer.embedding_dim)
    return torch.cat([value[: layer.padding_idx], row, value[layer.padding_idx :]])


def _options(layer: nn.Module, ours: type[WeightModule]) -> dict[str, Any]:
    return {name: getattr(layer, name) for name in _OPTIONS[ours]}
