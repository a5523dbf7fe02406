r"""
Weight decay that is a Gaussian prior: the rule of Gal & Ghahramani, a penalty in nats, groups.

Derivation and a table of the conventions are in ``docs/design/dropout-limit.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.baselines._dropping import PARAMETRIZATIONS, Dropping
from pyro_vrnn.distributions.per_site import check_drop_prob
from pyro_vrnn.shapes import check_choice, check_positive_float, check_positive_int


def length_scale_weight_decay(
    length_scale: float,
    drop_prob: float,
    num_data: int,
    tau: float = 1.0,
    parametrization: str = "non-inverted",
) -> float:
    r"""
    Return the strength of the L2 penalty that stands for the prior N(0, 1 / l^2).

    .. math::
        \lambda = \frac{l^2 (1 - p)}{2 N \tau}, \qquad
        \lambda_{\text{inverted}} = \frac{l^2}{2 N \tau (1 - p)},

    which multiplies :math:`\|m\|^2` beside **half** the squared error, averaged over sequences.
    torch's ``weight_decay`` is :math:`2 \lambda` there, and :math:`4 \lambda` at half the learning
    rate beside ``nn.MSELoss`` with one output. Cross-entropy: ``tau=1``. Biases: ``drop_prob=0``.

    Example::

        >>> length_scale_weight_decay(1.0, 0.25, num_data=100, tau=2.0)
        0.001875

    :param float length_scale: l, the inverse of the prior's standard deviation.
    :param float drop_prob: p in [0, 1).
    :param int num_data: N, number of sequences in the training data (of tokens for a language
        model).
    :param float tau: precision of the noise.
    :param str parametrization: ``"non-inverted"`` or ``"inverted"``.
    :raises ValueError: if an argument is out of range.
    """
    length_scale = check_positive_float("length_scale", length_scale)
    keep = 1 - check_drop_prob("drop_prob", drop_prob)
    check_positive_int("num_data", num_data)
    check_choice("parametrization", parametrization, PARAMETRIZATIONS)
    factor = keep if parametrization == "non-inverted" else 1 / keep
    return length_scale**2 * factor / (2 * num_data * check_positive_float("tau", tau))


@dataclass(frozen=True)
class _Term:
    """A parameter, and what its penalty needs."""

    name: str
    parameter: Tensor
    drop_prob: float
    form: str  # a parametrization, or "gaussian"
    padding_idx: int | None

    @property
    def factor(self) -> float:
        """What ||m||^2 / (2 s^2) is multiplied by, for a prior mean of 0."""
        keep = 1 - self.drop_prob
        return keep if self.form == "non-inverted" else 1 / keep

    def penalty(self, prior_loc: float) -> Tensor:
        """Return what is divided by 2 s^2."""
        keep, m = 1 - self.drop_prob, self.parameter
        if self.form == "inverted":
            m = m / keep
        off = (m - prior_loc).square()
        value = keep * off
        if self.form == "gaussian":
            value = off + self.drop_prob / keep * m.square()
        if self.padding_idx is not None:  # it has no prior
            kept = torch.ones(len(m), 1, dtype=m.dtype, device=m.device)
            kept[self.padding_idx] = 0
            value = value * kept
        return value.sum()


def _terms(module: torch.nn.Module) -> Iterator[_Term]:
    """Yield each parameter that has a prior once; those shared by modules must agree."""
    seen: dict[int, _Term] = {}
    for prefix, owner in module.named_modules():
        without_prior = getattr(owner, "without_prior", ())
        for name, parameter in owner.named_parameters(prefix, recurse=False):
            local = name.rpartition(".")[2]
            if local in without_prior:
                continue
            term = _term(owner, name, local, parameter)
            before = seen.setdefault(id(parameter), term)
            if before is term:
                yield term
            elif (before.drop_prob, before.form) != (term.drop_prob, term.form):
                raise ValueError(
                    f"Expected one drop_prob and parametrization of the shared parameter "
                    f"'{before.name}', got {before.drop_prob} ({before.form}) there and "
                    f"{term.drop_prob} ({term.form}) as '{name}'."
                )


def _term(owner: torch.nn.Module, name: str, local: str, parameter: Tensor) -> _Term:
    drop_prob, form = 0.0, "non-inverted"
    if isinstance(owner, Dropping) and local in owner.drop_probs:
        drop_prob = owner.drop_probs[local]
        # Where nothing is dropped the forms are one.
        if drop_prob > 0:
            form = "gaussian" if owner.method == "gaussian" else owner.parametrization
    padding = owner.padding_idx if isinstance(owner, torch.nn.Embedding) else None
    return _Term(name, parameter, drop_prob, form, padding)


def l2_penalty(module: torch.nn.Module, prior_scale: float = 1.0, prior_loc: float = 0.0) -> Tensor:
    r"""
    Return the L2 penalty of all parameters in nats, the small-noise limit of the guide's KL.

    .. math::
        \sum_{\text{weights}} (1 - p) \frac{\|m - m_0\|^2}{2 s^2}
        + \sum_{\text{biases}} \frac{\|b - m_0\|^2}{2 s^2}.

    With ``parametrization="inverted"`` a weight holds :math:`m' = (1 - p) m`, and the penalty is
    that of m. With ``method="gaussian"`` it is
    :math:`(\alpha \|m\|^2 + \|m - m_0\|^2) / (2 s^2)`. The spike's :math:`p \|m_0\|^2`, which has
    no gradient, and all other constants are left out. Parameters of plain torch.nn layers have
    p = 0. For ``"naive"`` and ``"non-recurrent"``, whose masks are no draws of weights, the same
    formula is taken by analogy only. The row of an embedding's ``padding_idx`` has no prior.

    Example::

        >>> from pyro_vrnn.baselines import Linear
        >>> layer = Linear(2, 8, bias=False, drop_prob=0.5)
        >>> _ = torch.nn.init.ones_(layer.weight)
        >>> l2_penalty(layer).item()
        4.0

    :param module: any module; a parameter that several modules share counts once.
    :param float prior_scale: s.
    :param float prior_loc: :math:`m_0`.
    :raises ValueError: if ``prior_scale`` is not positive, modules that share a parameter drop it
        differently, or there is no parameter.
    """
    scale = check_positive_float("prior_scale", prior_scale)
    penalties = [term.penalty(float(prior_loc)) for term in _terms(module)]
    if not penalties:
        raise ValueError(f"Expected a module with parameters, got {type(module).__name__}.")
    return torch.stack(penalties).sum() / (2 * scale**2)


def decay_groups(
    module: torch.nn.Module, length_scale: float, num_data: int, tau: float = 1.0
) -> list[dict[str, Any]]:
    r"""
    Return parameter groups for :mod:`torch.optim`, with the ``weight_decay`` of each.

    The decay is :math:`2 \lambda` of :func:`length_scale_weight_decay` with each weight's own p
    (``"gaussian"``: :math:`(1 + \alpha)` in the place of 1 - p), right beside half the squared
    error or the cross-entropy, averaged over sequences. Every parameter is in one group, and
    groups differ in decay. Not for optimisers with decoupled decay, such as AdamW.

    Example::

        >>> from pyro_vrnn.baselines import Linear
        >>> groups = decay_groups(Linear(2, 8, drop_prob=0.5), length_scale=1.0, num_data=10)
        >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
        [(1, 0.05), (1, 0.1)]
        >>> optimizer = torch.optim.SGD(groups, lr=0.1)

    :param module: any module; parameters of plain torch.nn layers have p = 0.
    :param float length_scale: l, the inverse of the prior's standard deviation.
    :param int num_data: N.
    :param float tau: precision of the noise, 1 for cross-entropy.
    :raises ValueError: if an argument is out of range, or modules that share a parameter drop it
        differently.
    """
    whole = 2 * length_scale_weight_decay(length_scale, 0.0, num_data, tau)
    groups: dict[float, list[Tensor]] = {}
    decayed = set()
    for term in _terms(module):
        decayed.add(id(term.parameter))
        groups.setdefault(whole * term.factor, []).append(term.parameter)
    rest = [p for p in module.parameters() if id(p) not in decayed]
    if rest:
        groups.setdefault(0.0, []).extend(rest)
    return [{"params": params, "weight_decay": decay} for decay, params in groups.items()]
