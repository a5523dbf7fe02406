"""Draws of a guide without noise: masks, which many draws can share one network by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor

from pyro_vrnn.distributions.sequence_draw import SequenceDraw
from pyro_vrnn.infer._predict_draws import GuideDraws, Weights, num_draws
from pyro_vrnn.infer.auto_spike_and_slab import AutoSpikeAndSlab
from pyro_vrnn.infer.weight_guide import AutoWeightGuide
from pyro_vrnn.ops.blocks import scale_blocks


def has_masks_only(guide: Callable[..., Any]) -> TypeGuard[AutoSpikeAndSlab]:
    """Whether all that differs between a guide's draws is what columns and rows are dropped."""
    if not isinstance(guide, AutoSpikeAndSlab) or not guide.sites:
        return False
    sites = guide.sites.values()
    masked = [site for site in sites if site.drop_prob > 0]
    return (
        bool(masked)
        and all(site.scale == 0 for site in sites)
        and all(site.suits_sequences for site in masked)
    )


class MaskDraws(GuideDraws):
    """
    Draws of masks ``(P, *grid)`` for the sites that have them, by the same numbers as the weights'.

    They are a thousand times smaller than the weights: a block holds many draws, and a run either
    writes its weights out or makes each draw a part of the batch.
    """

    def __init__(self, guide: Callable[..., Any], *args: Any, **options: Any) -> None:
        super().__init__(guide, *args, **options)
        assert isinstance(guide, AutoWeightGuide)
        self._q = {name: guide.distribution(name) for name in guide.sites}

    @property
    def held_bytes(self) -> int:
        """Bytes of the masks of one draw."""
        masked = [q for q in self._q.values() if q.has_factor]
        return sum(torch.Size(q.grid_shape).numel() * q.loc.element_size() for q in masked)

    def _draw(self, size: int) -> Weights:
        return {
            name: q.draw_factors((size, *q.grid_shape))
            for name, q in self._q.items()
            if q.has_factor
        }

    def dense(self, masks: Mapping[str, Tensor]) -> Weights:
        """Write the weights out, ``(P, *shape)``."""
        return {
            name: scale_blocks(q.loc, masks[name], q.block_shape)
            if name in masks
            else q.loc.expand(num_draws(masks), *q.loc.shape)
            for name, q in self._q.items()
        }

    def written(self, masks: Mapping[str, Tensor], values: Weights) -> Weights:
        """Write out the weights of a run on ``values``, which were made of ``masks``."""
        return self.dense(masks)

    def folded(self, masks: Mapping[str, Tensor], num_sequences: int) -> Weights:
        """Return values for P * N sequences: N of the first draw, N of the second, ..."""
        return {
            name: SequenceDraw.of_masks(q, name, masks[name].repeat_interleave(num_sequences, 0))
            if name in masks and not q.has_noise
            else q.loc
            for name, q in self._q.items()
        }
