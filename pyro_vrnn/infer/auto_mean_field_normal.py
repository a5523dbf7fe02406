"""The mean-field normal guide: Bayes by backprop, with the exact KL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pyro_vrnn.distributions.per_site import PerSite
from pyro_vrnn.distributions.weight_site import WeightSite
from pyro_vrnn.infer.auto_spike_and_slab import AutoSpikeAndSlab
from pyro_vrnn.infer.initialization import InitLocFn
from pyro_vrnn.infer.weight_guide import DEFAULT_SCALE
from pyro_vrnn.shapes import check_positive_float


class AutoMeanFieldNormal(AutoSpikeAndSlab):
    r"""
    :class:`~pyro_vrnn.infer.AutoSpikeAndSlab` with p = 0: an independent normal for each weight.

    .. math::
        q(w_{ij}) = N(m_{ij}, \sigma_{ij}^2)

    This is Bayes by backprop [1], one draw for all time steps. Unlike Pyro's
    :class:`~pyro.infer.autoguide.AutoNormal`, it has an exact KL from normal priors and starts at
    torch.nn's initialisation.

    Example::

        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.SequenceRegression(vrnn.nn.LSTM(16, 8), out_features=1)
        >>> guide = AutoMeanFieldNormal(model)
        >>> _ = guide(torch.zeros(4, 20, 16), torch.zeros(4, 1))
        >>> guide.distribution("rnn.weight_hh_l0").scale.shape
        torch.Size([32, 8])

    :param model: a Pyro model whose latents are real, each one event outside every plate; they
        need no record.
    :param scale: :math:`\sigma > 0` at the start, a number or a mapping from kind or site name
        (0.01 for sites it does not name).
    :param bool learn_scale: learn :math:`\sigma` elementwise; False keeps it at ``scale``.
    :param init_loc_fn: as for :class:`~pyro_vrnn.infer.AutoSpikeAndSlab`.
    :raises ValueError: if ``scale`` is not positive or names a site that is not there.

    **References**

    [1] Blundell et al. (2015), https://arxiv.org/abs/1505.05424
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        scale: PerSite = DEFAULT_SCALE,
        learn_scale: bool = True,
        init_loc_fn: InitLocFn | None = None,
    ) -> None:
        super().__init__(
            model, drop_prob=0.0, scale=scale, learn_scale=learn_scale, init_loc_fn=init_loc_fn
        )

    @staticmethod
    def _check_scale(name: str, value: Any, learned: bool) -> float:
        return check_positive_float(name, value)

    def _check_known(self, name: str, record: WeightSite | None) -> None:
        """Take every latent: nothing is dropped, so there is nothing to know."""

    def _blocks_of(self, name: str, record: WeightSite | None, shape: torch.Size) -> Any:
        # Nothing is dropped, so any blocks will do; rows of a table can be drawn one by one.
        return shape if record is None else super()._blocks_of(name, record, shape)
