"""The floor of a forecast: what stood one season ago, with the errors that made in training."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pyro_vrnn.shapes import FloatArray, check_positive_int, finite_array, shape_text


class SeasonalNaive:
    r"""
    Seasonal-naive forecast with Gaussian training residuals by horizon, their mean included.

    .. math::
        y_{t+h} \sim \mathcal{N}(y_{t+h-L_h} + \mu_h, \sigma_h^2), \qquad
        L_h = \text{season} \lceil h / \text{season} \rceil,

    with :math:`\mu_h` (the drift) and :math:`\sigma_h` (``ddof=1``) the mean and standard
    deviation of :math:`y_u - y_{u-L_h}` over the training part. ``season=1`` is the random walk
    with drift.

    With ``carry_change`` the change over the last :math:`L_h` steps is expected to last,

    .. math::
        y_{t+h} \sim \mathcal{N}(y_{t+h-L_h} + (y_t - y_{t-L_h}) + \mu_h, \sigma_h^2),

    which is what :class:`~pyro_vrnn.models.Forecaster` predicts with a lag and no network.

    A series that repeats exactly has residuals of standard deviation 0 and no density; the scale
    is kept above 1.5e-8 of the largest absolute training value.

    Example::

        >>> floor = SeasonalNaive(season=2, horizon=3).fit([0.0, 5.0, 1.0, 6.0, 2.0, 7.0])
        >>> loc, scale = floor.forecast([2.0, 7.0])
        >>> loc
        array([3., 8., 4.])

    :param int season: number of steps after which the series is expected to repeat.
    :param int horizon: number H of steps ahead.
    :param bool carry_change: whether to add the last change over a season.
    :raises TypeError: if a size is no int.
    :raises ValueError: if a size is below 1.
    """

    def __init__(self, season: int, horizon: int, *, carry_change: bool = False) -> None:
        self.season = check_positive_int("season", season)
        self.horizon = check_positive_int("horizon", horizon)
        self.carry_change = bool(carry_change)
        steps = np.arange(1, self.horizon + 1)
        self._lags = self.season * -(-steps // self.season)  # (H,)
        self._ahead = steps - self._lags  # (H,), in 1 - season .. 0, counted from the last value
        self._mean: FloatArray | None = None
        self._scale: FloatArray | None = None

    def fit(self, train_values: ArrayLike) -> SeasonalNaive:
        """
        Take the residuals' mean and standard deviation at each step from the training part.

        :param train_values: (n,), in time order.
        :returns: itself.
        :raises ValueError: for NaN, or fewer than 2 residuals at the last step.
        """
        values = finite_array("train_values", train_values)
        needed = int(self._lags[-1]) + 2 + (self.horizon if self.carry_change else 0)
        if values.ndim != 1:
            raise ValueError(
                f"Expected train_values of shape (n,), got {shape_text(values.shape)}."
            )
        if values.shape[0] < needed:
            raise ValueError(f"Expected at least {needed} training values, got {values.shape[0]}.")
        residuals = [values[lag:] - values[:-lag] for lag in self._lags]
        if self.carry_change:
            steps = range(1, self.horizon + 1)
            residuals = [r[h:] - r[:-h] for r, h in zip(residuals, steps, strict=True)]
        self._mean = np.array([r.mean() for r in residuals])
        largest = float(np.abs(values).max())
        least = float(np.finfo(np.float64).eps ** 0.5) * (largest if largest > 0 else 1.0)
        self._scale = np.maximum([r.std(ddof=1) for r in residuals], least)
        return self

    def forecast(
        self,
        history: ArrayLike,  # (*, n)
    ) -> tuple[FloatArray, FloatArray]:  # (*, H), (*, H)
        """
        Mean and standard deviation of the H values that follow each history.

        :param history: (n,) or ``(*, n)``, values up to the origin, at least one season of them.
        :returns: loc and scale, each ``(*, H)``.
        :raises RuntimeError: before :meth:`fit`.
        :raises ValueError: for NaN, or a history too short.
        """
        if self._mean is None or self._scale is None:
            raise RuntimeError("Expected fit to be called before forecast.")
        values = finite_array("history", history)
        length = values.shape[-1] if values.ndim else 0
        needed = int(self._lags[-1]) + 1 if self.carry_change else self.season
        if length < needed:
            raise ValueError(f"Expected a history of at least {needed} values, got {length}.")
        loc = values[..., length - 1 + self._ahead] + self._mean
        if self.carry_change:
            loc = loc + values[..., -1:] - values[..., length - 1 - self._lags]
        return loc, np.broadcast_to(self._scale, loc.shape).copy()
