"""Whether the observed site of our models is observed: a forgotten y makes it a latent."""

from __future__ import annotations

import inspect
from collections.abc import Container
from typing import Any

from pyro.poutine.runtime import am_i_wrapped

from pyro_vrnn.infer._batches import Batch
from pyro_vrnn.models.language import LanguageModel
from pyro_vrnn.models.sequence import SequenceModel

OBSERVED = "obs"  # in every model of pyro_vrnn.models


def check_observed(latents: Container[str], known: Container[str] = ()) -> None:
    """Refuse latents with the site that our models observe, unless it is known to be one."""
    if OBSERVED in latents and OBSERVED not in known:
        raise _no_y()


def check_batch_observes(model: Any, batch: Batch) -> None:
    """Refuse a batch without y for a model of ours: Pyro's ELBOs would train on nothing."""
    if not isinstance(model, (SequenceModel, LanguageModel)) or am_i_wrapped():
        return  # a handler around the call may observe
    args, kwargs = batch
    try:
        given = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    except TypeError:
        return  # the call itself says what is wrong
    if given.get("y") is None:
        raise _no_y()


def _no_y() -> ValueError:
    return ValueError(
        f"Expected site '{OBSERVED}' to be observed, got it among the latents: is y missing? Give "
        "the model's arguments, observations included."
    )
