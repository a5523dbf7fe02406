"""Draws of an ELBO: the terms of each, as SVI reports them, and the traces they were made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pyro_vrnn.infer._sites import latent_sites, sample_sites
from pyro_vrnn.infer.elbo_parts import ELBOParts
from pyro_vrnn.infer.evaluating import reading
from pyro_vrnn.infer.exact_kl_elbo import TraceExactKL_ELBO
from pyro_vrnn.infer.function_draws import function_draws
from pyro_vrnn.infer.pairs import check_pair
from pyro_vrnn.shapes import check_positive_int

Site = dict[str, Any]


@dataclass(frozen=True, eq=False)
class ELBODraw:
    """
    One draw of a guide, with the model run on it.

    :ivar ELBOParts parts: its terms: those of :class:`~pyro_vrnn.infer.TraceExactKL_ELBO`.
    :ivar model_trace: of the model, without the sites of subsamples.
    :ivar guide_trace: of the guide, likewise.
    :ivar frozenset exact: the sites whose KL in ``parts`` is analytic.
    """

    parts: ELBOParts
    model_trace: Any
    guide_trace: Any
    exact: frozenset[str]

    @property
    def latents(self) -> dict[str, Site]:
        """The model's latents: name -> site of its trace."""
        return latent_sites(self.model_trace)

    @property
    def guided(self) -> dict[str, Site]:
        """What the guide draws, auxiliary sites and factors included: name -> site of its trace."""
        return sample_sites(self.guide_trace)


class _Recorder(TraceExactKL_ELBO):
    """An ELBO that is looked at, not climbed: it needs no gradient and keeps the traces."""

    def __init__(self) -> None:
        super().__init__(sampled=True)
        self.last: tuple[Any, Any, frozenset[str]] | None = None

    def _check_gradient(self, name: str, site: Site) -> None:
        """Take every site."""

    def _seen(self, model_trace: Any, guide_trace: Any, exact: set[str]) -> None:
        self.last = model_trace, guide_trace, frozenset(exact)


@torch.no_grad()
def elbo_draws(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    num_samples: int,
) -> Iterator[ELBODraw]:
    """
    Draw from a guide one at a time, each draw one weight for all sequences and time steps.

    Their mean is the estimate of :class:`~pyro_vrnn.infer.TraceExactKL_ELBO` (``sampled=True``)
    with as many particles, from the same random numbers.

    Example::

        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.SequenceRegression(vrnn.nn.GRU(3, 4), out_features=1)
        >>> guide = vrnn.infer.AutoSpikeAndSlab(model)
        >>> batch = torch.zeros(5, 20, 3), torch.zeros(5, 1)
        >>> [len(draw.exact) for draw in elbo_draws(model, guide, batch, num_samples=2)]
        [6, 6]

    :param model: a Pyro model.
    :param guide: its guide.
    :param args: the training arguments, observations included.
    :param kwargs: the training keyword arguments.
    :param int num_samples: how many.
    :raises ValueError: as :class:`~pyro_vrnn.infer.TraceExactKL_ELBO` does.
    """
    check_positive_int("num_samples", num_samples)
    check_pair(model, guide)
    elbo = _Recorder()
    for _ in range(num_samples):
        with reading(model, guide), function_draws():
            elbo.loss(model, guide, *args, **(kwargs or {}))
        assert elbo.parts is not None
        assert elbo.last is not None
        yield ELBODraw(elbo.parts, *elbo.last)
        elbo.last = None  # nor two draws' traces at a time
