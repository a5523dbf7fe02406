"""What an ELBO is made of, with Monte Carlo errors, and how it reads as a table."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Literal

import numpy as np

from pyro_vrnn.diagnostics._tables import number
from pyro_vrnn.reprs import short_repr
from pyro_vrnn.shapes import FloatArray

NATS_PER_BIT = math.log(2.0)
NOISE = 2.0  # standard errors within which a difference is called noise


@dataclass(frozen=True)
class Estimate:
    """
    A mean over draws, in nats.

    :ivar float value: the mean.
    :ivar float standard_error: its Monte Carlo standard error; 0 for what no draw changes.
    """

    value: float
    standard_error: float

    @classmethod
    def of(cls, draws: FloatArray) -> Estimate:
        """Return the mean of independent draws, at least 2."""
        if np.all(draws == draws[0]):  # the mean of equal numbers may differ in its last digit
            return cls(float(draws[0]), 0.0)
        error = float(np.std(draws, ddof=1)) / math.sqrt(len(draws))
        return cls(math.fsum(draws) / len(draws), error)

    def __str__(self) -> str:
        error = f" ± {number(self.standard_error)}" if self.standard_error else ""
        return f"{number(self.value)}{error}"


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """
    The expected log-likelihood of one observed site, or of a ``pyro.factor``.

    :ivar str name: of the site.
    :ivar float num_observations: how many it counts, with the program's scales and masks.
    :ivar draws: its log-likelihood under each draw, ``(S,)``, scaled.
    """

    name: str
    num_observations: float
    draws: FloatArray = field(repr=False)

    __repr__ = short_repr

    @property
    def expected(self) -> Estimate:
        """The expected log-likelihood."""
        return Estimate.of(self.draws)


@dataclass(frozen=True, eq=False)
class SiteKL:
    r"""
    The divergence of one site from its prior, or of several together; nats.

    :ivar str name: of the site, layer or total.
    :ivar str layer: the layer it belongs to.
    :ivar tuple latents: the latents of the model it counts.
    :ivar int num_weights: how many numbers they hold.
    :ivar str method: ``"analytic"``, ``"sampled"``, or ``"mixed"`` for several sites.
    :ivar bool has_density: whether the guide has a density there; if not, the KL is defined up to a
        constant, whatever was printed.
    :ivar draws: the KL as the ELBO has it, ``(S,)``: of an analytic one the same number S times,
        unless it depends on other latents; of a sampled one log q - log p at each draw.
    :ivar sampled_draws: log q - log p at each draw, ``(S,)``; None without a density.
    :ivar float constant: the part that does not depend on the means, see
        :func:`~pyro_vrnn.distributions.kl_parts`; None where the KL is not split.
    :ivar float slab: the part of the means.
    :ivar float mask: minus the information of the blocks on their masks; 0 where none is dropped.
    :ivar float gal_gap: the KL minus Gal and Ghahramani's; None where nothing is dropped.
    :ivar float mask_entropy: :math:`\sum_k H_B(p_k)`, which the gap never exceeds.
    """

    name: str
    layer: str
    latents: tuple[str, ...]
    num_weights: int
    method: Literal["analytic", "sampled", "mixed"]
    has_density: bool
    draws: FloatArray = field(repr=False)
    sampled_draws: FloatArray | None = field(repr=False)
    constant: float | None
    slab: float | None
    mask: float | None
    gal_gap: float | None
    mask_entropy: float | None

    __repr__ = short_repr

    @property
    def kl(self) -> Estimate:
        """The KL in the ELBO; exact if its standard error is 0."""
        return Estimate.of(self.draws)

    @property
    def sampled(self) -> Estimate | None:
        """The mean of log q - log p over the draws; None without a density."""
        return None if self.sampled_draws is None else Estimate.of(self.sampled_draws)

    @property
    def gal(self) -> float | None:
        """Gal and Ghahramani's approximation; None where nothing is dropped."""
        return None if self.gal_gap is None else self.kl.value - self.gal_gap

    def __add__(self, other: SiteKL) -> SiteKL:
        def both(name: str) -> Any:
            mine, theirs = getattr(self, name), getattr(other, name)
            return None if mine is None or theirs is None else mine + theirs

        def either(name: str) -> Any:  # a site where nothing is dropped has no gap
            found = [value for part in (self, other) if (value := getattr(part, name)) is not None]
            return math.fsum(found) if found else None

        return replace(
            self,
            latents=self.latents + other.latents,
            num_weights=self.num_weights + other.num_weights,
            method=self.method if self.method == other.method else "mixed",
            has_density=self.has_density and other.has_density,
            draws=self.draws + other.draws,
            **{name: both(name) for name in ("sampled_draws", "constant", "slab", "mask")},
            **{name: either(name) for name in ("gal_gap", "mask_entropy")},
        )


