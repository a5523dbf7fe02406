r"""
How well a posterior predicts data that it was not trained on, per observation.

.. math::
    \mathrm{ELL} = \frac1n \frac1S \sum_{s} \log p(y \mid w_s), \qquad
    \mathrm{NLL} = -\frac1n \sum_{i} \log \frac1S \sum_s p(y_i \mid w_s),

for S draws of one w for all data. The first is the "validation ELBO" without its KL; the second
averages probabilities over draws, never their logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vrnn.distributions.wrapped import unmasked
from pyro_vrnn.infer._batches import Batches
from pyro_vrnn.infer._sites import sample_sites
from pyro_vrnn.infer.carried_state import CarriedState
from pyro_vrnn.infer.evaluating import reading
from pyro_vrnn.infer.function_draws import function_draws
from pyro_vrnn.infer.pairs import check_pair, check_sites
from pyro_vrnn.models.sequence import any_batch_size
from pyro_vrnn.runs import check_device, lent_generators
from pyro_vrnn.shapes import check_positive_int


@dataclass(frozen=True)
class HeldOut:
    """
    Scores of held-out data.

    :ivar float expected_log_likelihood: mean over draws of the log-likelihood of an observation, in
        nats; the observations of a plate count one by one, an event (``to_event``) as one.
    :ivar float nll: negative log predictive density of an observation, in nats.
    :ivar int num_observations: n.
    :ivar int num_draws: S.
    """

    expected_log_likelihood: float
    nll: float
    num_observations: int
    num_draws: int


@torch.no_grad()
def held_out(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Iterable[Any],
    *,
    num_draws: int = 10,
    seed: int = 0,
    device: torch.device | None = None,
) -> HeldOut:
    """
    Score held-out data under draws of a guide.

    The draws come from a stream of random numbers of their own, the same for the same seed; the
    generators are left as they were. Scales of plates and handlers do not count, and modules are in
    ``.eval()`` mode meanwhile.

    Example::

        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.SequenceRegression(vrnn.nn.GRU(3, 8), 1)
        >>> guide = vrnn.infer.AutoSpikeAndSlab(model)
        >>> batch = torch.zeros(4, 10, 3), torch.zeros(4, 1)
        >>> _ = guide(*batch)
        >>> held_out(model, guide, [batch], num_draws=3).num_observations
        4

    :param model: a Pyro model; its observed sites count.
    :param guide: its guide.
    :param data: batches as for :func:`~pyro_vrnn.infer.fit`, observations included.
    :param int num_draws: S.
    :raises ValueError: if there is no batch, or the model observes nothing.
    """
    total, best, count = 0.0, 0.0, 0
    with lent_generators():  # of which a loader takes numbers too
        for scores in held_out_log_likelihood(
            model, guide, data, num_draws=num_draws, seed=seed, device=device
        ):
            total += float(scores.sum()) / num_draws
            best += float((scores.logsumexp(0) - math.log(num_draws)).sum())
            count += scores.shape[1]
    return HeldOut(total / count, -best / count, count, num_draws)


@torch.no_grad()
def held_out_log_likelihood(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Iterable[Any],
    *,
    num_draws: int = 10,
    seed: int = 0,
    device: torch.device | None = None,
) -> Iterator[Tensor]:
    """
    Yield the log-likelihood of each observation under each draw, ``(S, n)`` of each batch.

    In float64, in nats; the observations of all observed sites in a row, those masked out left out
    (an event is, if all of it is masked).
    Arguments and errors are those of :func:`held_out`.

    Example::

        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.SequenceRegression(vrnn.nn.GRU(3, 8), 1)
        >>> guide = vrnn.infer.AutoSpikeAndSlab(model)
        >>> batch = torch.zeros(4, 10, 3), torch.zeros(4, 1)
        >>> _ = guide(*batch)
        >>> [scores.shape for scores in held_out_log_likelihood(model, guide, [batch], num_draws=3)]
        [torch.Size([3, 4])]
    """
    check_pair(model, guide)
    check_positive_int("num_draws", num_draws)
    if device is not None:
        device = check_device(str(device))
    check_independent_batches("data", data)
    number = -1
    for number, (args, kwargs) in enumerate(Batches(data, device).epoch()):
        scores = []
        with (
            lent_generators(),
            reading(model, guide),
            function_draws(),
            any_batch_size(),
        ):
            for draw in range(num_draws):
                # The same w for every batch, so that a draw is one function.
                torch.manual_seed(seed * 1_000_003 + draw)
                guided = poutine.trace(guide).get_trace(*args, **kwargs)
                replayed = poutine.replay(model, trace=guided)
                trace = poutine.trace(replayed).get_trace(*args, **kwargs)
                check_sites(model, guide, guided.nodes.keys() - trace.nodes.keys())
                scores.append(_log_likelihood(trace))
        each = torch.stack(scores)
        if each.shape[1] == 0:
            raise ValueError(
                f"Expected a model that observes data, got none in batch {number}: is y missing?"
            )
        yield each
    if number < 0:
        raise ValueError("Expected held-out data of at least one batch, got none.")


def check_independent_batches(name: str, data: Any) -> None:
    """Refuse windows that carry a state: under several draws each would start from the last's."""
    if isinstance(data, CarriedState):
        raise TypeError(
            f"Expected {name} in batches that do not depend on each other, got CarriedState: score "
            "a text with score_language (and give fit a function that returns its number)."
        )


def _log_likelihood(trace: Any) -> Tensor:
    """Return the log-likelihoods of the observations of all observed sites, in a row."""
    parts = []
    for site in sample_sites(trace).values():
        if not site["is_observed"]:
            continue
        each = site["fn"].log_prob(site["value"]).double()
        kept = unmasked(site["fn"], site["value"]).any(-1).to(each.device)
        if site["mask"] is not None:
            kept = kept & torch.as_tensor(site["mask"], dtype=torch.bool, device=each.device)
        parts.append(each[kept.expand(each.shape)])
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)
