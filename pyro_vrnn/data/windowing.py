"""Windows of a time series for a forecaster, and splits that keep the order of time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_vrnn.reprs import short_repr
from pyro_vrnn.shapes import check_finite, check_positive_int, check_shape


@dataclass(frozen=True, eq=False)
class Windows:
    """
    N pieces of a series: what a forecaster sees, and the values that follow.

    :param x: (N, window, 1 + C), the value and C covariates of each step before the origin.
    :param y: (N, horizon), the values from the origin on.
    :param origins: (N,) int64, where in the series the first target stands.
    """

    x: Tensor
    y: Tensor
    origins: Tensor

    __repr__ = short_repr

    @property
    def overlap(self) -> float:
        """
        In how many windows a target value occurs, on average: N * horizon / distinct targets.

        The log-likelihood of all windows divided by it counts each observed value once in total
        (on average: values near the ends of the series occur in fewer windows than the others).
        """
        num_windows, horizon = self.y.shape
        steps = self.origins.sort().values.diff()
        distinct = horizon + int(steps.clamp(max=horizon).sum())
        return num_windows * horizon / distinct


@dataclass(frozen=True)
class TimeSplit:
    """
    Which values of a series are targets of training, validation and test, in time order.

    :param train: targets of training; the values before its start are inputs only.
    :param validation: the next ones, cut in horizons that do not overlap.
    :param test: the last ones, likewise.
    """

    train: range
    validation: range
    test: range


def windows(
    values: ArrayLike,  # (n,)
    *,
    window: int,
    horizon: int,
    stride: int = 1,
    covariates: ArrayLike | None = None,  # (n, C)
    dtype: torch.dtype | None = None,
) -> Windows:
    """
    Cut a series in overlapping windows, one origin every ``stride`` steps.

    For a training set pass only its values, ``values[: split.train.stop]``. With a stride above 1
    up to ``stride - 1`` values at the end are no target.

    Example::

        >>> w = windows(range(6), window=3, horizon=2)
        >>> w.x[..., 0].tolist(), w.y.tolist(), w.origins.tolist()
        ([[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]], [[3.0, 4.0], [4.0, 5.0]], [3, 4])
        >>> w.overlap  # 4 target values in all, of which value 4 occurs twice
        1.3333333333333333

    :param values: the series, in time order.
    :param window: number of steps seen before the origin.
    :param horizon: number of steps forecast.
    :param stride: steps from one origin to the next.
    :param covariates: known beside each value, as columns 1 .. C of ``x``.
    :param dtype: of ``x`` and ``y``; None: torch's default.
    :raises ValueError: for NaN, sizes that do not match, or a series shorter than one window.
    """
    series = _columns(values, covariates)
    window = check_positive_int("window", window)
    horizon = check_positive_int("horizon", horizon)
    stride = check_positive_int("stride", stride)
    length = series.shape[0]
    if length < window + horizon:
        raise ValueError(
            f"Expected at least {window + horizon} values (window {window} + horizon {horizon}), "
            f"got {length}."
        )
    origins = torch.arange(window, length - horizon + 1, stride, device="cpu")
    return _cut(series, origins, window, horizon, dtype)


def rolling_origins(
    values: ArrayLike,  # (n,)
    start: int,
    *,
    window: int,
    horizon: int,
    count: int,
    covariates: ArrayLike | None = None,  # (n, C)
    dtype: torch.dtype | None = None,
) -> Windows:
    """
    Windows of ``count`` origins whose horizons follow each other without overlap.

    Inputs are the observed values before each origin, whichever part of a split they are in.

    Example::

        >>> rolling_origins(range(9), 4, window=2, horizon=2, count=2).y.tolist()
        [[4.0, 5.0], [6.0, 7.0]]

    :param values: the whole series, in time order.
    :param start: the first target, such as ``split.test.start``.
    :param count: number of origins.
    :raises ValueError: for NaN, sizes that do not match, or horizons that leave the series.

    The other parameters are those of :func:`windows`.
    """
    series = _columns(values, covariates)
    window = check_positive_int("window", window)
    horizon = check_positive_int("horizon", horizon)
    count = check_positive_int("count", count)
    last = series.shape[0] - count * horizon
    if not window <= start <= last:
        raise ValueError(
            f"Expected start in {window}..{last} (window {window}, {count} origins of horizon "
            f"{horizon}, {series.shape[0]} values), got {start}."
        )
    origins = start + horizon * torch.arange(count, device="cpu")
    return _cut(series, origins, window, horizon, dtype)


def split_in_time(
    n: int,
    *,
    window: int,
    horizon: int,
    num_test_origins: int,
    num_validation_origins: int,
) -> TimeSplit:
    """
    Split n values in time order: training, then validation, then test.

    Test is the last ``num_test_origins * horizon`` values, validation those just before it, and
    training all targets before that. Inputs may reach back into the part before (those values
    are known by then); no target is in two parts.

    Example::

        >>> split_in_time(20, window=4, horizon=3, num_test_origins=2, num_validation_origins=1)
        TimeSplit(train=range(4, 11), validation=range(11, 14), test=range(14, 20))

    :param n: number of values.
    :param window: number of steps seen before an origin.
    :param horizon: number of steps forecast from an origin.
    :param num_test_origins: number of forecasts in the test part.
    :param num_validation_origins: number of forecasts in the validation part.
    :raises ValueError: if fewer than two horizons of targets are left for training.
    """
    n = check_positive_int("n", n)
    window = check_positive_int("window", window)
    horizon = check_positive_int("horizon", horizon)
    tested = horizon * check_positive_int("num_test_origins", num_test_origins)
    validated = horizon * check_positive_int("num_validation_origins", num_validation_origins)
    needed = window + 2 * horizon + validated + tested
    if n < needed:
        raise ValueError(
            f"Expected at least {needed} values (window {window} + 2 training horizons of "
            f"{horizon} + validation {validated} + test {tested}), got {n}."
        )
    test, validation = n - tested, n - tested - validated
    return TimeSplit(range(window, validation), range(validation, test), range(test, n))


def _columns(values: ArrayLike, covariates: ArrayLike | None) -> Tensor:  # (n, 1 + C)
    """Return the series and its covariates as columns, float64 and checked."""
    series = check_finite("values", check_shape("values", _float64(values), ("n",)))
    if covariates is None:
        return series[:, None]
    known = check_shape("covariates", _float64(covariates), (series.shape[0], "C"))
    return torch.cat([series[:, None], check_finite("covariates", known)], dim=1)


def _float64(values: ArrayLike) -> Tensor:
    """Return a float64 copy: torch warns about sharing the memory of a read-only array."""
    return torch.from_numpy(np.asarray(values, dtype=np.float64).copy())


def _cut(
    series: Tensor,  # (n, 1 + C)
    origins: Tensor,  # (N,)
    window: int,
    horizon: int,
    dtype: torch.dtype | None,
) -> Windows:
    """Gather inputs and targets of each origin."""
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if not dtype.is_floating_point:
        raise TypeError(f"Expected dtype to be a floating type, got {dtype}.")
    steps = torch.arange(-window, horizon, device="cpu")
    pieces = series[origins[:, None] + steps].to(dtype)  # (N, window + horizon, 1 + C)
    return Windows(pieces[:, :window].contiguous(), pieces[:, window:, 0].contiguous(), origins)
