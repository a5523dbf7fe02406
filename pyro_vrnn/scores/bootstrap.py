"""How far the mean of a score could move: resampling of whole blocks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pyro_vrnn.scores._checks import check_level, check_same_shape
from pyro_vrnn.shapes import FloatArray, check_positive_int, finite_array, shape_text

MAX_PICKED = 2**22  # blocks drawn at a time: 32 MiB of indices


class BootstrapRange(NamedTuple):
    """
    A mean and the percentile range of its bootstrap distribution.

    - ``mean``: of all values, not of the resamples.
    - ``lower``, ``upper``: ends of the central range at the level asked for.
    """

    mean: float
    lower: float
    upper: float


def block_bootstrap(
    values: ArrayLike,  # (blocks, values in a block)
    *,
    level: float = 0.95,
    num_resamples: int = 4000,
    seed: int = 0,
    mask: ArrayLike | None = None,  # (blocks, values in a block)
) -> BootstrapRange:
    """
    Percentile range of the mean when whole blocks (rows) are drawn again with replacement.

    Values of one block, such as the steps of one forecast origin, depend on each other; drawn
    singly they would make the range too narrow. For two methods on the same blocks, pass the
    difference of their scores: the range is then paired. Blocks must be about independent, and
    with few of them (below 20, say) the range is itself too narrow.

    Example::

        >>> block_bootstrap([[1.0, 1.0], [1.0, 1.0]])
        BootstrapRange(mean=1.0, lower=1.0, upper=1.0)

    :param values: one row for each block, all of one length.
    :param level: probability of the range, in (0, 1).
    :param num_resamples: number of resamples.
    :param seed: of the resampling; the same seed gives the same range.
    :param mask: True where a value counts; a resample's mean is then the ratio of its sums. Each
        block needs a value that counts.
    :raises TypeError: for a level that is no number, or a mask that is not of booleans.
    :raises ValueError: for NaN, an array that is not 2-D, fewer than 2 blocks, a level outside
        (0, 1), or a mask of another shape or without a value of some block.
    """
    values = finite_array("values", values)
    if values.ndim != 2:
        raise ValueError(
            f"Expected values of shape (blocks, per block), got {shape_text(values.shape)}."
        )
    num_blocks = values.shape[0]
    if num_blocks < 2:
        raise ValueError(f"Expected at least 2 blocks, got {num_blocks}.")
    tail = (1.0 - check_level(level)) / 2.0
    check_positive_int("num_resamples", num_resamples)
    weights = _block_mask(mask, values)
    sums, counts = (weights * values).sum(axis=1), weights.sum(axis=1)
    means = np.empty(num_resamples)
    generator = np.random.default_rng(seed)
    rows = max(1, MAX_PICKED // num_blocks)
    for start in range(0, num_resamples, rows):
        size = (min(rows, num_resamples - start), num_blocks)
        picked = generator.integers(num_blocks, size=size)
        means[start : start + rows] = sums[picked].sum(axis=1) / counts[picked].sum(axis=1)
    lower, upper = np.quantile(means, [tail, 1.0 - tail])
    return BootstrapRange(float(sums.sum() / counts.sum()), float(lower), float(upper))


def _block_mask(mask: ArrayLike | None, values: FloatArray) -> FloatArray:
    """Return 1 where a value counts, else 0."""
    if mask is None:
        return np.ones_like(values)
    weights = np.asarray(mask)
    if weights.dtype != np.bool_:
        raise TypeError(f"Expected mask of dtype bool, got {weights.dtype}.")
    counted = check_same_shape("mask", weights.astype(np.float64), values)
    if not counted.any(axis=1).all():
        empty = int(np.argmin(counted.any(axis=1)))
        raise ValueError(f"Expected mask to keep a value of each block, got none of block {empty}.")
    return counted
