r"""
Guides side by side on the same data.

ELBOs are bounds on the evidence of their own models, so that they compare whole programs, and only
if each is complete. The expected log predictive density of held-out data,

.. math::
    \mathrm{elpd} = \sum_i \log \frac1S \sum_s p(y_i \mid w_s),

asks for no bound and compares guides without a density too. The log of a mean over S draws is low,
by about Var p / (2 S (E p)^2) an observation, and more so for the wider guide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pyro_vrnn.diagnostics._elpd import Density, elpd_error, held_out_density, read_groups
from pyro_vrnn.diagnostics._programs import check_program
from pyro_vrnn.diagnostics._tables import number, text_table
from pyro_vrnn.diagnostics.elbo_anatomy import elbo_anatomy
from pyro_vrnn.diagnostics.elbo_terms import NOISE, ELBOAnatomy, Estimate
from pyro_vrnn.reprs import short_repr
from pyro_vrnn.shapes import FloatArray, check_choice

Pair = tuple[Callable[..., Any], Callable[..., Any]]
LABELS = {
    "elpd": "elpd",
    "elbo": "ELBO",
    "expected_log_likelihood": "expected log-lik.",
    "kl": "KL",
}


@dataclass(frozen=True)
class Score:
    """
    A number of one guide, and how it differs from the best guide's; nats over all data.

    :ivar float value: the number.
    :ivar float standard_error: its standard error: that of S draws, for held-out data also that of
        n observations, or groups of them, taken for independent. (Of an elpd to first order in the
        draws: too small where a few of them carry all of the density.)
    :ivar float difference: the number less the best guide's.
    :ivar float difference_error: standard error of the difference, paired by draw and observation.
    :ivar float finite_sample_bias: of an elpd, an estimate of how far the value is from its limit
        for many draws, negative (:func:`~pyro_vrnn.ops.log_mean.log_mean_deficit`); it is not
        taken off, and not in the standard error. 0 of the others, which have no bias.
    """

    value: float
    standard_error: float
    difference: float
    difference_error: float
    finite_sample_bias: float = 0.0

    @property
    def is_within_noise(self) -> bool:
        """Whether the difference is at most two of its standard errors."""
        return abs(self.difference) <= NOISE * self.difference_error


@dataclass(frozen=True, eq=False)
class Comparison:
    """
    What :func:`compare_guides` found; ``str()`` is a table.

    :ivar str by: the score that orders the guides: ``"elpd"``, ``"elbo"`` or
        ``"expected_log_likelihood"``.
    :ivar tuple names: of the guides, the best first.
    :ivar dict scores: score -> name -> :class:`Score`; the scores are ``"elpd"`` (with held-out
        data), ``"elbo"``, ``"expected_log_likelihood"`` and ``"kl"``.
    :ivar dict anatomies: name -> :class:`~pyro_vrnn.diagnostics.ELBOAnatomy`.
    :ivar dict pointwise: name -> elpd of each held-out observation, ``(n,)``; empty without.
    :ivar int num_samples: S.
    :ivar int seed: of the draws.
    :ivar num_groups: of held-out observations, which are taken for independent; None if each is one
        of its own.
    """

    by: str
    names: tuple[str, ...]
    scores: dict[str, dict[str, Score]]
    anatomies: dict[str, ELBOAnatomy] = field(repr=False)
    pointwise: dict[str, FloatArray] = field(repr=False)
    num_samples: int
    seed: int
    num_groups: int | None = None

    __repr__ = short_repr

    @property
    def best(self) -> str:
        """The name of the guide that the others are compared with."""
        return self.names[0]

    def __str__(self) -> str:
        header = ["guide"]
        for kind in self.scores:
            bias = ["bias"] if kind == "elpd" else []
            header += [LABELS[kind], *bias, "±", "difference", "±"]
        rows = []
        for name in self.names:
            row = [name]
            for kind, scores in self.scores.items():
                score = scores[name]
                own = [score.value, score.finite_sample_bias, score.standard_error]
                row += [number(value) for value in (own if kind == "elpd" else own[::2])]
                difference = [score.difference, score.difference_error]
                row += ["-", "-"] if name == self.best else map(number, difference)
            rows.append(row)
        title = (
            f"{len(self.names)} guides by {LABELS[self.by]}, {self.num_samples} draws (seed "
            f"{self.seed}), nats, ± standard error; differences to {self.best}"
        )
        return "\n\n".join([title, text_table(header, rows), "\n".join(self._remarks())])

    def _remarks(self) -> list[str]:
        lines = []
        for score in ("elpd", "elbo"):
            near = [
                name
                for name in self.names[1:]
                if score in self.scores and self.scores[score][name].is_within_noise
            ]
            if near:
                lines.append(
                    f"{LABELS[score]}: the difference of {', '.join(near)} from {self.best} is "
                    f"within noise, {NOISE:g} standard errors."
                )
        if "elbo" not in self.scores:
            lines.append("ELBOs are left out (elbo=False).")
        if self.pointwise:
            count = len(self.pointwise[self.best])
            parts = "" if self.num_groups is None else f" in {self.num_groups} groups"
            lines.append(f"elpd: {count} held-out observations{parts}, taken for independent.")
            if biased := self._biased():
                lines.append(
                    f"elpd: {self.num_samples} draws bias the difference of {', '.join(biased)} "
                    f"from {self.best} by more than its standard error; take more."
                )
        return lines

    def _biased(self) -> list[str]:
        """Return the guides whose elpd differs from the best's in bias by more than its error."""
        scores = self.scores["elpd"]
        best = scores[self.best].finite_sample_bias
        return [
            name
            for name in self.names[1:]
            if abs(scores[name].finite_sample_bias - best) > scores[name].difference_error
        ]


