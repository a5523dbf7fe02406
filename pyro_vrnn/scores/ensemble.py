"""Scores of an ensemble: of draws, without a density."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pyro_vrnn.scores._checks import check_draws, check_num_draws, missing_scoringrules
from pyro_vrnn.shapes import FloatArray, finite_array


def crps(
    y: ArrayLike,  # (*)
    draws: ArrayLike,  # (S, *)
) -> FloatArray:  # (*)
    r"""
    Fair continuous ranked probability score of S draws, one score for each value of ``y``.

    .. math::
        \frac1S \sum_s |x_s - y| - \frac{1}{2 S (S - 1)} \sum_{s, r} |x_s - x_r|.

    Its mean over draws is the CRPS of the distribution they come from, for every S >= 2 (the
    divisor S^2 is 9.5 % too high at S = 10), so a single score can be negative.

    The library's estimator ``"pwm"`` is the same number as its ``"fair"``, by sorting: its memory
    grows as S, not S^2.

    Example::

        >>> crps([0.0, 1.0], [[1.0, 1.0], [-1.0, 1.0]])
        array([0., 0.])

    :param y: observed values.
    :param draws: draws on the first axis.
    :raises ImportError: if the package scoringrules is missing.
    :raises ValueError: for shapes that do not match, NaN, or fewer than 2 draws.

    **References**

    [1] Ferro (2014), Fair scores for ensemble forecasts, https://doi.org/10.1002/qj.2270

    [2] Zamo, Naveau (2018), https://doi.org/10.1007/s11004-017-9709-7
    """
    y, draws = finite_array("y", y), finite_array("draws", draws)
    check_num_draws(check_draws("draws", draws, y))
    try:
        import scoringrules
    except ImportError as error:
        raise missing_scoringrules() from error
    # Measured from y, so that a large common level does not cancel in the sums of sorted draws.
    errors = np.sort((draws - y).reshape(draws.shape[0], -1).T, axis=-1)
    scores = scoringrules.crps_ensemble(
        np.zeros(y.size), errors, estimator="pwm", sorted_ensemble=True, backend="numpy"
    )
    return np.asarray(scores, dtype=np.float64).reshape(y.shape)
