"""Draws from a guide with the model run on each: densities, and where each site's value goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch import Tensor

from pyro_vrnn.distributions.unscored import Unscored
from pyro_vrnn.infer.function_draws import function_draws
from pyro_vrnn.nn.own_params import own_parameters

RESERVED_DIMS = ("chain", "draw", "sample")  # names that ArviZ gives a meaning
Kind = Literal["latent", "observed", "deterministic"]


@dataclass(frozen=True)
class SiteInfo:
    """What an export needs to know of one site: its kind, and a name for each of its dims."""

    name: str
    kind: Kind
    in_plate: bool
    dims: tuple[str, ...]  # batch dims, then event dims
    batch_dims: int

    @property
    def group(self) -> str:
        """Per-datum deterministics go with the predictions, functions of the weights do not."""
        predicted = self.kind == "observed" or (self.kind == "deterministic" and self.in_plate)
        return "posterior_predictive" if predicted else "posterior"


@dataclass(frozen=True)
class Draw:
    """The traces of one draw; ``model`` and ``predictive`` saw the values of ``guide``."""

    guide: Trace
    model: Trace
    predictive: Trace | None

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

    def log_likelihood(self, name: str) -> Tensor:
        """Return log p(y_n | w) of an observed site, event dims summed; unscaled, 0 if masked."""
        self.model.compute_log_prob(lambda other, site: other == name)
        site = self.model.nodes[name]
        return scale_and_mask(site["unscaled_log_prob"], 1.0, site["mask"])

    def value(self, info: SiteInfo) -> Tensor:
        """Return the value of a site that goes to ``posterior`` or ``posterior_predictive``."""
        trace = self.model if info.group == "posterior" else self.predictive
        assert trace is not None
        return full_value(trace.nodes[info.name])


def iter_draws(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    num_samples: int,
    predictive: bool,
) -> Iterator[Draw]:
    """Draw from the guide one at a time, and run the model on each draw."""
    first: Draw | None = None
    for _ in range(num_samples):
        with own_parameters(model, guide), function_draws():
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)

            def run(program: Callable[..., Any], given: Trace = guide_trace) -> Trace:
                replayed = poutine.replay(program, trace=given)
                return poutine.trace(replayed).get_trace(*args, **kwargs)

            redrawn = run(poutine.uncondition(model)) if predictive else None
            draw = Draw(guide_trace, run(model), redrawn)
        if first is None:
            first = draw
            _check_match(draw)
        for trace in (draw.model, draw.predictive):
            if trace is not None:
                _check_same_program(trace, first.model)
        yield draw


def site_kind(site: dict[str, Any]) -> Kind | None:
    """Return what a site of the model is; None if it holds no random or recorded value."""
    if site["type"] != "sample" or site_is_subsample(site) or site_is_factor(site):
        return None
    if site["infer"].get("_deterministic"):
        return "deterministic"
    return "observed" if site["is_observed"] else "latent"


def full_value(site: dict[str, Any]) -> Tensor:
    """Return the value of a site, broadcast over its plates."""
    value, fn = torch.as_tensor(site["value"]), site["fn"]
    return value.expand(torch.broadcast_shapes(value.shape, fn.batch_shape + fn.event_shape))


def describe_sites(
    trace: Trace, dims: Mapping[str, Sequence[str | None]] | None = None
) -> dict[str, SiteInfo]:
    """
    Name the dims of every site of the model: by ``dims``, by its plates, else by number.

    :raises ValueError: if ``dims`` names an unknown site, or has more names than the site has dims.
    """
    sites = {name: site for name, site in trace.nodes.items() if site_kind(site) is not None}
    dims = dims or {}
    unknown = sorted(set(dims) - set(sites))
    if unknown:
        raise ValueError(
            f"Expected the names in dims to be sites of the model ({', '.join(sites)}), "
            f"got {', '.join(map(repr, unknown))}."
        )
    return {name: _describe(site, dims.get(name, ())) for name, site in sites.items()}


def _describe(site: dict[str, Any], given: Sequence[str | None]) -> SiteInfo:
    name, kind = site["name"], site_kind(site)
    assert kind is not None
    num_dims = full_value(site).dim()
    batch_dims = num_dims - site["fn"].event_dim
    if isinstance(given, str) or len(given) > num_dims:
        raise ValueError(f"Expected at most {num_dims} names in dims[{name!r}], got {given!r}.")
    names: list[str | None] = [None] * num_dims
    for frame in site["cond_indep_stack"]:
        if frame.vectorized and -frame.dim <= batch_dims:
            taken = frame.name in (*RESERVED_DIMS, name)
            names[batch_dims + frame.dim] = f"{frame.name}_dim" if taken else frame.name
    names[: len(given)] = [g or n for g, n in zip(given, names, strict=False)]
    numbers = iter(range(num_dims))
    filled = tuple(n or f"{name}_dim_{next(numbers)}" for n in names)
    if len({*filled, *RESERVED_DIMS}) < num_dims + len(RESERVED_DIMS):
        raise ValueError(
            f"Expected the names in dims[{name!r}] to differ from each other and from "
            f"{', '.join(RESERVED_DIMS)}, got {given!r}."
        )
    return SiteInfo(name, kind, bool(site["cond_indep_stack"]), filled, batch_dims)


def dim_sizes(trace: Trace, sites: Mapping[str, SiteInfo]) -> dict[str, int]:
    """
    Return the size of every dim of the sites.

    :raises ValueError: if two sites give a dim of one name two sizes.
    """
    sizes: dict[str, int] = {}
    for site in sites.values():
        for dim, size in zip(site.dims, full_value(trace.nodes[site.name]).shape, strict=True):
            if sizes.setdefault(dim, size) != size:
                raise ValueError(
                    f"Expected dim {dim!r} to have one size, got {sizes[dim]} and "
                    f"{size} (site {site.name!r})."
                )
    return sizes


def _log_density(trace: Trace) -> float:
    trace.compute_log_prob()
    sites = [site for site in trace.nodes.values() if "log_prob" in site]
    return math.fsum(float(torch.as_tensor(s["log_prob"]).sum(dtype=torch.float64)) for s in sites)


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


def _check_same_program(trace: Trace, reference: Trace) -> None:
    names, expected = (
        {n for n, s in t.nodes.items() if site_kind(s) is not None} for t in (trace, reference)
    )
    if names != expected:
        raise ValueError(
            "Expected a model with the same sites in every run, got "
            f"{', '.join(map(repr, sorted(names ^ expected)))} in some only."
        )
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