@torch.no_grad()
def compare_guides(
    pairs: Mapping[str, Pair],
    *,
    model_args: Sequence[Any] = (),
    model_kwargs: Mapping[str, Any] | None = None,
    held_out: Iterable[Any] | None = None,
    group: ArrayLike | Tensor | None = None,
    num_samples: int = 100,
    by: str | None = None,
    elbo: bool = True,
    seed: int = 0,
) -> Comparison:
    """
    Compare guides, and their models, on the same data.

    Every guide is drawn from with the same random numbers, draw by draw; the standard error of a
    difference is that of the paired differences, over draws, and for held-out data over
    observations too. Standard errors say nothing of other training runs: those need other seeds of
    :func:`~pyro_vrnn.infer.fit`. Those over observations take observations for independent, which
    the steps of a series and windows that overlap are not: name what is in ``group``. An elpd is
    low with few draws; the table has an estimate of that bias beside it.

    More weights than data make any ELBO
    :attr:`vacuous <pyro_vrnn.diagnostics.ELBOAnatomy.is_vacuous>`; judge by held-out data then.

    Example::

        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.SequenceRegression(vrnn.nn.GRU(3, 4), out_features=1)
        >>> batch = torch.zeros(5, 20, 3), torch.zeros(5, 1)
        >>> pairs = {
        ...     "narrow": (model, vrnn.infer.AutoMeanFieldNormal(model, scale=0.01)),
        ...     "wide": (model, vrnn.infer.AutoMeanFieldNormal(model, scale=0.3)),
        ... }
        >>> found = compare_guides(pairs, model_args=batch, num_samples=20)
        >>> found.by, found.names
        ('elbo', ('wide', 'narrow'))

    :param pairs: name -> (model, guide), at least two.
    :param model_args: the training arguments of all models, observations included.
    :param model_kwargs: the training keyword arguments.
    :param held_out: batches of data that no guide was trained on, as for
        :func:`~pyro_vrnn.infer.held_out`; read once.
    :param group: a label for each held-out observation, ``(n,)``, in the order of
        :attr:`Comparison.pointwise`: batch after batch, a plate's elements in a row. Observations
        of one label are summed before the standard error is taken (of the deviations from their
        mean, so that sizes may differ), and labels are taken for independent. For N sequences of T
        steps: ``np.repeat(np.arange(N), T)``.
    :param int num_samples: S, at least 2, for training and held-out data alike.
    :param str by: the score that orders the guides; default ``"elpd"`` with held-out data, else
        ``"elbo"``, or ``"expected_log_likelihood"`` without.
    :param bool elbo: whether to compare ELBOs and KLs; False allows guides without a density.
    :param int seed: of the draws; the generators are left as they were.
    :raises TypeError: if an argument is of the wrong type.
    :raises ValueError: if there are fewer than two guides, or observations or groups of them, an
        ELBO to compare is defined up to a constant, guides count different observations, ``group``
        does not label them, or :func:`elbo_anatomy` raises one.
    """
    kwargs = _check_pairs(pairs, model_args, model_kwargs)
    batches = None if held_out is None else list(held_out)
    if group is not None and batches is None:
        raise ValueError("Expected held_out= beside group=, the labels of its observations.")
    by = _check_by(by, batches is not None, elbo)
    anatomies = {
        name: elbo_anatomy(
            model, guide, model_args=model_args, model_kwargs=kwargs, num_samples=num_samples,
            seed=seed,
        )
        for name, (model, guide) in pairs.items()
    }  # fmt: skip
    _check_same_data({n: round(a.num_observations, 6) for n, a in anatomies.items()}, "training")
    if elbo:
        _check_densities(anatomies)
    draws = {
        score: {name: _read(anatomy, score) for name, anatomy in anatomies.items()}
        for score in (("elbo",) if elbo else ())
        + ("expected_log_likelihood",)
        + (("kl",) if elbo else ())
    }
    densities = {
        name: held_out_density(*pair, batches, num_samples, seed)
        for name, pair in pairs.items()
        if batches is not None
    }
    _check_same_data({n: len(d.pointwise) for n, d in densities.items()}, "held-out")
    values = {n: d.pointwise.sum() for n, d in densities.items()} if by == "elpd" else draws[by]
    names = tuple(sorted(pairs, key=lambda name: -float(np.mean(values[name]))))
    scores: dict[str, dict[str, Score]] = {}
    num_groups = None
    if densities:
        groups = read_groups(group, len(densities[names[0]].pointwise))
        scores["elpd"] = _elpd_scores(densities, names[0], groups)
        num_groups = None if group is None else int(groups.max()) + 1
    scores |= {score: _scores(of_guides, names[0]) for score, of_guides in draws.items()}
    return Comparison(
        by=by,
        names=names,
        scores=scores,
        anatomies=anatomies,
        pointwise={name: density.pointwise for name, density in densities.items()},
        num_samples=num_samples,
        seed=seed,
        num_groups=num_groups,
    )


