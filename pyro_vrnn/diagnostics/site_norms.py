"""How large the weights of each site are, in the posterior and in the prior."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pyro import poutine

from pyro_vrnn.diagnostics._programs import check_program
from pyro_vrnn.infer.elbo_draws import elbo_draws
from pyro_vrnn.reprs import short_repr
from pyro_vrnn.runs import check_seed, lent_generators, set_seed
from pyro_vrnn.shapes import FloatArray, check_positive_int


@dataclass(frozen=True, eq=False)
class SiteNorms:
    r"""
    Norms :math:`\|w\|` of draws.

    :ivar dict posterior: site -> norm of each draw from the guide, ``(S,)``.
    :ivar dict prior: site -> norm of each draw from the prior, ``(S,)``.
    :ivar dict num_weights: site -> how many numbers it holds.
    """

    posterior: dict[str, FloatArray] = field(repr=False)
    prior: dict[str, FloatArray] = field(repr=False)
    num_weights: dict[str, int]

    __repr__ = short_repr

    def root_mean_squares(self) -> SiteNorms:
        """Return the norms over the root of the number of weights; N(0, s^2) has about s."""

        def divided(norms: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
            return {name: v / math.sqrt(self.num_weights[name]) for name, v in norms.items()}

        return SiteNorms(divided(self.posterior), divided(self.prior), self.num_weights)


@torch.no_grad()
def site_norms(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *,
    model_args: Sequence[Any] = (),
    model_kwargs: Mapping[str, Any] | None = None,
    num_samples: int = 200,
    seed: int = 0,
) -> SiteNorms:
    """
    Draw from the guide and from the prior, and keep the norm of each latent alone.

    Example::

        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.SequenceRegression(vrnn.nn.GRU(3, 4), out_features=1)
        >>> guide = vrnn.infer.AutoSpikeAndSlab(model)
        >>> batch = torch.zeros(5, 20, 3), torch.zeros(5, 1)
        >>> norms = site_norms(model, guide, model_args=batch, num_samples=10)
        >>> norms.num_weights["rnn.weight_hh_l0"], norms.prior["rnn.weight_hh_l0"].shape
        (48, (10,))

    :param model: a Pyro model.
    :param guide: its guide.
    :param model_args: the training arguments, observations included.
    :param model_kwargs: the training keyword arguments.
    :param int num_samples: S.
    :param int seed: of the draws; the generators are left as they were.
    :raises TypeError: if an argument is of the wrong type.
    :raises ValueError: if a number is out of range or the guide's latents are not the model's.
    """
    kwargs = check_program(model, guide, model_args, model_kwargs)
    check_positive_int("num_samples", num_samples)
    check_seed(seed)
    posterior: dict[str, list[float]] = defaultdict(list)
    prior: dict[str, list[float]] = defaultdict(list)
    num_weights: dict[str, int] = {}
    with lent_generators():
        set_seed(seed)
        for draw in elbo_draws(model, guide, model_args, kwargs, num_samples=num_samples):
            prior_trace = poutine.trace(model).get_trace(*model_args, **kwargs)
            for name, site in draw.latents.items():
                num_weights[name] = torch.as_tensor(site["value"]).numel()
                posterior[name].append(_norm(site["value"]))
                prior[name].append(_norm(prior_trace.nodes[name]["value"]))
    return SiteNorms(
        {name: np.asarray(values) for name, values in posterior.items()},
        {name: np.asarray(values) for name, values in prior.items()},
        num_weights,
    )


def _norm(value: Any) -> float:
    return float(torch.as_tensor(value).double().square().sum().sqrt())
