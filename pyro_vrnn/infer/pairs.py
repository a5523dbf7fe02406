"""Whether a guide of ours was made for the model that it is given with."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide

from pyro_vrnn.infer.evaluating import underlying
from pyro_vrnn.infer.weight_guide import AutoWeightGuide


def check_pair(model: Any, guide: Any) -> None:
    """
    Refuse a guide in the place of its model, and one that was made for a model's namesake.

    A model made anew, as by a notebook's cell that is run again, has the old one's sites and none
    of its learned parameters, so that a result would be wrong without an error. A copy of a guide
    keeps a copy of the model, and is taken with any.
    """
    if isinstance(model, AutoGuide):
        raise TypeError(
            f"Expected a model before its guide, got the guide {type(model).__name__} as model."
        )
    given = underlying(model)
    if not isinstance(given, torch.nn.Module):
        return
    for part in _ours(guide):
        own = underlying(part.model)
        free = part.is_copy and part.prototype_trace is not None
        if type(own) is type(given) and own is not given and not free:
            name = type(part).__name__
            raise ValueError(
                f"Expected the model that the {name} was made for, got another "
                f"{type(given).__name__}, whose learned parameters are not those: if the model was "
                f"made anew, make its guide anew too and train it; else give guide.model."
            )


def check_sites(model: Any, guide: Any, unused: Collection[str]) -> None:
    """
    Refuse a guide of ours with sites that another model lacks.

    Its own model may leave some out in a call, such as what is of use in training only.

    :param unused: what the guide drew and the model did not ask for.
    """
    given = underlying(model)
    for part in _ours(guide):
        lacking = [name for name in part.sites if name in unused]
        if lacking and underlying(part.model) is not given:
            raise ValueError(
                f"Expected a guide of this model's sites, got one of "
                f"{', '.join(map(repr, lacking))} too, which the model lacks."
            )


def _ours(guide: Any) -> Iterator[AutoWeightGuide]:
    found = underlying(guide)
    parts = found.modules() if isinstance(found, torch.nn.Module) else ()
    for part in parts:
        if isinstance(part, AutoWeightGuide):
            yield part
