"""DropConnect with noise: a spike and slab for each weight by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pyro_vrnn.distributions.per_site import DEFAULT_DROP_PROB, PerSite, lookup
from pyro_vrnn.distributions.weight_site import WeightSite
from pyro_vrnn.infer.auto_spike_and_slab import AutoSpikeAndSlab
from pyro_vrnn.infer.initialization import InitLocFn
from pyro_vrnn.infer.weight_guide import DEFAULT_SCALE


class AutoDropConnect(AutoSpikeAndSlab):
    r"""
    :class:`~pyro_vrnn.infer.AutoSpikeAndSlab` with blocks of one weight.

    .. math::
        q(w_{ij}) = p\, N(0, \sigma^2) + (1 - p)\, N(m_{ij}, \sigma^2)

    for every weight of a matrix or table; biases are not dropped. One draw serves all time steps.

    With ``scale=0`` it is DropConnect [1] with one mask for all steps. With noise, the gradient of
    the KL does not converge to that of weight decay as :math:`\sigma \to 0` at random starts: some
    single weights are always near 0 (:meth:`near_spike` counts them; see
    ``docs/design/dropout-limit.md``). A mask of single weights has no form M diag(z), so there is
    no ``scope="sequence"``.

    Example::

        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.SequenceRegression(vrnn.nn.LSTM(16, 8), out_features=1)
        >>> guide = AutoDropConnect(model, drop_prob=0.1)
        >>> _ = guide(torch.zeros(4, 20, 16), torch.zeros(4, 1))
        >>> guide.sites["rnn.weight_hh_l0"].block_shape, guide.sites["head.weight"].drop_prob
        ((1, 1), 0.1)

    :param model: as for :class:`~pyro_vrnn.infer.AutoSpikeAndSlab`; each latent must have a
        :class:`~pyro_vrnn.distributions.WeightSite`.
    :param drop_prob: probability p of the spike, in [0, 1): a number for every weight except
        biases, or a mapping from kind or site name (0.25 for weights it does not name). No other
        weight is left out by default: dropping one weight of a column deletes no input.
    :param scale: as for :class:`~pyro_vrnn.infer.AutoSpikeAndSlab`.
    :param bool learn_scale: likewise.
    :param init_loc_fn: likewise.
    :raises ValueError: if an argument is out of range or names a site that is not there.

    **References**

    [1] Wan et al. (2013), *Regularization of neural networks using DropConnect*,
    https://proceedings.mlr.press/v28/wan13
    """

    _unknown_latent = (
        "give it a WeightSite in its infer dictionary, guide it apart with AutoGuideList, or, if "
        "it is an observation, call the guide with the observations"
    )

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        drop_prob: PerSite = DEFAULT_DROP_PROB,
        scale: PerSite = DEFAULT_SCALE,
        learn_scale: bool = False,
        init_loc_fn: InitLocFn | None = None,
    ) -> None:
        super().__init__(
            model,
            drop_prob=drop_prob,
            scale=scale,
            learn_scale=learn_scale,
            init_loc_fn=init_loc_fn,
        )

    def _factor_of(self, name: str, record: WeightSite | None, shape: torch.Size) -> float:
        kind = "" if record is None else record.kind
        value, named = lookup(self._factor, name, kind, self.default_factor)
        return 0.0 if kind == "bias" and not named else value

    def _blocks_of(self, name: str, record: WeightSite | None, shape: torch.Size) -> Any:
        return (1,) * len(shape)
