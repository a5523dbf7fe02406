"""What plain training minimises: minus the log-likelihood and the prior's penalty, in nats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pyro_vrnn.baselines.networks import ForecastNetwork
from pyro_vrnn.baselines.weight_decay import l2_penalty
from pyro_vrnn.shapes import (
    check_classes,
    check_lengths,
    check_positive_float,
    check_positive_int,
    check_shape,
    check_token_targets,
    shape_text,
)


def _run(
    network: torch.nn.Module,
    x: Tensor,
    lengths: Tensor | None,
    masks: Mapping[str, Tensor] | None,
) -> Tensor:
    output: Tensor = network(x, lengths) if masks is None else network(x, lengths, masks=masks)
    return output


class PenalisedLoss(torch.nn.Module):
    """What the losses share: N / B and the penalty."""

    unit = "sequences"  # what N counts

    def __init__(
        self,
        network: torch.nn.Module,
        *,
        num_data: int | None = None,
        prior_scale: float | None = 1.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.num_data = None if num_data is None else check_positive_int("num_data", num_data)
        if prior_scale is not None:
            check_positive_float("prior_scale", prior_scale)
        self.prior_scale = prior_scale

    def _total(self, nll: Tensor, batch_size: int, weight: float = 1.0) -> Tensor:
        """Return the loss over the whole data from a batch's minus log-likelihood."""
        size = batch_size if self.num_data is None else self.num_data
        if batch_size > size:
            raise ValueError(
                f"Expected a batch of at most num_data={size} {self.unit}, got {batch_size}."
            )
        total = weight * size / batch_size * nll
        if self.prior_scale is None:
            return total
        return total + l2_penalty(self.network, self.prior_scale)


class GaussianLoss(PenalisedLoss):
    r"""
    Minus the log-likelihood of Gaussian observations over the whole data, plus the L2 penalty.

    .. math::
        c \frac{N}{B} \sum_{n=1}^{B} \sum_o \left(\frac{\tau}{2} (y_{no} - f_{no})^2
        - \tfrac12 \log \tau + \tfrac12 \log 2 \pi\right) + \text{penalty},

    the objective that stochastic variational inference has in the limit of no noise on the weights,
    up to constants of the KL divergence.

    Example::

        >>> from pyro_vrnn.baselines import GRU, Linear, SequenceNetwork
        >>> network = SequenceNetwork(GRU(9, 4), Linear(4, 2))
        >>> loss = GaussianLoss(network, tau=10.0, num_data=100)
        >>> loss(torch.zeros(5, 20, 9), torch.zeros(5, 2)).shape
        torch.Size([])

    :param network: called as ``network(x, lengths)``, gives the means ``(N, out)``.
    :param tau: precision, a positive number or one for each output; in the units of the output, of
        a :class:`~pyro_vrnn.baselines.ForecastNetwork` in standard units.
    :param bool learn_tau: learn ``tau`` through ``log_tau``, a parameter without a prior.
    :param int num_data: N, number of sequences in the data set; None if every batch is all of it.
    :param float weight: c, what the log-likelihood is multiplied by: 1 / overlap of a
        :class:`~pyro_vrnn.models.Forecaster`.
    :param float prior_scale: s of :func:`~pyro_vrnn.baselines.l2_penalty`; None for no penalty.
    :raises ValueError: if an argument is not positive, or ``tau`` has more than one dim.
    """

    without_prior = ("log_tau",)
    log_tau: Tensor

    def __init__(
        self,
        network: torch.nn.Module,
        *,
        tau: float | Tensor = 1.0,
        learn_tau: bool = False,
        num_data: int | None = None,
        weight: float = 1.0,
        prior_scale: float | None = 1.0,
    ) -> None:
        super().__init__(network, num_data=num_data, prior_scale=prior_scale)
        self.weight = check_positive_float("weight", weight)
        like = next(network.parameters())
        value = torch.as_tensor(tau, device=like.device, dtype=like.dtype).detach()
        if value.dim() > 1:
            raise ValueError(f"Expected tau of shape () or (out,), got {shape_text(value.shape)}.")
        if not bool((torch.isfinite(value) & (value > 0)).all()):
            raise ValueError(f"Expected tau to be positive and finite, got {tau}.")
        if learn_tau:
            self.log_tau = torch.nn.Parameter(value.log())
        else:
            self.register_buffer("log_tau", value.log())

    @property
    def tau(self) -> Tensor:
        """The precision."""
        return self.log_tau.exp()

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        lengths: Tensor | None = None,
        *,
        masks: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """
        Return the loss, a scalar in nats.

        :param x: as the network takes it, N sequences.
        :param y: ``(N, out)``.
        :param lengths: valid steps, ``(N,)``.
        :param masks: passed on to the network if given.
        :raises ValueError: if a shape does not fit, or the batch is larger than ``num_data``.
        """
        loc = _run(self.network, x, lengths, masks)
        check_shape("y", y, tuple(loc.shape))
        outputs = loc.shape[-1]
        if self.log_tau.dim() == 1:
            check_shape("tau", self.log_tau, (outputs,))
        log_scale = -0.5 * self.log_tau  # of the noise
        if isinstance(self.network, ForecastNetwork):
            log_scale = log_scale + self.network.unit.log()
        error = (y - loc) * (-log_scale).exp()
        nll = (0.5 * error.square() + log_scale + 0.5 * math.log(2 * math.pi)).sum()
        return self._total(nll, len(loc), self.weight)


