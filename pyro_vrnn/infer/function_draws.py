"""Draws that are functions: one weight for all sequences, whatever a guide's scope in training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from pyro.poutine.runtime import get_mask

_asked: ContextVar[bool] = ContextVar("function_draws", default=False)


@contextlib.contextmanager
def function_draws() -> Iterator[None]:
    """
    Let guides draw one weight for all sequences and time steps of a call, as a plain tensor.

    :class:`~pyro.infer.Predictive`, :func:`~pyro_vrnn.infer.predict` and
    :func:`~pyro_vrnn.from_pyro_svi` do so by themselves. It is for code of your own that needs
    p(y, w) / q(w), or a functional of several sequences, from a guide with ``scope="sequence"``.

    Example::

        >>> import torch
        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.SequenceRegression(vrnn.nn.GRU(8, 4), 1)
        >>> guide = vrnn.infer.AutoSpikeAndSlab(model, scope="sequence")
        >>> batch = torch.zeros(2, 5, 8), torch.zeros(2, 1)
        >>> type(guide(*batch)["rnn.weight_hh_l0"]).__name__
        'SequenceDraw'
        >>> with function_draws():
        ...     type(guide(*batch)["rnn.weight_hh_l0"]).__name__
        'Tensor'
    """
    token = _asked.set(True)
    try:
        yield
    finally:
        _asked.reset(token)


def wants_function_draws() -> bool:
    """Whether a guide called now shall give function draws."""
    # Predictive masks the guide's density away: nobody trains on such a draw.
    return _asked.get() or get_mask() is False
