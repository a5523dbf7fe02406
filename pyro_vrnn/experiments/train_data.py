"""What ``pyro-vrnn train`` makes of a file: model, training and validation parts, units."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_vrnn.data.sequences import Sequences
from pyro_vrnn.data.series import Series
from pyro_vrnn.data.windowing import TimeSplit, rolling_origins
from pyro_vrnn.experiments.forecast_plan import (
    Plan,
    default_horizon,
    default_window,
    season_of,
    seasonal_lag,
    units,
)
from pyro_vrnn.experiments.train_config import SequencesConfig, SeriesConfig
from pyro_vrnn.models import Forecaster, SequenceClassification, SequenceRegression
from pyro_vrnn.nn.recurrent import CELLS
from pyro_vrnn.ops.forecast import min_window
from pyro_vrnn.shapes import FloatArray

Part = tuple[Tensor, ...]  # the model's arguments: x, y and, where they differ, lengths
Truth = FloatArray | list[str]
MAX_ORIGINS = 24


@dataclass(frozen=True, eq=False)
class Task:
    """
    A model, and the parts of the data in standard units.

    :ivar truth: of the validation part, in raw units ``(N, H)``, or names of classes.
    :ivar dict facts: what a prediction of new data needs; kept with the posterior.
    :ivar list keys: one record of names for each row of the validation part.
    """

    model: Any
    train: Part
    validation: Part
    truth: Truth
    facts: dict[str, Any]
    keys: list[dict[str, Any]]


def series_task(series: Series, config: SeriesConfig) -> Task:
    """
    Cut a series in training windows and, at its end, validation forecasts that do not overlap.

    :raises ValueError: if it is too short, or the sizes do not fit.
    """
    plan, lag, num_origins = _plan(series.values, config)
    _check_changes(plan.past(series.values), lag)
    train = plan.training_windows(series.values)
    model = Forecaster(
        CELLS[config.cell](1, config.hidden_size),
        plan.horizon,
        lag=lag,
        num_data=len(train.x),
        overlap=train.overlap,
    )
    model.fit_scaling(torch.as_tensor(plan.past(series.values)))
    held_out = rolling_origins(
        plan.standardised(series.values),
        plan.split.validation.start,
        window=plan.window,
        horizon=plan.horizon,
        count=num_origins,
        dtype=torch.float32,
    )
    facts = {
        "kind": "series",
        "column": series.name,
        "horizon": plan.horizon,
        "window": plan.window,
        "lag": lag,
        "season": plan.season,
        "center": plan.offset,
        "unit": plan.unit,
        "validation_origins": num_origins,
    }
    truth = series.values[held_out.origins.numpy()[:, None] + np.arange(plan.horizon)]
    keys = [{"origin": int(origin)} for origin in held_out.origins]
    return Task(model, (train.x, train.y), (held_out.x, held_out.y), truth, facts, keys)


def _plan(values: FloatArray, config: SeriesConfig) -> tuple[Plan, int | None, int]:
    """Return the plan, the lag, and the number of validation origins."""
    n = len(values)
    horizon = config.horizon or default_horizon(n)
    season = season_of(values) if config.lag == "auto" else 1
    lag: int | None = None
    if config.lag == "auto":
        lag = seasonal_lag(season, horizon)
    elif config.lag != "none":
        lag = int(config.lag)
    window = config.window or default_window(lag or horizon)
    if window < min_window(lag):
        raise ValueError(
            f"Expected window of at least {min_window(lag)} steps (lag {lag}), got {window}."
        )
    num_origins = config.num_origins or max(1, min(MAX_ORIGINS, n // 5 // horizon))
    needed = window + (2 + num_origins) * horizon
    if n < needed:
        raise ValueError(
            f"Expected at least {needed} values (window {window} + 2 training horizons of "
            f"{horizon} + validation {num_origins * horizon}), got {n}."
        )
    stop = n - num_origins * horizon
    split = TimeSplit(range(window, stop), range(stop, n), range(n, n))
    lags = () if lag is None else (lag,)
    return Plan(horizon, season, lags, window, split, *units(values[:stop])), lag, num_origins


def sequences_task(data: Sequences, config: SequencesConfig) -> Task:
    """
    Split labelled sequences in training and validation, both in the training part's units.

    Labels that are not all numbers, or any with ``config.classes``, are classes. A warning says so
    of numbers that are all 0 or 1.

    :raises ValueError: if there are too few sequences or classes.
    """
    assert data.labels is not None
    numbers = _numbers(data.labels)
    if not config.classes and numbers is None and any(map(_is_number, data.labels)):
        raise ValueError(
            f"Expected labels that are all numbers, or --classes, got {_first_text(data.labels)!r} "
            "among numbers."
        )
    classes = _classes(data.labels, numbers) if config.classes or numbers is None else None
    if classes is None and set(numbers if numbers is not None else ()) == {0.0, 1.0}:
        warnings.warn(
            "Expected labels of more values than 0 and 1 to regress as numbers: if these are "
            "classes, give --classes (classes=True).",
            stacklevel=3,
        )
    held_out = _split(data.labels if classes else None, len(data), config)
    steps = np.concatenate([v for v, out in zip(data.values, held_out, strict=True) if not out])
    unit = steps.std(axis=0)
    unit[unit <= 1e-13 * np.abs(steps).max(axis=0)] = 1.0
    facts: dict[str, Any] = {
        "kind": "sequences",
        "sequence": config.sequence,
        "label": config.label,
        "time": config.time,
        "features": list(data.features),
        "feature_center": steps.mean(axis=0).tolist(),
        "feature_unit": unit.tolist(),
        "classes": classes,
    }
    if classes is None:
        assert numbers is not None
        facts["center"], facts["unit"] = units(numbers[~held_out])
    x, lengths = padded(data, facts)
    y = targets(data.labels, facts)
    rows = torch.from_numpy(held_out)
    parts = []
    for chosen in (~rows, rows):
        own = lengths[chosen]
        longest = int(own.max())
        part = (x[chosen, :longest], y[chosen])
        parts.append(part if bool((own == longest).all()) else (*part, own))
    rnn = CELLS[config.cell](len(data.features), config.hidden_size)
    num_data = len(parts[0][0])
    model: Any
    if classes is None:
        model = SequenceRegression(rnn, 1, learn_tau=True, num_data=num_data)
    else:
        model = SequenceClassification(rnn, len(classes), num_data=num_data)
    chosen_rows = np.flatnonzero(held_out)
    truth = raw_truth([data.labels[k] for k in chosen_rows], facts)
    keys = [{"sequence": data.ids[k]} for k in chosen_rows]
    return Task(model, parts[0], parts[1], truth, facts, keys)


def padded(data: Sequences, facts: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the features in the training part's units, padded, and the lengths."""
    return data.padded(np.array(facts["feature_center"]), np.array(facts["feature_unit"]))