def _read(anatomy: ELBOAnatomy, score: str) -> FloatArray:
    """Return a score of each draw, ``(S,)``."""
    if score == "kl":
        return anatomy.expected_log_likelihood_draws - anatomy.elbo_draws
    found: FloatArray = getattr(anatomy, f"{score}_draws")
    return found


def _elpd_scores(
    densities: Mapping[str, Density], best: str, groups: NDArray[np.int64]
) -> dict[str, Score]:
    top = densities[best]
    return {
        name: Score(
            value=math.fsum(density.pointwise),
            standard_error=elpd_error(density.pointwise, density.influence, groups),
            difference=math.fsum(density.pointwise - top.pointwise),
            difference_error=elpd_error(
                density.pointwise - top.pointwise, density.influence - top.influence, groups
            ),
            finite_sample_bias=density.bias,
        )
        for name, density in densities.items()
    }


def _scores(draws: Mapping[str, FloatArray], best: str) -> dict[str, Score]:
    found = {}
    for name, values in draws.items():
        own, difference = Estimate.of(values), Estimate.of(values - draws[best])
        found[name] = Score(
            own.value, own.standard_error, difference.value, difference.standard_error
        )
    return found


def _check_pairs(pairs: Any, model_args: Any, model_kwargs: Any) -> Mapping[str, Any]:
    if not isinstance(pairs, Mapping):
        raise TypeError(
            f"Expected pairs to be a dict of name -> (model, guide), got {type(pairs).__name__}."
        )
    if len(pairs) < 2:
        raise ValueError(f"Expected at least 2 guides to compare, got {len(pairs)}.")
    kwargs: Mapping[str, Any] = {}
    for name, pair in pairs.items():
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(
                f"Expected pairs[{name!r}] to be (model, guide), got {type(pair).__name__}."
            )
        model, guide = pair
        kwargs = check_program(model, guide, model_args, model_kwargs, label=f" of {name!r}")
    return kwargs


def _check_by(by: str | None, has_held_out: bool, elbo: bool) -> str:
    known = [*(["elpd"] if has_held_out else []), *(["elbo"] if elbo else [])]
    known.append("expected_log_likelihood")
    return known[0] if by is None else str(check_choice("by", by, known))


def _check_same_data(counts: Mapping[str, float], what: str) -> None:
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count:g} ({name})" for name, count in counts.items())
        raise ValueError(f"Expected models of the same {what} observations, got {listed}.")


def _check_densities(anatomies: Mapping[str, ELBOAnatomy]) -> None:
    without = [name for name, anatomy in anatomies.items() if not anatomy.has_density]
    if without:
        raise ValueError(
            "Expected guides with a density, whose ELBOs can be compared, got none of "
            f"{', '.join(map(repr, without))}: their ELBOs are defined up to a constant (scale=0, "
            "or a Delta). Compare expected log-likelihoods and held-out data with elbo=False."
        )
