"""The shapes of one layer's tensors, checked before a pass relies on them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_vrnn.ops.cells import GATES, State
from pyro_vrnn.ops.weights import LayerWeights, MaskedWeight, SequenceBias
from pyro_vrnn.shapes import shape_text


def check_layer(
    mode: str, x: Tensor, state: State, weights: LayerWeights, particles: int
) -> tuple[Tensor, State, LayerWeights]:
    """
    Return a layer's tensors; particle dims of size 1 beside larger ones are dropped.

    :param int particles: S, or 0 if nothing has a particle dim.
    :raises ValueError: if shapes do not fit each other, masks are for another number of gates, or
        there is one bias of two.
    """
    groups = {w.mask.shape[1] for w in weights[:2] if isinstance(w, MaskedWeight)}
    if groups - {1, GATES[mode]}:
        raise ValueError(
            f"Expected masks for 1 or {GATES[mode]} parts of the rows (the gates), got "
            f"{groups - {1, GATES[mode]}}."
        )
    num_steps, num_sequences, inputs = x.shape[-3:]
    if num_steps == 0:
        raise ValueError(f"Expected at least one time step, got x {shape_text(x.shape)}.")
    hidden = state[0].shape[-1]
    return (
        _fit("x", x, (num_steps, num_sequences, inputs), particles),
        tuple(_fit("state", s, (num_sequences, hidden), particles) for s in state),
        check_weights(mode, inputs, hidden, weights, particles),
    )


def check_weights(
    mode: str, inputs: int, hidden: int, weights: LayerWeights, particles: int = 0
) -> LayerWeights:
    """Return the weights of a layer; as :func:`check_layer`."""
    if (weights.bias_ih is None) != (weights.bias_hh is None):
        raise ValueError("Expected both bias_ih and bias_hh, or none of them, got one.")
    rows = GATES[mode] * hidden
    shapes = ((rows, inputs), (rows, hidden), (rows,), (rows,))
    parts = zip(LayerWeights._fields, weights, shapes, strict=True)
    return LayerWeights(*(_fit(name, value, shape, particles) for name, value, shape in parts))


def _fit(name: str, value: Any, shape: tuple[int, ...], particles: int) -> Any:
    if value is None or isinstance(value, SequenceBias):
        return value
    if isinstance(value, MaskedWeight):
        return value._replace(loc=_fit(name, value.loc, shape, particles))
    lead = tuple(value.shape[: value.dim() - len(shape)])
    if lead == (1,) and particles > 1:
        value, lead = value.squeeze(0), ()
    if value.shape[len(lead) :] != shape or lead not in ((), (particles,)):
        lead_text = f", {particles} particles in front or none" if particles else ""
        raise ValueError(
            f"Expected {name} of shape {shape_text(shape)}{lead_text}, "
            f"got {shape_text(value.shape)}."
        )
    return value.resolve_neg()
