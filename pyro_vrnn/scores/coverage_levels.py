"""Coverage of central intervals at every level, from PIT values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

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

    @property
    def inside(self) -> bool:
        """Whether the whole curve is in the band."""
        rounding = 1e-12
        above = self.coverage >= self.band.lower - rounding
        return bool((above & (self.coverage <= self.band.upper + rounding)).all())


def coverage_curve(
    pit: ArrayLike,  # (blocks, values in a block)
    *,
    levels: Sequence[float] = LEVELS,
    probability: float = 0.95,
    seed: int = 0,
) -> CoverageCurve:
    r"""
    Coverage by level with bootstrap ranges over blocks, and the band of a calibrated forecaster.

    A value is inside the central interval of level l when :math:`|2 u - 1| \le l` for its PIT u.
    So the curve is the empirical CDF of :math:`|2 u - 1|`, which is uniform if u is, and
    :func:`~pyro_vrnn.scores.ecdf_band` holds for it, with the effective number of values. A curve
    above the diagonal belongs to intervals that are too wide. One that is too wide on the left
    of the forecasts and too narrow on the right can lie on it: look at the PIT as well.

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
    # Rounding must not put a value at an interval's end outside of it.
    reach = np.clip(np.round(np.abs(2.0 * values - 1.0), 12), 0.0, 1.0)
    band = ecdf_band(
        effective_size(reach, points=levels), level=probability, points=np.asarray(levels)
    )
    ranges = [
        block_bootstrap(reach <= level, level=probability, seed=seed, num_resamples=2000)
        for level in band.points
    ]
    mean, lower, upper = np.array(ranges).T
    return CoverageCurve(band.points, mean, lower, upper, band)
