r"""
Particle dimensions of sampled weights: where they stand, and how they reach the output.

Pyro draws S weights at once by wrapping a program in an outer plate, and the dims that the draws
get depend on who did it (k is the number of plate dims inside the program, usually 1, the data):

======================================  ===================  =================
who                                     a matrix             a bias
======================================  ===================  =================
``vectorize_particles=True``            ``(S, 1*k, F, D)``   ``(S, 1*k, F)``
``Predictive(parallel=True)``, k <= 1   ``(S, F, D)``        ``(S, F)``
``Predictive(parallel=True)``, k > 1    ``(S, F, D)``        ``(S, 1*(k-1), F)``
======================================  ===================  =================

In the first row the last leading dim is the data plate's place and belongs to the N sequences of
the output, so an output is ``(S, 1*(k-1), N, ...)`` in every row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.overrides import (
    handle_torch_function,
    has_torch_function,
    has_torch_function_unary,
)

from pyro_vrnn.ops import gemm
from pyro_vrnn.ops.cells import affine
from pyro_vrnn.shapes import shape_text


def particle_shape(
    weights: Sequence[tuple[Tensor | None, int]],  # (weight, its number of event dims)
) -> tuple[int, ...]:
    """
    Return the leading dims that an output made with ``weights`` carries.

    >>> particle_shape([(torch.zeros(5, 1, 8, 3), 2), (torch.zeros(5, 1, 8), 1)])
    (5,)
    >>> particle_shape([(torch.zeros(5, 8, 3), 2), (torch.zeros(5, 8), 1)])
    (5,)
    >>> particle_shape([(torch.zeros(5, 1, 1, 8, 3), 2)])
    (5, 1)
    >>> particle_shape([(torch.zeros(8, 3), 2)])
    ()

    :raises ValueError: if two weights carry different numbers of particles, or one weight carries
        more than one dim of size above 1.
    """
    leading = [tuple(w.shape[: w.dim() - k]) for w, k in weights if w is not None and w.dim() > k]
    if not leading:
        return ()
    sizes = {size for shape in leading for size in shape if size != 1}
    if len(sizes) > 1 or any(sum(size != 1 for size in shape) > 1 for shape in leading):
        raise ValueError(
            "Expected weights whose leading dims hold one number of particles, all but one dim "
            f"of size 1, got leading dims {', '.join(map(shape_text, leading))}."
        )
    longest = max(leading, key=lambda shape: (len(shape), max(shape)))
    all_alike = len({len(shape) for shape in leading}) == 1
    strip = all_alike and len(longest) > 1 and longest[-1] == 1
    return longest[:-1] if strip else longest


def flatten_particles(weight: Tensor, event_dim: int) -> Tensor:
    """Return ``weight`` with its leading dims flattened to one, or none if it has none."""
    leading = weight.dim() - event_dim
    return weight if leading == 0 else weight.reshape(-1, *weight.shape[leading:])


def linear(
    x: Tensor,  # (*, D), or (S, *, D) where particles is 1
    weight: Tensor,  # (F, D) or (S, F, D)
    bias: Tensor | None = None,  # (F,) or (S, F)
    *,
    particles: bool = False,
    batch_dim: int | None = None,
) -> Tensor:  # (*, F) or (S, *, F)
    r"""
    :math:`x W^\top + b` for each particle.

    :param bool particles: whether the first dim of ``x`` is already the particles'. It is said,
        never inferred from sizes: with S = N a guess would be wrong without an error.
    :param int batch_dim: the dim of ``x`` that counts sequences. Needed only where the weight is a
        draw for each sequence and ``x`` has more than two dims.
    """
    sampled = (weight,) if bias is None else (weight, bias)
    if has_torch_function(sampled):
        return handle_torch_function(
            linear, sampled, x, weight, bias, particles=particles, batch_dim=batch_dim
        )
    batched = weight.dim() == 3 or (bias is not None and bias.dim() == 2)
    if not batched:
        return gemm.linear(x, weight, bias)
    inner = x.shape[int(particles) : -1]
    rows = x.reshape(*x.shape[: int(particles)], -1, x.shape[-1])  # (*, M, D), * is () or (S,)
    product = affine(rows, weight, bias)  # (*, M, F), * is () or (S,)
    return product.reshape(*product.shape[:-2], *inner, product.shape[-1])


def embedding(
    ids: Tensor,  # (*), int64
    weight: Tensor,  # (V, E) or (S, V, E)
    padding_idx: int | None = None,
    *,
    batch_dim: int | None = None,
) -> Tensor:  # (*, E) or (S, *, E)
    """
    Look rows up, for each particle.

    :param padding_idx: an id whose vector is 0. Its row is not in ``weight``: ids above it stand
        one row higher, and ``V`` is one less than the number of ids.
    :param int batch_dim: as for :func:`take_rows`.
    """
    if padding_idx is None:
        return take_rows(weight, ids, batch_dim=batch_dim)
    rows = (ids - (ids > padding_idx).long()).clamp(max=weight.shape[-2] - 1)
    vectors = take_rows(weight, rows, batch_dim=batch_dim)
    return torch.where((ids == padding_idx).unsqueeze(-1), 0.0, vectors)


def take_rows(
    weight: Tensor,  # (V, E) or (S, V, E)
    ids: Tensor,  # (*), int64
    *,
    batch_dim: int | None = None,
) -> Tensor:  # (*, E) or (S, *, E)
    """
    Return rows of a table. Draws that are made row by row draw what is asked for here.

    :param int batch_dim: the dim of ``ids`` that counts sequences. Needed only where the weight is
        a draw for each sequence and ``ids`` has more than one dim.
    """
    if has_torch_function_unary(weight):
        return handle_torch_function(take_rows, (weight,), weight, ids, batch_dim=batch_dim)
    rows = weight.index_select(-2, ids.reshape(-1))
    return rows.reshape(*weight.shape[:-2], *ids.shape, weight.shape[-1])
