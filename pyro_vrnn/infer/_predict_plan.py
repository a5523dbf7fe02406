"""How a prediction is cut up: draws and sequences of one run, and how the model is run on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.distributions.weight_site import weight_site_of

# On the CPU, chunks stay near the size of its cache: above these, an LSTM took up to 1.7 times as
# long for a sequence (32 MiB of cache; the estimate counts twice what the library's kernel needs).
CPU_BYTES = {"loop": 2**26, "batched": 2**24, "folded": 2**26}
# A run costs Pyro about 0.3 ms whatever its size. On one CPU thread, T = 35, LSTMs' and GRUs' draws
# were faster together than one by one below this many multiply-adds a draw: compiled, up to 30
# sequences at H = 32, 10 to 30 at 64, 4 to 10 at 128, 1 to 4 at 200; in torch's operations, 10 at
# H = 32 and none at 200. The bound for a GPU, where it is launches that cost, is a guess: none was
# here.
BATCHED_WORK = {"compiled": 12_000_000, "cpu": 2_500_000, "gpu": 1_000_000_000}
# Draws that are masks, likewise: compiled, folded was as fast as a loop or faster for 16 sequences
# at H = 128 and 200, not for 32 (LSTM); in torch's operations for 4, not for 16 at H = 200. In
# small networks it is faster for more.
FOLDED_SEQUENCES = {"compiled": 16, "cpu": 8, "gpu": 8}
# Noise drawn along what one sequence spans: on one CPU thread an LSTM was faster than in a loop or
# in compiled batches where that is at most a third of the weights (T = 5 at H = 32, 35 at 128: 1.4
# times; 35 at H = 200 and 400: 2 and 2.6 times), and slower where it is a half (T = 64 at H = 128).
# Nothing was measured on a GPU.
SPANNED_SHARE = 3
# Means and variances of one draw in the model's dtype, and their float64 copies being merged.
OUTPUT_BYTES = 48


@dataclass(frozen=True)
class Sizes:
    """
    What chunk sizes are chosen by.

    :ivar int weights: bytes of the weights of one draw, written out.
    :ivar int sequence: bytes that one sequence needs in a run, apart from its outputs: every
        weight matrix's product for all time steps, an estimate.
    :ivar int outputs: numbers of one sequence's output.
    :ivar int work: multiply-adds of one sequence.
    :ivar int basis: bytes of the directions that a run keeps for one draw.
    """

    weights: int
    sequence: int
    outputs: int
    work: int
    basis: int = 0

    @property
    def sequence_and_outputs(self) -> int:
        """Bytes of one sequence under one draw."""
        return self.sequence + OUTPUT_BYTES * max(1, self.outputs)


def measure(
    x: Tensor,  # (N, T, *) or (N,)
    sites: Mapping[str, dict[str, Any]],
    *,
    weights: int,
    outputs: int,
    dtype: torch.dtype,
) -> Sizes:
    """Return the sizes that chunks depend on."""
    steps = x.shape[1] if x.dim() > 1 else 1
    numbers, work = x.shape[2:].numel(), 0
    for site in sites.values():
        shape = site["value"].shape
        record = weight_site_of(site)
        if record is not None and record.kind == "embedding":
            numbers += shape[-1]
        elif len(shape) > 1:
            numbers += max(shape[-2:])
            work += shape.numel()
    return Sizes(weights, steps * numbers * dtype.itemsize, outputs, steps * work)


@dataclass(frozen=True)
class Plan:
    """
    A cut.

    :ivar int block: draws of one call of the guide. It depends on the weights' size alone, so
        that the draws are the same under any other cut.
    :ivar int draws: draws of one run, at most ``block``.
    :ivar int sequences: sequences of one run.
    """

    block: int
    draws: int
    sequences: int


def choose_strategy(
    sizes: Sizes, num_samples: int, num_sequences: int, device: str, *, masks: bool = False
) -> str:
    """
    Return ``"batched"`` where a draw's work is small beside what a run costs.

    Draws that are ``masks`` share the network's weights: ``"folded"`` then, for few sequences.

    :param str device: ``"compiled"`` (a CPU with compiled code), ``"cpu"`` or ``"gpu"``.
    """
    if num_samples == 1:
        return "loop"
    few = num_sequences * sizes.work <= BATCHED_WORK[device]
    if masks and (few or num_sequences <= FOLDED_SEQUENCES[device]):
        return "folded"
    return "batched" if few else "loop"


def spans_pay(sizes: Sizes, held: int, device: str) -> bool:
    """
    Whether draws with noise are best made along what one sequence spans, as ``"folded"``.

    :param int held: bytes of the masks and normals of one draw.
    """
    return device == "cpu" and held * SPANNED_SHARE <= sizes.weights


def make_plan(
    sizes: Sizes, strategy: str, block: int, num_sequences: int, max_bytes: int, device: str
) -> Plan:
    """Cut so that a run is estimated within ``max_bytes``: one draw of one sequence at least."""
    budget = min(max_bytes, CPU_BYTES[strategy]) if device == "cpu" else max_bytes
    weights = sizes.weights if strategy == "batched" else sizes.basis  # else one network
    sequences = _clamp((budget - weights) // sizes.sequence_and_outputs, num_sequences)
    if strategy in ("batched", "folded"):
        draws = _clamp(budget // (weights + sequences * sizes.sequence_and_outputs), block)
    else:
        draws = _clamp(max_bytes // (2 * OUTPUT_BYTES * max(1, sizes.outputs) * sequences), block)
    return Plan(block, draws, sequences)


def _clamp(value: int, upper: int) -> int:
    return max(1, min(value, upper))


def pieces(stop: int, size: int, *, start: int = 0) -> Iterator[slice]:
    """
    Cut ``start..stop`` in slices of ``size``, the last one maybe shorter.

    >>> list(pieces(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))
