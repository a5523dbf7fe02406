r"""
An ELBO taken apart: what it gains from the data, and what each weight costs.

.. math::
    \mathrm{ELBO} = E_q \log p(y \mid w) - \sum_s \mathrm{KL}(q(w_s) \,\|\, p(w_s)).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pyro_vrnn.diagnostics._kl_rows import Row, kl_rows
from pyro_vrnn.diagnostics._kl_split import KLSplit, kl_split
from pyro_vrnn.diagnostics._observations import num_observations as count_observations
from pyro_vrnn.diagnostics._observations import uniform_log_likelihood
from pyro_vrnn.diagnostics._programs import check_program
from pyro_vrnn.diagnostics.elbo_terms import ELBOAnatomy, LogLikelihood, SiteKL
from pyro_vrnn.infer.elbo_draws import ELBODraw, elbo_draws
from pyro_vrnn.runs import check_seed, lent_generators, set_seed
from pyro_vrnn.shapes import check_positive_float, check_positive_int


@torch.no_grad()
def elbo_anatomy(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *,
    model_args: Sequence[Any] = (),
    model_kwargs: Mapping[str, Any] | None = None,
    num_samples: int = 100,
    num_observations: float | None = None,
    reference: float | None = None,
    seed: int = 0,
) -> ELBOAnatomy:
    r"""
    Take the ELBO of a guide apart: expected log-likelihood and KL, by site and layer.

    Each of S draws is one weight for all sequences and time steps, and the model is run on it as
    SVI runs it, plates and scales included; the parts sum to what
    :class:`~pyro_vrnn.infer.TraceExactKL_ELBO` with S particles reports. Draws are taken one by
    one, and only numbers are kept of them.

    A KL that is registered is exact (given the other latents, where it depends on them); beside it
    stands the sampled one, the mean of log q - log p over the draws, which is what
    :class:`~pyro.infer.Trace_ELBO` uses, with its standard error. Other sites are sampled alone.
    Where a Pyro autoguide computes latents from an auxiliary site the two count as one; from a
    joint one (``AutoMultivariateNormal``, ``AutoLowRankMultivariateNormal``) all its latents do.

    The KL of :class:`~pyro_vrnn.distributions.SpikeAndSlab` and of normals from normals comes in
    three parts, see :func:`~pyro_vrnn.distributions.kl_parts`: the constant that no training of
    the means removes, the slab's, and the masks', with Gal and Ghahramani's approximation.

    A guide without noise (``scale=0``) or with a ``Delta`` has no density: its ELBO is defined up
    to a constant, and the table says so.

    Example::

        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.SequenceClassification(vrnn.nn.GRU(8, 4), num_classes=3)
        >>> guide = vrnn.infer.AutoSpikeAndSlab(model)
        >>> batch = torch.zeros(5, 20, 8), torch.zeros(5, dtype=torch.long)
        >>> anatomy = elbo_anatomy(model, guide, model_args=batch, num_samples=10)
        >>> [part.name for part in anatomy.layers], anatomy.num_observations
        (['rnn.l0', 'head'], 5.0)
        >>> anatomy.is_vacuous  # 183 weights cost more than 5 classes tell
        True

    :param model: a Pyro model.
    :param guide: its guide, any that can be drawn from.
    :param model_args: the training arguments, observations included.
    :param model_kwargs: the training keyword arguments.
    :param int num_samples: S, at least 2.
    :param float num_observations: what totals are divided by; None counts the elements of the
        observed sites' plates, scaled as their likelihood is: an event (``to_event``) once,
        if a mask leaves any of it.
    :param float reference: the log-likelihood of the observations under a code to beat, in nats;
        None for uniform coding where every observed site is categorical or Bernoulli, else none.
    :param int seed: of the draws; the generators are left as they were.
    :raises TypeError: if an argument is of the wrong type.
    :raises ValueError: if a number is out of range, the model observes nothing, or the guide lacks
        a latent of the model.
    :raises NotImplementedError: if a site is enumerated.
    """
    kwargs = check_program(model, guide, model_args, model_kwargs)
    if check_positive_int("num_samples", num_samples) < 2:
        raise ValueError(f"Expected num_samples of at least 2, got {num_samples}.")
    if num_observations is not None:
        num_observations = check_positive_float("num_observations", num_observations)
    check_seed(seed)
    with lent_generators():
        set_seed(seed)
        draws = elbo_draws(model, guide, model_args, kwargs, num_samples=num_samples)
        return _summed_up(draws, num_observations, _check_reference(reference), seed)


def _check_reference(reference: Any) -> float | None:
    if reference is None:
        return None
    if isinstance(reference, bool) or not isinstance(reference, (int, float)):
        raise TypeError(f"Expected reference to be a number of nats, got {reference!r}.")
    if not math.isfinite(reference):
        raise ValueError(f"Expected reference to be a finite number of nats, got {reference}.")
    return float(reference)


def _summed_up(
    draws: Iterable[ELBODraw], num_observations: float | None, reference: float | None, seed: int
) -> ELBOAnatomy:
    rows: list[Row] = []
    observed: list[dict[str, Any]] = []
    log_likelihood: dict[str, list[float]] = defaultdict(list)
    kl: dict[str, list[float]] = defaultdict(list)
    sampled: dict[str, list[float]] = defaultdict(list)
    splits: dict[str, list[KLSplit]] = defaultdict(list)
    for draw in draws:
        if not rows:
            rows = kl_rows(draw)
            observed = _observed(draw)
        for site in observed:
            name = site["name"]
            log_likelihood[name].append(float(draw.parts.log_likelihood[name]))
        for row in rows:
            kl[row.name].append(row.kl(draw))
            if (value := row.sampled_kl(draw)) is not None:
                sampled[row.name].append(value)
            if (split := _split(row, draw)) is not None:
                splits[row.name].append(split)
    uniform = [uniform_log_likelihood(site) for site in observed]
    counts = [count_observations(site) for site in observed]
    kind = "given"
    if reference is None:
        kind = "uniform coding"
        known = [value for value in uniform if value is not None]
        reference = math.fsum(known) if len(known) == len(uniform) and any(counts) else None
    return ELBOAnatomy(
        log_likelihood=tuple(
            LogLikelihood(site["name"], count, np.asarray(log_likelihood[site["name"]]))
            for site, count in zip(observed, counts, strict=True)
        ),
        sites=tuple(
            _site_kl(row, kl[row.name], sampled[row.name], splits[row.name]) for row in rows
        ),
        num_observations=num_observations or _check_count(math.fsum(counts)),
        reference=reference,
        reference_kind=None if reference is None else kind,
        seed=seed,
    )


def _observed(draw: ELBODraw) -> list[dict[str, Any]]:
    """Return the sites that count as likelihood, factors included."""
    nodes = draw.model_trace.nodes
    if not draw.parts.log_likelihood:
        names = ", ".join(map(repr, draw.latents))
        raise ValueError(
            f"Expected a model that observes data, got latents only ({names}): model_args must "
            "hold the observations."
        )
    return [nodes[name] for name in draw.parts.log_likelihood]


def _check_count(counted: float) -> float:
    if counted == 0:
        raise ValueError(
            "Expected observations to divide totals by, got none that a plate counts (factors and "
            "masked ones do not): give num_observations."
        )
    return counted


def _split(row: Row, draw: ELBODraw) -> KLSplit | None:
    if row.method != "analytic":
        return None
    (name,) = row.members
    return kl_split(draw.guide_trace.nodes[name], draw.model_trace.nodes[name])


def _site_kl(row: Row, kl: list[float], sampled: list[float], splits: list[KLSplit]) -> SiteKL:
    columns = dict(zip(KLSplit._fields, zip(*splits, strict=True), strict=True)) if splits else {}
    means = {
        name: None if None in values else math.fsum(values) / len(values)
        for name, values in columns.items()
    }
    return SiteKL(
        name=row.name,
        layer=row.layer,
        latents=row.latents,
        num_weights=row.num_weights,
        method=row.method,
        has_density=row.has_density,
        draws=np.asarray(kl),
        sampled_draws=np.asarray(sampled) if sampled else None,
        constant=means.get("constant"),
        slab=means.get("slab"),
        mask=means.get("mask"),
        gal_gap=means.get("gal_gap"),
        mask_entropy=means.get("mask_entropy"),
    )
