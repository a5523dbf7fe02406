"""The group ``svi``: the optimisation step by step, and the parts of the divergence it reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.poutine import Trace

from pyro_vrnn.diagnostics._datasets import Variable
from pyro_vrnn.distributions.kl import KLParts, kl_parts
from pyro_vrnn.infer import AutoWeightGuide, FitResult
from pyro_vrnn.shapes import shape_text

SVIResult = FitResult | Sequence[float] | None


def history(svi_result: SVIResult) -> dict[str, Variable]:
    """
    Return what happened step by step, ``kl`` apart.

    :raises TypeError: if it is neither a FitResult nor a sequence.
    :raises ValueError: if there is no step, or the losses are no sequence of numbers.
    """
    if svi_result is None:
        return {}
    if not isinstance(svi_result, (FitResult, Sequence, np.ndarray, torch.Tensor)):
        raise TypeError(
            "Expected svi_result to be what fit returned or a list of the losses of SVI.step, "
            f"got {type(svi_result).__name__}."
        )
    result = svi_result if isinstance(svi_result, FitResult) else None
    loss = np.asarray(svi_result if result is None else result.loss, dtype=np.float64)
    if loss.ndim != 1 or not loss.size:
        raise ValueError(
            "Expected svi_result to be a FitResult of some steps or a sequence of losses, "
            f"got losses of shape {shape_text(loss.shape)}."
        )
    if result is None:
        return {"elbo": (("step",), -loss)}
    found: dict[str, Variable] = {"elbo": (("step",), np.asarray(result.elbo))}
    for name in ("expected_log_likelihood", "gradient_norm", "learning_rate", "kl_weight"):
        if values := getattr(result, name):
            found[name] = (("step",), np.asarray(values))
    found["epoch_loss"] = (("epoch",), np.asarray(result.epoch_loss))
    for name, values in result.validation.items():
        found[f"held_out_{name}"] = (("epoch",), np.asarray(values))
    return found


def divergences(
    svi_result: SVIResult, parts: Mapping[str, KLParts]
) -> tuple[dict[str, Variable], list[str]]:
    """
    Return the divergences by site, and the sites.

    ``kl`` has them at every step, ``kl_parts`` those of the guide as it is now, in three parts.
    """
    by_step = svi_result.kl if isinstance(svi_result, FitResult) else {}
    sites = list(dict.fromkeys([*by_step, *parts]))
    found: dict[str, Variable] = {}
    if by_step:
        assert isinstance(svi_result, FitResult)
        nowhere = [np.nan] * len(svi_result.loss)
        columns = [np.asarray(by_step.get(name, nowhere)) for name in sites]
        found["kl"] = (("step", "site"), np.stack(columns, axis=1))
    if parts:
        rows = [_row(parts.get(name)) for name in sites]
        found["kl_parts"] = (("site", "kl_part"), np.stack(rows))
    return found, sites


def parts_now(guide: Any, model_trace: Trace) -> dict[str, KLParts]:
    """Return constant, slab and mask part of the divergence of each site of a weight guide."""
    found = {}
    for part in weight_guides(guide):
        for name in part.sites:
            try:
                found[name] = kl_parts(part.distribution(name), model_trace.nodes[name]["fn"])
            except NotImplementedError:  # a prior that is no diagonal normal
                continue
    return found


def weight_guides(guide: Any) -> list[AutoWeightGuide]:
    """Return the weight guides among a guide and its parts."""
    parts = guide.modules() if isinstance(guide, torch.nn.Module) else ()
    return [part for part in parts if isinstance(part, AutoWeightGuide)]


def _row(parts: KLParts | None) -> NDArray[Any]:
    if parts is None:
        return np.full(len(KLParts._fields), np.nan)
    return np.array([float(part) for part in parts])
