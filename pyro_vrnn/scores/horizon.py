"""Scores by forecast horizon, with ranges over forecast origins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from pyro_vrnn.reprs import short_repr
from pyro_vrnn.scores.bootstrap import BootstrapRange, block_bootstrap
from pyro_vrnn.shapes import FloatArray, check_positive_int, finite_array, shape_text


@dataclass(frozen=True, eq=False)
class HorizonScores:
    """
    Means of a score with their bootstrap ranges.

    :ivar mean: by horizon, ``(H,)``.
    :ivar lower: lower ends of the ranges, ``(H,)``.
    :ivar upper: upper ends, ``(H,)``.
    :ivar BootstrapRange overall: of all horizons together.
    """

    mean: FloatArray
    lower: FloatArray
    upper: FloatArray
    overall: BootstrapRange

    __repr__ = short_repr


def by_horizon(
    scores: ArrayLike,  # (R, H)
    *,
    origins_per_block: int = 1,
    level: float = 0.95,
    num_resamples: int = 4000,
    seed: int = 0,
) -> HorizonScores:
    """
    Mean score of each horizon, with percentile ranges from resampling whole blocks of origins.

    Every horizon sees the same resamples. Forecasts whose targets overlap those of the next origin
    share errors: put so many successive origins in a block that blocks hardly do, at least the
    horizon over the distance of the origins. For two methods pass the difference of their scores.

    Example::

        >>> by_horizon([[1.0, 2.0], [1.0, 4.0]]).mean
        array([1., 3.])

    :param scores: of R origins in time order and H horizons.
    :param int origins_per_block: successive origins in a block; R must be a multiple of it.
    :param float level: probability of the ranges.
    :param int num_resamples: number of resamples.
    :param int seed: of the resampling.
    :raises TypeError: if an argument is of the wrong type.
    :raises ValueError: for NaN, an array that is not 2-D, blocks that do not divide the origins, or
        fewer than 2 blocks.
    """
    array = finite_array("scores", scores)
    if array.ndim != 2:
        raise ValueError(
            f"Expected scores of shape (origins, horizon), got {shape_text(array.shape)}."
        )
    resampled = partial(block_bootstrap, level=level, num_resamples=num_resamples, seed=seed)
    blocks = in_blocks(array, origins_per_block)  # (B, origins in a block, H)
    rows = [resampled(blocks[:, :, h]) for h in range(array.shape[1])]
    mean, lower, upper = np.array(rows).T
    overall = resampled(blocks.reshape(len(blocks), -1))
    return HorizonScores(mean, lower, upper, overall)


def in_blocks(values: FloatArray, origins_per_block: int) -> FloatArray:
    """
    Return ``(R, *)`` as ``(blocks, origins in a block, *)``.

    :raises ValueError: if the blocks do not divide the origins: none is left out in silence.
    """
    size = check_positive_int("origins_per_block", origins_per_block)
    if len(values) % size:
        raise ValueError(
            f"Expected a number of origins that {size} (origins_per_block) divides, "
            f"got {len(values)}."
        )
    return values.reshape(-1, size, *values.shape[1:])
