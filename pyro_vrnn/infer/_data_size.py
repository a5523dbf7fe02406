"""Whether a model's ``num_data`` is that of the data it is trained on: no error would say so."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from pyro.poutine.runtime import am_i_wrapped
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from pyro_vrnn.infer._batches import Batches
from pyro_vrnn.models.language import LanguageModel
from pyro_vrnn.models.sequence import SequenceModel


def check_num_data(model: Any, batches: Batches, kl_weight: float | Callable[[int], float]) -> None:
    """
    Warn, once, of a model of ours that counts its data wrongly.

    A constant ``kl_weight`` may stand for ``num_data``, as 1 / (number of batches) does.
    """
    if not isinstance(model, (SequenceModel, LanguageModel)) or am_i_wrapped():
        return  # a handler around the call may scale
    units = "target tokens" if isinstance(model, LanguageModel) else "sequences"
    size = None if isinstance(model, LanguageModel) else _num_sequences(batches.data)
    got = f"{type(model).__name__} of num_data={model.num_data}"
    if model.num_data is None:
        if not callable(kl_weight) and kl_weight != 1:
            return
        remedy = "." if size is None else f"={size}."
        batches.warn_of_second(
            f"Expected num_data, the number of {units} in the training data, for more than one "
            f"batch an epoch, got a {got}: each batch counts as all of the data, so that the KL "
            f"counts once a batch. Give the model num_data{remedy}"
        )
    elif size not in (None, model.num_data):
        warnings.warn(
            f"Expected num_data={size}, the number of {units} in the dataset, got a {got}:"
            " it says how often the likelihood counts beside the KL, which counts once.",
            stacklevel=3,
        )


def _num_sequences(data: Any) -> int | None:
    """Return how many sequences the dataset behind a loader has, where that is certain."""
    if not (isinstance(data, DataLoader) and _is_plain(data)):
        return None
    return len(data.dataset)  # type: ignore[arg-type]


def _is_plain(loader: DataLoader[Any]) -> bool:
    """Whether an epoch takes each item of the dataset once, as one sequence."""
    sampler = loader.sampler
    once = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler
        and not sampler.replacement
        and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]
    )
    return (
        once
        and not isinstance(loader.dataset, IterableDataset)
        and type(loader.batch_sampler) is BatchSampler
        and loader.collate_fn is default_collate
    )
