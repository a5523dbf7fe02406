"""Whether probabilities are what they say: reliability by bins, and the calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

from pyro_vrnn.reprs import short_repr
from pyro_vrnn.scores._checks import check_level, check_same_shape
from pyro_vrnn.scores.uniform_band import unit_values
from pyro_vrnn.shapes import FloatArray, check_choice, check_positive_int, finite_array

BINNINGS = ("mass", "width")
MAX_DRAWN = 2**22  # random numbers at a time: 32 MiB


@dataclass(frozen=True, eq=False)
class Reliability:
    """
    Bins of probabilities and how often the events in them happened. Empty bins are left out.

    :ivar lower_edge: lower ends of the bins, ``(B,)``.
    :ivar upper_edge: upper ends, which belong to the bins.
    :ivar count: events in each bin, ``(B,)``.
    :ivar confidence: mean probability in each bin.
    :ivar frequency: share of the events that happened.
    :ivar lower: lower ends of the exact (Clopper-Pearson) intervals of the frequencies.
    :ivar upper: upper ends.
    """

    lower_edge: FloatArray
    upper_edge: FloatArray
    count: NDArray[np.int64]
    confidence: FloatArray
    frequency: FloatArray
    lower: FloatArray
    upper: FloatArray

    __repr__ = short_repr


@dataclass(frozen=True)
class CalibrationError:
    r"""
    Calibration errors, and what a calibrated forecaster would show.

    :ivar float ece: expected calibration error, :math:`\sum_b \frac{n_b}{n} |f_b - c_b|` with the
        frequency :math:`f_b` and the mean confidence :math:`c_b` of each bin.
    :ivar float ece_if_calibrated: its mean if every event happened with its own probability: what
        is bias and not miscalibration.
    :ivar float ece_upper_if_calibrated: the quantile at ``level`` of that distribution; an ``ece``
        above it is more than chance.
    :ivar float rms: root of the mean squared calibration error without its bias,
        :math:`\sum_b \frac{n_b}{n} [(f_b - c_b)^2 - f_b (1 - f_b) / (n_b - 1)]` over bins of two
        events or more, and 0 where that is below 0.
    """

    ece: float
    ece_if_calibrated: float
    ece_upper_if_calibrated: float
    rms: float


def reliability(
    confidence: ArrayLike,  # (*)
    outcome: ArrayLike,  # (*)
    *,
    num_bins: int = 15,
    binning: str = "mass",
    level: float = 0.95,
) -> Reliability:
    """
    Sort events into bins by their probability, and compare it with how often they happened.

    For the likeliest class, ``reliability(*top_class(y, probs))``; for class v,
    ``reliability(probs[..., v], y == v)``. The intervals take events as independent: those of one
    sequence are not quite, and the intervals are then too narrow.

    Example::

        >>> r = reliability([0.1, 0.1, 0.8, 0.8], [0, 0, 1, 0], num_bins=2, binning="width")
        >>> r.count, r.confidence, r.frequency
        (array([2, 2]), array([0.1, 0.8]), array([0. , 0.5]))

    :param confidence: probabilities of the events.
    :param outcome: 1 or True where the event happened, else 0.
    :param int num_bins: at most this many bins.
    :param str binning: ``"mass"``: about equally many events in each (equal probabilities are never
        parted, which can make fewer bins); ``"width"``: equal parts of [0, 1].
    :param float level: probability of the intervals.
    :raises TypeError: if an argument is of the wrong type.
    :raises ValueError: for shapes that differ, numbers that are no probabilities or outcomes, or an
        unknown binning.
    """
    tail = (1.0 - check_level(level)) / 2.0
    p, happened = _check_events(confidence, outcome)
    edges = _edges(p, num_bins, binning)
    index = _bin_of(p, edges)
    every = np.bincount(index, minlength=len(edges) - 1)
    kept = every > 0
    count = every[kept]
    hits, total = (
        np.bincount(index, weights=v, minlength=len(edges) - 1)[kept] for v in (happened, p)
    )
    # Quantiles of Beta(hits, misses + 1) and Beta(hits + 1, misses); 0 and 1 at the ends.
    misses = count - hits
    lower = np.where(hits > 0, betaincinv(np.maximum(hits, 1), misses + 1, tail), 0.0)
    upper = np.where(misses > 0, betaincinv(hits + 1, np.maximum(misses, 1), 1.0 - tail), 1.0)
    return Reliability(
        edges[:-1][kept], edges[1:][kept], count, total / count, hits / count, lower, upper
    )


def calibration_error(
    confidence: ArrayLike,  # (*)
    outcome: ArrayLike,  # (*)
    *,
    num_bins: int = 15,
    binning: str = "mass",
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> CalibrationError:
    r"""
    Expected calibration error beside what chance alone would give.

    The error is biased up: of n_b events of probability c a calibrated forecaster shows
    :math:`|f_b - c| \approx \sqrt{2 c (1 - c) / (\pi n_b)}`. It grows with the number of bins, so
    it says nothing without the two numbers beside it, which come from outcomes drawn anew with the
    probabilities as given [1]. A range by resampling the events would carry the bias twice.

    torchmetrics has the same ``ece`` for bins of equal width, without counts, intervals or the
    bias, and on torch tensors: these few lines do not need it.

    Example::

        >>> p = np.full(400, 0.5)
        >>> calibration_error(p, np.arange(400) % 2).ece
        0.0

    Arguments and errors as in :func:`reliability`, and

    :param int num_resamples: how often outcomes are drawn anew.
    :param int seed: of these.

    **References**

    [1] Bröcker, Smith (2007), consistency resampling, https://doi.org/10.1175/WAF993.1

    [2] Kumar, Liang, Ma (2019), the debiased error, https://arxiv.org/abs/1909.10155
    """
    check_positive_int("num_resamples", num_resamples)
    bins = reliability(confidence, outcome, num_bins=num_bins, binning=binning, level=level)
    p = np.sort(unit_values("confidence", confidence), axis=None)
    starts = np.concatenate([[0], np.cumsum(bins.count)[:-1]])
    total = np.add.reduceat(p, starts)

    generator = np.random.default_rng(seed)
    chunk = max(1, MAX_DRAWN // p.size)
    errors = []
    for start in range(0, num_resamples, chunk):
        drawn = generator.random((min(chunk, num_resamples - start), p.size)) < p
        hits = np.add.reduceat(drawn.astype(np.float64), starts, axis=1)
        errors.append(np.abs(hits - total).sum(axis=1) / p.size)
    null = np.concatenate(errors)

    gap, share = bins.frequency - bins.confidence, bins.count / p.size
    several = bins.count > 1
    variance = bins.frequency * (1.0 - bins.frequency) / np.maximum(bins.count - 1, 1)
    squared = float((share * (gap**2 - variance))[several].sum())
    return CalibrationError(
        ece=float((share * np.abs(gap)).sum()),
        ece_if_calibrated=float(null.mean()),
        ece_upper_if_calibrated=float(np.quantile(null, level)),
        rms=max(squared, 0.0) ** 0.5,
    )


def _check_events(confidence: ArrayLike, outcome: ArrayLike) -> tuple[FloatArray, FloatArray]:
    p = unit_values("confidence", confidence)
    happened = check_same_shape("outcome", finite_array("outcome", outcome), p)
    bad = (happened != 0.0) & (happened != 1.0)
    if bad.any():
        raise ValueError(f"Expected outcome to be 0 or 1, got {happened[bad][0]}.")
    return p.ravel(), happened.ravel()


def _edges(p: FloatArray, num_bins: int, binning: str) -> FloatArray:
    check_positive_int("num_bins", num_bins)
    if check_choice("binning", binning, BINNINGS) == "width":
        return np.linspace(0.0, 1.0, num_bins + 1)
    # Edges that are values themselves: equal ones share a bin.
    last = p.size * np.arange(1, num_bins) // num_bins - 1  # the last rank of each bin but one
    inner = np.sort(p)[last[last >= 0]]
    return np.unique(np.concatenate([[0.0], inner, [1.0]]))


def _bin_of(p: FloatArray, edges: FloatArray) -> NDArray[np.int64]:
    """Return the bin of each probability; bins hold their upper end, the first also 0."""
    return np.maximum(np.searchsorted(edges, p, side="left") - 1, 0)
