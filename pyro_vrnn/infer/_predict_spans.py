"""Draws with noise, of which only what one sequence needs is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from torch import Tensor

from pyro_vrnn.distributions.folded_draw import FoldedBias, FoldedDraw, FoldedMatrix, FoldedTable
from pyro_vrnn.infer._predict_draws import Weights
from pyro_vrnn.infer._predict_masks import MaskDraws
from pyro_vrnn.infer.guide_site import GuideSite
from pyro_vrnn.infer.weight_guide import AutoWeightGuide

_ANY_NUMBER = 2**31


def has_scalar_noise(guide: Callable[..., Any]) -> TypeGuard[AutoWeightGuide]:
    """Whether a draw's noise has one scale for each site, and its factors are of whole columns."""
    if not isinstance(guide, AutoWeightGuide) or not guide.sites:
        return False
    q = {name: guide.distribution(name) for name in guide.sites}
    return (
        any(d.has_noise for d in q.values())
        and all(d.scale.numel() == 1 for d in q.values())
        and all(len(d.event_shape) <= 2 for d in q.values())
        and all(guide.sites[n].suits_sequences for n, d in q.items() if d.has_factor)
    )


class SpanDraws(MaskDraws):
    """
    Draws of masks, and of the normals that a run on one sequence uses: under names of their own.

    How many a site uses is learned from one run (:meth:`learn_uses`).
    """

    def __init__(self, guide: AutoWeightGuide, *args: Any, **options: Any) -> None:
        super().__init__(guide, *args, **options)
        self._kinds = {n: _kind(guide.sites[n]) for n, q in self._q.items() if q.has_noise}
        self._scales = {name: float(self._q[name].scale) for name in self._kinds}
        self._uses = dict.fromkeys(self._kinds, _ANY_NUMBER)

    def learn_uses(self, run: Callable[[Weights], object]) -> None:
        """Run the model on one draw, and count products and look-ups."""
        ones = {n: q.loc.new_ones(1, *q.grid_shape) for n, q in self._q.items() if q.has_factor}
        zeros = {
            _normals(name): self._q[name].loc.new_zeros(()).expand(1, *shape)  # takes no memory
            for name, shape in self._numbers().items()
        }
        values = self.folded({**ones, **zeros}, 1)
        run(values)
        drawn = {n: value for n, value in values.items() if isinstance(value, FoldedDraw)}
        self._uses = {name: value.uses for name, value in drawn.items()}

    def _numbers(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of one draw's normals."""
        return {n: kind.numbers(self._q[n], self._uses[n]) for n, kind in self._kinds.items()}

    @property
    def held_bytes(self) -> int:
        """Bytes of the masks and normals of one draw."""
        numbers = self._numbers().items()
        normals = (math.prod(shape) * self._q[n].loc.element_size() for n, shape in numbers)
        return super().held_bytes + sum(normals)

    @property
    def run_bytes(self) -> int:
        """Bytes of the directions that are kept in a run of one draw."""
        return sum(
            min(self._uses[n], q.event_shape[1]) * q.event_shape[1] * q.loc.element_size()
            for n, q in self._q.items()
            if self._kinds.get(n) is FoldedMatrix
        )

    def block_size(self, block_bytes: int) -> int:
        """Return how many draws a block holds: twice the bytes, as it is one run, step by step."""
        return super().block_size(2 * block_bytes)

    def _draw(self, size: int) -> Weights:
        weights = super()._draw(size)
        for name, shape in self._numbers().items():
            numbers = self._q[name].loc.new_empty(size, *shape)
            weights[_normals(name)] = numbers.normal_(0, self._scales[name])
        return weights

    def folded(self, masks: Mapping[str, Tensor], num_sequences: int) -> Weights:
        """Return values for P sequences, one for each draw."""
        assert num_sequences == 1
        values = super().folded(masks, 1)
        for name, kind in self._kinds.items():
            values[name] = kind(self._q[name], name, masks.get(name), masks[_normals(name)])
        return values

    def written(self, masks: Mapping[str, Tensor], values: Weights) -> Weights:
        """Write out the weights of a run: what of them it has drawn."""
        weights = self.dense(masks)
        for name in self._kinds:
            value = values[name]
            assert isinstance(value, FoldedDraw)
            weights[name] = value.written()
        return weights


def _kind(site: GuideSite) -> type[FoldedDraw]:
    if len(site.shape) == 1:
        return FoldedBias
    return FoldedTable if site.has_independent_rows else FoldedMatrix


def _normals(name: str) -> str:
    return f"normals of {name}"
