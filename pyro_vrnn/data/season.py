"""The length of a season, read off a series' autocorrelation."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEAST_CORRELATION = 0.3


def detect_season(values: ArrayLike, max_season: int) -> int:
    """
    Return the lag, up to ``max_season``, after which a series looks most like itself; 1 if none.

    The line of least squares is taken off first. The lag is the highest peak of the
    autocorrelation after it first was negative, if it is at least 0.3 there, or the shortest of
    which that is a multiple, if it is as high up to noise (2 / sqrt(n)). A heuristic, whose result
    is one candidate among others, to be judged by forecasts.

    Example::

        >>> detect_season(np.sin(np.arange(200) * 2 * np.pi / 12) + np.arange(200), 50)
        12

    :param values: ``(n,)``, in time order, finite.
    :param max_season: longest lag considered; half the length, if that is less.
    """
    series = np.asarray(values, dtype=np.float64)
    max_season = min(max_season, len(series) // 2)
    if max_season < 3:
        return 1
    time = np.arange(len(series))
    rest = series - np.polyval(np.polyfit(time, series, 1), time)
    if np.square(rest).sum() <= 1e-18 * np.square(series).sum():
        return 1
    spectrum = np.fft.rfft(rest, 2 * len(rest))
    products = np.fft.irfft(np.abs(spectrum) ** 2)[: max_season + 2]
    counts = len(rest) - np.arange(len(products))
    correlation = products / counts * len(rest) / products[0]
    # Not the first minimum: noise makes one at the foot of a long, smooth season.
    negative = np.flatnonzero(correlation[: max_season + 1] <= 0)
    if not len(negative):
        return 1
    first = int(negative[0])
    peak = first + int(np.argmax(correlation[first : max_season + 1]))
    # A maximum at the very end is a slope, not a peak.
    is_peak = peak < max_season and correlation[peak] >= LEAST_CORRELATION
    return _shortest(correlation, peak, first, len(rest)) if is_peak else 1


def _shortest(correlation: NDArray[np.float64], peak: int, first: int, count: int) -> int:
    """Return the shortest lag of which ``peak`` is a multiple and that is as high, up to noise."""
    enough = correlation[peak] - 2 / math.sqrt(count)
    for divisor in range(peak // first, 1, -1):
        middle = round(peak / divisor)
        lag = middle - 1 + int(np.argmax(correlation[middle - 1 : middle + 2]))
        is_peak = correlation[lag] >= max(correlation[lag - 1], correlation[lag + 1])
        if lag >= first and is_peak and correlation[lag] >= enough:
            return lag
    return peak
