"""An export step by step: sites and dims, what fits, the draws, the groups."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from pyro_vrnn.diagnostics._collect import (
    STATISTICS,
    Values,
    numpy_of,
    read,
    read_prior,
    reading,
    stack,
)
from pyro_vrnn.diagnostics._datasets import Variable, check_coords, make_dataset
from pyro_vrnn.diagnostics._draws import Arguments, Draw, Program, iter_draws, iter_prior
from pyro_vrnn.diagnostics._facts import attributes, fit_attributes
from pyro_vrnn.diagnostics._history import SVIResult, divergences, history, parts_now
from pyro_vrnn.diagnostics._inputs import ConstantData, apart, constant_variables
from pyro_vrnn.diagnostics._moments import Moments
from pyro_vrnn.diagnostics._observations import CLASS_SITES, is_class
from pyro_vrnn.diagnostics._selection import Key, Selection, fit_size, select
from pyro_vrnn.diagnostics._sites import (
    Names,
    SiteInfo,
    add_sizes,
    describe_sites,
    dim_sizes,
    full_value,
    gate_labels,
)
from pyro_vrnn.infer import FitResult
from pyro_vrnn.shapes import shape_text

SAMPLE_DIMS = ("chain", "draw")
KL_PARTS = ("constant", "slab", "mask")
PREDICTED_GROUPS = ("predictions", "predictions_constant_data")
Groups = dict[str, dict[str, Variable]]
Given = Mapping[str, Any]  # site -> draws that the caller made


@dataclass(frozen=True)
class Request:
    """The arguments of an export, checked one by one."""

    model: Program
    guide: Program
    training: Arguments
    elsewhere: Arguments | None
    svi_result: SVIResult
    num_samples: int
    posterior: bool | Sequence[str]
    summarize: Sequence[str]
    posterior_predictive: bool
    log_likelihood: bool | str
    prior: bool | Given | None
    predictions: Given | None
    constant_data: ConstantData
    predictions_constant_data: ConstantData
    coords: Mapping[str, ArrayLike]
    dims: Names
    pred_dims: Names
    max_bytes: int
    seed: int | None
    progress: bool

    @property
    def defaults(self) -> Names:
        """Names of dims that the model itself gives."""
        return getattr(self.model, "dim_names", {})


@dataclass
class Layout:
    """The sites of the model and of its predictions, other variables, and coordinates."""

    sites: dict[str, SiteInfo]
    predicted: dict[str, SiteInfo]
    predictions: dict[str, Variable]  # made by the caller
    constants: dict[str, Variable]
    predicted_constants: dict[str, Variable]
    coords: dict[str, NDArray[Any]] = field(default_factory=dict)
    predicted_coords: dict[str, NDArray[Any]] = field(default_factory=dict)

    def coords_of(self, group: str) -> dict[str, NDArray[Any]]:
        """Return the coordinates of a group's dims."""
        return self.predicted_coords if group in PREDICTED_GROUPS else self.coords