class SoftmaxLoss(PenalisedLoss):
    """
    Minus the log-likelihood of class ids over the whole data, plus the L2 penalty.

    Example::

        >>> from pyro_vrnn.baselines import LSTM, Linear, SequenceNetwork
        >>> network = SequenceNetwork(LSTM(9, 4), Linear(4, 3))
        >>> loss = SoftmaxLoss(network, num_data=100)
        >>> loss(torch.zeros(5, 20, 9), torch.tensor([0, 1, 2, 0, 1])).shape
        torch.Size([])

    :param network: called as ``network(x, lengths)``, gives logits ``(N, C)``.
    :param int num_data: N, number of sequences in the data set; None if every batch is all of it.
    :param float prior_scale: s of :func:`~pyro_vrnn.baselines.l2_penalty`; None for no penalty.
    :raises ValueError: if an argument is not positive.
    """

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        lengths: Tensor | None = None,
        *,
        masks: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """
        Return the loss, a scalar in nats.

        :param x: as the network takes it, N sequences.
        :param y: class ids ``(N,)`` in 0..C-1, of an integer dtype (the range is checked on the
            CPU).
        :param lengths: valid steps, ``(N,)``.
        :param masks: passed on to the network if given.
        :raises ValueError: if a shape does not fit, or the batch is larger than ``num_data``.
        """
        logits = _run(self.network, x, lengths, masks)
        check_classes(y, len(logits), logits.shape[-1])
        return self._total(cross_entropy(logits, y.long(), reduction="sum"), len(logits))


class LanguageLoss(PenalisedLoss):
    r"""
    Minus the log-likelihood of the next tokens over the whole data, plus the L2 penalty.

    .. math::
        -\frac{N}{n} \sum_{i=1}^{n} \log p(y_i \mid \text{tokens before}) + \text{penalty}

    for the n targets of a batch: the objective of :class:`~pyro_vrnn.models.LanguageModel` in the
    limit of no noise on the weights, up to constants of the KL divergence.

    Example::

        >>> from pyro_vrnn.baselines import LSTM, Embedding, LanguageNetwork, Linear
        >>> network = LanguageNetwork(Embedding(9, 4), LSTM(4, 4), Linear(4, 9))
        >>> tokens = torch.zeros(3, 5, dtype=torch.int64)
        >>> LanguageLoss(network, num_data=1000)(tokens, tokens).shape
        torch.Size([])

    :param network: a :class:`~pyro_vrnn.baselines.LanguageNetwork`, or a module called like one.
    :param int num_data: N, number of target tokens in the data; None if every batch is all of it.
    :param float prior_scale: s of :func:`~pyro_vrnn.baselines.l2_penalty`; None for no penalty.
    :raises ValueError: if an argument is not positive.
    """

    unit = "target tokens"

    @property
    def state(self) -> Any:
        """The network's last state."""
        return self.network.state

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        lengths: Tensor | None = None,
        state: Any = None,
    ) -> Tensor:
        """
        Return the loss, a scalar in nats.

        :param x: token ids ``(N, T)``.
        :param y: the tokens that follow, ``(N, T)``.
        :param lengths: valid steps, ``(N,)``; targets behind them do not count.
        :param state: where to start; zeros if not given.
        :raises TypeError: if ids are not of an integer dtype.
        :raises ValueError: if a shape does not fit, or there are more targets than ``num_data``.
        """
        logits = self.network(x, lengths, state)
        check_token_targets(y, x.shape, logits.shape[-1])
        if lengths is None:
            flat, targets = logits.flatten(0, 1), y.flatten()
        else:
            lengths = check_lengths(lengths, *x.shape)
            steps = torch.arange(x.shape[1], device=lengths.device)
            valid = (steps < lengths.unsqueeze(-1)).to(x.device)
            flat, targets = logits[valid], y[valid]
        return self._total(cross_entropy(flat, targets.long(), reduction="sum"), len(targets))
