"""Scores of class probabilities: classification and next-word prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyro_vrnn.shapes import FloatArray, number_array, shape_text

SUM_TOLERANCE = 1e-3  # of float32 probabilities over a large vocabulary


def class_nll(
    y: ArrayLike,  # (*)
    probs: ArrayLike,  # (*, V) or (S, *, V)
) -> FloatArray:  # (*)
    r"""
    Negative log probability of each observed class, in nats.

    .. math::
        -\log \frac1S \sum_s p_s(y)

    With a dim of draws in front, probabilities are averaged over it, never log probabilities. Its
    bias is up by about Var / (2 S mean^2) of the probabilities. Infinite where y was given
    probability 0.

    Example::

        >>> class_nll([1], [[[0.5, 0.5]], [[0.0, 1.0]]]).round(4)  # -log 0.75
        array([0.2877])

    :param y: class ids, 0..V-1.
    :param probs: probabilities, classes last; draws on the first of one more axis.
    :raises TypeError: if ``y`` is not of integers.
    :raises ValueError: for shapes that do not match, ids that are no class, or numbers that are no
        probabilities or do not sum to 1.
    """
    ids, mean = check_probs(y, probs)
    with np.errstate(divide="ignore"):
        return -np.log(_at(mean, ids))


def brier_score(
    y: ArrayLike,  # (*)
    probs: ArrayLike,  # (*, V) or (S, *, V)
) -> FloatArray:  # (*)
    r"""
    Brier score of each observed class, summed over classes: 0 is best, 2 worst.

    .. math::
        \sum_v (p_v - 1[v = y])^2

    For two classes it is twice the squared error of one probability.

    Example::

        >>> brier_score([0, 1], [[0.75, 0.25], [0.75, 0.25]])
        array([0.125, 1.125])

    Arguments and errors as in :func:`class_nll`.

    **References**

    [1] Brier (1950), https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2
    """
    ids, mean = check_probs(y, probs)
    # Without a one-hot array: sum of p^2 - 2 p_y + 1.
    return np.square(mean).sum(axis=-1) - 2.0 * _at(mean, ids) + 1.0


def top_class(
    y: ArrayLike,  # (*)
    probs: ArrayLike,  # (*, V) or (S, *, V)
) -> tuple[FloatArray, FloatArray]:
    """
    Probability of the likeliest class, and 1 where that class was observed, else 0.

    The mean of the second is the accuracy. Ties go to the lower id.

    Example::

        >>> top_class([0, 1], [[0.75, 0.25], [0.75, 0.25]])
        (array([0.75, 0.75]), array([1., 0.]))

    Arguments and errors as in :func:`class_nll`.
    """
    ids, mean = check_probs(y, probs)
    best = mean.argmax(axis=-1)
    return _at(mean, best), (best == ids).astype(np.float64)


def check_probs(y: ArrayLike, probs: ArrayLike) -> tuple[NDArray[np.int64], FloatArray]:
    """Return class ids and their probabilities ``(*, V)``, averaged over draws if there are any."""
    ids = number_array("y", y)
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"Expected y of an integer dtype (class ids), got {ids.dtype}.")
    array = number_array("probs", probs)
    if array.ndim == ids.ndim + 2 and len(array):
        _check_simplex(array)
        array = array.mean(axis=0, dtype=np.float64)
    else:
        _check_simplex(array)
    if array.ndim != ids.ndim + 1 or array.shape[:-1] != ids.shape or array.size == 0:
        expected, got = shape_text((*ids.shape, "V")), shape_text(np.shape(probs))
        raise ValueError(
            f"Expected probs of shape {expected}, or with draws in front of it, got {got}."
        )
    num_classes = array.shape[-1]
    if ids.min() < 0 or ids.max() >= num_classes:
        bad = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(f"Expected y in 0..{num_classes - 1}, got {bad}.")
    return ids.astype(np.int64), array.astype(np.float64)


def _check_simplex(probs: NDArray[Any]) -> None:
    if probs.ndim == 0 or probs.size == 0:
        return  # told by its shape
    low, high = probs.min(), probs.max()
    if not (low >= 0.0 and high <= 1.0 + SUM_TOLERANCE):
        raise ValueError(f"Expected probs in [0, 1], got {low if not low >= 0.0 else high}.")
    sums = probs.sum(axis=-1, dtype=np.float64)
    worst = sums.ravel()[np.abs(sums - 1.0).argmax()]
    if abs(worst - 1.0) > SUM_TOLERANCE:
        raise ValueError(f"Expected probs to sum to 1 over the last axis, got {worst:.6g}.")


def _at(probs: FloatArray, ids: NDArray[np.integer]) -> FloatArray:
    return np.take_along_axis(probs, ids[..., None], axis=-1)[..., 0]
