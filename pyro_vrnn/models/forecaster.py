"""Probabilistic forecasts of a series, several steps ahead at once."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_vrnn.baselines.networks import ForecastNetwork
from pyro_vrnn.models.gaussian import GaussianSequenceModel
from pyro_vrnn.nn.recurrent import RecurrentModule
from pyro_vrnn.nn.weights import Prior
from pyro_vrnn.ops.forecast import base, changes, check_windows, min_window, standard_units
from pyro_vrnn.shapes import check_positive_float, check_positive_int


class Forecaster(GaussianSequenceModel):
    r"""
    A Pyro model of the next ``horizon`` values of a series, given a window of its past.

    The network sees the window in standard units and its last valid state gives all horizons at
    once; noise is Gaussian with one precision per horizon. ``x``, ``y``, the returned means and
    the site ``"obs"`` are in the series' own units.

    With ``lag=k`` the network works on the change over k steps, :math:`d_t = x_t - x_{t-k}`, and
    predicts how it departs from the last one seen,

    .. math::
        y_{t+h} = x_{t+h-k} + d_t + s\, (A\, h_T + b)_h + s\, \tau_h^{-1/2} \epsilon_h,

    which leaves a trend and a season of length k to the arithmetic. k must not be less than the
    horizon, so that :math:`x_{t+h-k}` is known.

    Example::

        >>> from pyro_vrnn.nn import LSTM
        >>> series = torch.arange(100.0)
        >>> model = Forecaster(LSTM(1, 8), horizon=4, lag=12)
        >>> model.fit_scaling(series)
        >>> model(series[None, :36, None]).shape
        torch.Size([1, 4])

    :param rnn: a :class:`~pyro_vrnn.nn.RNN`, :class:`~pyro_vrnn.nn.LSTM` or
        :class:`~pyro_vrnn.nn.GRU`; its ``input_size`` is 1 + the number of covariates.
    :param int horizon: values predicted, h = 1..horizon.
    :param int lag: k, at least ``horizon``; None to work on the values themselves.
    :param tau: noise precision in standard units, one number or ``horizon`` of them.
    :param bool learn_tau: learn one precision per horizon as a parameter.
    :param int num_data: number of windows in the training data; see
        :class:`~pyro_vrnn.models.SequenceRegression`.
    :param float overlap: in how many training windows a value is a target, on average. The
        log-likelihood is divided by it, so that each observed value counts once in the ELBO:
        :attr:`pyro_vrnn.data.Windows.overlap` gives it.
    :param prior_scale: prior of the output layer, as in :class:`~pyro_vrnn.nn.Linear`.
    :raises TypeError: if ``rnn`` is not one of ours.
    :raises ValueError: if ``lag`` is less than ``horizon``, or an argument is not positive.
    """

    dim_names: ClassVar[dict[str, tuple[str, ...]]] = {
        **GaussianSequenceModel.dim_names,
        "loc": ("sequence", "horizon"),
        "obs": ("sequence", "horizon"),
    }

    def __init__(
        self,
        rnn: RecurrentModule,
        horizon: int,
        *,
        lag: int | None = None,
        tau: float | Tensor = 1.0,
        learn_tau: bool = True,
        num_data: int | None = None,
        overlap: float = 1.0,
        prior_scale: Prior = 1.0,
    ) -> None:
        check_positive_int("horizon", horizon)
        if learn_tau:
            tau = torch.as_tensor(tau, dtype=torch.float64)
            tau = tau.expand(horizon) if tau.dim() == 0 else tau
        super().__init__(
            rnn, horizon, tau=tau, learn_tau=learn_tau, num_data=num_data, prior_scale=prior_scale
        )
        self.horizon = horizon
        if lag is not None and check_positive_int("lag", lag) < horizon:
            raise ValueError(f"Expected lag of at least horizon={horizon}, got {lag}.")
        self.lag = lag
        self.overlap = check_positive_float("overlap", overlap)
        self.register_buffer("center", torch.zeros(rnn.input_size, **rnn.factory_kwargs))
        self.register_buffer("scale", torch.ones(rnn.input_size, **rnn.factory_kwargs))

    @property
    def min_window(self) -> int:
        """The fewest past values a window must hold."""
        return min_window(self.lag)

    def fit_scaling(self, values: Tensor) -> None:
        """
        Set the units of the network's inputs from training values: their mean and deviation.

        :param values: the series ``(n,)``, or with covariates ``(n, 1+C)``, n past the lag.
        :raises ValueError: if a value is not finite, or there are too few.
        """
        center, scale = standard_units(values, self.lag, self.rnn.input_size, self.center.device)
        self.center.copy_(center)
        self.scale.copy_(scale)

    def plain_twin(self, children: dict[str, Any]) -> torch.nn.Module:
        """Return the network without Pyro that has these children and this scaling."""
        network = ForecastNetwork(horizon=self.horizon, lag=self.lag, **children)
        network.center, network.scale = self.center.clone(), self.scale.clone()
        return network

    def check_input(self, x: Tensor, lengths: Tensor | None = None) -> Tensor | None:
        """Refuse what other models refuse, and windows that are not longer than the lag."""
        super().check_input(x)
        return check_windows(x, lengths, self.lag)

    def forward(self, x: Tensor, y: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """
        Run the program.

        :param x: windows of the past, ``(N, T, 1+C)``, the series first, raw units.
        :param y: the next values ``(N, horizon)``, raw units; sampled if not given.
        :param lengths: valid steps of each window, ``(N,)``.
        :returns: the means ``(*P, N, horizon)`` in raw units, particle dims first.
        :raises ValueError: if a shape does not fit, a window is not longer than the lag, x or y
            is not finite, or the batch is larger than ``num_data``.
        """
        lengths = self.check_input(x, lengths)
        inputs = (changes(x, self.lag) - self.center) / self.scale
        remaining = None if lengths is None else lengths - (self.lag or 0)
        unit = self.scale[0]
        start = base(x, lengths, lag=self.lag, horizon=self.horizon, center=self.center)
        loc = start + unit * self.output(inputs, remaining)
        self.observe(loc, unit * self.tau.rsqrt(), y, weight=1.0 / self.overlap)
        return loc
