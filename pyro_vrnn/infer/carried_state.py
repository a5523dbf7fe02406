"""Windows of long sequences for a training loop, each with the state that the last one left."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any, Protocol

from torch import Tensor


class Windows(Protocol):
    """What can be counted and run through, again and again."""

    def __len__(self) -> int:
        """Return how many windows there are."""

    def __iter__(self) -> Iterator[Collection[Any]]:
        """Yield them in order."""


class Stateful(Protocol):
    """A model, network or loss that keeps its last state."""

    @property
    def state(self) -> Any:
        """The last state of the last call, detached, or None."""


class CarriedState:
    """
    Windows of parallel streams as batches, each starting where the one before has ended.

    Batches for :func:`~pyro_vrnn.infer.fit` and :func:`~pyro_vrnn.infer.fit_loss`: a dict of the
    window's ``x`` and ``y`` (and ``lengths``), and ``state``, which is read from the module when
    the batch is asked for. The first window of an epoch starts from zeros. A run that is
    interrupted goes on inside an epoch, bit for bit.

    Example::

        >>> import torch
        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.LanguageModel(9, 4, 4)
        >>> windows = list(torch.zeros(2, 3, 5, dtype=torch.int64).unbind(0))
        >>> for batch in CarriedState([(x, x) for x in windows], model):
        ...     print(batch["state"] is None, model(**batch).shape)
        True torch.Size([3, 5, 9])
        False torch.Size([3, 5, 9])

    :param windows: ``(x, y)`` or ``(x, y, lengths)`` in order, such as a
        :class:`~pyro_vrnn.data.StreamWindows`; run through again every epoch.
    :param module: what keeps the state: the model or loss that the batches are for.
    :raises TypeError: if the module keeps no state.
    :raises ValueError: in an epoch, if a window is asked for before the module was run on the last
        one, as gradient accumulation does (the state it starts from is not there yet).
    """

    def __init__(self, windows: Windows, module: Stateful) -> None:
        if not hasattr(module, "state"):
            raise TypeError(
                "Expected a module that keeps its last state, such as a LanguageModel, behind the "
                f"windows, got {type(module).__name__}."
            )
        self.windows, self.module = windows, module
        self._position = 0  # windows given in this epoch
        self._resumed: tuple[int, Any] | None = None  # where the next epoch starts, if not at 0

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        (first, state), self._resumed = self._resumed or (0, None), None
        before: Any = None
        for number, window in enumerate(islice(self.windows, first, None), first):
            if number > first:
                state = self.module.state
                if state is None or state is before:
                    raise ValueError(
                        f"Expected the module to be run on window {number - 1} before window "
                        f"{number} is asked for, got none: use accumulate=1."
                    )
            before = self.module.state
            self._position = number + 1
            yield {**dict(zip(("x", "y", "lengths"), window, strict=False)), "state": state}
        self._position = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the epoch and the state that the next window starts from."""
        state = self.module.state if self._position else None
        parts = [] if state is None else [state] if isinstance(state, Tensor) else list(state)
        return {"position": self._position, "state": parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next epoch there."""
        parts = state["state"]
        kept = parts[0] if len(parts) == 1 else tuple(parts) if parts else None
        self._resumed = state["position"], kept
