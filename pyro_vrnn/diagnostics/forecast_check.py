"""Whether forecasts are calibrated: PIT, coverage, CRPS and interval scores, by horizon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pyro_vrnn.diagnostics._predicted import read_forecasts
from pyro_vrnn.reprs import short_repr
from pyro_vrnn.scores import (
    BootstrapRange,
    CoverageCurve,
    EcdfBand,
    HorizonScores,
    by_horizon,
    central_interval,
    coverage_curve,
    crps,
    ecdf_band,
    effective_size,
    interval_score,
    pit,
    pit_coverage,
    width,
)
from pyro_vrnn.scores.horizon import in_blocks
from pyro_vrnn.shapes import FloatArray


@dataclass(frozen=True, eq=False)
class IntervalCheck:
    """
    The central intervals of one level, by horizon.

    ``coverage`` is that of the PIT values (:func:`~pyro_vrnn.scores.pit_coverage`), as in
    :attr:`ForecastCheck.coverage`: its mean is the level for a calibrated forecaster and any number
    of draws. ``width`` and ``score`` are of intervals between quantiles of the draws
    (:func:`~pyro_vrnn.scores.central_interval`), which few draws make too narrow.

    :ivar coverage: shares of the values inside.
    :ivar width: mean widths.
    :ivar score: mean interval scores, lower is better.
    """

    coverage: HorizonScores
    width: HorizonScores
    score: HorizonScores

    __repr__ = short_repr


@dataclass(frozen=True, eq=False)
class ForecastCheck:
    """
    What R forecasts of H steps and what happened say of the forecaster; ``str`` gives a table.

    :ivar pit: PIT values, ``(R, H)``.
    :ivar band: where the empirical CDF of all PIT values stays if the forecaster is calibrated.
    :ivar pit_inside: whether the PIT values of each horizon are in their own band, ``(H,)``. Each
        by itself: of 20 horizons one is expected outside of 95 % bands.
    :ivar coverage: coverage by level, all horizons together.
    :ivar crps: by horizon.
    :ivar dict intervals: level -> :class:`IntervalCheck`.
    :ivar int num_samples: S.
    :ivar float probability: of the bands and ranges.
    :ivar int origins_per_block: successive origins taken as one block.
    """

    pit: FloatArray
    band: EcdfBand
    pit_inside: NDArray[np.bool_]
    coverage: CoverageCurve
    crps: HorizonScores
    intervals: dict[float, IntervalCheck]
    num_samples: int
    probability: float
    origins_per_block: int

    __repr__ = short_repr

    @property
    def inside(self) -> bool:
        """Whether the PIT values of all horizons together are in the band."""
        return self.band.contains(self.pit)

    def __str__(self) -> str:
        origins, horizon = self.pit.shape
        lines = [
            f"{origins} forecasts of {horizon} step(s), {self.num_samples} draws; ranges of "
            f"{self.probability:.0%} over blocks of {self.origins_per_block} origin(s)",
            f"PIT: {_inside(self.inside)} its band (worth {self.band.num_values} independent "
            f"values of {self.pit.size})",
            f"Coverage by level: {_inside(self.coverage.inside)} its band",
            "",
        ]
        header = ["step", "CRPS"]
        for level in self.intervals:
            header += [f"{level:.0%} coverage", f"{level:.0%} interval score"]
        rows = [[*header, "PIT"]]
        for h in range(horizon):
            cells = [str(h + 1), *(_range_text(_at(part, h)) for part in self._columns())]
            rows.append([*cells, _inside(bool(self.pit_inside[h]))])
        if horizon > 1:
            overall = (_range_text(part.overall) for part in self._columns())
            rows.append(["all", *overall, _inside(self.inside)])
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        lines += [
            "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows
        ]
        return "\n".join(lines)

    def _columns(self) -> list[HorizonScores]:
        parts = [(check.coverage, check.score) for check in self.intervals.values()]
        return [self.crps, *(score for pair in parts for score in pair)]


def check_forecasts(
    predicted: Any,
    y: Tensor | ArrayLike | None = None,
    *,
    levels: Sequence[float] = (0.5, 0.9),
    probability: float = 0.95,
    origins_per_block: int = 1,
    group: str = "posterior_predictive",
    var_name: str = "obs",
    seed: int = 0,
) -> ForecastCheck:
    r"""
    Check S draws of R forecasts against what happened: is it where the forecasts said, as often?

    A calibrated forecaster has uniform PIT values. Seen from the forecast's own origin that is so
    at each horizon; one horizon's values are independent of each other if a forecast starts when
    the targets of the last one are known [1]. The H values of one forecast share their errors, and
    those of overlapping forecasts too: bands and ranges take whole origins, or blocks of
    ``origins_per_block`` of them, as the independent units
    (:func:`~pyro_vrnn.scores.effective_size`). A PIT inside its band is not yet a good forecast:
    the climate alone is calibrated. CRPS and interval scores reward sharpness as well.

    A PIT curve that rises above the band on the left and falls below it on the right is of
    intervals that are too narrow; one that is on one side, of a bias.

    On the data that the model was trained on (the default group of an export of the training data)
    the check is too kind. Forecast data that it has not seen.

    Example::

        >>> rng = np.random.default_rng(0)
        >>> draws, y = rng.normal(size=(200, 60, 3)), rng.normal(size=(60, 3))
        >>> check = check_forecasts(draws, y)
        >>> check.inside, check.crps.mean.shape
        (True, (3,))
        >>> check_forecasts(draws, 2 * y).inside
        False

    :param predicted: draws of y ``(S, R, H)`` (or ``(S, R)``), a
        :class:`~pyro_vrnn.infer.Prediction` with ``draws``, or an ArviZ object.
    :param y: what happened, ``(R, H)`` or ``(R,)``, origins in time order; an ArviZ object has it
        in ``observed_data``, of the group ``"predictions"`` in ``predictions_constant_data``. The
        columns may also be several outputs in place of horizons.
    :param levels: of the intervals in the table. Their coverage is that of the PIT values; widths
        and scores, of quantiles of the draws, want some hundred draws.
    :param float probability: of bands and ranges.
    :param int origins_per_block: how many successive origins depend on each other: at least the
        horizon over the distance of the origins. R must be a multiple of it.
    :param str group: of an ArviZ object, where the draws are.
    :param str var_name: of an ArviZ object, the observed site.
    :param int seed: of the PIT's randomisation and of the bootstrap.
    :raises ImportError: if the package scoringrules is missing.
    :raises TypeError: if an argument is of the wrong type, or ``y`` is missing.
    :raises ValueError: if shapes do not fit, an argument is out of its range, a number is not
        finite, there are fewer than 2 draws or blocks, or an ArviZ object has class ids.

    **References**

    [1] Diebold, Gunther, Tay (1998), https://doi.org/10.2307/2527342

    [2] Gneiting, Balabdaoui, Raftery (2007), https://doi.org/10.1111/j.1467-9868.2007.00587.x
    """
    observed, draws = read_forecasts(predicted, y, group, var_name)
    values = pit(observed, draws, seed=seed)
    blocks = in_blocks(values, origins_per_block)  # (B, origins in a block, H)
    rows = blocks.reshape(len(blocks), -1)

    def scored(scores: FloatArray) -> HorizonScores:
        return by_horizon(scores, origins_per_block=origins_per_block, level=probability, seed=seed)

    def checked(level: float) -> IntervalCheck:
        lower, upper = central_interval(draws, level)
        return IntervalCheck(
            scored(pit_coverage(values, level)),
            scored(width(lower, upper)),
            scored(interval_score(observed, lower, upper, level)),
        )

    def inside(column: FloatArray) -> bool:  # (B, origins in a block)
        return ecdf_band(effective_size(column), level=probability).contains(column)

    return ForecastCheck(
        pit=values,
        band=ecdf_band(effective_size(rows), level=probability),
        pit_inside=np.array([inside(blocks[:, :, h]) for h in range(values.shape[1])]),
        coverage=coverage_curve(rows, probability=probability, seed=seed),
        crps=scored(crps(observed, draws)),
        intervals={level: checked(level) for level in levels},
        num_samples=len(draws),
        probability=probability,
        origins_per_block=origins_per_block,
    )


def _at(scores: HorizonScores, h: int) -> BootstrapRange:
    return BootstrapRange(float(scores.mean[h]), float(scores.lower[h]), float(scores.upper[h]))


def _range_text(part: BootstrapRange) -> str:
    return f"{part.mean:.3g} [{part.lower:.3g}, {part.upper:.3g}]"


def _inside(inside: bool) -> str:
    return "inside" if inside else "outside"
