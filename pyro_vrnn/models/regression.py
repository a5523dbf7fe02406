"""Regression of one vector on a sequence."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from pyro_vrnn.models.gaussian import GaussianSequenceModel
from pyro_vrnn.nn.embedding import Embedding
from pyro_vrnn.nn.recurrent import RecurrentModule
from pyro_vrnn.nn.weights import Prior


class SequenceRegression(GaussianSequenceModel):
    r"""
    A Pyro model: one real vector per sequence, read from the last valid state.

    .. math::
        w \sim N(m_0, s^2), \qquad y_n \sim N(A\, h_{T_n}(x_n; w) + b,\; \tau^{-1} I).

    Calling it runs the program: weights are sampled outside the plate ``"data"``, one draw for all
    sequences and time steps; inside it are ``"loc"`` (deterministic) and ``"obs"``.

    Example::

        >>> import torch
        >>> from pyro.infer import Predictive
        >>> from pyro_vrnn.nn import GRU
        >>> model = SequenceRegression(GRU(3, 8), out_features=2)
        >>> Predictive(model, num_samples=5)(torch.zeros(4, 20, 3))["obs"].shape
        torch.Size([5, 4, 2])

    :param rnn: a :class:`~pyro_vrnn.nn.RNN`, :class:`~pyro_vrnn.nn.LSTM` or
        :class:`~pyro_vrnn.nn.GRU`.
    :param int out_features: length of y.
    :param tau: noise precision :math:`\tau > 0`, one number or ``out_features`` of them, in
        1 / (units of y)^2.
    :param bool learn_tau: learn ``tau`` as a parameter (a point estimate, no prior).
    :param int num_data: N, number of sequences in the data set, so that a minibatch of B counts
        N / B times; None if every batch is the whole set.
    :param embedding: makes ``x`` token ids; its ``embedding_dim`` is the rnn's ``input_size``.
    :param prior_scale: prior of the output layer, as in :class:`~pyro_vrnn.nn.Linear`.
    :raises TypeError: if ``rnn`` is not one of ours.
    :raises ValueError: if a size or ``tau`` is not positive, or shapes do not fit.
    """

    dim_names: ClassVar[dict[str, tuple[str, ...]]] = {
        **GaussianSequenceModel.dim_names,
        "loc": ("sequence", "output"),
        "obs": ("sequence", "output"),
    }

    def __init__(
        self,
        rnn: RecurrentModule,
        out_features: int,
        *,
        tau: float | Tensor = 1.0,
        learn_tau: bool = False,
        num_data: int | None = None,
        embedding: Embedding | None = None,
        prior_scale: Prior = 1.0,
    ) -> None:
        super().__init__(
            rnn,
            out_features,
            tau=tau,
            learn_tau=learn_tau,
            num_data=num_data,
            prior_scale=prior_scale,
            embedding=embedding,
        )

    def forward(self, x: Tensor, y: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """
        Run the program.

        :param x: ``(N, T, D)``, whatever ``rnn.batch_first`` says, or ids ``(N, T)``.
        :param y: ``(N, out_features)``; sampled if not given.
        :param lengths: valid steps, ``(N,)``.
        :returns: the means ``(*P, N, out_features)``, particle dims first.
        :raises ValueError: if a shape does not fit, x or y is not finite, or the batch is larger
            than ``num_data``.
        """
        self.check_input(x)
        loc = self.output(x, lengths)
        self.observe(loc, self.tau.rsqrt(), y)
        return loc