@dataclass(frozen=True, eq=False)
class ELBOAnatomy:
    """
    An ELBO taken apart; ``str()`` is a table. All numbers are nats over the whole data.

    :ivar tuple log_likelihood: a :class:`LogLikelihood` for each observed site.
    :ivar tuple sites: a :class:`SiteKL` for each latent, in the model's order.
    :ivar float num_observations: what totals are divided by, per observation.
    :ivar float reference: log-likelihood of the observations under the code to beat, or None.
    :ivar str reference_kind: ``"uniform coding"``, ``"given"`` or None.
    :ivar int seed: of the draws.
    """

    log_likelihood: tuple[LogLikelihood, ...]
    sites: tuple[SiteKL, ...]
    num_observations: float
    reference: float | None
    reference_kind: str | None
    seed: int

    __repr__ = short_repr

    @property
    def num_samples(self) -> int:
        """S, the number of draws."""
        return len(self.log_likelihood[0].draws)

    @property
    def expected_log_likelihood_draws(self) -> FloatArray:
        """The log-likelihood under each draw, ``(S,)``."""
        return np.sum([part.draws for part in self.log_likelihood], axis=0, dtype=np.float64)

    @property
    def elbo_draws(self) -> FloatArray:
        """The ELBO estimate of each draw, ``(S,)``."""
        kl = [site.draws for site in self.sites]
        return self.expected_log_likelihood_draws - np.sum(kl, axis=0, dtype=np.float64)

    @property
    def expected_log_likelihood(self) -> Estimate:
        """The mean log-likelihood over the draws."""
        return Estimate.of(self.expected_log_likelihood_draws)

    @property
    def total_kl(self) -> SiteKL | None:
        """All sites together; None if the model has no latents."""
        return _sum_of("KL", self.sites)

    @property
    def kl(self) -> Estimate:
        """The KL of all sites."""
        total = self.total_kl
        return Estimate(0.0, 0.0) if total is None else total.kl

    @property
    def elbo(self) -> Estimate:
        """The ELBO."""
        return Estimate.of(self.elbo_draws)

    @property
    def layers(self) -> tuple[SiteKL, ...]:
        """
        The sites summed by layer, in the model's order.

        A layer is a direction of a layer of a recurrent network, another module, or a site that is
        no weight of a module.
        """
        names = dict.fromkeys(site.layer for site in self.sites)
        sums = [
            _sum_of(name, tuple(site for site in self.sites if site.layer == name))
            for name in names
        ]
        return tuple(part for part in sums if part is not None)

    @property
    def has_density(self) -> bool:
        """Whether the guide has one; without, the ELBO is defined up to a constant: no bound."""
        return all(site.has_density for site in self.sites)

    @property
    def is_vacuous(self) -> bool | None:
        """Whether the bound is below the reference; None without a reference or a density."""
        if self.reference is None or not self.has_density:
            return None
        return self.elbo.value < self.reference

    def per_observation(self, nats: float, unit: Literal["nats", "bits"] = "nats") -> float:
        """Divide a total by the number of observations (of tokens, where these are observed)."""
        if unit not in ("nats", "bits"):
            raise ValueError(f"Expected unit to be one of 'nats', 'bits', got {unit!r}.")
        return nats / self.num_observations / (NATS_PER_BIT if unit == "bits" else 1.0)

    def to_dataset(self) -> Any:
        """
        Return all of it as an :class:`xarray.Dataset` with dims ``site``, ``layer``, ``draw``.

        What is None is NaN.
        """
        from pyro_vrnn.diagnostics._elbo_dataset import elbo_dataset

        return elbo_dataset(self)

    def __str__(self) -> str:
        from pyro_vrnn.diagnostics._elbo_text import elbo_text

        return elbo_text(self)


def _sum_of(name: str, sites: tuple[SiteKL, ...]) -> SiteKL | None:
    if not sites:
        return None
    return replace(reduce(SiteKL.__add__, sites), name=name, layer=name)
