"""Which weights a prediction's uncertainty comes from: one part random, the others at means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.diagnostics._layers import layer_of
from pyro_vrnn.diagnostics._moments import Moments
from pyro_vrnn.diagnostics._weight_dims import GATE_LABELS
from pyro_vrnn.distributions.weight_site import RECURRENT_KINDS, weight_site_of
from pyro_vrnn.infer.evaluating import reading
from pyro_vrnn.infer.pairs import check_pair
from pyro_vrnn.infer.weight_guide import AutoWeightGuide
from pyro_vrnn.models.classification import SequenceClassification
from pyro_vrnn.models.language import LanguageModel
from pyro_vrnn.nn.plain import plain_torch
from pyro_vrnn.reprs import short_repr
from pyro_vrnn.runs import check_seed, lent_generators
from pyro_vrnn.shapes import check_choice, check_positive_int

Run = Callable[[Any], Tensor]
Part = Mapping[str, slice]  # site -> its rows

GRANULARITIES = ("layer", "site", "gate")
_ALL = slice(None)


@dataclass(frozen=True)
class SiteUncertainty:
    r"""
    Variance over draws of a prediction, with parts of the weights random.

    With :math:`w_A` the weights of a part and the mean of all others, ``variance`` is
    :math:`\operatorname{Var}_{w_A} f(w_A, \operatorname{E} w_{\bar A})`. The variances of the
    parts **do not add up** to ``total``: the network is not linear in its weights, so parts act
    together, and what one of them does at the means of the others is not what it does at a draw.

    :ivar tuple names: of the K parts.
    :ivar Tensor variance: each part random, the others at their means, ``(K, *)``, float64.
    :ivar Tensor without: each part at its mean, the others random, ``(K, *)``; None if not asked
        for.
    :ivar Tensor total: all weights random, ``(*)``.
    :ivar Tensor mean: of the prediction, all weights random, ``(*)``.
    :ivar Tensor at_means: the prediction with all weights at their means, ``(*)``.
    :ivar int num_samples: S. A variance of S normal values has a relative standard error of
        sqrt(2 / (S - 1)).
    """

    names: tuple[str, ...]
    variance: Tensor
    without: Tensor | None
    total: Tensor
    mean: Tensor
    at_means: Tensor
    num_samples: int

    __repr__ = short_repr

    def shares(self) -> dict[str, float]:
        """Return each part's variance summed over all predictions, over that of all weights."""
        sums = self.variance.flatten(1).sum(1) / self.total.sum()
        return dict(zip(self.names, sums.tolist(), strict=True))


