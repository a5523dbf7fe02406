"""What an export needs to know of the model's sites: kind, group, names and sizes of dims."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Literal

import torch
from pyro.poutine import Trace
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch import Tensor

from pyro_vrnn.diagnostics._layers import layer_of
from pyro_vrnn.diagnostics._weight_dims import GATE_LABELS, weight_dims
from pyro_vrnn.distributions.weight_site import WeightSite, weight_site_of

RESERVED_DIMS = ("chain", "draw", "sample")  # names that ArviZ gives a meaning
Kind = Literal["latent", "observed", "deterministic"]
Names = Mapping[str, Sequence[str | None]]  # site -> names of its dims


@dataclass(frozen=True)
class SiteInfo:
    """What an export needs to know of one site: its kind, and name and size of each of its dims."""

    name: str
    kind: Kind
    in_plate: bool
    dims: tuple[str, ...]  # batch dims, then event dims
    batch_dims: int
    shape: tuple[int, ...]
    gates: int = 1  # of more than one, the first dim is the gates, which the site has in the second
    layer: str = ""  # as layer_of names it
    weight_kind: str = ""

    @property
    def group(self) -> str:
        """Per-datum deterministics go with the predictions, functions of the weights do not."""
        predicted = self.kind == "observed" or (self.kind == "deterministic" and self.in_plate)
        return "posterior_predictive" if predicted else "posterior"

    @property
    def site_shape(self) -> tuple[int, ...]:
        """The shape of the site's own value."""
        if self.gates == 1:
            return self.shape
        return (self.gates * self.shape[1], *self.shape[2:])

    @property
    def plate_dims(self) -> tuple[str, ...]:
        """The names of the dims in front, those of plates among them."""
        return self.dims[: self.batch_dims]

    def arranged(self, value: Tensor) -> Tensor:
        """Return a value of the site with the gates in a dim of their own."""
        return value if self.gates == 1 else value.unflatten(0, (self.gates, -1))


def site_kind(site: dict[str, Any]) -> Kind | None:
    """Return what a site of the model is; None if it holds no random or recorded value."""
    if site["type"] != "sample" or site_is_subsample(site) or site_is_factor(site):
        return None
    if site["infer"].get("_deterministic"):
        return "deterministic"
    return "observed" if site["is_observed"] else "latent"


def model_infer(site: dict[str, Any]) -> dict[str, Any]:
    """Return the ``infer`` dictionary that the model gave a site."""
    return site.get("model_infer", site["infer"])


def _record(site: dict[str, Any]) -> WeightSite | None:
    return weight_site_of({"name": site["name"], "infer": model_infer(site)})


def full_value(site: dict[str, Any]) -> Tensor:
    """Return the value of a site, broadcast over its plates."""
    value, fn = torch.as_tensor(site["value"]), site["fn"]
    return value.expand(torch.broadcast_shapes(value.shape, fn.batch_shape + fn.event_shape))


def describe_sites(
    trace: Trace,
    dims: Names | None = None,
    defaults: Names | None = None,
    others: Collection[str] = (),
) -> dict[str, SiteInfo]:
    """
    Name the dims of every site of the model.

    The names are those in ``dims``, else in ``defaults``, else in the site's
    ``infer={"event_dims": ...}``; a weight with a record has those of its kind. Dims without a name
    have that of their plate, else a number.

    :param dims: site -> names, given by the caller.
    :param defaults: site -> names, given by the model.
    :param others: names in ``dims`` that are no sites and may be there.
    :raises ValueError: if ``dims`` names an unknown site, or has more names than the site has dims.
    """
    sites = {name: site for name, site in trace.nodes.items() if site_kind(site) is not None}
    dims, defaults = dims or {}, defaults or {}
    unknown = sorted(set(dims) - set(sites) - set(others))
    if unknown:
        raise ValueError(
            f"Expected the names in dims to be sites of the model ({', '.join(sites)}), "
            f"got {', '.join(map(repr, unknown))}."
        )
    given = {name: _given(site, dims, defaults) for name, site in sites.items()}
    found = {name: _describe(site, given[name] or ()) for name, site in sites.items()}
    weights = {name: sites[name] for name, names in given.items() if names is None}
    return found | _describe_weights(weights, found)


def _given(site: dict[str, Any], dims: Names, defaults: Names) -> Sequence[str | None] | None:
    """Return the names that someone gave to a site's dims; None if its record gives them."""
    name = site["name"]
    if name in dims:
        # None keeps the model's name; a str or too many names are refused later.
        given, own = dims[name], defaults.get(name, ())
        return given if isinstance(given, str) else [g or n for g, n in zip_longest(given, own)]
    if name in defaults:
        return defaults[name]
    value, event_dim = full_value(site), site["fn"].event_dim
    if (event_dims := model_infer(site).get("event_dims")) is not None:
        return [*[None] * (value.dim() - event_dim), *event_dims]
    is_weight = site_kind(site) == "latent" and _record(site) is not None
    return None if is_weight and value.dim() == event_dim else ()


def _describe(site: dict[str, Any], given: Sequence[str | None]) -> SiteInfo:
    name, kind = site["name"], site_kind(site)
    assert kind is not None
    shape = tuple(full_value(site).shape)
    num_dims = len(shape)
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
    in_plate = bool(site["cond_indep_stack"])
    return SiteInfo(name, kind, in_plate, filled, batch_dims, shape, layer=layer_of(name))


def _describe_weights(
    sites: Mapping[str, dict[str, Any]], found: Mapping[str, SiteInfo]
) -> dict[str, SiteInfo]:
    """Name the dims of weights by their records."""
    records = {name: _record(site) for name, site in sites.items()}
    weights = {n: (r, found[n].shape) for n, r in records.items() if r is not None}
    others = [info for name, info in found.items() if name not in weights]
    taken = {*found, *RESERVED_DIMS, *(dim for info in others for dim in info.dims)}
    described = {}
    for name, (dims, shape) in weight_dims(weights, taken).items():
        record = weights[name][0]
        described[name] = replace(
            found[name], dims=dims, shape=shape, gates=record.gates, weight_kind=record.kind
        )
    return described


def gate_labels(sites: Mapping[str, SiteInfo]) -> dict[str, tuple[str, ...]]:
    """Return the labels of the gates, for each dim that counts them."""
    return {
        site.dims[0]: GATE_LABELS[site.gates]
        for site in sites.values()
        if site.gates in GATE_LABELS
    }


def dim_sizes(sites: Mapping[str, SiteInfo]) -> dict[str, int]:
    """
    Return the size of every dim of the sites.

    :raises ValueError: if two sites give a dim of one name two sizes.
    """
    sizes: dict[str, int] = {}
    for site in sites.values():
        add_sizes(sizes, site.name, site.dims, site.shape)
    return sizes


def add_sizes(sizes: dict[str, int], name: str, dims: Sequence[str], shape: Sequence[int]) -> None:
    """
    Add the sizes of the dims of one more variable.

    :raises ValueError: if a dim of its names has another size.
    """
    for dim, size in zip(dims, shape, strict=True):
        if sizes.setdefault(dim, size) != size:
            raise ValueError(
                f"Expected dim {dim!r} to have one size, got {sizes[dim]} and "
                f"{size} (site {name!r})."
            )
