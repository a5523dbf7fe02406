"""
Which sites of a guide make up one divergence: what a table of them can have a row for.

Pyro's autoguides draw auxiliary sites and compute the latents from them, as Deltas. A latent and
the auxiliary site named after it belong together; where one auxiliary site is the source of several
latents, only their joint divergence means something.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pyro.distributions import Delta
from torch import Tensor
from torch.distributions import biject_to

from pyro_vrnn.diagnostics._kl_split import has_noise
from pyro_vrnn.diagnostics._layers import layer_of
from pyro_vrnn.distributions.unscored import Unscored
from pyro_vrnn.distributions.wrapped import wrapped
from pyro_vrnn.infer.elbo_draws import ELBODraw

Site = dict[str, Any]
Method = Literal["analytic", "sampled"]
SUFFIXES = ("_unconstrained", "_aux")  # of AutoNormal's and AutoStructured's auxiliary sites


@dataclass(frozen=True)
class Row:
    """Sites whose KL is one number: latents of the model, and sites of the guide they come from."""

    name: str
    latents: tuple[str, ...]
    members: tuple[str, ...]  # sites of the guide, the latents among them
    layer: str
    num_weights: int
    method: Method
    has_density: bool

    def kl(self, draw: ELBODraw) -> float:
        """Return the KL of a draw, as SVI reports it."""
        return math.fsum(float(draw.parts.kl[name]) for name in self.members)

    def sampled_kl(self, draw: ELBODraw) -> float | None:
        """Return log q - log p at a draw, auxiliary sites and Jacobians included."""
        if not self.has_density:
            return None
        if self.method == "sampled":
            return self.kl(draw)
        draw.guide_trace.compute_log_prob(lambda name, site: name in self.members)
        draw.model_trace.compute_log_prob(lambda name, site: name in self.latents)
        log_q = [draw.guide_trace.nodes[name]["log_prob"] for name in self.members]
        log_p = [draw.model_trace.nodes[name]["log_prob"] for name in self.latents]
        if any(isinstance(value, Unscored) for value in log_q):
            return None
        return math.fsum([*map(_total, log_q), *(-_total(value) for value in log_p)])


def kl_rows(draw: ELBODraw) -> list[Row]:
    """Group the guide's sites, in the model's order; those of the guide alone come last."""
    latents, guided = draw.latents, draw.guided
    alone = [name for name in guided if name not in latents]
    auxiliary = [name for name in alone if not guided[name]["is_observed"]]  # no factor
    made = [name for name in latents if _is_delta(guided[name])]  # computed, not drawn
    sources = {name: _source(name, auxiliary) for name in made}
    joint = [name for name in auxiliary if name not in sources.values()]
    loose = [name for name in made if sources[name] is None] if joint else []
    rows: list[Row] = []
    for name in latents:
        if name in loose:
            if name == loose[0]:
                rows.append(_joint(loose, joint, latents, guided))
            continue
        source = sources.get(name)
        members = (name,) if source is None else (name, source)
        noisy = has_noise(guided[name]) if name not in made else source is not None
        rows.append(_row(name, (name,), members, latents, draw.exact, noisy))
    taken = {member for row in rows for member in row.members}
    rest = [name for name in alone if name not in taken]
    return rows + [_row(name, (), (name,), latents, draw.exact, True) for name in rest]


def _joint(
    loose: list[str], joint: list[str], latents: Mapping[str, Site], guided: Mapping[str, Site]
) -> Row:
    """Return the row of latents that come from auxiliary sites which are named otherwise."""
    name = loose[0] if len(loose) == 1 else joint[0]
    # A latent that none of them is the source of has no density.
    needed = sum(_unconstrained_size(latents[latent]) for latent in loose)
    drawn = sum(
        torch.as_tensor(guided[source]["value"]).numel()
        for source in joint
        if not _is_delta(guided[source])
    )
    return _row(name, tuple(loose), (*loose, *joint), latents, frozenset(), drawn >= needed)


def _row(
    name: str,
    names: tuple[str, ...],
    members: tuple[str, ...],
    latents: Mapping[str, Site],
    exact: frozenset[str],
    has_density: bool,
) -> Row:
    return Row(
        name=name,
        latents=names,
        members=members,
        layer=layer_of(name),
        num_weights=sum(torch.as_tensor(latents[n]["value"]).numel() for n in names),
        method="analytic" if exact.issuperset(members) else "sampled",
        has_density=has_density,
    )


def _is_delta(site: Site) -> bool:
    return any(isinstance(fn, Delta) for fn in wrapped(site["fn"]))


def _source(name: str, auxiliary: list[str]) -> str | None:
    return next((name + end for end in SUFFIXES if name + end in auxiliary), None)


def _unconstrained_size(site: Site) -> int:
    value = torch.as_tensor(site["value"])
    shape = biject_to(site["fn"].support).inverse_shape(value.shape)
    return math.prod(shape)


def _total(log_prob: Tensor) -> float:
    return float(torch.as_tensor(log_prob).sum(dtype=torch.float64))
