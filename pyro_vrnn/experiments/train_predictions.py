"""Predictions with intervals in raw units, their scores, and the table that holds them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pyro_vrnn.experiments.train_data import Truth
from pyro_vrnn.infer.predict import Prediction, predict
from pyro_vrnn.reprs import short_repr
from pyro_vrnn.scores.density import gaussian_mixture_nll
from pyro_vrnn.scores.ensemble import crps
from pyro_vrnn.scores.intervals import central_interval, coverage
from pyro_vrnn.shapes import FloatArray

QUANTILES = {"5%": 0.05, "50%": 0.5, "95%": 0.95}
LEVELS = (0.5, 0.9)
DRAWS_AT_ONCE = 2**23  # numbers
Record = dict[str, Any]


@dataclass
class Predictions:
    """
    What was predicted for N rows of H steps.

    :ivar list records: the lines of the table, N of classes, else N * H.
    :ivar dict scores: means; empty without truth.
    :ivar draws: of y in raw units, ``(S, n, H)``, of the last n rows whose truth is known.
    """

    records: list[Record] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    draws: FloatArray | None = None

    __repr__ = short_repr


@dataclass(frozen=True)
class Posterior:
    """A trained model and guide, and how they are drawn from."""

    model: Any
    guide: Any
    num_samples: int
    seed: int
    progress: bool = False

    def predict(self, inputs: Sequence[Tensor], **options: Any) -> Prediction:
        """Predict x and, where they are given, lengths; the weights depend on the seed alone."""
        x, *lengths = inputs
        return predict(
            self.model,
            self.guide,
            x,
            lengths=lengths[0] if lengths else None,
            num_samples=self.num_samples,
            seed=self.seed,
            progress=self.progress,
            **options,
        )


def predict_rows(
    posterior: Posterior,
    inputs: Sequence[Tensor],
    facts: Mapping[str, Any],
    keys: Sequence[Record],
    truth: Truth | None = None,
) -> Predictions:
    """
    Predict N rows, and score them where the truth is known.

    :param inputs: x ``(N, T, D)`` in standard units and, where they differ, lengths ``(N,)``.
    :param facts: of the task: units or classes.
    :param keys: the first cells of each row's lines.
    :param truth: ``(N, H)`` in raw units, or names of classes.
    """
    if facts.get("classes"):
        return _predict_classes(posterior, inputs, facts["classes"], keys, truth)
    known = None if truth is None else np.asarray(truth, dtype=np.float64)
    found = Predictions()
    scores: list[dict[str, FloatArray]] = []
    for rows in _chunks(len(keys), posterior.num_samples * facts.get("horizon", 1)):
        prediction = posterior.predict(
            [part[rows] for part in inputs],
            quantiles=tuple(QUANTILES.values()),
            return_draws=known is not None,
        )
        y = None if known is None else known[rows]
        found.records += _value_records(prediction, facts, keys[rows], y)
        if y is not None:
            found.draws = raw(prediction.draws, facts)
            scores.append(_value_scores(prediction, facts, y, found.draws))
    if scores:
        found.scores = _mean_scores(scores)
    return found


def raw(values: Tensor | None, facts: Mapping[str, Any]) -> FloatArray:
    """Return values in the file's units."""
    assert values is not None
    standard = values.double().cpu().numpy()
    return np.asarray(facts["center"] + facts["unit"] * standard, dtype=np.float64)