def run_export(request: Request, index_origin: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw, and return a dataset for each group and the attributes of all."""
    past = history(request.svi_result)
    if request.constant_data is True:
        request = replace(request, training=apart(request.training))
    draws = _draws(request)
    first = next(draws)
    layout = _layout(request, first)
    selection = select(layout.sites, request.posterior, request.summarize, request.log_likelihood)
    by_element = request.log_likelihood == "step"
    read_one = partial(read, predictions=layout.predicted, by_element=by_element)
    sizes = _sizes(request, read_one(first, selection), selection)
    selection = fit_size(selection, sizes, request.max_bytes)
    moments = {site.name: Moments() for site in selection.summarized}
    values = reading(
        itertools.chain([first], draws), partial(read_one, selection=selection), moments, selection
    )
    arrays = stack(values, request.num_samples)
    if request.prior is True:
        traces = iter_prior(request.model, request.training, num_samples=request.num_samples)
        arrays |= stack((read_prior(t, selection) for t in traces), request.num_samples)
    groups = _drawn_groups(arrays, layout)
    _add_given(groups, request, layout)
    _add_data(groups, first, layout)
    _add_summaries(groups, moments, selection.summarized)
    kl, kl_sites = divergences(request.svi_result, parts_now(request.guide, first.model))
    if past or kl:
        groups["svi"] = past | kl
    attrs = attributes(request.model, request.guide, request.seed)
    observed = _observed(layout.sites)
    if classes := [s.name for s in observed if is_class(first.model.nodes[s.name])]:
        attrs[CLASS_SITES] = json.dumps(classes)
    if selection.summarized:
        attrs["summarized_sites"] = json.dumps([site.name for site in selection.summarized])
    of_site = {"sample_stats": [site.name for site in selection.latents], "svi": kl_sites}
    datasets = {}
    for group, variables in groups.items():
        coords = layout.coords_of(group) | _own_coords(group, of_site.get(group, ()))
        datasets[group] = make_dataset(variables, coords, attrs, index_origin)
        if names := of_site.get(group):
            datasets[group] = datasets[group].assign_coords(_site_coords(names, layout.sites))
    if isinstance(request.svi_result, FitResult):
        datasets["svi"].attrs |= fit_attributes(request.svi_result)
    return datasets, attrs


def _own_coords(group: str, site_names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return the labels of the dims that are not the model's."""
    labels = {"site": site_names, "kl_part": KL_PARTS, "statistic": STATISTICS}
    own = {
        "sample_stats": ("site",),
        "svi": ("site", "kl_part"),
        "posterior_summary": ("statistic",),
    }
    return {dim: np.asarray(labels[dim]) for dim in own.get(group, ())}


def _site_coords(names: Sequence[str], sites: Mapping[str, SiteInfo]) -> dict[str, Any]:
    """Return layer and kind of each site, for ``groupby``."""
    layers = [sites[name].layer if name in sites else name for name in names]
    kinds = [sites[name].weight_kind if name in sites else "" for name in names]
    return {"layer": ("site", layers), "weight_kind": ("site", kinds)}


def _draws(request: Request) -> Iterator[Draw]:
    iterator = iter_draws(
        request.model,
        request.guide,
        request.training,
        num_samples=request.num_samples,
        predictive=request.posterior_predictive,
        predictions=request.elsewhere,
    )
    disable = not request.progress
    return iter(tqdm(iterator, total=request.num_samples, desc="draws", disable=disable))


def _layout(request: Request, first: Draw) -> Layout:
    """Name the dims of everything, and give them coordinates."""
    both = (request.constant_data, request.predictions_constant_data)
    others = {name for given in both if isinstance(given, Mapping) for name in given}
    others |= set(request.defaults)
    sites = describe_sites(first.model, request.dims, request.defaults, others)
    nodes = first.model.nodes
    observed = {s.name: torch.as_tensor(nodes[s.name]["value"]) for s in _observed(sites)}
    dims, pred_dims = request.dims, {**request.dims, **request.pred_dims}
    make = partial(constant_variables, model=request.model, defaults=request.defaults)
    constants = make(
        "constant_data", request.constant_data, given=request.training, observed=observed, dims=dims
    )
    predicted: dict[str, SiteInfo] = {}
    if first.predictions is not None:
        found = describe_sites(first.predictions, pred_dims, request.defaults, others)
        predicted = {n: s for n, s in found.items() if sites[n].group == "posterior_predictive"}
    predicted_constants = make(
        "predictions_constant_data",
        request.predictions_constant_data,
        given=request.elsewhere or request.training,
        observed={},
        dims=pred_dims,
    )
    given = _given_predictions(request, sites)
    layout = Layout(sites, predicted, given, constants, predicted_constants)
    _add_coords(layout, request)
    return layout


def _observed(sites: Mapping[str, SiteInfo]) -> list[SiteInfo]:
    return [site for site in sites.values() if site.kind == "observed"]


def _add_coords(layout: Layout, request: Request) -> None:
    sizes = dim_sizes(layout.sites)
    for name, (dims, array) in layout.constants.items():
        add_sizes(sizes, name, dims, array.shape)
    predicted = dim_sizes(layout.predicted)
    for name, (dims, array) in {**layout.predictions, **layout.predicted_constants}.items():
        start = sum(dim in SAMPLE_DIMS for dim in dims)
        add_sizes(predicted, name, dims[start:], array.shape[start:])
    # Other data have other sequences: a plate's coordinates are the training's.
    named = {dim for names in request.pred_dims.values() for dim in names}
    own = {dim for site in layout.sites.values() for dim in site.plate_dims} - named
    shared = {dim: size for dim, size in predicted.items() if dim not in own}
    layout.coords = {
        dim: np.asarray(labels) for dim, labels in gate_labels(layout.sites).items()
    } | check_coords(request.coords, {**shared, **sizes})
    here = {dim: values for dim, values in layout.coords.items() if dim in shared}
    layout.predicted_coords = check_coords(here, shared)


def _sizes(request: Request, values: Values, selection: Selection) -> dict[Key, int]:
    """Return the bytes that the draws of each variable take."""
    sizes = {key: value.nbytes * request.num_samples for key, value in values.items()}
    if request.prior is True:
        for site in selection.posterior:
            sizes["prior", site.name] = sizes["posterior", site.name]
        for site in selection.predictive:
            most = 8 * math.prod(site.shape) * request.num_samples
            like = sizes.get(("posterior_predictive", site.name), most)
            sizes["prior_predictive", site.name] = like
    return sizes


def _drawn_groups(arrays: Values, layout: Layout) -> Groups:
    groups: Groups = {}
    for (group, name), array in arrays.items():
        if group == "sample_stats":
            dims: tuple[str, ...] = ("site",) if name == "norm" else ()
        else:
            dims = (layout.predicted if group == "predictions" else layout.sites)[name].dims
        variable = ((*SAMPLE_DIMS, *dims)[: array.ndim], array)
        groups.setdefault(group, {})[name] = variable
    return groups


def _add_given(groups: Groups, request: Request, layout: Layout) -> None:
    """Add the draws that the caller made."""
    if isinstance(request.prior, Mapping):
        for name, value in request.prior.items():
            site = _site_of("prior", name, layout.sites)
            group = "prior" if site.group == "posterior" else "prior_predictive"
            groups.setdefault(group, {})[name] = _given_variable("prior", site, value, exact=True)
    if layout.predictions:
        groups["predictions"] = layout.predictions


def _given_predictions(request: Request, sites: Mapping[str, SiteInfo]) -> dict[str, Variable]:
    found = {}
    for name, value in (request.predictions or {}).items():
        site = _site_of("predictions", name, sites)
        names = request.pred_dims.get(name, ())
        dims = tuple(n or d for n, d in zip_longest(names, site.dims))
        named = replace(site, dims=dims)
        found[name] = _given_variable("predictions", named, value, exact=False)
    return found


def _site_of(argument: str, name: str, sites: Mapping[str, SiteInfo]) -> SiteInfo:
    if name not in sites:
        raise ValueError(
            f"Expected the names in {argument} to be sites of the model ({', '.join(sites)}), "
            f"got {name!r}."
        )
    return sites[name]


def _given_variable(argument: str, site: SiteInfo, value: Any, exact: bool) -> Variable:
    """Return draws ``(S, *shape)`` of a site; with ``exact`` the training's own shape."""
    array = numpy_of(torch.as_tensor(value))
    shape: tuple[int | str, ...] = site.site_shape
    if not exact:
        shape = tuple(
            d if d in site.plate_dims else s for d, s in zip(site.dims, shape, strict=True)
        )
    # Predictive gives sites outside plates a size of 1 for each plate of the model.
    got = array.shape[1:]
    extra = max(0, len(got) - len(shape))
    fits = len(got) - extra == len(shape) and all(size == 1 for size in got[:extra])
    fits = fits and all(
        isinstance(s, str) or s == g for s, g in zip(shape, got[extra:], strict=True)
    )
    if not fits:
        raise ValueError(
            f"Expected {argument}[{site.name!r}] of shape {shape_text(('draws', *shape))}, "
            f"got {shape_text(array.shape)}."
        )
    final = site.shape if exact else got[extra:]
    return (*SAMPLE_DIMS, *site.dims), array.reshape(1, -1, *final)


def _add_data(groups: Groups, first: Draw, layout: Layout) -> None:
    for site in _observed(layout.sites):
        value = full_value(first.model.nodes[site.name])
        groups.setdefault("observed_data", {})[site.name] = (site.dims, numpy_of(value))
    if layout.constants:
        groups["constant_data"] = layout.constants
    if layout.predicted_constants:
        groups["predictions_constant_data"] = layout.predicted_constants


def _add_summaries(
    groups: Groups, moments: Mapping[str, Moments], sites: Sequence[SiteInfo]
) -> None:
    for site in sites:
        variable = ("chain", "statistic", *site.dims), moments[site.name].array()[None]
        groups.setdefault("posterior_summary", {})[site.name] = variable
