"""Central prediction intervals: their ends, how often they hold, how wide they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pyro_vrnn.scores._checks import check_level, check_num_draws, check_same_shape
from pyro_vrnn.shapes import FloatArray, finite_array


def central_interval(
    draws: ArrayLike,  # (S, *)
    level: float,
) -> tuple[FloatArray, FloatArray]:
    """
    Quantiles (1 - level) / 2 and (1 + level) / 2 of the draws, over their first axis.

    Few draws make it too narrow: in the mean it holds level * (S - 1) / (S + 1) of the values that
    come from the draws' own distribution. :func:`~pyro_vrnn.scores.pit_coverage` is the coverage
    without this bias.

    Example::

        >>> lower, upper = central_interval(np.arange(101.0), 0.5)
        >>> float(lower), float(upper)
        (25.0, 75.0)

    :param draws: at least 2 draws on the first axis.
    :param level: probability inside, in (0, 1).
    :returns: lower and upper ends, each of shape ``draws.shape[1:]``.
    :raises ValueError: for NaN, fewer than 2 draws, or a level outside (0, 1).
    """
    draws = check_num_draws(finite_array("draws", draws))
    tail = (1.0 - check_level(level)) / 2.0
    lower, upper = np.quantile(draws, [tail, 1.0 - tail], axis=0)
    return np.asarray(lower), np.asarray(upper)


def coverage(y: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> FloatArray:
    """
    1 where ``lower <= y <= upper``, else 0; the mean is the coverage.

    >>> coverage([0.0, 1.0, 2.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    array([1., 1., 0.])

    :raises ValueError: for shapes that differ, NaN, or a lower end above the upper.
    """
    y = finite_array("y", y)
    lower, upper = _ends(lower, upper)
    check_same_shape("y", y, lower)
    return ((lower <= y) & (y <= upper)).astype(np.float64)


def width(lower: ArrayLike, upper: ArrayLike) -> FloatArray:
    """
    ``upper - lower``.

    :raises ValueError: for shapes that differ, NaN, or a lower end above the upper.
    """
    lower, upper = _ends(lower, upper)
    return upper - lower


def interval_score(y: ArrayLike, lower: ArrayLike, upper: ArrayLike, level: float) -> FloatArray:
    r"""
    Width plus a penalty for the distance by which ``y`` lies outside; lower is better.

    .. math::
        (u - l) + \frac2\alpha (l - y)_+ + \frac2\alpha (y - u)_+, \qquad \alpha = 1 - \text{level}.

    Example::

        >>> interval_score([0.5, 2.0], [0.0, 0.0], [1.0, 1.0], 0.5)
        array([1., 5.])

    :raises ValueError: for shapes that differ, NaN, a lower end above the upper, or a level
        outside (0, 1).

    **References**

    [1] Gneiting, Raftery (2007), https://doi.org/10.1198/016214506000001437, eq. 43
    """
    y = finite_array("y", y)
    lower, upper = _ends(lower, upper)
    check_same_shape("y", y, lower)
    penalty = 2.0 / (1.0 - check_level(level))
    outside = np.maximum(lower - y, 0.0) + np.maximum(y - upper, 0.0)
    return (upper - lower) + penalty * outside


def _ends(lower: ArrayLike, upper: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return both ends as checked arrays of one shape."""
    lower, upper = finite_array("lower", lower), finite_array("upper", upper)
    check_same_shape("upper", upper, lower)
    if (lower > upper).any():
        first = np.argwhere(lower > upper)[0]
        at = tuple(first)
        raise ValueError(f"Expected lower <= upper, got {lower[at]} > {upper[at]}.")
    return lower, upper
