"""What values of sites share that stand for a weight and make its parts when they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_vrnn.distributions.block_factor import BlockFactorNormal
from pyro_vrnn.distributions.row_bank import RowBank

METADATA = frozenset(
    [
        *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.nelement, Tensor.ndimension, torch.numel),
        *(Tensor.__len__, Tensor.is_floating_point, torch.is_floating_point),
        *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "layout")),
    ]
)


class Drawn(Tensor):
    """
    A tensor without memory, with the shape, dtype and device of a draw from ``q``.

    :cvar dict handlers: function -> what does its work for a draw of this class.
    """

    handlers: ClassVar[dict[Callable[..., Any], Callable[..., Any]]] = {}
    q: BlockFactorNormal

    @staticmethod
    def __new__(cls, q: BlockFactorNormal, *args: Any) -> Any:
        return torch.Tensor._make_wrapper_subclass(
            cls, q.event_shape, dtype=q.loc.dtype, device=q.loc.device
        )

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in cls.handlers:
            return cls.handlers[func](*args, **kwargs)
        if func in METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        return cls._other(func, args, kwargs)

    @classmethod
    def _other(
        cls, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Do what is neither handled nor metadata."""
        raise NotImplementedError


def noise_of_rows(q: BlockFactorNormal) -> RowBank:
    """Return standard normal rows as long as those of ``q``."""
    return RowBank(lambda n: q.loc.new_empty(n, q.event_shape[-1]).normal_())


def draw_rows(
    q: BlockFactorNormal,
    ids: Tensor,  # (n,)
    kept: Tensor | None,  # (n, 1) or (n, E)
    noise: RowBank,
) -> Tensor:  # (n, E)
    """Return rows of a table under ``q``, given their masks (None: nothing is dropped)."""
    rows = q.loc.index_select(0, ids)
    if kept is not None:
        rows = rows * kept
    if q.has_noise:
        each = q.scale.dim() == 2 and len(q.scale) > 1
        rows = rows + (q.scale.index_select(0, ids) if each else q.scale) * noise(ids)
    return rows


def has_options(options: Mapping[str, Any]) -> bool:
    """Whether a call of torch's embedding asks for more than rows."""
    return any(options[name] for name in ("max_norm", "scale_grad_by_freq", "sparse")) or (
        options["padding_idx"] is not None
    )
