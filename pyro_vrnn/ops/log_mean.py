r"""
The log of a mean over few draws, which is low in the mean.

.. math::
    \operatorname{E} \log \frac1S \sum_s p_s \approx
    \log \operatorname{E} p - \frac{\operatorname{Var} p}{2 S (\operatorname{E} p)^2}.
"""

from __future__ import annotations

from torch import Tensor


def log_mean_deficit(log_mean: Tensor, log_mean_square: Tensor, num_samples: int) -> Tensor:
    r"""
    Estimate how far the log of a mean over S draws is below its limit for many draws.

    By the second term of its expansion, with the variance (divisor S - 1) and the mean of the same
    draws. It is at most 1/2, so where one draw carries nearly all of a mean it is too small.

    Example, 0.2 and 0.6 with mean 0.4 and variance 0.08::

        >>> import torch
        >>> p = torch.tensor([0.2, 0.6], dtype=torch.float64)
        >>> log_mean_deficit(p.mean().log(), p.square().mean().log(), 2)
        tensor(0.1250, dtype=torch.float64)

    :param log_mean: log of the mean of p over draws, ``(*)``.
    :param log_mean_square: log of the mean of its square, ``(*)``.
    :param int num_samples: S, at least 2.
    """
    # (E p^2 - (E p)^2) S / (S - 1), over 2 S (E p)^2
    ratio = (log_mean_square - 2 * log_mean).exp()
    return (ratio - 1).clamp(min=0.0) / (2 * (num_samples - 1))
