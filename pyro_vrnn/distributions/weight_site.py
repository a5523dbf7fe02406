r"""
What a weight site is: the record that modules put on their sample sites and guides read.

A site carries it as ``infer={"weight_site": WeightSite(...)}``; a model written by hand does the
same, and its weights then take the same guide as the modules' do::

    pyro.sample(
        "w_hh",
        dist.Normal(0.0, 1.0).expand([4 * H, H]).to_event(2),
        infer={"weight_site": WeightSite("weight_hh", gates=4)},
    )
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.shapes import check_choice, check_positive_int, shape_text

KINDS = ("weight_ih", "weight_hh", "linear", "embedding", "bias")
GATE_CHOICES = ("tied", "untied")
RECURRENT_KINDS = ("weight_ih", "weight_hh")
FEW = 8  # fewer inputs or outputs than this are not dropped by default

Start = Callable[[torch.Size], Tensor]


@dataclass(frozen=True)
class WeightSite:
    r"""
    The record of one weight site.

    :param str kind: ``"weight_ih"``, ``"weight_hh"``, ``"linear"``, ``"embedding"`` or ``"bias"``.
    :param int gates: number of gates stacked in the first dim of a recurrent weight.
    :param int layer: layer of a recurrent weight, from 0.
    :param start: shape -> initial value of the weight. Without it, torch.nn's initialisation for
        the kind (zeros for a bias, whose fan-in the shape does not tell).
    :param tuple block_shape: shape of a block dropped together, instead of the kind's own.
    :raises ValueError: for an unknown kind.
    """

    kind: str
    gates: int = 1
    layer: int = 0
    start: Start | None = None
    block_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        check_positive_int("gates", self.gates)

    def blocks(self, shape: torch.Size | tuple[int, ...], gates: str = "untied") -> tuple[int, ...]:
        """
        Return the shape of one block of a weight of this ``shape``, in torch's layout.

        A block is an input **column** of a matrix (for untied gates, of one gate), a **row** (word
        type) of an embedding, and the whole of a bias, which is never dropped.

        >>> WeightSite("weight_hh", gates=4).blocks((80, 20))
        (20, 1)
        >>> WeightSite("embedding").blocks((9, 5))
        (1, 5)

        :param str gates: ``"tied"`` or ``"untied"``.
        """
        check_choice("gates", gates, GATE_CHOICES)
        if self.block_shape is not None:
            return self.block_shape
        expected_dim = 1 if self.kind == "bias" else 2
        if len(shape) != expected_dim:
            raise ValueError(
                f"Expected a {self.kind} site of {expected_dim} dims, "
                f"got shape {shape_text(shape)}."
            )
        if self.kind == "bias":
            return (shape[0],)
        if self.kind == "embedding":
            return (1, shape[1])
        if self.kind in RECURRENT_KINDS and gates == "untied":
            if shape[0] % self.gates:
                raise ValueError(
                    f"Expected the rows of a {self.kind} site to be a multiple of {self.gates} "
                    f"gates, got shape {shape_text(shape)}."
                )
            return (shape[0] // self.gates, 1)
        return (shape[0], 1)

    def default_drop_prob(self, shape: torch.Size | tuple[int, ...], drop_prob: float) -> float:
        """
        Return ``drop_prob``, or 0 where dropping by default would do harm.

        That is for biases, for the input weights of a first layer with fewer than 8 inputs (with
        one input, p = .25 deletes the whole series in a quarter of the draws), and for linear
        layers with fewer than 8 outputs (their blocks are too short for the L2 limit).
        """
        few_inputs = self.kind == "weight_ih" and self.layer == 0 and shape[-1] < FEW
        few_outputs = self.kind == "linear" and shape[0] < FEW
        return 0.0 if self.kind == "bias" or few_inputs or few_outputs else drop_prob

    def initial(self, shape: torch.Size) -> Tensor:
        """Draw an initial value (float32, CPU) as torch.nn's modules do."""
        if self.start is not None:
            return self.start(shape)
        if self.kind == "embedding":
            return torch.randn(shape)
        if self.kind == "bias":
            return torch.zeros(shape)
        fan = shape[-1] if self.kind == "linear" else shape[0] // self.gates
        return uniform(shape, bound=1 / math.sqrt(fan))


def uniform(shape: torch.Size, *, bound: float) -> Tensor:
    """Draw from U(-bound, bound)."""
    return torch.empty(shape).uniform_(-bound, bound)


def uniform_start(fan: int) -> Start:
    r"""Return the initialisation of torch.nn's RNNs and linear layers: U(+-1/sqrt(fan))."""
    return partial(uniform, bound=1 / math.sqrt(fan))


def weight_site_of(site: dict[str, Any]) -> WeightSite | None:
    """Return the record on a Pyro trace site, or None."""
    record = site["infer"].get("weight_site")
    if record is not None and not isinstance(record, WeightSite):
        raise TypeError(
            f"Expected infer['weight_site'] of site '{site['name']}' to be a WeightSite, "
            f"got {type(record).__name__}."
        )
    return record