@torch.no_grad()
def uncertainty_by_site(
    model: torch.nn.Module,
    guide: AutoWeightGuide,
    x: Tensor,
    *,
    lengths: Tensor | None = None,
    num_samples: int = 100,
    by: str = "site",
    run: Run | None = None,
    without: bool = False,
    seed: int = 0,
) -> SiteUncertainty:
    """
    Return how much of a prediction varies with each part of the weights.

    All parts see the same S function draws: draw s of a part is draw s of all weights with the
    other parts put back to their means. The generators are left as they were. Memory: four
    numbers for each number of the prediction and part, and the weights of a draw three times.

    Example::

        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.SequenceRegression(vrnn.nn.GRU(8, 8), 1)
        >>> guide = vrnn.infer.AutoSpikeAndSlab(model, scale=0.0)
        >>> x = torch.randn(5, 20, 8)
        >>> _ = guide(x, torch.randn(5, 1))  # stands for the training
        >>> found = uncertainty_by_site(model, guide, x, num_samples=10, by="gate")
        >>> found.names[:2], found.variance.shape
        (('rnn.weight_ih_l0[r]', 'rnn.weight_ih_l0[z]'), torch.Size([6, 5, 1]))

    :param model: a model whose plain twin, ``guide.to_torch(model)``, is a network of
        :mod:`pyro_vrnn.baselines`, or a module with one tensor as output.
    :param guide: its guide.
    :param x: what the network is run on, with ``lengths`` if given.
    :param int num_samples: S, at least 2.
    :param str by: ``"site"``; ``"layer"``: all sites of a layer together, the directions of a
        bidirectional one apart, as in :func:`~pyro_vrnn.diagnostics.elbo_anatomy`; ``"gate"``: the
        rows of each gate of a recurrent weight apart. Sites whose weights do not vary are no part.
    :param run: plain network -> the prediction, to look at something else than what it returns for
        ``x``: a state at every step, say. Default: probabilities of the classes or tokens, and
        otherwise what the network returns.
    :param bool without: also the variance with the part at its mean and the others random.
    :raises TypeError: if guide is none of this package's, or a prediction no tensor.
    :raises ValueError: if an argument does not fit, or no weight varies.
    :raises RuntimeError: if the guide was not called yet.
    """
    if not isinstance(guide, AutoWeightGuide):
        raise TypeError(
            f"Expected guide to be one of pyro_vrnn.infer's, got {type(guide).__name__}."
        )
    check_choice("by", by, GRANULARITIES)
    check_seed(seed)
    if check_positive_int("num_samples", num_samples) < 2:
        raise ValueError("Expected num_samples of at least 2, for a variance, got 1.")
    guide._check_built("a guide without sites")
    check_pair(model, guide)
    means = guide.mean()
    parts = _parts(guide, by)
    run = _default_run(model, x, lengths) if run is None else run
    predict = _Predict(model, run)
    with reading(model, guide), lent_generators():
        torch.manual_seed(seed)
        at_means = predict(means)
        whole = Moments()
        only, others = [Moments() for _ in parts], [Moments() for _ in parts]
        for _ in range(num_samples):
            drawn = {name: guide.distribution(name).sample() for name in guide.sites}
            whole.add(predict(drawn))
            for place, part in enumerate(parts.values()):
                only[place].add(predict(_mixed(means, drawn, part)))
                if without:
                    others[place].add(predict(_mixed(drawn, means, part)))
    return SiteUncertainty(
        names=tuple(parts),
        variance=torch.stack([moments.variance for moments in only]),
        without=torch.stack([moments.variance for moments in others]) if without else None,
        total=whole.variance,
        mean=whole.mean,
        at_means=at_means,
        num_samples=num_samples,
    )


class _Predict:
    """What is read from the plain network with given weights."""

    def __init__(self, model: torch.nn.Module, run: Run) -> None:
        self.model, self.run = model, run

    def __call__(self, weights: Mapping[str, Tensor]) -> Tensor:
        found = self.run(plain_torch(self.model, weights).eval())
        if not isinstance(found, Tensor):
            raise TypeError(f"Expected a prediction that is a Tensor, got {type(found).__name__}.")
        return found.double()


def _default_run(model: torch.nn.Module, x: Tensor, lengths: Tensor | None) -> Run:
    classes = isinstance(model, (SequenceClassification, LanguageModel))

    def run(network: Any) -> Tensor:
        output: Tensor = network(x) if lengths is None else network(x, lengths)
        return output.softmax(-1) if classes else output

    return run


def _mixed(
    base: Mapping[str, Tensor], other: Mapping[str, Tensor], part: Part
) -> dict[str, Tensor]:
    """Return the weights of ``base`` with those of a part from ``other``."""
    mixed = dict(base)
    for name, rows in part.items():
        if rows == _ALL:
            mixed[name] = other[name]
        else:
            mixed[name] = base[name].clone()
            mixed[name][rows] = other[name][rows]
    return mixed


def _parts(guide: AutoWeightGuide, by: str) -> Mapping[str, Part]:
    parts: dict[str, dict[str, slice]] = {}
    for name, site in guide.sites.items():
        if site.drop_prob == site.alpha == site.scale == 0:
            continue
        record = weight_site_of(guide.prototype_trace.nodes[name])
        gates = GATE_LABELS.get(record.gates, ()) if record is not None else ()
        if by == "layer":
            parts.setdefault(layer_of(name), {})[name] = _ALL
        elif by == "gate" and site.kind in RECURRENT_KINDS and gates:
            rows = site.shape[0] // len(gates)
            for place, gate in enumerate(gates):
                parts[f"{name}[{gate}]"] = {name: slice(place * rows, (place + 1) * rows)}
        else:
            parts[name] = {name: _ALL}
    if not parts:
        raise ValueError("Expected a guide under which some weight varies, got one of constants.")
    return parts
