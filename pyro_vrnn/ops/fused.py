"""torch's own recurrent kernels (oneDNN on the CPU, cuDNN on a GPU) as pure functions."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence

from torch import _VF, Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from pyro_vrnn.ops.cells import State
from pyro_vrnn.ops.layer_shapes import check_weights
from pyro_vrnn.ops.paths import is_traced
from pyro_vrnn.ops.weights import LayerWeights
from pyro_vrnn.shapes import check_shape

Kernel = Callable[..., tuple[Tensor, ...]]
KERNELS: dict[str, Kernel] = {
    "RNN_TANH": _VF.rnn_tanh,
    "RNN_RELU": _VF.rnn_relu,
    "LSTM": _VF.lstm,
    "GRU": _VF.gru,
}


def run_fused(
    mode: str,
    x: Tensor,  # (T, N, D)
    state: State,  # each (L*R, N, H)
    weights: Sequence[tuple[Tensor, ...]],  # (weight_ih, weight_hh[, bias_ih, bias_hh]) each
    *,
    bidirectional: bool = False,
    lengths: Tensor | None = None,  # (N,), int64, on the CPU
) -> tuple[Tensor, State]:
    """
    Run the library kernel; arguments and results as in :func:`~pyro_vrnn.ops.recurrent.recurrent`.

    :raises ValueError: if a weight is not two-dimensional (in float32 on the CPU the kernel would
        use the first matrix of a batch and ignore the others).
    """
    for layer in weights:
        if any(w.dim() != 2 for w in layer[:2]) or any(b.dim() != 1 for b in layer[2:]):
            shapes = [tuple(w.shape) for w in layer]
            raise ValueError(f"Expected weights (F, D) and biases (F,), got shapes {shapes}.")
    if not is_traced():  # where sizes are no numbers
        _check_shapes(mode, x, state, weights, 2 if bidirectional else 1)
    flat = [w for layer in weights for w in layer]
    has_biases = len(weights[0]) == 4
    num_layers = len(weights) // (2 if bidirectional else 1)
    hx = state if mode == "LSTM" else state[0]
    options = (has_biases, num_layers, 0.0, False, bidirectional)
    with _quiet_cudnn(x.is_cuda):
        if lengths is None:
            output, *final = KERNELS[mode](x, hx, flat, *options, False)
            return output, tuple(final)
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        order, inverse = packed.sorted_indices, packed.unsorted_indices
        assert order is not None  # it is made where sequences need not be sorted
        assert inverse is not None
        sorted_state = tuple(s.index_select(1, order) for s in state)
        hx = sorted_state if mode == "LSTM" else sorted_state[0]
        data, *final = KERNELS[mode](packed.data, packed.batch_sizes, hx, flat, *options)
    packed = PackedSequence(data, packed.batch_sizes, order, inverse)
    output, _ = pad_packed_sequence(packed, total_length=x.shape[0])
    return output, tuple(s.index_select(1, inverse) for s in final)


@contextlib.contextmanager
def _quiet_cudnn(on_gpu: bool) -> Iterator[None]:
    """Hide cuDNN's advice to call flatten_parameters: sampled weights are not parameters."""
    if not on_gpu:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single")
        yield


def _check_shapes(
    mode: str, x: Tensor, state: State, weights: Sequence[tuple[Tensor, ...]], directions: int
) -> None:
    """Refuse what does not fit: the kernels may read past the end of what is too small."""
    hidden = state[0].shape[-1]
    for part in state:
        check_shape("state", part, (len(weights), x.shape[-2], hidden))
    for k, layer in enumerate(weights):
        inputs = x.shape[-1] if k < directions else directions * hidden
        check_weights(mode, inputs, hidden, LayerWeights(*layer))
