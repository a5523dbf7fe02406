"""A linear layer with dropout of its input columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.baselines._dropping import ColumnDropping
from pyro_vrnn.distributions.per_site import DEFAULT_DROP_PROB, PerSite
from pyro_vrnn.distributions.weight_site import WeightSite
from pyro_vrnn.ops.weights import MaskedWeight, masked_linear
from pyro_vrnn.shapes import check_dtype, check_last_dim, shape_text


class Linear(ColumnDropping, torch.nn.Linear):
    """
    :class:`torch.nn.Linear` with dropout, on in ``.train()`` mode only.

    ``"variational"`` and ``"gaussian"`` have one mask over the input columns for each sequence
    (or one for the call, ``scope="batch"``), tied over the other dims of the input. ``"naive"`` and
    ``"non-recurrent"`` mask every row of the input by itself, as :class:`torch.nn.Dropout` in front
    of the layer does. In ``.eval()`` mode the weight is its mean.

    Example::

        >>> layer = Linear(8, 10, drop_prob=0.5)
        >>> layer(torch.zeros(5, 20, 8)).shape, Linear(8, 1).drop_probs
        (torch.Size([5, 20, 10]), {'weight': 0.0})

    :param int in_features: size of the last dim of the input.
    :param int out_features: size of the last dim of the output.
    :param bool bias: whether the layer adds a bias, which is never dropped.
    :param str method: as in :class:`~pyro_vrnn.baselines.LSTM`.
    :param drop_prob: p in [0, 1): a number, which becomes 0 where there are fewer than 8 outputs,
        or a mapping from ``"weight"`` or ``"linear"``, taken as given.
    :param str scope: ``"sequence"`` or ``"batch"``.
    :param str parametrization: ``"non-inverted"`` or ``"inverted"``.
    :param kwargs: ``device``, ``dtype``.
    :raises ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        method: str = "variational",
        drop_prob: PerSite = DEFAULT_DROP_PROB,
        scope: str = "sequence",
        parametrization: str = "non-inverted",
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features, out_features, bias, **kwargs)
        sites = {"weight": WeightSite("linear")}
        self._set_dropping(sites, method, drop_prob, scope, parametrization)

    def forward(
        self,
        input: Tensor,  # (*, in_features)
        batch_dim: int = 0,
        *,
        masks: Mapping[str, Tensor] | None = None,
    ) -> Tensor:  # (*, out_features)
        """
        Apply the layer.

        :param int batch_dim: the dim of ``input`` that counts the sequences.
        :param masks: what :meth:`draw_masks` returns, to hold the mask; used in evaluation too.
        :raises TypeError: if the input has another dtype than the weight.
        :raises ValueError: if a shape does not fit.
        """
        check_last_dim("input", input, self.in_features)
        check_dtype("input", input, self.weight.dtype)
        if self.is_dropping and not self.has_tied_masks and masks is None:
            mask = self._scaled("weight", self._draw("weight", *input.shape))
            return torch.nn.functional.linear(input * mask, self.weight, self.bias)
        if not -input.dim() <= batch_dim < input.dim() or input.dim() == 0:
            raise ValueError(
                f"Expected batch_dim to be a dim of the input, got {batch_dim} for "
                f"{shape_text(input.shape)}."
            )
        used = self._masks_of_call(masks, input.shape[batch_dim])
        if used is None or not used:
            return torch.nn.functional.linear(input, self._mean_weight("weight"), self.bias)
        masked = MaskedWeight(self.weight, used["weight"])
        if len(masked.mask) == 1:
            return torch.nn.functional.linear(input, masked.dense()[0], self.bias)
        return masked_linear(input, masked, self.bias, batch_dim=batch_dim)

    def extra_repr(self) -> str:
        """Show torch's arguments and the settings of the method."""
        return super().extra_repr() + self._dropping_repr()
