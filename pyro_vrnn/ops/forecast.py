r"""
The arithmetic around a forecasting network: changes over a lag, units, and what a forecast adds to.

With ``lag=k`` a network works on :math:`d_t = x_t - x_{t-k}` in standard units, and its output is
added to :math:`x_{t+h-k} + d_t`; with ``lag=None`` it works on the values, and its output is added
to their mean. Covariates (the columns after the first) are left as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vrnn.shapes import check_finite, check_last_dim, check_lengths, shape_text


def min_window(lag: int | None) -> int:
    """Return the fewest past values that a window must hold."""
    return 1 if lag is None else lag + 1


def changes(
    x: Tensor,  # (*, T, 1+C)
    lag: int | None,
) -> Tensor:  # (*, T-lag, 1+C)
    """
    Return the series' change over ``lag`` steps, beside the covariates.

    >>> changes(torch.tensor([[1.0, 7.0], [2.0, 8.0], [4.0, 9.0]]), 2)
    tensor([[3., 9.]])
    """
    if lag is None:
        return x
    change = x[..., lag:, :1] - x[..., :-lag, :1]
    return torch.cat([change, x[..., lag:, 1:]], dim=-1)


def standard_units(
    values: Tensor,  # (n,) or (n, 1+C)
    lag: int | None,
    columns: int,  # 1+C
    device: torch.device,
) -> tuple[Tensor, Tensor]:  # (1+C,) each, float64
    """
    Return mean and standard deviation of what a network sees of the training values.

    :raises ValueError: if a value is not finite, or there are too few.
    """
    # In float64: float32 would round a large level before its changes are taken.
    values = torch.as_tensor(values, dtype=torch.float64, device=device)
    values = values.unsqueeze(-1) if values.dim() == 1 else values
    check_finite("values", check_last_dim("values", values, columns))
    if len(values) < min_window(lag) + 1:
        raise ValueError(f"Expected over {min_window(lag)} values, got {len(values)}.")
    scale, center = torch.std_mean(changes(values, lag), dim=0)
    # The change of an exactly linear series is constant; only its unit is then arbitrary.
    return center, torch.where(scale > 0, scale, torch.ones_like(scale))


def check_windows(
    x: Tensor,  # (N, T, 1+C)
    lengths: Tensor | None,
    lag: int | None,
) -> Tensor | None:
    """
    Return ``lengths`` checked, if every window is longer than the lag.

    :raises ValueError: if one is not, or the lengths do not fit.
    """
    shortest = x.shape[1]
    if lengths is not None:
        lengths = check_lengths(lengths, len(x), x.shape[1])
        shortest = int(lengths.min())
    if shortest < min_window(lag):
        raise ValueError(
            f"Expected windows of at least {min_window(lag)} steps (lag {lag}), "
            f"got {shortest} in x of shape {shape_text(x.shape)}."
        )
    return lengths


def base(
    x: Tensor,  # (N, T, 1+C)
    lengths: Tensor | None,
    *,
    lag: int | None,
    horizon: int,
    center: Tensor,  # (1+C,)
) -> Tensor:  # (N, horizon)
    """
    Return what the network's output is added to, in raw units.

    >>> x = torch.tensor([10.0, 11.0, 12.0, 20.0, 21.0, 25.0]).reshape(1, 6, 1)
    >>> base(x, None, lag=3, horizon=2, center=torch.zeros(1))
    tensor([[33., 34.]])
    """
    series = x[..., 0]  # (N, T)
    if lag is None:
        return center[0].expand(len(x), horizon)
    if lengths is None:
        lengths = torch.full((len(x),), x.shape[1], device=x.device)
    ends = lengths.to(x.device, non_blocking=True).unsqueeze(-1)  # (N, 1)
    steps = torch.arange(horizon, device=x.device)
    last_change = series.gather(1, ends - 1) - series.gather(1, ends - 1 - lag)
    return series.gather(1, ends - lag + steps) + last_change
