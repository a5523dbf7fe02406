"""The batches of an epoch, and how to come back to one in the middle of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from pyro_vrnn.shapes import check_positive_int

Batch = tuple[tuple[Any, ...], dict[str, Any]]  # arguments and keyword arguments


def as_batches(data: Any, batch_size: int | None, seed: int | None) -> Iterable[Any]:
    """Return a loader of a dataset, shuffled in an order of its own, or the batches that came."""
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        if batch_size is None:
            raise ValueError(
                f"Expected batch_size beside a dataset ({type(data).__name__}), got None."
            )
        generator = torch.Generator()
        generator.manual_seed(torch.initial_seed() if seed is None else seed)
        size = check_positive_int("batch_size", batch_size)
        return DataLoader(data, batch_size=size, shuffle=True, generator=generator)
    if batch_size is not None:
        raise ValueError(
            f"Expected no batch_size beside data that comes in batches ({type(data).__name__}), "
            f"got {batch_size}."
        )
    if not isinstance(data, Iterable):
        raise TypeError(f"Expected data in batches or as a dataset, got {type(data).__name__}.")
    batches: Iterable[Any] = data
    return batches


class Batches:
    """
    Batches placed on a device, with a position that can be kept and found again.

    Data with ``state_dict`` and ``load_state_dict`` keep their own. Lists, tuples and loaders of a
    dataset are run through again to the same place, from the state that their generators had at the
    start of the epoch. Other data start their epoch again.
    """

    def __init__(self, data: Iterable[Any], device: torch.device | None) -> None:
        self.data, self.device = data, device
        self.is_stateful = all(
            callable(getattr(data, name, None)) for name in ("state_dict", "load_state_dict")
        )
        self._generators = _generators_of(data)
        self._warning: str | None = None

    @property
    def can_resume_inside(self) -> bool:
        """Whether a run can go on in the middle of an epoch as if it had not been interrupted."""
        if self.is_stateful or isinstance(self.data, (list, tuple)):
            return True
        return isinstance(self.data, DataLoader) and not isinstance(
            self.data.dataset, IterableDataset
        )

    def generator_states(self) -> list[Tensor]:
        """Return the states of the loader's own generators, to be kept at the start of an epoch."""
        return [generator.get_state() for generator in self._generators]

    def set_generator_states(self, states: list[Tensor]) -> None:
        """Set them."""
        if len(states) != len(self._generators):
            raise ValueError(
                f"Expected data with {len(states)} generators of its own, as when the checkpoint "
                f"was written, got {len(self._generators)}."
            )
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)

    def state(self) -> Any:
        """Return the state that the data keep themselves."""
        return self.data.state_dict() if self.is_stateful else {}  # type: ignore[attr-defined]

    def load_state(self, state: Any) -> None:
        """Give it to them."""
        self.data.load_state_dict(state)  # type: ignore[attr-defined]

    def epoch(self) -> Iterator[Batch]:
        """Yield the batches of an epoch."""
        for number, batch in enumerate(self.data):
            if number == 1 and self._warning is not None:
                warnings.warn(self._warning, stacklevel=2)
                self._warning = None
            yield self._placed(batch)

    def warn_of_second(self, message: str) -> None:
        """Warn if an epoch has more than one batch: now if that is known, else at the second."""
        try:
            count = len(self.data)  # type: ignore[arg-type]
        except TypeError:  # also of a loader of an IterableDataset
            self._warning = message
            return
        if count > 1:
            warnings.warn(message, stacklevel=4)

    def _placed(self, batch: Any) -> Batch:
        def place(value: Any) -> Any:
            return value.to(self.device) if isinstance(value, Tensor) else value

        if isinstance(batch, dict):
            return (), {name: place(value) for name, value in batch.items()}
        if isinstance(batch, (tuple, list)):
            return tuple(place(value) for value in batch), {}
        raise TypeError(
            "Expected a batch to be a tuple of the model's arguments or a dict of them, "
            f"got {type(batch).__name__}."
        )


def _generators_of(data: Any) -> list[torch.Generator]:
    """Return a loader's generators, each once."""
    if not isinstance(data, DataLoader):
        return []
    holders = [data, data.sampler, data.batch_sampler, getattr(data.batch_sampler, "sampler", None)]
    found = [getattr(holder, "generator", None) for holder in holders]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())
