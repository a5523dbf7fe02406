"""What a run of the model says of an observation: moments, probabilities of classes, a draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor

from pyro_vrnn.shapes import shape_text

DRAWS = ("observation", "mean")  # what can be kept of each draw


@dataclass
class Outcome:
    """
    What P draws of the weights say of n sequences.

    :ivar mean: ``(P, n, *out)``: of the observation given the weights; or its classes'
        probabilities, the classes last.
    :ivar variance: likewise; None for classes.
    :ivar sample: draws of the observation, or None if not asked for.
    """

    mean: Tensor
    variance: Tensor | None
    sample: Tensor | None

    def unfolded(self, size: int) -> Outcome:
        """Return the outcome of P draws, from that of one draw of P times as many sequences."""

        def split(part: Tensor) -> Tensor:
            return part.unflatten(0, (size, -1))

        variance = None if self.variance is None else split(self.variance)
        return Outcome(
            split(self.mean), variance, None if self.sample is None else split(self.sample)
        )

    def parts(self) -> list[Tensor]:
        """Return the tensors that are there."""
        return [part for part in (self.mean, self.variance, self.sample) if part is not None]


def read(
    site: str,
    fn: Any,
    sample: Tensor | None,
    rows: int,
    size: int | None,
    shapes: tuple[torch.Size, torch.Size],
) -> Outcome:
    """
    Read a site's distribution.

    :param sample: a draw of the site, or None.
    :param rows: n, the number of sequences.
    :param size: P if the run was on that many draws together; None for a run on one.
    :param shapes: of one sequence's mean and of its observation.
    :raises ValueError: if a shape is not ``(P, n, *shape)``.
    """
    lead = () if size is None else (size,)

    def shaped(value: Tensor, whole: torch.Size, shape: torch.Size) -> Tensor:
        single = torch.Size((rows, *shape))
        # Between the dims of draws and sequences there may be plates of size 1.
        fits = whole[-len(single) :] == single
        if not fits or whole.numel() != (size or 1) * single.numel():
            raise ValueError(
                f"Expected site {site!r} of shape {shape_text((*lead, *single))}, one row a "
                f"sequence, got {shape_text(whole)}."
            )
        return value.expand(whole).reshape(*lead, *single)

    whole = whole_shape(fn)
    drawn = None if sample is None else shaped(sample, whole, shapes[1])
    probs = class_probs(fn)
    if probs is not None:
        return Outcome(shaped(probs, mean_shape(fn), shapes[0]), None, drawn)
    mean, variance = moments(site, fn)
    return Outcome(shaped(mean, whole, shapes[0]), shaped(variance, whole, shapes[0]), drawn)


def class_probs(fn: Any) -> Tensor | None:
    """Return the probabilities of a categorical observation, classes last; None for others."""
    base = base_of(fn)
    kinds = (torch.distributions.Categorical, torch.distributions.OneHotCategorical)
    return base.probs if isinstance(base, kinds) else None


def base_of(fn: Any) -> Any:
    """Return the distribution inside those that only reshape, expand or mask it."""
    wrappers = (torch.distributions.Independent, dist.MaskedDistribution, ExpandedDistribution)
    while isinstance(fn, wrappers):
        fn = fn.base_dist
    return fn


def whole_shape(fn: Any) -> torch.Size:
    """Return the shape of a draw."""
    return torch.Size(fn.batch_shape + fn.event_shape)


def mean_shape(fn: Any) -> torch.Size:
    """Return the shape of the means; classes, unless one-hot, stand behind the observation's."""
    base = base_of(fn)
    is_ids = isinstance(base, torch.distributions.Categorical)
    return torch.Size((*whole_shape(fn), base.probs.shape[-1])) if is_ids else whole_shape(fn)


def placeholder(fn: Any) -> Tensor:
    """Return a value in the support, without a draw."""
    if isinstance(base_of(fn), torch.distributions.Categorical):
        return torch.zeros((), dtype=torch.int64, device=base_of(fn).probs.device).expand(
            whole_shape(fn)
        )
    return fn.mean


def moments(site: str, fn: Any) -> tuple[Tensor, Tensor]:
    """Return mean and variance of the site's distribution."""
    try:
        mean, variance = fn.mean, fn.variance
    except NotImplementedError as error:
        raise TypeError(
            f"Expected site {site!r} to have a distribution with a mean and a variance, or a "
            f"Categorical one, got {type(fn).__name__}; pyro.infer.Predictive draws from it."
        ) from error
    if not mean.is_floating_point():
        raise TypeError(f"Expected site {site!r} of a floating point dtype, got {mean.dtype}.")
    return mean, variance
