"""What the rows of ``speed.py`` are made of: two programs timed in turns, rates and counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.ops.gemm import times_transpose

Program = Callable[[], Any]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
Shape = tuple[int, int, int]  # T, N, H


@dataclass(frozen=True)
class Setting:
    """
    How the rows of one run are measured.

    :param int runs: pairs of one row, at most.
    :param float seconds: after which a row ends early, but not before ``least`` pairs.
    :param float rate: multiply-adds a second of the best matrix product, measured in this run.
    """

    device: torch.device
    threads: int
    runs: int
    seconds: float
    quick: bool
    large: bool
    rate: float = 0.0

    @property
    def least(self) -> int:
        """The fewest pairs of a row."""
        return min(self.runs, 5)


@dataclass(frozen=True)
class Case:
    """
    One row that can be measured.

    :param float target: what the ratio must not exceed; None where nothing is promised.
    :param measure: setting -> the row's numbers.
    """

    group: str
    what: str
    shape: dict[str, int]
    target: float | None
    measure: Callable[[Setting], dict[str, Any]]
    reference: str = "nn.LSTM"

    @property
    def key(self) -> str:
        """A name that no other row has."""
        sizes = " ".join(f"{name}={size}" for name, size in self.shape.items())
        return f"{self.group} | {self.what} | {sizes}"


def timed(program: Program, device: torch.device) -> float:
    """Return the seconds of one call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    program()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def in_turns(setting: Setting, *programs: Program, warm_up: int = 2) -> list[list[float]]:
    """Time the programs A B C A B C ..., and return the seconds of each."""
    for _ in range(warm_up):
        for program in programs:
            program()
    found: list[list[float]] = [[] for _ in programs]
    started = time.perf_counter()
    while len(found[0]) < setting.least or (
        len(found[0]) < setting.runs and time.perf_counter() - started < setting.seconds
    ):
        for seconds, program in zip(found, programs, strict=True):
            seconds.append(timed(program, setting.device))
    return found


def compare(
    setting: Setting,
    reference: Program,
    ours: Program,
    *,
    scale_reference: float = 1.0,
    scale_ours: float = 1.0,
    less: Program | None = None,
    warm_up: int = 2,
) -> dict[str, Any]:
    """
    Return medians of both programs and the median of the ratios of their pairs.

    :param float scale_reference: factor on its seconds, where it does a part of the work only.
    :param less: a part of ours, timed in turns too and taken off (a draw, reported apart).
    """
    programs = [reference, ours] if less is None else [reference, ours, less]
    seconds = in_turns(setting, *programs, warm_up=warm_up)
    theirs = [scale_reference * s for s in seconds[0]]
    own = [scale_ours * s for s in seconds[1]]
    found: dict[str, Any] = {}
    if less is not None:
        own = [o - part for o, part in zip(own, seconds[2], strict=True)]
        found["apart_seconds"] = statistics.median(seconds[2])
    ratios = [o / t for o, t in zip(own, theirs, strict=True)]
    quarters = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return {
        "reference_seconds": statistics.median(theirs),
        "seconds": statistics.median(own),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [quarters[0], quarters[2]],
        "pairs": len(ratios),
        **found,
    }


def with_counts(
    setting: Setting, found: dict[str, Any], reference: float, ours: float
) -> dict[str, Any]:
    """
    Add the multiply-adds of both, and how many times longer than their products alone they took.

    "Alone" is at the best rate that any product reached in this run.
    """
    return found | {
        "multiplications": {"reference": reference, "ours": ours},
        "times_products": {
            "reference": found["reference_seconds"] * setting.rate / reference,
            "ours": found["seconds"] * setting.rate / ours,
        },
    }


def layer_products(
    mode: str, shape: Shape, inputs: int | None = None, *, noise: bool = False, grad: bool = True
) -> float:
    """
    Return the multiply-adds of one recurrent layer.

    Forward is one product; backward are two, for the input and for the weight. Noise that is not
    learned adds a product forward and one for the input's gradient: 5/3 in all.
    """
    steps, sequences, hidden = shape
    one = steps * sequences * GATES[mode] * hidden * ((inputs or hidden) + hidden)
    if not grad:
        return one * (2 if noise else 1)
    return one * (5 if noise else 3)


SIZES = ((700, 800, 200), (700, 2600, 650), (2048, 512, 128), (2048, 2048, 2048), (20, 2600, 650))


def matrix_rates(device: torch.device, *, rounds: int = 9) -> dict[str, Any]:
    """
    Measure the matrix products of this machine, in multiply-adds a second.

    :returns: the best, and for some sizes (rows, columns, inner) that of either library.
    """
    found: list[dict[str, Any]] = []
    for rows, columns, inner in SIZES:
        x = torch.randn(rows, inner, device=device)
        weight = torch.randn(columns, inner, device=device)
        transposed = weight.t().contiguous()
        entry: dict[str, Any] = {"size": [rows, columns, inner]}
        for name, program in (
            ("mm", lambda x=x, w=transposed: torch.mm(x, w)),
            ("times_transpose", lambda x=x, w=weight: times_transpose(x, w)),
        ):
            program()
            program()
            seconds = min(timed(program, device) for _ in range(rounds))
            entry[name] = rows * columns * inner / seconds
        found.append(entry)
    best = max(max(entry["mm"], entry["times_transpose"]) for entry in found)
    return {"best": best, "sizes": found}


def fresh_grads(leaves: list[Tensor]) -> None:
    """Forget the gradients of some tensors."""
    for leaf in leaves:
        leaf.grad = None
