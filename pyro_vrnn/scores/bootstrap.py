"""How far the mean of a score could move: resampling of whole blocks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pyro_vrnn.scores._checks import check_level
from pyro_vrnn.shapes import check_positive_int, finite_array, shape_text


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
    :raises ValueError: for NaN, an array that is not 2-D, fewer than 2 blocks, or a level outside
        (0, 1).
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
    # Blocks of one length: the mean of a resample is the mean of its blocks' means.
    picked = np.random.default_rng(seed).integers(num_blocks, size=(num_resamples, num_blocks))
    means = values.mean(axis=1)[picked].mean(axis=1)
    lower, upper = np.quantile(means, [tail, 1.0 - tail])
    return BootstrapRange(float(values.mean()), float(lower), float(upper))
