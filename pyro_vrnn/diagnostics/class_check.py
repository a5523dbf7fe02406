"""Whether class probabilities are what they say: classification and next-word prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_vrnn.diagnostics._predicted import read_probs
from pyro_vrnn.reprs import short_repr
from pyro_vrnn.scores import (
    BootstrapRange,
    CalibrationError,
    Reliability,
    block_bootstrap,
    brier_score,
    calibration_error,
    class_nll,
    reliability,
    top_class,
)
from pyro_vrnn.shapes import FloatArray, number_array, shape_text


@dataclass(frozen=True, eq=False)
class ClassCheck:
    """
    What class probabilities and the observed classes say of a model; ``str`` gives a table.

    Ranges are over sequences, all of whose steps are drawn together.

    :ivar accuracy: share of events whose likeliest class was observed.
    :ivar nll: mean negative log probability of the observed class, nats; its ``exp`` is the
        perplexity. Infinite, with its range, if an observed class had probability 0.
    :ivar brier: mean Brier score, summed over classes.
    :ivar reliability: of the likeliest class, by bins of its probability.
    :ivar error: calibration error of the likeliest class beside that of chance.
    :ivar int num_events: events that count: sequences, or words.
    :ivar num_samples: draws that the probabilities are averaged over; None where nobody said.
    :ivar float probability: of ranges and intervals.
    """

    accuracy: BootstrapRange
    nll: BootstrapRange
    brier: BootstrapRange
    reliability: Reliability
    error: CalibrationError
    num_events: int
    num_samples: int | None
    probability: float

    __repr__ = short_repr

    def __str__(self) -> str:
        draws = "" if self.num_samples is None else f", {self.num_samples} draws"
        error, bins = self.error, self.reliability
        lines = [f"{self.num_events} events{draws}; ranges of {self.probability:.0%}"]
        for name, part in (("accuracy", self.accuracy), ("NLL", self.nll), ("Brier", self.brier)):
            lines.append(f"{name:>9}  {part.mean:.4g} [{part.lower:.4g}, {part.upper:.4g}]")
        lines += [
            f"{'ECE':>9}  {error.ece:.4g}; of a calibrated model {error.ece_if_calibrated:.4g}, "
            f"at most {error.ece_upper_if_calibrated:.4g}",
            f"{'':>9}  root of the squared error without its bias: {error.rms:.4g}",
            "",
            "confidence  frequency           events",
        ]
        for c, f, low, high, n in zip(
            bins.confidence, bins.frequency, bins.lower, bins.upper, bins.count, strict=True
        ):
            lines.append(f"{c:10.3f}  {f:.3f} [{low:.3f}, {high:.3f}]  {n:6d}")
        return "\n".join(lines)


def check_classes(
    predicted: Any,
    y: Tensor | ArrayLike | None = None,
    *,
    mask: Tensor | ArrayLike | None = None,
    num_bins: int = 15,
    binning: str = "mass",
    probability: float = 0.95,
    group: str = "posterior_predictive",
    var_name: str = "obs",
    logits: str = "logits",
    seed: int = 0,
) -> ClassCheck:
    r"""
    Check class probabilities against the classes that were observed.

    Probabilities are averaged over draws, never log probabilities or logits. The reliability is
    that of the likeliest class; for another class, or for an event such as "in the first three",
    see :func:`~pyro_vrnn.scores.reliability`.

    For next-word prediction the probabilities are ``(N, T, V)`` and ``y`` is ``(N, T)``; ``mask``
    leaves out padding. As for forecasts, look at data that the model has not seen.

    Example::

        >>> rng = np.random.default_rng(0)
        >>> probs = rng.dirichlet([1.0, 1.0, 1.0], size=500)
        >>> y = (rng.random((500, 1)) > probs.cumsum(axis=1)).sum(axis=1)
        >>> check = check_classes(probs, y)
        >>> check.error.ece < check.error.ece_upper_if_calibrated
        True

    :param predicted: probabilities ``(N, V)`` or ``(N, T, V)``, with draws in front or not; a
        :class:`~pyro_vrnn.infer.Prediction` of classes; or an ArviZ object with the logits of each
        draw, as :func:`~pyro_vrnn.from_pyro_svi` gives for
        :class:`~pyro_vrnn.models.SequenceClassification`.
    :param y: observed class ids ``(N,)`` or ``(N, T)``; an ArviZ object has its own.
    :param mask: True where an event counts, in the shape of ``y``; each sequence needs one.
    :param int num_bins: at most this many bins.
    :param str binning: ``"mass"`` or ``"width"``, see :func:`~pyro_vrnn.scores.reliability`.
    :param float probability: of ranges and intervals.
    :param str group: of an ArviZ object, where the logits are.
    :param str var_name: of an ArviZ object, the observed site.
    :param str logits: of an ArviZ object, the site of the logits, classes last.
    :param int seed: of bootstrap and resampling.
    :raises TypeError: if an argument is of the wrong type, or ``y`` is missing.
    :raises ValueError: if shapes do not fit, an id is no class, numbers are no probabilities, or
        there are fewer than 2 sequences.
    """
    ids, probs, num_samples = read_probs(predicted, y, group, var_name, logits)
    kept = np.ones(ids.shape, bool) if mask is None else number_array("mask", mask)
    if kept.dtype != np.bool_:
        raise TypeError(f"Expected mask of dtype bool, got {kept.dtype}.")
    if kept.shape != ids.shape:
        raise ValueError(
            f"Expected mask of shape {shape_text(ids.shape)}, got {shape_text(kept.shape)}."
        )
    if ids.dtype == np.bool_:
        raise TypeError("Expected y of an integer dtype (class ids), got bool.")
    ids = np.where(kept, ids, 0)  # padding may be no class
    confidence, correct = top_class(ids, probs)
    rows = kept.reshape(len(ids), -1)

    def mean(scores: FloatArray) -> BootstrapRange:
        return block_bootstrap(scores.reshape(rows.shape), mask=rows, level=probability, seed=seed)

    nll = np.where(kept, class_nll(ids, probs), 0.0)
    endless = BootstrapRange(math.inf, math.inf, math.inf)
    p, happened = confidence[kept], correct[kept]
    return ClassCheck(
        accuracy=mean(correct),
        nll=mean(nll) if np.isfinite(nll).all() else endless,
        brier=mean(brier_score(ids, probs)),
        reliability=reliability(p, happened, num_bins=num_bins, binning=binning, level=probability),
        error=calibration_error(
            p, happened, num_bins=num_bins, binning=binning, level=probability, seed=seed
        ),
        num_events=int(kept.sum()),
        num_samples=num_samples,
        probability=probability,
    )
