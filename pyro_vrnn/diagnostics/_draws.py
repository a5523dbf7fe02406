"""Draws from a guide with the model run on each, and draws from the model's prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Independent
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vrnn.diagnostics._sites import SiteInfo, full_value, site_kind
from pyro_vrnn.distributions.unscored import Unscored
from pyro_vrnn.infer.evaluating import reading
from pyro_vrnn.infer.function_draws import function_draws
from pyro_vrnn.infer.pairs import check_pair

Program = Callable[..., Any]


class KeepInfer(Messenger):
    """Keep the model's own ``infer`` of each site: replaying puts the guide's in its place."""

    def _pyro_sample(self, msg: Any) -> None:
        msg["model_infer"] = msg["infer"].copy()


@dataclass(frozen=True)
class Arguments:
    """What a program is called with."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    def trace(self, program: Program) -> Trace:
        """Return the trace of one call."""
        return poutine.trace(program).get_trace(*self.args, **self.kwargs)


@dataclass(frozen=True)
class Draw:
    """
    The traces of one draw; ``model``, ``predictive`` and ``predictions`` saw ``guide``'s values.

    ``predictive`` is the model un-conditioned, ``predictions`` that on other arguments.
    """

    guide: Trace
    model: Trace
    predictive: Trace | None
    predictions: Trace | None = None

    def log_p(self) -> float:
        """Return log p(y, w), with the program's scales and masks."""
        return _log_density(self.model)

    def log_g(self) -> float | None:
        """Return log q(w), auxiliary sites and Jacobians included; None if q has no density."""
        self.guide.compute_log_prob()
        sites = self.guide.nodes.values()
        if any(isinstance(site.get("log_prob"), Unscored) for site in sites):
            return None
        return _log_density(self.guide)

    def log_likelihood(self, name: str, by_element: bool = False) -> Tensor:
        """
        Return log p(y_n | w) of an observed site, unscaled, 0 where it is masked.

        :param by_element: keep the event dims whose elements are independent given w.
        """
        site = self.model.nodes[name]
        if by_element and isinstance(site["fn"], Independent):
            return _log_prob_of_elements(site)
        self.model.compute_log_prob(lambda other, _: other == name)
        return scale_and_mask(site["unscaled_log_prob"], 1.0, site["mask"])

    def value(self, info: SiteInfo) -> Tensor:
        """Return the value of a site that goes to ``posterior`` or ``posterior_predictive``."""
        trace = self.model if info.group == "posterior" else self.predictive
        assert trace is not None
        return value_of(trace, info)


def value_of(trace: Trace, info: SiteInfo) -> Tensor:
    """Return the value of a site, its dims as in ``info``."""
    return info.arranged(full_value(trace.nodes[info.name]))


def iter_draws(
    model: Program,
    guide: Program,
    given: Arguments,
    *,
    num_samples: int,
    predictive: bool,
    predictions: Arguments | None = None,
) -> Iterator[Draw]:
    """
    Draw from the guide one at a time, and run the model on each draw.

    :param given: arguments of the training.
    :param predictive: run the model un-conditioned too.
    :param predictions: other arguments to run it on, un-conditioned.
    """
    check_pair(model, guide)
    first: Draw | None = None
    kept, free = KeepInfer()(model), poutine.uncondition(model)
    for _ in range(num_samples):
        with reading(model, guide), function_draws():
            drawn = given.trace(guide)
            redrawn = given.trace(poutine.replay(free, trace=drawn)) if predictive else None
            elsewhere = predictions and predictions.trace(poutine.replay(free, trace=drawn))
            draw = Draw(drawn, given.trace(poutine.replay(kept, trace=drawn)), redrawn, elsewhere)
        if first is None:
            first = draw
            _check_match(draw)
        for trace, reference in (
            (draw.model, first.model),
            (draw.predictive, first.model),
            (draw.predictions, first.predictions),
        ):
            if trace is not None and reference is not None:
                _check_same_program(trace, reference)
        yield draw


def iter_prior(model: Program, given: Arguments, *, num_samples: int) -> Iterator[Trace]:
    """Run the model un-conditioned, its latents drawn from their priors."""
    first: Trace | None = None
    free = poutine.uncondition(model)
    for _ in range(num_samples):
        with reading(model), function_draws():
            trace = given.trace(free)
        first = first or trace
        _check_same_program(trace, first)
        yield trace


def _log_density(trace: Trace) -> float:
    trace.compute_log_prob()
    sites = [site for site in trace.nodes.values() if "log_prob" in site]
    return math.fsum(float(torch.as_tensor(s["log_prob"]).sum(dtype=torch.float64)) for s in sites)


def _log_prob_of_elements(site: dict[str, Any]) -> Tensor:
    base, num_dims = site["fn"], 0
    while isinstance(base, Independent):
        num_dims += base.reinterpreted_batch_ndims
        base = base.base_dist
    mask = site["mask"]
    if isinstance(mask, Tensor):
        mask = mask[(..., *[None] * num_dims)]
    return scale_and_mask(base.log_prob(site["value"]), 1.0, mask)


def _check_match(draw: Draw) -> None:
    """Refuse a pair for which p(y, w) / q(w) has no meaning: the latents must be the same."""
    latents = {n for n, s in draw.model.nodes.items() if site_kind(s) == "latent"}
    drawn = {
        name
        for name, site in draw.guide.nodes.items()
        if site_kind(site) == "latent" and not site["infer"].get("is_auxiliary")
    }
    if latents - drawn:
        raise ValueError(
            "Expected the guide to sample every latent of the model, got none of "
            f"{', '.join(map(repr, sorted(latents - drawn)))}."
        )
    if drawn - latents:
        raise ValueError(
            "Expected the guide to sample latents of the model only, got "
            f"{', '.join(map(repr, sorted(drawn - latents)))}; model_args must hold the "
            "observations, and sites the model does not have need infer={'is_auxiliary': True}."
        )
    local = sorted(n for n in latents if draw.model.nodes[n]["cond_indep_stack"])
    if draw.predictions is not None and local:
        raise ValueError(
            "Expected latents outside plates to predict other data from, got "
            f"{', '.join(map(repr, local))} for each datum of the training."
        )
    if draw.predictions is not None:
        _check_same_names(draw.predictions, draw.model)


def _check_same_names(trace: Trace, reference: Trace) -> None:
    names, expected = (
        {n for n, s in t.nodes.items() if site_kind(s) is not None} for t in (trace, reference)
    )
    if names != expected:
        raise ValueError(
            "Expected a model with the same sites in every run, got "
            f"{', '.join(map(repr, sorted(names ^ expected)))} in some only."
        )


def _check_same_program(trace: Trace, reference: Trace) -> None:
    _check_same_names(trace, reference)
    # Data that change from draw to draw have no pointwise log-likelihood.
    indices, fixed = _subsamples(trace), _subsamples(reference)
    for name in indices.keys() & fixed.keys():
        if not torch.equal(indices[name], fixed[name]):
            raise ValueError(
                f"Expected plate {name!r} to index the same data in every draw, got random "
                "subsamples: give the plate its subsample=."
            )


def _subsamples(trace: Trace) -> dict[str, Tensor]:
    return {
        name: torch.as_tensor(site["value"])
        for name, site in trace.nodes.items()
        if site_is_subsample(site)
    }
