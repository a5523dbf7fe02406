"""The guide of multiplicative Gaussian noise on blocks of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from pyro_vrnn.distributions.multiplicative_normal import MultiplicativeNormal
from pyro_vrnn.distributions.per_site import PerSite
from pyro_vrnn.infer.guide_site import GuideSite
from pyro_vrnn.infer.initialization import InitLocFn
from pyro_vrnn.infer.weight_guide import DEFAULT_SCALE, AutoWeightGuide
from pyro_vrnn.shapes import check_nonnegative_float, check_positive_float

DEFAULT_ALPHA = 1 / 3  # the variance of inverted dropout at p = 1/4


class AutoMultiplicativeNormal(AutoWeightGuide):
    r"""
    Guide that multiplies blocks of weights by normal factors.

    .. math::
        w_k = z_k m_k + \sigma \epsilon_k, \quad z_k \sim N(1, \alpha), \qquad
        q(w_k) = N(m_k,\; \sigma^2 I + \alpha m_k m_k^\top),

    for the blocks of :class:`~pyro_vrnn.infer.AutoSpikeAndSlab`, with the exact KL of
    :class:`~pyro_vrnn.distributions.MultiplicativeNormal`. One draw serves all time steps. A weight
    that starts from W has loc = W.

    The noise is needed: multiplicative noise alone has no density. Without it, and with weight
    decay, it is the plain network ``baselines.LSTM(method="gaussian")``. The KL's gradient does not
    become that of weight decay as :math:`\sigma \to 0`.

    Example::

        >>> import torch
        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.SequenceRegression(vrnn.nn.LSTM(16, 8), out_features=1)
        >>> guide = AutoMultiplicativeNormal(model, alpha={"weight_hh": 0.5})
        >>> _ = guide(torch.zeros(4, 20, 16), torch.zeros(4, 1))
        >>> guide.sites["rnn.weight_hh_l0"].alpha, guide.sites["head.weight"].alpha
        (0.5, 0.0)

    :param model: as for :class:`~pyro_vrnn.infer.AutoSpikeAndSlab`.
    :param alpha: variance :math:`\alpha \ge 0` of the factors: a number, under the exceptions that
        :class:`~pyro_vrnn.infer.AutoSpikeAndSlab` makes for ``drop_prob``, or a mapping from kind
        or site name (1/3 for sites it does not name, under the same exceptions).
        :math:`\alpha = p / (1 - p)` has the variance of dropout at p.
    :param scale: :math:`\sigma > 0`, a number or such a mapping.
    :param str gates: as for :class:`~pyro_vrnn.infer.AutoSpikeAndSlab`.
    :param str scope: ``"batch"`` or ``"sequence"``, likewise: factors for each sequence, the noise
        shared.
    :param bool learn_scale: learn :math:`\sigma` elementwise, starting at ``scale``.
    :param block_shapes: as for :class:`~pyro_vrnn.infer.AutoSpikeAndSlab`.
    :param init_loc_fn: likewise.
    :raises ValueError: if an argument is out of range or names a site that is not there.

    **References**

    [1] Srivastava et al. (2014), *Dropout*, section 10, https://jmlr.org/papers/v15/srivastava14a
    """

    factor_name = "alpha"
    default_factor = DEFAULT_ALPHA

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        alpha: PerSite = DEFAULT_ALPHA,
        scale: PerSite = DEFAULT_SCALE,
        gates: str = "untied",
        scope: str = "batch",
        learn_scale: bool = False,
        block_shapes: Mapping[str, tuple[int, ...]] | None = None,
        init_loc_fn: InitLocFn | None = None,
    ) -> None:
        super().__init__(
            model,
            factor=alpha,
            scale=scale,
            gates=gates,
            scope=scope,
            learn_scale=learn_scale,
            block_shapes=block_shapes,
            init_loc_fn=init_loc_fn,
        )

    _check_factor = staticmethod(check_nonnegative_float)

    @staticmethod
    def _check_scale(name: str, value: Any, learned: bool) -> float:
        return check_positive_float(name, value)

    def _start(self, initial: Tensor, decided: GuideSite) -> Tensor:
        return initial

    def _make(self, decided: GuideSite, loc: Tensor, scale: Tensor) -> MultiplicativeNormal:
        return MultiplicativeNormal(loc, scale, decided.alpha, decided.block_shape)
