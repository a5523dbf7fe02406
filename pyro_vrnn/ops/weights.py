r"""
What a layer's weights may be: tensors, or one weight for every sequence that is never written out.

That one is :math:`W_n = M\, \mathrm{diag}(z_n) + E`. ``M`` and ``E`` are shared by the batch and
``z_n`` drops input columns for sequence n, so that :math:`W_n x = M (z_n \odot x) + E x`. With
untied gates each gate's rows have a mask of their own. Where no gradient is asked for, each
sequence may have an ``E`` of its own too, a :class:`~pyro_vrnn.ops.spanned.SpannedNoise`, and
biases of its own, a :class:`SequenceBias`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vrnn.ops.gemm import linear
from pyro_vrnn.ops.spanned import SpannedNoise
from pyro_vrnn.shapes import check_shape, shape_text


class MaskedWeight(NamedTuple):
    """
    The parts of N weights (F, D), one for each sequence of a batch.

    :param torch.Tensor loc: M, ``(F, D)``.
    :param torch.Tensor mask: z, ``(N, K, D)``: K = 1, or as many as there are gates; the k-th is
        for the k-th of K equal parts of the rows. No gradient reaches it.
    :param noise: E, ``(F, D)``, or None for 0, or one for each sequence.
    """

    loc: Tensor
    mask: Tensor
    noise: Tensor | SpannedNoise | None = None

    def check(self, name: str = "weight") -> MaskedWeight:
        """Return itself if its parts fit each other; raise a ValueError otherwise."""
        check_shape(f"loc of {name}", self.loc, ("F", "D"))
        rows, columns = self.loc.shape
        check_shape(f"mask of {name}", self.mask, ("N", "K", columns))
        if rows % self.mask.shape[1]:
            raise ValueError(
                f"Expected mask of {name} whose K divides {rows} rows, "
                f"got {shape_text(self.mask.shape)}."
            )
        if self.mask.requires_grad:
            raise ValueError(
                f"Expected mask of {name} without gradient, got one that requires grad: none would "
                "reach it."
            )
        if isinstance(self.noise, SpannedNoise):
            if self.noise.shape != (len(self.mask), rows, columns):
                raise ValueError(
                    f"Expected noise of {name} of shape "
                    f"{shape_text((len(self.mask), rows, columns))}, got "
                    f"{shape_text(self.noise.shape)}."
                )
        elif self.noise is not None:
            check_shape(f"noise of {name}", self.noise, (rows, columns))
        return self

    def dense(self) -> Tensor:
        """
        Write out the weights, ``(N, F, D)``: what the other operations are tested against.

        >>> import torch
        >>> MaskedWeight(torch.ones(2, 2), torch.tensor([[[1.0, 0.0]]])).dense()
        tensor([[[1., 0.],
                 [1., 0.]]])
        """
        repeats = self.loc.shape[0] // self.mask.shape[1]
        weights = self.loc * self.mask.repeat_interleave(repeats, dim=1)
        if isinstance(self.noise, SpannedNoise):
            return weights + self.noise.whole()
        return weights if self.noise is None else weights + self.noise

    def index_select(self, index: Tensor) -> MaskedWeight:
        """Return the weights of some of the sequences."""
        selected = self._replace(mask=self.mask.index_select(0, index))
        if isinstance(self.noise, SpannedNoise):
            return selected._replace(noise=self.noise.index_select(index))
        return selected


class SequenceBias(NamedTuple):
    """A bias for each sequence of a batch. No gradient reaches it."""

    value: Tensor  # (N, F)

    def dense(self) -> Tensor:
        """Return the biases."""
        return self.value

    def index_select(self, index: Tensor) -> SequenceBias:
        """Return those of some of the sequences."""
        return SequenceBias(self.value.index_select(0, index))


class LayerWeights(NamedTuple):
    """Weights of one layer in one direction, under torch.nn's names; biases may be None."""

    weight_ih: Tensor | MaskedWeight  # (G*H, D) or (S, G*H, D)
    weight_hh: Tensor | MaskedWeight  # (G*H, H) or (S, G*H, H)
    bias_ih: Tensor | SequenceBias | None = None  # (G*H,) or (S, G*H)
    bias_hh: Tensor | SequenceBias | None = None  # (G*H,) or (S, G*H)


def dtype_of(weights: Sequence[LayerWeights]) -> torch.dtype:
    """Return the dtype of the first layer's recurrent weight."""
    weight = weights[0].weight_hh
    return weight.loc.dtype if isinstance(weight, MaskedWeight) else weight.dtype


def masked_linear(
    x: Tensor,  # (*, N, *, D)
    weight: MaskedWeight,  # (F, D), one mask for all rows
    bias: Tensor | None = None,  # (F,)
    *,
    batch_dim: int = 0,
) -> Tensor:  # (*, N, *, F)
    r"""
    :math:`M (z_n \odot x) + E x + b` for the sequences along one dim of x.

    :param int batch_dim: the dim of x that counts the sequences; not the last.
    :raises ValueError: if that dim does not have as many sequences as the mask, or the mask differs
        between rows.
    """
    num_sequences, groups, columns = weight.mask.shape
    batch_dim %= x.dim()
    if batch_dim == x.dim() - 1 or x.shape[batch_dim] != num_sequences:
        raise ValueError(
            f"Expected {num_sequences} sequences, those of the mask, along dim {batch_dim} of the "
            f"input, got {shape_text(x.shape)}."
        )
    if groups != 1:
        raise ValueError(f"Expected one mask for all rows of a linear layer, got {groups}.")
    shape = [1] * x.dim()
    shape[batch_dim], shape[-1] = num_sequences, columns
    product = linear(x * weight.mask.reshape(shape), weight.loc, bias)
    if isinstance(weight.noise, SpannedNoise):
        each = x.movedim(batch_dim, 0)
        noise = weight.noise.times_each(each.reshape(num_sequences, -1, columns))
        return product + noise.reshape(*each.shape[:-1], -1).movedim(0, batch_dim)
    return product if weight.noise is None else product + linear(x, weight.noise)