def targets(labels: Sequence[str], facts: Mapping[str, Any]) -> Tensor:
    """
    Return labels as the model takes them: class ids ``(N,)``, or standard units ``(N, 1)``.

    :raises ValueError: for a class that is not one of the training, or no number.
    """
    if facts["classes"] is None:
        numbers = _numbers(labels)
        if numbers is None:
            raise ValueError(f"Expected labels to be numbers, got {_first_text(labels)!r}.")
        standard = (numbers - facts["center"]) / facts["unit"]
        return torch.as_tensor(standard, dtype=torch.float32)[:, None]
    ids = {name: k for k, name in enumerate(facts["classes"])}
    for name in labels:
        if name not in ids:
            listed = ", ".join(repr(each) for each in facts["classes"])
            raise ValueError(f"Expected a label to be one of {listed}, got {name!r}.")
    return torch.tensor([ids[name] for name in labels])


def raw_truth(labels: Sequence[str], facts: Mapping[str, Any]) -> Truth:
    """Return checked labels as numbers ``(N, 1)``, or names of classes."""
    targets(labels, facts)
    return list(labels) if facts["classes"] else np.array(labels, dtype=np.float64)[:, None]


def _check_changes(past: FloatArray, lag: int | None) -> None:
    """Refuse changes over a lag that do not vary: their noise has no scale to learn."""
    if lag is None:
        return
    changes = past[lag:] - past[:-lag]
    if changes.std() <= 1e-9 * max(1.0, float(np.abs(past).max())):
        raise ValueError(
            f"Expected changes over {lag} steps that vary, got {changes.mean():.3g} standard units "
            "at every one (a straight line, or an exact season): try --lag none."
        )


def _numbers(labels: Sequence[str]) -> FloatArray | None:
    """Return the labels as finite numbers, or None if they are not all."""
    return np.array([float(label) for label in labels]) if all(map(_is_number, labels)) else None


def _is_number(label: str) -> bool:
    try:
        return bool(np.isfinite(float(label))) and "_" not in label
    except ValueError:
        return False


def _first_text(labels: Sequence[str]) -> str:
    return next(label for label in labels if not _is_number(label))


def _classes(labels: Sequence[str], numbers: FloatArray | None) -> list[str]:
    """Return the different labels, in the order of the numbers if they are numbers."""
    order = {label: (0.0 if numbers is None else float(label), label) for label in labels}
    found = sorted(order, key=order.__getitem__)
    if numbers is not None:
        for first, second in pairwise(found):
            if float(first) == float(second):
                raise ValueError(
                    f"Expected one way to write each class, got {first!r} and {second!r}."
                )
    if len(found) < 2:
        raise ValueError(f"Expected labels of at least 2 classes, got {found[0]!r} alone.")
    return found


def _split(labels: Sequence[str] | None, count: int, config: SequencesConfig) -> NDArray[np.bool_]:
    """
    Say which sequences are validation: as many as asked for, at random by the seed.

    Of each class, and of the whole, something is left to train on.
    """
    wanted = max(1, round(config.validation * count))
    left: dict[str, int] = {}
    for label in labels or [""] * count:
        left[label] = left.get(label, 0) + 1
    held_out = np.zeros(count, dtype=np.bool_)
    for k in np.random.default_rng(config.seed).permutation(count):
        label = labels[k] if labels else ""
        if left[label] > (1 if labels else 2) and wanted > 0:
            left[label] -= 1
            wanted -= 1
            held_out[k] = True
    if not held_out.any():
        least = "3 sequences" if labels is None else "2 sequences of one class"
        raise ValueError(f"Expected at least {least}, to train and to validate, got {count}.")
    return held_out
