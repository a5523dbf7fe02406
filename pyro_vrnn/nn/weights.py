"""Modules whose weights are sample sites: what all layers of this folder share."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroSample
from pyro.poutine import infer_config
from torch import Tensor

from pyro_vrnn.distributions.weight_site import WeightSite
from pyro_vrnn.shapes import check_finite, shape_text

Prior = float | Tensor | Mapping[str, float | Tensor]


class WeightModule(PyroModule):
    r"""
    A :class:`~pyro.nn.PyroModule` whose weights have Gaussian priors.

    Each weight is a :class:`~pyro.nn.PyroSample` with prior :math:`N(m_0, s^2)`, elementwise, and
    reading it inside a call is a ``pyro.sample`` statement that carries its
    :class:`~pyro_vrnn.distributions.WeightSite`. Two reads in one call give one draw; a read
    outside a call is a new draw from the prior. Weights must be read before a data plate is
    entered: inside it each sequence would get a weight of its own.

    :param prior_scale: :math:`s > 0`, in the units of the weights. A number or a tensor that
        broadcasts to every weight, or a mapping from weight name or kind of weight to one
        (1 for those not named).
    :param prior_loc: :math:`m_0`, likewise (0 for those not named).
    """

    def __init__(
        self,
        *,
        prior_scale: Prior = 1.0,
        prior_loc: Prior = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._prior_args = {"scale": (prior_scale, 1.0), "loc": (prior_loc, 0.0)}
        self._weight_sites: dict[str, WeightSite] = {}
        self._weight_shapes: dict[str, torch.Size] = {}
        # Follows .to() and .double(), so that priors are made where the module lives.
        like = torch.empty(0, device=device, dtype=dtype)
        self.register_buffer("_like", like, persistent=False)

    def _add_weight(self, name: str, shape: tuple[int, ...], site: WeightSite) -> None:
        self._weight_sites[name] = site
        self._weight_shapes[name] = torch.Size(shape)
        for part, (given, default) in self._prior_args.items():
            value = given
            if isinstance(given, Mapping):
                value = given.get(name, given.get(site.kind, default))
            value = _check_prior(f"prior_{part} of {name}", value, torch.Size(shape), self._like)
            if part == "scale" and not bool((value > 0).all()):
                raise ValueError(f"Expected prior_scale of {name} to be positive, got {value}.")
            self.register_buffer(f"_prior_{part}_{name}", value)
        setattr(self, name, PyroSample(partial(_prior, name=name)))

    def _check_prior_names(self) -> None:
        """Refuse names in a prior mapping that are neither a weight nor a kind of this module."""
        known = [*self._weight_sites, *{site.kind: 0 for site in self._weight_sites.values()}]
        for part, (given, _) in self._prior_args.items():
            unknown = sorted(set(given) - set(known)) if isinstance(given, Mapping) else []
            if unknown:
                raise ValueError(
                    f"Expected the names in prior_{part} to be among {', '.join(known)}, "
                    f"got {', '.join(map(repr, unknown))}."
                )

    @property
    def factory_kwargs(self) -> dict[str, Any]:
        """Device and dtype of the module, as the arguments of another one's constructor."""
        return {"device": self._like.device, "dtype": self._like.dtype}

    def prior(self, name: str) -> dist.Distribution:
        """Return the prior of the weight called ``name``, the whole tensor as its event."""
        loc, scale = (getattr(self, f"_prior_{part}_{name}") for part in ("loc", "scale"))
        shape = self._weight_shapes[name]
        return dist.Normal(loc, scale).expand(shape).to_event(len(shape))

    def __getattr__(self, name: str) -> Any:
        site = self.__dict__.get("_weight_sites", {}).get(name)
        if site is None:
            return super().__getattr__(name)
        if self._pyro_context.active:
            read_before = self._pyro_context.get(self._pyro_get_fullname(name))
            if read_before is not None:
                return read_before

        def record(msg: Any) -> dict[str, Any]:
            # A prior may read sites of its own, such as a hyperprior's; they are no weights.
            own = self._pyro_context.active and msg["name"] == self._pyro_get_fullname(name)
            return {"weight_site": site} if own else {}

        # A PyroSample cannot hold `infer`; the handler around the read can.
        with infer_config(config_fn=record):
            return super().__getattr__(name)


def _prior(module: WeightModule, name: str) -> dist.Distribution:
    return module.prior(name)


def _check_prior(name: str, value: Any, shape: torch.Size, like: Tensor) -> Tensor:
    if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
        raise TypeError(f"Expected {name} to be a number or a Tensor, got {value!r}.")
    value = torch.as_tensor(value, dtype=like.dtype, device=like.device).detach()
    try:
        fits = torch.broadcast_shapes(value.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"Expected {name} to broadcast to {shape_text(shape)}, got {shape_text(value.shape)}."
        )
    return check_finite(name, value)
