"""Monte Carlo dropout: predictions with new masks for every draw."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from pyro_vrnn.baselines._dropping import Dropping
from pyro_vrnn.baselines.losses import PenalisedLoss
from pyro_vrnn.shapes import check_lengths, check_positive_int


def mc_samples(
    network: torch.nn.Module,
    x: Tensor,  # (N, T, D), or ids (N, T)
    num_samples: int,
    lengths: Tensor | None = None,  # (N,)
    *,
    max_batch: int = 4096,
) -> Tensor:  # (S, N, out)
    """
    Run a network S times with its layers' dropout on, without gradients.

    Only layers that drop are put in training mode, ours and torch.nn's (dropout by a function, in a
    ``forward`` of your own, is not seen); afterwards every layer is
    in the mode it was in, also after an error. Where masks belong to a sequence, the draws go into
    the batch: each is independent for every sequence. Where a layer has one mask for the call
    (``scope="batch"``), a pass is one draw for all sequences and is not cut.

    Example::

        >>> from pyro_vrnn.baselines import LSTM, SequenceNetwork
        >>> network = SequenceNetwork(LSTM(9, 4), torch.nn.Linear(4, 2)).eval()
        >>> mc_samples(network, torch.zeros(5, 20, 9), num_samples=10).shape
        torch.Size([10, 5, 2])

    :param network: called as ``network(x, lengths)``.
    :param int num_samples: S.
    :param int max_batch: most sequences in one pass.
    :raises TypeError: if a number is no int.
    :raises ValueError: if a number is not positive, or lengths do not fit.
    """
    if isinstance(network, PenalisedLoss):
        raise TypeError(
            f"Expected a network, got the loss {type(network).__name__}: give its .network."
        )
    check_positive_int("num_samples", num_samples)
    check_positive_int("max_batch", max_batch)
    if lengths is not None:
        lengths = check_lengths(lengths, *x.shape[:2])
    with torch.no_grad(), _dropping(network):
        if any(isinstance(m, Dropping) and m.shares_draws for m in network.modules()):
            return torch.stack([network(x, lengths) for _ in range(num_samples)])
        total = num_samples * len(x)
        outputs = []
        for start in range(0, total, max_batch):
            index = torch.arange(start, min(start + max_batch, total)) % len(x)
            cut = None if lengths is None else lengths.index_select(0, index)
            outputs.append(network(x.index_select(0, index.to(x.device)), cut))
    return torch.cat(outputs).unflatten(0, (num_samples, len(x)))


@contextlib.contextmanager
def _dropping(network: torch.nn.Module) -> Iterator[None]:
    """Put the layers that drop in training mode."""
    layers = [
        module
        for module in network.modules()
        if isinstance(module, (Dropping, _DropoutNd))
        or (isinstance(module, torch.nn.RNNBase) and module.dropout > 0)
    ]
    modes = [layer.training for layer in layers]
    try:
        for layer in layers:
            layer.training = True
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.training = mode
