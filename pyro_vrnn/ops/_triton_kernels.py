r"""
What is not a matrix product in a step of a recurrent layer, as one Triton kernel each way.

A program takes some numbers of a state ``(*, N, H)``, which are independent of each other: forward
it turns their pre-activations into gates and the new state, and writes the next product's masked
inputs; backward it gathers the gradient of the state from the last product, turns it into that of
the gates. The equations are those of :mod:`~pyro_vrnn.ops.cell_kernels`.

A kernel is one function, however long: what its branches share are values in registers.

Pointers are to whole tensors; where a step stands in them is an offset in numbers. This file is
imported where a kernel is wanted, and nowhere else: it needs Triton, which comes with torch's
builds for NVIDIA and AMD.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl


def _kernel(function: Callable[..., Any]) -> Any:
    """
    Make a kernel of a function whose constants have names in capitals.

    Triton would compile another one where an integer is 1 or a multiple of 16, or a pointer is.
    """
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return triton.jit(function, do_not_specialize=[name for name in names if name.islower()])


@triton.jit
def _sigmoid(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@triton.jit
def _tanh(x):
    e = tl.exp(-2.0 * tl.abs(x))
    y = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0, -y, y)


@triton.jit
def _numbers(size, hidden, BLOCK: tl.constexpr):
    """Return a program's particle, its places in a state, and their sequences and units."""
    blocks = tl.cdiv(size, BLOCK)
    s = tl.program_id(0) // blocks
    i = (tl.program_id(0) - s * blocks) * BLOCK + tl.arange(0, BLOCK)
    n = i // hidden
    # What s and n are multiplied by may take them out of 32 bits.
    return s.to(tl.int64), i, n.to(tl.int64), i - n * hidden


