"""Scores of a predictive density and of a predictive mean."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from pyro_vrnn.scores._checks import (
    check_draws,
    check_same_shape,
    missing_scoringrules,
    positive_scale,
)
from pyro_vrnn.shapes import FloatArray, finite_array


def gaussian_mixture_nll(
    y: ArrayLike,  # (*)
    loc: ArrayLike,  # (S, *)
    scale: ArrayLike,  # () or (S, *), sizes of 1 broadcast
) -> FloatArray:  # (*)
    r"""
    Negative log predictive density of each value under S equally likely Gaussians.

    .. math::
        -\log \frac1S \sum_s \mathcal{N}(y; \mu_s, \sigma_s^2)

    Probabilities are averaged over draws, never log probabilities (those give a bound that is too
    pessimistic by Jensen's inequality). It is biased up by about Var / (2 S mean^2) of the
    densities, so S belongs beside the number. One scale for each draw is ``(S, 1, ...)``, never
    ``(S,)``: an array of fewer axes than ``loc`` is refused.

    Example::

        >>> gaussian_mixture_nll([0.0], [[0.0], [0.0]], 1.0).round(4)
        array([0.9189])

    :param y: observed values.
    :param loc: means, draws on the first axis.
    :param scale: standard deviations above 0.
    :raises ValueError: for shapes that do not match, NaN, or a scale that is not positive.
    """
    y, loc = finite_array("y", y), finite_array("loc", loc)
    scale = positive_scale(scale, check_draws("loc", loc, y))
    log_p = -0.5 * ((y - loc) / scale) ** 2 - np.log(scale) - 0.5 * math.log(2.0 * math.pi)
    top = log_p.max(axis=0)
    return -(top + np.log(np.exp(log_p - top).mean(axis=0)))


def gaussian_crps(
    y: ArrayLike,  # (*)
    loc: ArrayLike,  # (*)
    scale: ArrayLike,  # () or (*), sizes of 1 broadcast
) -> FloatArray:  # (*)
    """
    CRPS of one Gaussian forecast for each value, in closed form.

    Comparable with :func:`~pyro_vrnn.scores.crps`, whose mean over draws is this number when the
    draws come from that Gaussian.

    Example::

        >>> gaussian_crps([0.0], [0.0], 1.0).round(4)
        array([0.2337])

    :param y: observed values.
    :param loc: means, in the shape of ``y``.
    :param scale: standard deviations above 0.
    :raises ImportError: if the package scoringrules is missing.
    :raises ValueError: for shapes that do not match, NaN, or a scale that is not positive.
    """
    y = finite_array("y", y)
    loc = check_same_shape("loc", finite_array("loc", loc), y)
    scale = positive_scale(scale, y)
    try:
        import scoringrules
    except ImportError as error:
        raise missing_scoringrules() from error
    return np.asarray(scoringrules.crps_normal(y, loc, scale, backend="numpy"), dtype=np.float64)


def rmse(y: ArrayLike, mean: ArrayLike) -> float:
    """
    Root of the mean squared error, over all values.

    >>> rmse([0.0, 0.0], [3.0, 4.0]) == 12.5**0.5
    True

    :raises ValueError: for shapes that differ, or NaN.
    """
    y = finite_array("y", y)
    mean = check_same_shape("mean", finite_array("mean", mean), y)
    return float(np.sqrt(np.mean((y - mean) ** 2)))
