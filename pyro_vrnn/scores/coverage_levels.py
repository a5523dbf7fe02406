"""Coverage of central intervals at every level, from PIT values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pyro_vrnn.reprs import short_repr
from pyro_vrnn.scores._checks import check_level
from pyro_vrnn.scores.bootstrap import block_bootstrap
from pyro_vrnn.scores.uniform_band import EcdfBand, ecdf_band, effective_size, unit_values
from pyro_vrnn.shapes import FloatArray, check_sequence, shape_text

LEVELS = tuple(float(level) for level in np.round(np.linspace(0.05, 0.95, 19), 2))


@dataclass(frozen=True, eq=False)
class CoverageCurve:
    """
    Share of the values inside the central interval of each level.

    :ivar levels: ``(K,)``.
    :ivar coverage: shares, ``(K,)``.
    :ivar lower: lower ends of their bootstrap ranges, each level by itself.
    :ivar upper: upper ends.
    :ivar band: where a calibrated forecaster's whole curve stays with the band's probability.
    """

    levels: FloatArray
    coverage: FloatArray
    lower: FloatArray
    upper: FloatArray
    band: EcdfBand

    __repr__ = short_repr

    @property
    def inside(self) -> bool:
        """Whether the whole curve is in the band."""
        rounding = 1e-12
        above = self.coverage >= self.band.lower - rounding
        return bool((above & (self.coverage <= self.band.upper + rounding)).all())


def pit_coverage(
    pit: ArrayLike,  # (*)
    level: float,
) -> FloatArray:  # (*)
    r"""
    1 where a value is in the central interval of this level by its PIT, else 0.

    A value is inside when :math:`|2 u - 1| \le l`. The mean of a calibrated forecaster is l for any
    number of draws S, since the PIT of :func:`~pyro_vrnn.scores.pit` is uniform for any. Intervals
    between quantiles of S draws (:func:`~pyro_vrnn.scores.central_interval`) hold only
    :math:`l (S - 1) / (S + 1)` in the mean. Of counts, a value that ties with an interval's end is
    inside by chance.

    Example::

        >>> pit_coverage([0.04, 0.05, 0.5, 0.96], 0.9)
        array([0., 1., 1., 0.])

    :param pit: PIT values.
    :param float level: in (0, 1).
    :raises ValueError: for values outside [0, 1], or a level outside (0, 1).
    """
    return (_reach(unit_values("pit", pit)) <= check_level(level)).astype(np.float64)


def coverage_curve(
    pit: ArrayLike,  # (blocks, values in a block)
    *,
    levels: Sequence[float] = LEVELS,
    probability: float = 0.95,
    seed: int = 0,
) -> CoverageCurve:
    r"""
    Coverage by level with bootstrap ranges over blocks, and the band of a calibrated forecaster.

    A value is inside the central interval of level l when :math:`|2 u - 1| \le l` for its PIT u
    (:func:`pit_coverage`). So the curve is the empirical CDF of :math:`|2 u - 1|`, which is uniform
    if u is, and :func:`~pyro_vrnn.scores.ecdf_band` holds for it, with the effective number of
    values. A curve above the diagonal belongs to intervals that are too wide. One that is too wide
    on the left of the forecasts and too narrow on the right can lie on it: look at the PIT as well.

    Example::

        >>> u = np.linspace(0.025, 0.975, 20)[:, None]  # (blocks, 1)
        >>> coverage_curve(u, levels=[0.5, 0.9]).coverage
        array([0.5, 0.9])

    :param pit: PIT values, one row for each block, such as the steps of one forecast.
    :param levels: increasing, in (0, 1).
    :param float probability: of the ranges and of the band.
    :param int seed: of the bootstrap.
    :raises ValueError: for values outside [0, 1], an array that is not 2-D, fewer than 2 blocks, or
        levels that do not increase in (0, 1).
    """
    levels = check_sequence("levels", levels, of="numbers")
    values = unit_values("pit", pit)
    if values.ndim != 2:
        raise ValueError(
            f"Expected pit of shape (blocks, per block), got {shape_text(values.shape)}."
        )
    reach = _reach(values)
    band = ecdf_band(
        effective_size(reach, points=levels), level=probability, points=np.asarray(levels)
    )
    ranges = [
        block_bootstrap(reach <= level, level=probability, seed=seed, num_resamples=2000)
        for level in band.points
    ]
    mean, lower, upper = np.array(ranges).T
    return CoverageCurve(band.points, mean, lower, upper, band)


def _reach(pit: FloatArray) -> FloatArray:
    """Return the level of the smallest central interval that holds each value."""
    # Rounding must not put a value at an interval's end outside of it.
    reach: FloatArray = np.clip(np.round(np.abs(2.0 * pit - 1.0), 12), 0.0, 1.0)
    return reach
