"""Classification of a sequence."""

from __future__ import annotations

from typing import ClassVar

import pyro
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_vrnn.distributions.categorical import Categorical
from pyro_vrnn.models.sequence import SequenceModel
from pyro_vrnn.nn.embedding import Embedding
from pyro_vrnn.nn.recurrent import RecurrentModule
from pyro_vrnn.nn.weights import Prior
from pyro_vrnn.shapes import check_classes, check_positive_int


class SequenceClassification(SequenceModel):
    r"""
    A Pyro model: one class per sequence, by a softmax of the last valid state.

    .. math::
        w \sim N(m_0, s^2), \qquad
        p(y_n = c \mid x_n, w) = \operatorname{softmax}(A\, h_{T_n}(x_n; w) + b)_c .

    Calling it runs the program: weights are sampled outside the plate ``"data"``, one draw for all
    sequences and time steps; inside it are ``"logits"`` (deterministic) and ``"obs"``. Predictions
    average probabilities over draws, never logits: :func:`~pyro_vrnn.infer.predict` does so.

    Example::

        >>> import torch
        >>> from pyro.infer import Predictive
        >>> from pyro_vrnn.nn import LSTM
        >>> model = SequenceClassification(LSTM(3, 8), num_classes=4)
        >>> draws = Predictive(model, num_samples=5)(torch.zeros(2, 20, 3))
        >>> draws["obs"].shape, draws["logits"].shape
        (torch.Size([5, 2]), torch.Size([5, 2, 4]))

    :param rnn: a :class:`~pyro_vrnn.nn.RNN`, :class:`~pyro_vrnn.nn.LSTM` or
        :class:`~pyro_vrnn.nn.GRU`.
    :param int num_classes: C, at least 2.
    :param int num_data: N, number of sequences in the data set, so that a minibatch of B counts
        N / B times; None if every batch is the whole set.
    :param embedding: makes ``x`` token ids; its ``embedding_dim`` is the rnn's ``input_size``.
    :param prior_scale: prior of the output layer, as in :class:`~pyro_vrnn.nn.Linear`.
    :raises TypeError: if ``rnn`` is not one of ours.
    :raises ValueError: if there are fewer than 2 classes, or shapes do not fit.
    """

    dim_names: ClassVar[dict[str, tuple[str, ...]]] = {
        **SequenceModel.dim_names,
        "logits": ("sequence", "category"),
        "obs": ("sequence",),
    }

    def __init__(
        self,
        rnn: RecurrentModule,
        num_classes: int,
        *,
        num_data: int | None = None,
        embedding: Embedding | None = None,
        prior_scale: Prior = 1.0,
    ) -> None:
        if check_positive_int("num_classes", num_classes) < 2:
            raise ValueError(f"Expected num_classes of at least 2, got {num_classes}.")
        super().__init__(
            rnn, num_classes, num_data=num_data, prior_scale=prior_scale, embedding=embedding
        )
        self.num_classes = self.head.out_features

    def forward(self, x: Tensor, y: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """
        Run the program.

        :param x: ``(N, T, D)``, whatever ``rnn.batch_first`` says, or ids ``(N, T)``.
        :param y: class ids ``(N,)`` in 0..C-1, of an integer dtype; sampled if not given. (Their
            range is checked on the CPU, and elsewhere under Pyro's validation: a GPU would have to
            be waited for.)
        :param lengths: valid steps, ``(N,)``.
        :returns: the unnormalised logits ``(*P, N, C)``, particle dims first.
        :raises TypeError: if y is not of an integer dtype.
        :raises ValueError: if a shape does not fit, x is not finite, y is no class, or the batch is
            larger than ``num_data``.
        """
        self.check_input(x)
        if y is not None:
            check_classes(y, len(x), self.num_classes, wait=is_validation_enabled())
        logits = self.output(x, lengths)
        with self.data_plate(len(x), logits.device, y is not None):
            pyro.deterministic("logits", logits, event_dim=1)
            pyro.sample("obs", Categorical(logits=logits), obs=y)
        return logits