@_kernel
def forward_step(
    rows,  # (*, t, N, G*H), from the input
    product,  # of this step: (K, N, G*H/K) or (S, N, G*H)
    h,  # (T+1, *state)
    extra,  # c, likewise, or a GRU's recurrent part of n, (T, *state)
    gates,  # (G, T, *state)
    bias_n,  # (1, H) or (S, 1, H)
    mask,  # (K, N, H)
    operand,  # inputs of the next product, (K, N, H) or, with noise, (K, N, 2*H)
    row, old, new, extra_old, extra_new, gate_step, active,
    sequences, hidden, rows_s, product_s, product_gate, product_row, gate, bias_s,
    MODE: tl.constexpr,
    GATES: tl.constexpr,
    KEEPS: tl.constexpr,  # whether gates are kept
    BIAS: tl.constexpr,
    MASKS: tl.constexpr,  # K, or 0 for none
    NOISE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Run the elementwise part of one step; see the comments on its arguments."""
    size = sequences * hidden
    s, i, n, j = _numbers(size, hidden, BLOCK)
    inside = i < size
    at = s * size + i
    runs = n < active
    gate = gate.to(tl.int64)
    was = tl.load(h + old + at, mask=inside)
    x = rows + row + s * rows_s + n * (GATES * hidden) + j
    p = product + s * product_s + n * product_row + j
    first = tl.load(x, mask=inside)
    of_first = tl.load(p, mask=inside)
    if MODE == "RNN_TANH":
        value = _tanh(first + of_first)
    elif MODE == "RNN_RELU":
        value = first + of_first
        value = tl.where(value < 0, 0.0, value)  # and not a maximum: NaN stays
    else:
        second = tl.load(x + hidden, mask=inside) + tl.load(p + product_gate, mask=inside)
        third = tl.load(x + 2 * hidden, mask=inside)
        of_third = tl.load(p + 2 * product_gate, mask=inside)
        first = _sigmoid(first + of_first)
        second = _sigmoid(second)
        if MODE == "LSTM":
            fourth = tl.load(x + 3 * hidden, mask=inside)
            fourth = _sigmoid(fourth + tl.load(p + 3 * product_gate, mask=inside))
            third = _tanh(third + of_third)
            c_was = tl.load(extra + extra_old + at, mask=inside)
            c = second * c_was + first * third
            value = fourth * _tanh(c)
            tl.store(extra + extra_new + at, tl.where(runs, c, c_was), mask=inside)
            if KEEPS:
                tl.store(gates + 3 * gate + gate_step + at, fourth, mask=inside)
        else:
            if BIAS:
                of_third += tl.load(bias_n + s * bias_s + j, mask=inside)
            third = _tanh(third + first * of_third)
            value = third + second * (was - third)
            tl.store(extra + extra_new + at, of_third, mask=inside)
        if KEEPS:
            kept = gates + gate_step + at
            tl.store(kept, first, mask=inside)
            tl.store(kept + gate, second, mask=inside)
            tl.store(kept + 2 * gate, third, mask=inside)
    value = tl.where(runs, value, was)
    tl.store(h + new + at, value, mask=inside)
    for k in tl.static_range(MASKS):
        z = tl.load(mask + k * size + i, mask=inside)
        into = operand + (k * sequences + n) * (hidden * (1 + NOISE)) + j
        tl.store(into, value * z, mask=inside)
        if NOISE:
            tl.store(into + hidden, value, mask=inside)


@_kernel
def backward_step(
    rows,  # gradient of the recurrent product, (*, t, N, G*H), written
    inner,  # gradient of a GRU's candidate before tanh, (t, *state), written
    parts,  # product of the step after this one: (K, N, H), or (K, N, 2*H), or (S, N, H)
    h,  # (T+1, *state)
    extra,
    gates,
    outputs,  # gradient of the outputs, (T, *state); 0 past a sequence's end
    mask,  # (K, N, H)
    to_h,  # gradient of the state that no product brings, (*state), written over
    to_c,  # gradient of c, (*state), written over
    row, old, new, extra_old, extra_new, gate_step, output, inner_step, active,
    sequences, hidden, rows_s, gate,
    MODE: tl.constexpr,
    GATES: tl.constexpr,
    OUTPUTS: tl.constexpr,  # whether they have a gradient
    MASKS: tl.constexpr,
    NOISE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Run the elementwise part of one step backward; see the comments on its arguments."""
    size = sequences * hidden
    s, i, n, j = _numbers(size, hidden, BLOCK)
    inside = i < size
    at = s * size + i
    runs = n < active
    gate = gate.to(tl.int64)
    dh = tl.load(to_h + at, mask=inside)
    if MASKS == 0:
        dh += tl.load(parts + at, mask=inside)
    for k in tl.static_range(MASKS):
        part = parts + (k * sequences + n) * (hidden * (1 + NOISE)) + j
        dh += tl.load(part, mask=inside) * tl.load(mask + k * size + i, mask=inside)
        if NOISE:
            dh += tl.load(part + hidden, mask=inside)
    if OUTPUTS:
        dh += tl.load(outputs + output + at, mask=inside)
    into = rows + row + s * rows_s + n * (GATES * hidden) + j
    value = tl.load(h + new + at, mask=inside)
    left = tl.zeros_like(dh)  # of the gradient, beside the product
    if MODE == "RNN_TANH":
        tl.store(into, tl.where(runs, dh * (1.0 - value * value), 0.0), mask=inside)
    elif MODE == "RNN_RELU":
        tl.store(into, tl.where(runs & (value > 0), dh, 0.0), mask=inside)
    else:
        kept = gates + gate_step + at
        first = tl.load(kept, mask=inside)
        second = tl.load(kept + gate, mask=inside)
        third = tl.load(kept + 2 * gate, mask=inside)
        if MODE == "LSTM":
            fourth = tl.load(kept + 3 * gate, mask=inside)
            c_was = tl.load(extra + extra_old + at, mask=inside)
            through = _tanh(tl.load(extra + extra_new + at, mask=inside))
            dc_was = tl.load(to_c + at, mask=inside)
            dc = dc_was + dh * fourth * (1.0 - through * through)
            of_first = dc * third * first * (1.0 - first)
            of_second = dc * c_was * second * (1.0 - second)
            of_third = dc * first * (1.0 - third * third)
            of_fourth = dh * through * fourth * (1.0 - fourth)
            tl.store(into + 3 * hidden, tl.where(runs, of_fourth, 0.0), mask=inside)
            tl.store(to_c + at, tl.where(runs, dc * second, dc_was), mask=inside)
        else:
            was = tl.load(h + old + at, mask=inside)
            of_n = tl.where(runs, dh * (1.0 - second) * (1.0 - third * third), 0.0)
            tl.store(inner + inner_step + at, of_n, mask=inside)
            of_third = of_n * first
            of_first = of_third * tl.load(extra + extra_new + at, mask=inside) * (1.0 - first)
            of_second = dh * (was - third) * second * (1.0 - second)
            left = dh * second
        tl.store(into, tl.where(runs, of_first, 0.0), mask=inside)
        tl.store(into + hidden, tl.where(runs, of_second, 0.0), mask=inside)
        tl.store(into + 2 * hidden, tl.where(runs, of_third, 0.0), mask=inside)
    tl.store(to_h + at, tl.where(runs, left, dh), mask=inside)
