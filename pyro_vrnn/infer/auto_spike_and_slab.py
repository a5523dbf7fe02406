r"""The spike-and-slab guide of Gal & Ghahramani (2016) as a Pyro AutoGuide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vrnn.distributions import BlockDropout, SpikeAndSlab
from pyro_vrnn.distributions.per_site import DEFAULT_DROP_PROB, PerSite, check_drop_prob
from pyro_vrnn.infer._guide_state import USUAL
from pyro_vrnn.infer.guide_site import GuideSite
from pyro_vrnn.infer.initialization import InitLocFn
from pyro_vrnn.infer.weight_guide import DEFAULT_SCALE, AutoWeightGuide
from pyro_vrnn.ops.blocks import block_square_ratios
from pyro_vrnn.shapes import check_choice, check_positive_float


class NearSpike(NamedTuple):
    r"""
    How near the slabs of a site are to the spike.

    :param float min_distance: the least :math:`d_k = \|m_k / \sigma\|` of its blocks.
    :param int num_near: how many blocks are below the distance that was asked for.
    :param int num_blocks: how many there are.
    """

    min_distance: float
    num_near: int
    num_blocks: int


class AutoSpikeAndSlab(AutoWeightGuide):
    r"""
    Guide that gives every weight of a model a block-wise spike-and-slab posterior.

    .. math::
        q(w_k) = p\, N(0, \sigma^2 I) + (1 - p)\, N(m_k, \sigma^2 I)

    for each block :math:`w_k` of a weight: an input column of ``weight_ih`` and ``weight_hh``
    (``_reverse`` too; of one gate if ``gates="untied"``), a row of an embedding, an input column
    of a linear layer. Biases are one Gaussian block, never dropped. One draw serves all time
    steps, because a model reads its weights once.

    The parameter ``loc`` is m, non-inverted: E w = (1 - p) m, and a weight that starts from W gets
    m = W / (1 - p), so that E w = W. With ``parametrization="inverted"`` it is m' = (1 - p) m, as
    the scaling of :class:`torch.nn.Dropout` has it: the same family of distributions and the same
    ELBO, but another algorithm (``docs/design/guide.md``), for recipes published in m'.

    The guide is built at its first call, which must include the observations (else they would
    count as latents). After that :attr:`sites` says what was decided for each site. Its
    parameters are its own: two guides never share them through Pyro's parameter store.

    Example::

        >>> import pyro
        >>> from pyro.infer import SVI, TraceMeanField_ELBO
        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.SequenceRegression(vrnn.nn.LSTM(16, 8), out_features=1)
        >>> guide = AutoSpikeAndSlab(model, drop_prob={"weight_hh": 0.5})
        >>> svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), TraceMeanField_ELBO())
        >>> _ = svi.step(torch.zeros(4, 20, 16), torch.zeros(4, 1))
        >>> guide.sites["rnn.weight_hh_l0"].block_shape, guide.sites["head.weight"].drop_prob
        ((8, 1), 0.0)

    :param model: a Pyro model. Its latents must be weights: each with a
        :class:`~pyro_vrnn.distributions.WeightSite` in its ``infer`` dictionary (our modules put
        it there) or a shape in ``block_shapes``.
    :param drop_prob: probability p of the spike, in [0, 1). A number goes to every weight except
        biases, first-layer input weights with fewer than 8 inputs and linear layers with fewer
        than 8 outputs, which get 0. A mapping from kind (``"weight_ih"``, ``"weight_hh"``,
        ``"linear"``, ``"embedding"``, ``"bias"``) or site name is taken as given, the name before
        the kind; sites it does not name get 0.25 under the same exceptions.
    :param scale: :math:`\sigma \ge 0`, in the units of the weights: a number, or such a mapping
        (0.01 for sites it does not name). 0 is the dropout limit,
        :class:`~pyro_vrnn.distributions.BlockDropout`: masks without noise, and an ELBO that is
        defined up to a constant.
    :param str gates: ``"untied"`` (a mask for each gate) or ``"tied"`` (one for all).
    :param str scope: ``"batch"``: one draw for the whole call. ``"sequence"``: in training, a mask
        for each sequence of the batch, the noise shared (see ``docs/guide/scopes.md``). Such a site
        is scored by its analytic KL alone, with
        :class:`~pyro_vrnn.infer.TraceExactKL_ELBO` or ``TraceMeanField_ELBO``. Under
        :class:`~pyro.infer.Predictive`, and inside
        :func:`~pyro_vrnn.infer.function_draws`, a draw is one weight for all sequences whatever
        the scope.
    :param bool learn_scale: learn :math:`\sigma` elementwise, starting at ``scale``.
    :param str parametrization: ``"non-inverted"`` or ``"inverted"``: what ``loc`` holds.
    :param block_shapes: site name -> shape of a block, for latents without a record.
    :param init_loc_fn: trace site -> initial weight W, such as Pyro's ``init_to_value`` or
        :func:`~pyro_vrnn.infer.init_to_module`. Default: torch.nn's initialisation.
    :raises ValueError: if an argument is out of range or names a site that is not there.

    **References**

    [1] Gal, Ghahramani (2016), https://arxiv.org/abs/1512.05287
    """

    factor_name = "drop_prob"
    default_factor = DEFAULT_DROP_PROB

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        drop_prob: PerSite = DEFAULT_DROP_PROB,
        scale: PerSite = DEFAULT_SCALE,
        gates: str = "untied",
        scope: str = "batch",
        learn_scale: bool = False,
        parametrization: str = USUAL,
        block_shapes: Mapping[str, tuple[int, ...]] | None = None,
        init_loc_fn: InitLocFn | None = None,
    ) -> None:
        self._parametrization = check_choice(
            "parametrization", parametrization, (USUAL, "inverted")
        )
        super().__init__(
            model,
            factor=drop_prob,
            scale=scale,
            gates=gates,
            scope=scope,
            learn_scale=learn_scale,
            block_shapes=block_shapes,
            init_loc_fn=init_loc_fn,
        )

    _check_factor = staticmethod(check_drop_prob)

    def _decide(self, name: str, site: dict[str, Any]) -> GuideSite:
        return replace(super()._decide(name, site), parametrization=self._parametrization)

    def _start(self, initial: Tensor, decided: GuideSite) -> Tensor:
        inverted = decided.parametrization == "inverted"
        return initial.clone() if inverted else initial / (1 - decided.drop_prob)

    def _make(self, decided: GuideSite, loc: Tensor, scale: Tensor) -> SpikeAndSlab:
        if decided.parametrization == "inverted" and decided.drop_prob > 0:
            loc = loc / (1 - decided.drop_prob)
        if decided.scale == 0:
            return BlockDropout(loc, decided.drop_prob, decided.block_shape)
        return SpikeAndSlab(loc, scale, decided.drop_prob, decided.block_shape)

    @torch.no_grad()
    def near_spike(self, distance: float = 8.0) -> dict[str, NearSpike]:
        r"""
        Return the sites with a block whose slab is within ``distance`` of the spike.

        For such a block, :math:`d_k = \|m_k / \sigma\|` below 8, the gradient of the KL is not that
        of weight decay (``docs/design/dropout-limit.md``): it pushes the block away from 0. Sites
        that are never dropped, or have no noise, are not among them.

        :raises RuntimeError: if the guide was not called yet.
        """
        check_positive_float("distance", distance)
        self._check_built("a guide without sites")
        found = {}
        for name, site in self.sites.items():
            if site.drop_prob == 0:
                continue
            q = self.distribution(name)
            distances = block_square_ratios(q.loc, q.scale, q.block_shape).sqrt()
            near = int((distances < distance).sum())
            if near:
                found[name] = NearSpike(float(distances.min()), near, distances.numel())
        return found
