"""Draws and observations as arrays, out of a prediction, an ArviZ object or arrays."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from pyro_vrnn.diagnostics._observations import CLASS_SITES
from pyro_vrnn.infer.predict import Prediction
from pyro_vrnn.shapes import FloatArray, check_choice, number_array, shape_text

WHAT = "arrays, a Prediction or an ArviZ object"
OBSERVED = {
    "posterior_predictive": "observed_data",
    "prior_predictive": "observed_data",
    "predictions": "predictions_constant_data",
}


class Probabilities(NamedTuple):
    """Class ids ``(N, *)``, probabilities ``(N, *, V)``, and of how many draws, if known."""

    y: NDArray[Any]
    probs: FloatArray
    num_samples: int | None


def read_forecasts(
    predicted: Any, y: Any, group: str, var_name: str
) -> tuple[FloatArray, FloatArray]:
    """
    Return what happened, ``(R, H)``, and the draws, ``(S, R, H)``.

    :raises TypeError: if ``y`` is missing.
    :raises ValueError: if there are no draws, they are class ids, or the shapes do not fit.
    """
    if is_arviz(predicted):
        draws = read_draws(predicted, group, var_name)
        _check_numbers(predicted, group, var_name, draws)
        y = read_observed(predicted, group, var_name) if y is None else y
    elif isinstance(predicted, Prediction):
        if predicted.probs is not None:
            raise ValueError(
                "Expected a Prediction of numbers, got one of classes: use check_classes."
            )
        if predicted.draws is None:
            raise ValueError(
                "Expected a Prediction with draws, got none: predict with "
                'return_draws="observation".'
            )
        draws = number_array("predicted", predicted.draws)
    else:
        draws = number_array("predicted", predicted, WHAT)
    observed = number_array("y", _given(y))
    given = observed.shape
    if observed.ndim == 1 and draws.ndim == 2:
        observed, draws = observed[:, None], draws[..., None]
    if observed.ndim != 2 or draws.ndim != 3 or draws.shape[1:] != observed.shape:
        raise ValueError(
            "Expected y of shape (R, H) or (R,) and draws of shape (S, *y.shape), got "
            f"{shape_text(given)} and {shape_text(draws.shape)}."
        )
    return observed.astype(np.float64), draws.astype(np.float64)


def read_probs(predicted: Any, y: Any, group: str, var_name: str, logits: str) -> Probabilities:
    """
    Return class ids and their probabilities, averaged over draws.

    :raises TypeError: if ``y`` is missing.
    :raises ValueError: if there are no probabilities.
    """
    num_samples: int | None = None
    if is_arviz(predicted):
        values = read_draws(predicted, group, logits)
        num_samples = len(values)
        # Draw by draw: all of them in float64 would be the largest array of the check.
        probs = sum(softmax(row.astype(np.float64), axis=-1) for row in values) / num_samples
        y = read_observed(predicted, group, var_name) if y is None else y
    elif isinstance(predicted, Prediction):
        if predicted.probs is None:
            raise ValueError("Expected a Prediction of classes, got one without probs.")
        probs, num_samples = number_array("predicted", predicted.probs), predicted.num_samples
    else:
        probs = number_array("predicted", predicted, WHAT)
    ids = number_array("y", _given(y))
    if num_samples is None and probs.ndim == ids.ndim + 2:
        num_samples = len(probs)
    return Probabilities(ids, np.asarray(probs), num_samples)


def is_arviz(value: Any) -> bool:
    """Return whether ``value`` is an ``InferenceData`` or a ``DataTree``; neither is imported."""
    return type(value).__name__ in ("InferenceData", "DataTree")


def read_draws(data: Any, group: str, name: str) -> NDArray[Any]:
    """Return the draws of a variable, of all chains, on the first axis."""
    check_choice("group", group, tuple(OBSERVED))
    variable = _variable(data, group, name)
    if "sample" in variable.dims:
        return np.asarray(variable.transpose("sample", ...).values)
    values = variable.transpose("chain", "draw", ...).values
    return np.asarray(values.reshape(-1, *values.shape[2:]))


def read_observed(data: Any, group: str, name: str) -> NDArray[Any]:
    """Return the observations that belong to a group of draws."""
    return np.asarray(_variable(data, OBSERVED[group], name).values)


def _check_numbers(data: Any, group: str, name: str, draws: NDArray[Any]) -> None:
    """Refuse ids of classes or words, whose order means nothing."""
    is_class = name in json.loads(data[group].attrs.get(CLASS_SITES, "[]"))
    if not is_class and np.issubdtype(draws.dtype, np.integer):  # an export by others: no facts
        others = [data[group][other] for other in ("logits", "probs") if other in data[group]]
        is_class = any(other.ndim == data[group][name].ndim + 1 for other in others)
    if is_class:
        raise ValueError(
            f"Expected {name!r} to hold numbers, got ids of classes or words: use check_classes. "
            "If their order means something, give draws and y as arrays."
        )


def _given(y: Any) -> Any:
    if y is None:
        raise TypeError(
            "Expected y, the observations, beside draws that are not in an ArviZ object."
        )
    return y


def _variable(data: Any, group: str, name: str) -> Any:
    groups = data.groups() if type(data).__name__ == "InferenceData" else list(data.children)
    if group not in groups:
        raise ValueError(
            f"Expected a group {group!r} in the ArviZ object, got {', '.join(groups)}."
        )
    names = list(data[group].data_vars)
    if name not in names:
        raise ValueError(f"Expected a variable {name!r} in {group}, got {', '.join(names)}.")
    return data[group][name]
