"""What an ELBO estimate is made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class ELBOParts(NamedTuple):
    """
    What an ELBO estimate is made of: detached float64 scalars in nats, means over the particles.

    They stay on the device they were computed on; reading one waits for it.

    :param torch.Tensor expected_log_likelihood: the sum of ``log_likelihood``.
    :param dict log_likelihood: observed site (a ``pyro.factor`` too) -> its scaled log-likelihood.
    :param dict kl: site -> its KL divergence; for a site estimated by sampling log q - log p at
        the draw, for one that only the guide has log q.
    """

    expected_log_likelihood: Tensor
    log_likelihood: dict[str, Tensor]
    kl: dict[str, Tensor]

    @property
    def elbo(self) -> Tensor:
        """The ELBO estimate: the expected log-likelihood less every divergence."""
        return self.weighted(1.0)

    def weighted(self, kl_weight: float) -> Tensor:
        """The expected log-likelihood less ``kl_weight`` times the divergences."""
        return self.expected_log_likelihood - kl_weight * sum(self.kl.values())


def total(terms: Iterable[Tensor]) -> Tensor:
    """Sum scalars of one device."""
    # A scalar of the CPU may be added to one of any device.
    return sum(terms, start=torch.zeros((), dtype=torch.float64))


def summed(particles: list[ELBOParts]) -> ELBOParts:
    """Sum the terms of particles, without their graph."""
    log_likelihood: dict[str, Tensor] = {}
    kl: dict[str, Tensor] = {}
    for particle in particles:
        for sums, terms in ((log_likelihood, particle.log_likelihood), (kl, particle.kl)):
            for name, value in terms.items():
                term = value.detach()
                sums[name] = sums[name] + term if name in sums else term
    return ELBOParts(total(log_likelihood.values()), log_likelihood, kl)
