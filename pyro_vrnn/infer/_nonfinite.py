"""Where a number that is not finite came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.infer.elbo_parts import ELBOParts
from pyro_vrnn.shapes import shape_text


def bad_parameters(module: torch.nn.Module) -> list[str]:
    """Return the names of parameters with a value that is not finite."""
    return [name for name, p in module.named_parameters() if not bool(torch.isfinite(p).all())]


def sources(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[str]:
    """Yield what is not finite: in the batch, parameters, gradients, and the ELBO's terms."""
    named = {**{f"argument {k}": value for k, value in enumerate(args)}, **kwargs}
    for name, value in named.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            bad = ~torch.isfinite(value)
            if bool(bad.any()):
                where = shape_text(bad.nonzero()[0].tolist())
                yield f"{name} of the batch ({value[bad][0].item()} at index {where})"
    for name in bad_parameters(module):
        yield f"parameter {name}"
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            yield f"gradient of {name}"
    parts = getattr(getattr(module, "elbo", None), "parts", None)
    if isinstance(parts, ELBOParts):
        for what, terms in (("log-likelihood", parts.log_likelihood), ("KL", parts.kl)):
            for name, value in terms.items():
                if not bool(torch.isfinite(value)):
                    yield f"{what} of site '{name}'"
