"""Gradients of an unrolled layer that can be differentiated again, or mapped: the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.ops.reference import run_reference
from pyro_vrnn.ops.unrolled_layer import UnrolledLayer
from pyro_vrnn.ops.weights import LayerWeights, MaskedWeight


def differentiable_grads(
    layer: UnrolledLayer,
    inputs: Sequence[Any],  # x, weights with masks and noise, biases, state
    grads: Sequence[Tensor | None],  # of the outputs and the last state
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """
    Return the gradients of a layer's inputs, None for those that need none.

    They have a graph of their own if gradients are recorded.
    """
    create_graph = torch.is_grad_enabled()
    x, *weights, bias_ih, bias_hh = inputs[:9]
    state, steps = inputs[9:], layer.steps
    active = None
    if steps.active is not None:
        counts = torch.tensor(steps.active, device=x.device).unsqueeze(-1)
        places = torch.arange(steps.num_sequences, device=x.device)
        active = (places < counts).unsqueeze(-1)

    def of(weight: Tensor, mask: Tensor | None, noise: Tensor | None) -> Tensor | MaskedWeight:
        return weight if mask is None else MaskedWeight(weight, mask, noise)

    of_layer = LayerWeights(of(*weights[:3]), of(*weights[3:]), bias_ih, bias_hh)

    def in_time(t: Tensor) -> Tensor:  # the reference's only direction is forward
        return t.flip(-3) if steps.reverse else t

    if active is not None:
        active = in_time(active)
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        initial = tuple(s.unsqueeze(0) for s in state)
        output, last = run_reference(layer.mode, in_time(x), initial, [of_layer], active=active)
        pairs = [
            (found, grad)
            for found, grad in zip((in_time(output), *(s[0] for s in last)), grads, strict=True)
            if grad is not None
        ]
        if not pairs:
            return [None] * len(needs)
        wanted = [t for t, need in zip(inputs, needs, strict=True) if need]
        founds, given = zip(*pairs, strict=True)
        results = iter(
            torch.autograd.grad(founds, wanted, given, create_graph=create_graph, allow_unused=True)
        )
    return [next(results) if need else None for need in needs]
