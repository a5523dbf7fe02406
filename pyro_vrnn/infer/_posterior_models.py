"""The models that a file can describe so that they are built from it: classes and options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn import models, nn
from pyro_vrnn.archives import DamagedArchiveError
from pyro_vrnn.nn.weights import PRIOR_DEFAULTS, WeightModule

# Class -> the constructor's arguments that are attributes of the same name.
_CELL = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional")
LAYERS: dict[type[WeightModule], tuple[str, ...]] = {
    nn.LSTM: _CELL,
    nn.GRU: _CELL,
    nn.RNN: (*_CELL, "nonlinearity"),
    nn.Embedding: ("num_embeddings", "embedding_dim", "padding_idx"),
}
MODELS: dict[type[Any], tuple[str, ...]] = {
    models.SequenceRegression: ("out_features", "num_data"),
    models.SequenceClassification: ("num_classes", "num_data"),
    models.Forecaster: ("horizon", "lag", "num_data", "overlap"),
}
PARTS = ("rnn", "embedding")


def describe_model(model: Callable[..., Any]) -> dict[str, Any]:
    """Return how to build a model; of one that cannot be built its class alone."""
    facts: dict[str, Any] = {"class": getattr(model, "__name__", type(model).__name__)}
    if type(model) not in MODELS or not isinstance(model, torch.nn.Module):
        return facts
    parts = {name: getattr(model, name, None) for name in PARTS}
    layers = [layer for layer in model.modules() if isinstance(layer, WeightModule)]
    own = [part for part in parts.values() if part is not None]
    if any(layer._ties for layer in layers) or any(type(part) not in LAYERS for part in own):
        return facts
    facts["options"] = {name: getattr(model, name) for name in MODELS[type(model)]}
    tau: Any = getattr(model, "tau", None)
    if tau is not None:
        facts["tau_shape"] = list(tau.shape)
        facts["options"]["learn_tau"] = "tau" not in dict(model.named_buffers())
    for name, part in parts.items():
        facts[name] = None if part is None else _describe_layer(part)
    return facts


def _describe_layer(layer: WeightModule) -> dict[str, Any]:
    return {
        "class": type(layer).__name__,
        "options": {name: getattr(layer, name) for name in LAYERS[type(layer)]},
        "dtype": str(layer.factory_kwargs["dtype"]).removeprefix("torch."),
    }


def build_model(facts: Mapping[str, Any], state: Mapping[str, Tensor]) -> Any:
    """
    Return the model that was described, with the priors that ``state`` holds.

    :raises ValueError: if it was none of ours.
    """
    if "options" not in facts:
        raise ValueError(
            "Expected model=, a model with the saved one's sites, because that cannot be built "
            f"from a file: it is a {facts['class']} and no plain model of pyro_vrnn.models; got "
            "None."
        )
    by_name = {each.__name__: each for each in (*MODELS, *LAYERS)}
    try:
        arguments = dict(facts["options"])
        if "tau_shape" in facts:
            arguments["tau"] = torch.ones(facts["tau_shape"], dtype=torch.float64)
        for name in PARTS:
            if facts[name] is not None:
                arguments[name] = _build_layer(facts[name], by_name, _below(state, name))
        head = _priors(_below(state, "head"))
        return by_name[facts["class"]](prior_scale=head["prior_scale"], **arguments)
    except (AttributeError, KeyError, TypeError) as error:
        raise DamagedArchiveError(f"Expected the facts of a model, got {error!r}.") from error


def _build_layer(
    facts: Mapping[str, Any], by_name: Mapping[str, Any], state: Mapping[str, Tensor]
) -> Any:
    layer = by_name[facts["class"]]
    dtype = {"float32": torch.float32, "float64": torch.float64}[facts["dtype"]]
    return layer(dtype=dtype, **facts["options"], **_priors(state))


def _below(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    start = f"{name}."
    return {key.removeprefix(start): v for key, v in state.items() if key.startswith(start)}


def _priors(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the arguments that give each weight the prior in the layer's buffers."""
    return {
        f"prior_{part}": {
            key.removeprefix(f"_prior_{part}_"): value
            for key, value in state.items()
            if key.startswith(f"_prior_{part}_")
        }
        for part in PRIOR_DEFAULTS
    }
