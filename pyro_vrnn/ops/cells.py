r"""
One time step of each cell: the equations, once.

A cell takes the input's share of the gates, already multiplied (it does not depend on the state,
so the unrolled network makes that product for all steps at once), and the state of the step
before. Shapes: ``gates_x`` is ``(*, N, G*H)``, a state is ``(*, N, H)``, ``weight_hh`` is
``(*, G*H, H)`` and ``bias_hh`` is ``(*, G*H)``; ``*`` is nothing or ``S`` particles.

A cell is one product, ``gates_h = affine(h, weight_hh, bias_hh)``, and a function of the numbers
that stand in one place of ``gates_x``, ``gates_h`` and the state: :data:`POINTWISE` has those.

Gate order and the place of the biases are torch.nn's, so weights pass between the two unchanged.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

State = tuple[Tensor, ...]
Cell = Callable[[Tensor, State, Tensor, Tensor | None], State]
Pointwise = Callable[[Tensor, Tensor, State], State]


def affine(
    x: Tensor,  # (*, N, D)
    weight: Tensor,  # (*, F, D)
    bias: Tensor | None,  # (*, F)
) -> Tensor:  # (*, N, F)
    r"""
    :math:`x W^\top + b` where each leading dim of the arguments is a particle.

    >>> affine(torch.ones(4, 2), torch.ones(7, 3, 2), torch.zeros(7, 3)).shape
    torch.Size([7, 4, 3])
    """
    product = x @ weight.mT
    if bias is None:
        return product
    # In place where no particle dim is added: the product is the largest tensor there is.
    in_place = bias.shape[:-1] in (torch.Size(), product.shape[:-2])
    return product.add_(bias.unsqueeze(-2)) if in_place else product + bias.unsqueeze(-2)


def rnn_tanh(gates_x: Tensor, gates_h: Tensor, state: State) -> State:
    r""":math:`h' = \tanh(x + h)` of the two products."""
    return (torch.tanh(gates_x + gates_h),)


def rnn_relu(gates_x: Tensor, gates_h: Tensor, state: State) -> State:
    r""":math:`h' = \max(0, x + h)` of the two products."""
    return (torch.relu(gates_x + gates_h),)


def lstm(gates_x: Tensor, gates_h: Tensor, state: State) -> State:
    r"""
    Gates in torch's order i, f, g, o.

    .. math::
        c' = \sigma(f)\, c + \sigma(i) \tanh(g), \qquad h' = \sigma(o) \tanh(c').
    """
    i, f, g, o = (gates_x + gates_h).chunk(4, dim=-1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru(gates_x: Tensor, gates_h: Tensor, state: State) -> State:
    r"""
    Gates in torch's order r, z, n; the reset gate acts *after* the recurrent product, as in torch.

    .. math::
        n = \tanh(g_n + r\,(W_{hn} h + b_{hn})), \qquad h' = (1 - z)\, n + z\, h.

    So a dropped column of :math:`W_{hn}` hides one unit of ``h`` from ``n`` alone; the carried
    ``z h`` is never masked, and ``|h'| <= 1`` whenever ``|h| <= 1``, whatever is dropped.
    """
    x_r, x_z, x_n = gates_x.chunk(3, dim=-1)
    h_r, h_z, h_n = gates_h.chunk(3, dim=-1)
    z = torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
    return ((1 - z) * n + z * state[0],)


def cell_of(pointwise: Pointwise) -> Cell:
    """Return the cell whose recurrent product is that of one weight, whole."""

    def cell(gates_x: Tensor, state: State, weight_hh: Tensor, bias_hh: Tensor | None) -> State:
        return pointwise(gates_x, affine(state[0], weight_hh, bias_hh), state)

    return cell


POINTWISE: dict[str, Pointwise] = {
    "RNN_TANH": rnn_tanh,
    "RNN_RELU": rnn_relu,
    "LSTM": lstm,
    "GRU": gru,
}
CELLS: dict[str, Cell] = {mode: cell_of(pointwise) for mode, pointwise in POINTWISE.items()}
GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}
