"""Probability integral transform: where in its forecast each value fell."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from pyro_vrnn.scores._checks import check_draws, check_num_draws, positive_scale
from pyro_vrnn.shapes import FloatArray, finite_array


def pit(
    y: ArrayLike,  # (*)
    draws: ArrayLike,  # (S, *)
    *,
    seed: int | None = 0,
) -> FloatArray:  # (*)
    r"""
    Randomised PIT of each value among S draws.

    .. math::
        u = \frac{\#\{s : x_s < y\} + V\,(1 + \#\{s : x_s = y\})}{S + 1},
        \qquad V \sim \mathrm{Uniform}(0, 1).

    If the value and its draws come from one distribution, their S + 1 ranks are equally likely with
    ties broken at random, so u is uniform on (0, 1): for every S, and for counts as well as for
    continuous values. u = 0.9 says that the value was at the forecast's 90 % point.

    Example::

        >>> pit([0.5, 9.0], [[0.0, 0.0], [1.0, 1.0]], seed=None)
        array([0.5       , 0.83333333])

    :param y: observed values.
    :param draws: at least 2 draws on the first axis.
    :param seed: of V; None takes V = 1/2, the middle, which is not uniform but needs no chance.
    :raises ValueError: for shapes that do not match, NaN, or fewer than 2 draws.

    **References**

    [1] Czado, Gneiting, Held (2009), https://doi.org/10.1111/j.1541-0420.2009.01191.x
    """
    y, draws = finite_array("y", y), finite_array("draws", draws)
    check_num_draws(check_draws("draws", draws, y))
    below, equal = (draws < y).sum(axis=0), (draws == y).sum(axis=0)
    share = 0.5 if seed is None else np.random.default_rng(seed).random(y.shape)
    return np.asarray((below + share * (1 + equal)) / (draws.shape[0] + 1))


def mixture_pit(
    y: ArrayLike,  # (*)
    loc: ArrayLike,  # (S, *)
    scale: ArrayLike,  # () or (S, *), sizes of 1 broadcast
) -> FloatArray:  # (*)
    r"""
    PIT of each value under S equally likely Gaussians: the average of their CDFs.

    .. math::
        u = \frac1S \sum_s \Phi\!\left(\frac{y - \mu_s}{\sigma_s}\right).

    Without the chance of draws of y; what is left is that of the S draws of the weights. For the
    shapes of ``scale`` see :func:`~pyro_vrnn.scores.gaussian_mixture_nll`.

    Example::

        >>> mixture_pit([0.0], [[0.0], [0.0]], 1.0)
        array([0.5])

    :param y: observed values.
    :param loc: means, draws on the first axis.
    :param scale: standard deviations above 0.
    :raises ValueError: for shapes that do not match, NaN, or a scale that is not positive.
    """
    y, loc = finite_array("y", y), finite_array("loc", loc)
    scale = positive_scale(scale, check_draws("loc", loc, y))
    return np.asarray(ndtr((y - loc) / scale).mean(axis=0))
