"""A recurrent layer whose masks change at every step."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vrnn.ops.cells import POINTWISE, State, affine
from pyro_vrnn.ops.weights import LayerWeights, SequenceBias


def grouped_affine(
    x: Tensor,  # (*, N, D)
    weight: Tensor,  # (K*F, D)
    bias: Tensor | None,  # (K*F,)
    mask: Tensor | None,  # (*, N, K, D), or None for ones
) -> Tensor:  # (*, N, K*F)
    """
    Multiply each of K parts of a weight by an input that is masked for this part.

    >>> mask = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    >>> grouped_affine(torch.ones(1, 2), torch.ones(4, 2), None, mask)
    tensor([[1., 1., 2., 2.]])
    """
    if mask is None:
        return affine(x, weight, bias)
    parts = mask.shape[-2]
    biases = [None] * parts if bias is None else bias.chunk(parts)
    products = zip(mask.unbind(-2), weight.chunk(parts), biases, strict=True)
    return torch.cat([affine(x * z, w, b) for z, w, b in products], dim=-1)


def run_naive_layer(
    mode: str,
    x: Tensor,  # (T, N, D)
    state: State,  # each (N, H)
    weights: LayerWeights,
    masks: tuple[Tensor | None, Tensor | None],  # (T, N, K, D) and (T, N, K, H)
    *,
    backward: bool = False,
    lengths: Tensor | None = None,  # (N,)
) -> tuple[Tensor, State]:
    """Run a layer in one direction with a mask of its own for each step, on x and on h."""
    weight_ih, weight_hh, bias_ih, bias_hh = weights
    assert isinstance(weight_ih, Tensor)
    assert isinstance(weight_hh, Tensor)
    assert not isinstance(bias_ih, SequenceBias)
    assert not isinstance(bias_hh, SequenceBias)
    mask_ih, mask_hh = masks
    num_steps, pointwise = len(x), POINTWISE[mode]
    active: Tensor | None = None
    if lengths is not None:
        steps = torch.arange(num_steps, device=x.device).unsqueeze(-1)
        active = (steps < lengths.to(x.device)).unsqueeze(-1)  # (T, N, 1)
        x = torch.where(active, x, 0.0)  # padding may be NaN
    gates_x = grouped_affine(x, weight_ih, bias_ih, mask_ih)
    outputs: list[Tensor] = [x] * num_steps
    for t in reversed(range(num_steps)) if backward else range(num_steps):
        mask = None if mask_hh is None else mask_hh[t]
        new = pointwise(gates_x[t], grouped_affine(state[0], weight_hh, bias_hh, mask), state)
        if active is None:
            outputs[t], state = new[0], new
        else:
            outputs[t] = torch.where(active[t], new[0], 0.0)
            state = tuple(torch.where(active[t], n, s) for n, s in zip(new, state, strict=True))
    return torch.stack(outputs), state
