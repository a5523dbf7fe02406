"""The log predictive density of held-out data: its standard error, and its bias with few draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pyro_vrnn.diagnostics.elbo_terms import Estimate
from pyro_vrnn.infer.held_out import held_out_log_likelihood
from pyro_vrnn.ops.log_mean import log_mean_deficit
from pyro_vrnn.shapes import FloatArray, shape_text


@dataclass(frozen=True, eq=False)
class Density:
    """
    The elpd of each observation ``(n,)``, and how each draw moves their sum ``(S,)``.

    ``bias`` is that of their sum: a log of a mean over few draws is low.
    """

    pointwise: FloatArray
    influence: FloatArray
    bias: float


def held_out_density(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    batches: Iterable[Any],
    num_samples: int,
    seed: int,
) -> Density:
    """Return the elpd of held-out data."""
    pointwise, influence, bias = [], np.zeros(num_samples), 0.0
    for scores in held_out_log_likelihood(model, guide, batches, num_draws=num_samples, seed=seed):
        each = scores.logsumexp(0) - math.log(num_samples)  # (n,)
        square = (2 * scores).logsumexp(0) - math.log(num_samples)
        pointwise.append(each.cpu().numpy())
        # d log mean_s p_s = p_s / mean_s p_s: the delta method, summed over observations.
        influence += (scores - each).exp().sum(1).cpu().numpy()
        bias -= float(log_mean_deficit(each, square, num_samples).sum())
    return Density(np.concatenate(pointwise), influence, bias)


def read_groups(group: ArrayLike | Tensor | None, count: int) -> NDArray[np.int64]:
    """
    Return the number of each observation's group, from 0; each its own for None.

    :raises ValueError: if there is not a label for each, or there are fewer than 2 groups.
    """
    if group is None:
        if count < 2:
            raise ValueError(f"Expected held-out data of at least 2 observations, got {count}.")
        return np.arange(count)
    labels = group.detach().cpu().numpy() if isinstance(group, Tensor) else np.asarray(group)
    if labels.shape != (count,):
        raise ValueError(
            f"Expected group of shape {shape_text((count,))}, a label for each held-out "
            f"observation, got {shape_text(labels.shape)}."
        )
    found, numbers = np.unique(labels, return_inverse=True)
    if len(found) < 2:
        raise ValueError(f"Expected held-out data of at least 2 groups, got {len(found)}.")
    return numbers


def elpd_error(pointwise: FloatArray, influence: FloatArray, groups: NDArray[np.int64]) -> float:
    """Return the standard error of a sum: over groups of observations, and over draws."""
    sums = np.bincount(groups, weights=pointwise - pointwise.mean())
    count = len(sums)
    # Groups of one observation: n times the variance with the divisor n - 1.
    over_data = math.sqrt(count / (count - 1) * float(np.square(sums).sum()))
    return math.hypot(over_data, Estimate.of(influence).standard_error)
