"""Names for the dims of weights, from the record on their site."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from pyro_vrnn.distributions.weight_site import RECURRENT_KINDS, WeightSite

Shape = tuple[int, ...]
Named = tuple[tuple[str, str, int], ...]  # (name, what it counts, size) of each dim
GATE_LABELS = {4: ("i", "f", "g", "o"), 3: ("r", "z", "n")}  # torch.nn's LSTM and GRU


class WeightDims(NamedTuple):
    """Names and sizes of a weight's dims."""

    names: tuple[str, ...]
    sizes: Shape


def weight_dims(
    weights: Mapping[str, tuple[WeightSite, Shape]], taken: Collection[str]
) -> dict[str, WeightDims]:
    """
    Return the names and sizes of each weight's dims, the gates in a dim of their own.

    Weights of one recurrent module share ``gate`` and ``unit``; with several such modules these
    begin with the module's name. Names depend on what the dims count and never on their sizes,
    unless a model written by hand has sites that look like one module's and do not fit; these get
    dims of their own. A weight of another shape than its record's kind is left out.

    >>> found = weight_dims({"rnn.weight_hh_l0": (WeightSite("weight_hh", gates=4), (20, 5))}, ())
    >>> tuple(found["rnn.weight_hh_l0"])
    (('gate', 'unit', 'previous_unit'), (4, 5, 5))

    :param weights: site -> its record and shape.
    :param taken: names that the dims may not have.
    """
    fitting = {name: w for name, w in weights.items() if _fits(*w)}
    recurrent = {_module(n) for n, (record, _) in fitting.items() if _is_recurrent(record)}
    other = {_module(n) for n, (record, _) in fitting.items() if _is_other(record)}
    found: dict[str, Named] = {}
    for name, (record, shape) in fitting.items():
        module = _module(name)
        alone = record.kind == "bias" and module in recurrent - other
        if _is_recurrent(record) or record.gates > 1 or alone:
            prefix = f"{module}_" if len(recurrent) > 1 and module else ""
            found[name] = _recurrent_layer(name, record, shape, prefix)
        else:
            found[name] = _layer(module, record, shape)
    clashing = _clashing(found.values()) | set(taken)
    return {
        name: WeightDims(
            tuple(f"{name}_{what}" if dim in clashing else dim for dim, what, _ in named),
            tuple(size for _, _, size in named),
        )
        for name, named in found.items()
    }


def _is_recurrent(record: WeightSite) -> bool:
    return record.kind in RECURRENT_KINDS


def _is_other(record: WeightSite) -> bool:
    return record.kind in ("linear", "embedding")


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _fits(record: WeightSite, shape: Shape) -> bool:
    expected_dim = 1 if record.kind == "bias" else 2
    return len(shape) == expected_dim and shape[0] % record.gates == 0


def _recurrent_layer(name: str, record: WeightSite, shape: Shape, prefix: str) -> Named:
    """Name the dims of a recurrent layer's weight or bias."""
    gate = ((f"{prefix}gate", "gate", record.gates),) if record.gates > 1 else ()
    first = (*gate, (f"{prefix}unit", "unit", shape[0] // record.gates))
    if record.kind == "weight_ih":
        return (*first, (f"{name}_input", "input", shape[1]))
    if record.kind == "weight_hh":
        return (*first, (f"{prefix}previous_unit", "previous_unit", shape[1]))
    return first


def _layer(module: str, record: WeightSite, shape: Shape) -> Named:
    """Name the dims of a linear layer's weight or bias, or of an embedding."""
    names = ("row", "feature") if record.kind == "embedding" else ("output", "input")
    prefix = f"{module}_" if module else ""
    return tuple((f"{prefix}{n}", n, size) for n, size in zip(names, shape, strict=False))


def _clashing(found: Collection[Named]) -> set[str]:
    """Return the names that stand for dims of several sizes, or for two dims of one weight."""
    sizes: dict[str, int] = {}
    clashing = set()
    for named in found:
        for dim, _, size in named:
            if sizes.setdefault(dim, size) != size:
                clashing.add(dim)
    return clashing
