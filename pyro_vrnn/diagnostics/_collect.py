"""Draws read into arrays one at a time, or into moments of what is too large to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.poutine import Trace
from torch import Tensor

from pyro_vrnn.diagnostics._draws import Draw, value_of
from pyro_vrnn.diagnostics._moments import Moments
from pyro_vrnn.diagnostics._selection import Key, Selection
from pyro_vrnn.diagnostics._sites import SiteInfo
from pyro_vrnn.shapes import shape_text

Values = dict[Key, NDArray[Any]]
STATISTICS = ("mean", "sd")


def read(
    draw: Draw,
    selection: Selection,
    predictions: Mapping[str, SiteInfo],
    *,
    by_element: bool,
) -> Values:
    """
    Return all that is exported of one draw.

    :param predictions: the sites of the group ``predictions``.
    """
    values: Values = {}
    for site in selection.posterior:
        values["posterior", site.name] = numpy_of(draw.value(site))
    if draw.predictive is not None:
        for site in selection.predictive:
            values["posterior_predictive", site.name] = numpy_of(draw.value(site))
    for site in predictions.values():
        assert draw.predictions is not None
        values["predictions", site.name] = numpy_of(value_of(draw.predictions, site))
    for site in selection.pointwise:
        pointwise = numpy_of(draw.log_likelihood(site.name, by_element))
        # ArviZ's PSIS takes exp in this dtype: in float32, of a model that fits badly, all are 0.
        values["log_likelihood", site.name] = pointwise.astype(np.float64)
    log_p, log_g = draw.log_p(), draw.log_g()
    for name, value in (("lp", log_p), ("log_p__", log_p), ("log_g__", log_g)):
        if value is not None:
            values["sample_stats", name] = np.asarray(value)
    if selection.latents:
        norms = [_norm(draw.value(site)) for site in selection.latents]
        values["sample_stats", "norm"] = numpy_of(torch.stack(norms))
    return values


def read_prior(trace: Trace, selection: Selection) -> Values:
    """Return all that is exported of one draw from the prior."""
    named = (("prior", selection.posterior), ("prior_predictive", selection.predictive))
    return {
        (group, site.name): numpy_of(value_of(trace, site))
        for group, sites in named
        for site in sites
    }


def reading(
    draws: Iterable[Draw],
    read_one: Callable[[Draw], Values],
    moments: Mapping[str, Moments],
    selection: Selection,
) -> Iterator[Values]:
    """Read draws one by one, those of the sites that are summarised into their moments."""
    for draw in draws:
        for site in selection.summarized:
            moments[site.name].add(draw.value(site))
        yield read_one(draw)


def stack(values: Iterable[Values], num_samples: int) -> Values:
    """
    Put the draws in arrays (1, S, *shape).

    :raises ValueError: if a site changes its shape.
    """
    arrays: Values = {}
    for index, of_draw in enumerate(values):
        if not arrays:
            arrays = {k: np.empty((1, num_samples, *v.shape), v.dtype) for k, v in of_draw.items()}
        for key, value in of_draw.items():
            expected = arrays[key].shape[2:]
            if value.shape != expected:
                raise ValueError(
                    f"Expected site {key[1]!r} of shape {shape_text(expected)} in every draw, "
                    f"got {shape_text(value.shape)}."
                )
            arrays[key][0, index] = value
    return arrays


def numpy_of(value: Tensor) -> NDArray[Any]:
    """Return a tensor of any device as an array."""
    return value.detach().cpu().numpy()


def _norm(value: Tensor) -> Tensor:
    return torch.linalg.vector_norm(value.flatten(), dtype=torch.float64)
