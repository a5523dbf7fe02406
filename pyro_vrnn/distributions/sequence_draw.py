r"""
A draw of a weight for each sequence of a batch, as one value of a Pyro site.

The weights :math:`W_n = M\, \mathrm{diag}(z_n) + \sigma E` share M and the noise E and differ in
the mask :math:`z_n`. The value stands for all of them without writing them out: it has the shape of
one weight, and only our operations can use it, :func:`~pyro_vrnn.ops.recurrent.recurrent`,
:func:`~pyro_vrnn.ops.particles.linear` and :func:`~pyro_vrnn.ops.particles.take_rows` (and what
is built on them: our modules, and :func:`torch.nn.functional.linear` and ``embedding``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding
from torch.utils._pytree import tree_leaves

from pyro_vrnn.distributions.block_factor import BlockFactorNormal
from pyro_vrnn.distributions.drawn import Drawn, draw_rows, has_options, noise_of_rows
from pyro_vrnn.distributions.row_bank import RowBank
from pyro_vrnn.distributions.unscored import Unscored
from pyro_vrnn.ops import particles as ops
from pyro_vrnn.ops.recurrent import recurrent
from pyro_vrnn.ops.spanned import SpannedNoise
from pyro_vrnn.ops.weights import LayerWeights, MaskedWeight, SequenceBias, masked_linear
from pyro_vrnn.shapes import check_shape, shape_text


class SequenceCount:
    """The number of sequences that all sites of one call of a guide must agree on."""

    def __init__(self) -> None:
        self._first: tuple[str, int] | None = None

    def agree(self, name: str, num_sequences: int) -> None:
        """Take the number at first use; refuse another one later."""
        first, number = self._first or (name, num_sequences)
        self._first = first, number
        if num_sequences != number:
            raise ValueError(
                f"Expected {number} sequences for site '{name}', as many as site '{first}' was "
                f"used for in this call, got {num_sequences}: does batch_dim name their dim?"
            )


class SequenceDraw(Drawn):
    r"""
    N weights, one for each sequence of a batch, as the value of one site.

    N is known when the value is first used; the masks are then drawn and kept, so that reading it
    twice, or replaying a trace that holds it, gives the same masks. Its density is not computed,
    and a number that depends on it cannot be read
    (:class:`~pyro_vrnn.distributions.unscored.Unscored`): score the site by its analytic KL.

    :param BlockFactorNormal q: distribution of one weight, of blocks that are input columns (of all
        rows, or of K equal parts of the rows), or rows of an embedding.
    :param str name: the site's name.
    :param SequenceCount count: shared by the sites of one call.
    """

    def __init__(self, q: BlockFactorNormal, name: str, count: SequenceCount) -> None:
        self.q, self.site_name, self._count = q, name, count
        self._mask: Tensor | None = None
        self._noise: Tensor | None = None
        self._mask_rows = RowBank(lambda n: q.draw_factors((n, 1)))
        self._noise_rows = noise_of_rows(q)

    @classmethod
    def of_masks(cls, q: BlockFactorNormal, name: str, masks: Tensor) -> SequenceDraw:
        """
        Return the value whose masks are given, ``(N, *grid)``, for a q without noise.

        :raises ValueError: if the masks do not fit, or q has noise, which N draws would share.
        """
        check_shape(f"masks of site '{name}'", masks, ("N", *q.grid_shape))
        if q.has_noise:
            raise ValueError(f"Expected site '{name}' without noise (scale=0), got {q}.")
        draw = cls(q, name, SequenceCount())
        draw._count.agree(name, len(masks))
        draw._mask = masks
        return draw

    def __repr__(self) -> str:  # type: ignore[override]
        drawn = "masks not drawn yet"
        if self._mask is not None:
            drawn = f"masks: {tuple(self._mask.shape)}"
        elif self._mask_rows.used:
            drawn = "masks of the rows that were read"
        return (
            f"SequenceDraw(site: '{self.site_name}', shape: {tuple(self.q.event_shape)}, {drawn})"
        )

    def masked_weight(self, num_sequences: int) -> MaskedWeight:
        """
        Return the weights of N sequences, for blocks that are columns.

        :raises ValueError: if another number of sequences was asked for before.
        """
        self._count.agree(self.site_name, num_sequences)
        if self._mask is None:
            if self.q.block_shape[-1] != 1:
                raise self._refusal("linear map, its blocks are rows")
            self._mask = self.q.draw_factors((num_sequences, *self.q.grid_shape))
            if self.q.has_noise:
                self._noise = self.q.scale * torch.randn_like(self.q.loc)
        return MaskedWeight(self.q.loc, self._mask, self._noise)

    def part(self, num_sequences: int) -> MaskedWeight | SequenceBias:
        """Return what a layer takes."""
        return self.masked_weight(num_sequences)

    def rows(self, ids: Tensor, batch_dim: int) -> Tensor:  # (*) -> (*, E)
        """
        Return rows of the N weights, for blocks that are rows (an embedding's) or columns.

        All occurrences of an id in one sequence have the same mask.
        """
        batch_dim %= ids.dim()
        num_sequences, num_rows = ids.shape[batch_dim], self.q.event_shape[0]
        self._count.agree(self.site_name, num_sequences)
        if self.q.block_shape == (num_rows, 1):
            return self._rows_of_columns(ids, batch_dim)
        if self.q.block_shape[0] != 1 or self.q.block_shape[1] != self.q.event_shape[1]:
            raise self._refusal("table, its blocks are not its rows")
        shape = [1] * ids.dim()
        shape[batch_dim] = num_sequences
        sequence = torch.arange(num_sequences, device=ids.device).reshape(shape)
        flat = ids.reshape(-1)
        if self._mask is None:
            kept = self._mask_rows((sequence * num_rows + ids).reshape(-1))
        else:
            kept = self._mask[sequence, ids, 0].reshape(-1, 1)
        rows = draw_rows(self.q, flat, kept, self._noise_rows)
        return rows.reshape(*ids.shape, -1)

    def _rows_of_columns(self, ids: Tensor, batch_dim: int) -> Tensor:
        """Return rows of a weight that is a table and a linear map's, tied."""
        weight = self.masked_weight(ids.shape[batch_dim])
        shape = [1] * (ids.dim() + 1)
        shape[batch_dim], shape[-1] = weight.mask.shape[0], -1
        rows = embedding(ids, self.q.loc) * weight.mask.reshape(shape)
        if isinstance(weight.noise, SpannedNoise):
            return rows + weight.noise.rows(ids.movedim(batch_dim, 0)).movedim(0, batch_dim)
        return rows if weight.noise is None else rows + embedding(ids, weight.noise)

    def __matmul__(self, other: Any) -> Any:
        # torch's own turns the refusal into Python's, which names no site.
        raise self._refusal("a product (@)")

    __rmatmul__ = __matmul__

    def _refusal(self, what: str) -> TypeError:
        return TypeError(
            f"Expected site '{self.site_name}', a draw for each sequence (scope='sequence'), in "
            f"one of pyro_vrnn's operations, got it in {what}: use the layers of pyro_vrnn.nn or "
            "the functions of pyro_vrnn.ops, or scope='batch'."
        )

    @classmethod
    def _other(
        cls, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        draw = next(a for a in tree_leaves((args, kwargs)) if isinstance(a, SequenceDraw))
        if func.__name__ not in _OF_DENSITIES:
            raise draw._refusal(f"{func.__name__}()")
        stand_in = Unscored(
            draw.shape,
            dtype=draw.dtype,
            device=draw.device,
            message=unscored_message(draw.site_name),
        )
        args = [stand_in if a is draw else a for a in args]
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        draw = next(a for a in tree_leaves((args, kwargs)) if isinstance(a, SequenceDraw))
        raise draw._refusal(str(func))


def unscored_message(name: str) -> str:
    """Say why the log density at a draw for each sequence is not there."""
    return (
        f"Expected site '{name}' to be scored by its analytic KL alone, got its log density asked "
        "for: it holds a draw for each sequence (scope='sequence'). Use TraceExactKL_ELBO or "
        "TraceMeanField_ELBO, or scope='batch'."
    )


# What distributions do with a value before it meets a parameter.
_OF_DENSITIES = frozenset(
    name
    for plain in [
        "sub",
        "add",
        "mul",
        "truediv",
        "pow",
        "abs",
        "neg",
        "eq",
        "ne",
        "ge",
        "gt",
        "le",
        "lt",
    ]
    for name in (plain, f"__{plain}__", f"__r{plain}__")
) | {"rsub", "div", "true_divide", "square", "log", "isnan", "isfinite"}


def _recurrent(
    mode: str, x: Tensor, state: Any, weights: Sequence[LayerWeights], **kwargs: Any
) -> Any:
    def part(weight: Any) -> Any:
        return weight.part(x.shape[-2]) if isinstance(weight, SequenceDraw) else weight

    return recurrent(mode, x, state, [LayerWeights(*map(part, w)) for w in weights], **kwargs)


def _linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    particles: bool = False,
    batch_dim: int | None = None,
) -> Tensor:
    draw = weight if isinstance(weight, SequenceDraw) else bias
    assert isinstance(draw, SequenceDraw)
    batch_dim = _batch_dim(draw, x, x.dim() == 2, batch_dim) % x.dim()
    if particles or weight.dim() > 2 or (bias is not None and bias.dim() > 1):
        raise ValueError(
            f"Expected no particle dims beside site '{draw.site_name}', a draw for each "
            f"sequence, got input {shape_text(x.shape)}: use scope='batch'."
        )
    each = bias.part(x.shape[batch_dim]) if isinstance(bias, SequenceDraw) else None
    if each is not None:
        bias = None
    if not isinstance(weight, SequenceDraw):
        product = ops.linear(x, weight)
    elif weight.q.has_factor and weight.q.block_shape[0] != weight.shape[0]:
        raise weight._refusal("a linear map, though its rows have masks apart")
    else:
        product = masked_linear(
            x, weight.masked_weight(x.shape[batch_dim]), bias, batch_dim=batch_dim
        )
    if each is None:
        return product
    shape = [1] * x.dim()
    shape[batch_dim], shape[-1] = each[0].shape
    return product.add_(each[0].view(shape))


def _take_rows(weight: SequenceDraw, ids: Tensor, *, batch_dim: int | None = None) -> Tensor:
    return weight.rows(ids, _batch_dim(weight, ids, ids.dim() == 1, batch_dim))


def _batch_dim(draw: SequenceDraw, x: Tensor, certain: bool, batch_dim: int | None) -> int:
    """Return the dim of the sequences: it is said, or there is only one it can be."""
    if batch_dim is not None:
        return batch_dim
    if certain:
        return 0
    raise ValueError(
        f"Expected batch_dim=, the dim of the sequences in the input {shape_text(x.shape)}, since "
        f"site '{draw.site_name}' holds a draw for each sequence (scope='sequence'); got None."
    )


def _embedding(input: Tensor, weight: SequenceDraw, **options: Any) -> Tensor:
    if has_options(options):
        raise weight._refusal("embedding() with options")
    return _take_rows(weight, input)


SequenceDraw.handlers = {
    recurrent: _recurrent,
    ops.linear: _linear,
    torch.nn.functional.linear: _linear,
    ops.take_rows: _take_rows,
    torch.nn.functional.embedding: _embedding,
}