def _chunks(num_rows: int, numbers_each: int) -> Iterator[slice]:
    size = max(1, DRAWS_AT_ONCE // numbers_each)
    return (slice(k, min(k + size, num_rows)) for k in range(0, num_rows, size))


def _deviation(variance: Tensor | None, facts: Mapping[str, Any]) -> FloatArray:
    assert variance is not None
    return np.asarray(facts["unit"] * variance.double().sqrt().cpu().numpy(), dtype=np.float64)


def _value_records(
    p: Prediction, facts: Mapping[str, Any], keys: Sequence[Record], y: FloatArray | None
) -> list[Record]:
    columns = {} if y is None else {"truth": y}
    columns |= {
        "mean": raw(p.mean, facts),
        "sd": _deviation(p.variance, facts),
        "sd_weights": _deviation(p.epistemic_variance, facts),
        **dict(zip(QUANTILES, raw(p.quantiles, facts), strict=True)),
    }
    is_series = "horizon" in facts
    return [
        {
            **key,
            **({"step": h + 1} if is_series else {}),
            **{name: float(column[n, h]) for name, column in columns.items()},
        }
        for n, key in enumerate(keys)
        for h in range(columns["mean"].shape[1])
    ]


def _value_scores(
    p: Prediction, facts: Mapping[str, Any], y: FloatArray, draws: FloatArray
) -> dict[str, FloatArray]:
    """Return scores of each value, ``(N, H)``."""
    noise = _deviation(p.aleatoric_variance, facts)  # that of every draw: it has one precision
    inside = {
        f"coverage_{level:.0%}": coverage(y, *central_interval(draws, level)) for level in LEVELS
    }
    return {
        "nll": gaussian_mixture_nll(y, raw(p.mean_draws, facts), noise[None]),
        "square": (y - raw(p.mean, facts)) ** 2,
        "crps": crps(y, draws),
        **inside,
        "variance": _deviation(p.variance, facts) ** 2,
        "variance_of_weights": _deviation(p.epistemic_variance, facts) ** 2,
    }


def _mean_scores(parts: Sequence[Mapping[str, FloatArray]]) -> dict[str, float]:
    means = {name: float(np.concatenate([p[name] for p in parts]).mean()) for name in parts[0]}
    share = means.pop("variance_of_weights") / means.pop("variance")
    scores = {"nll": means.pop("nll"), "rmse": means.pop("square") ** 0.5}
    return {**scores, **means, "variance_share_of_weights": share}


def _predict_classes(
    posterior: Posterior,
    inputs: Sequence[Tensor],
    classes: Sequence[str],
    keys: Sequence[Record],
    truth: Truth | None,
) -> Predictions:
    p = posterior.predict(inputs)
    assert p.probs is not None
    assert p.entropy is not None
    assert p.mutual_information is not None
    probs = p.probs.double().cpu().numpy()
    entropy, information = p.entropy.tolist(), p.mutual_information.tolist()
    names = [f"p({name})" for name in classes]
    records = [
        {
            **key,
            **({} if truth is None else {"truth": str(truth[n])}),
            "predicted": classes[int(probs[n].argmax())],
            **dict(zip(names, map(float, probs[n]), strict=True)),
            "entropy": entropy[n],
            "mutual_information": information[n],
        }
        for n, key in enumerate(keys)
    ]
    if truth is None:
        return Predictions(records)
    of_truth = np.array([record[f"p({record['truth']})"] for record in records])
    right = [record["truth"] == record["predicted"] for record in records]
    smallest = float(np.finfo(np.float32).tiny)  # a probability of 0 would be an infinite score
    scores = {
        "nll": float(-np.log(np.maximum(of_truth, smallest)).mean()),
        "accuracy": float(np.mean(right)),
        "entropy": float(np.mean([record["entropy"] for record in records])),
        "mutual_information": float(np.mean([r["mutual_information"] for r in records])),
    }
    return Predictions(records, scores)


def write_table(path: Path, records: Sequence[Record]) -> None:
    """Write the lines as CSV, numbers with nine digits."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(records[0])
        writer.writerows([_cell(value, 9) for value in record.values()] for record in records)


def scores_text(scores: Mapping[str, float]) -> str:
    """
    Return scores as one line.

    >>> scores_text({"nll": 1.25, "accuracy": 0.5})
    'nll 1.25, accuracy 0.5'
    """
    return ", ".join(
        f"{name.replace('_', ' ')} {_cell(value, 4)}" for name, value in scores.items()
    )


def text_table(records: Sequence[Record], limit: int = 20) -> str:
    """
    Return the first lines as text, in columns.

    >>> print(text_table([{"step": 1, "mean": 0.25}, {"step": 2, "mean": 1.0}], limit=1))
    step  mean
       1  0.25
    1 more
    """
    shown = records[:limit]
    rows = [list(records[0]), *([_cell(v, 5) for v in record.values()] for record in shown)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    more = len(records) - len(shown)
    return "\n".join([*lines, *([f"{more} more"] if more else [])])


def _cell(value: Any, digits: int) -> str:
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
