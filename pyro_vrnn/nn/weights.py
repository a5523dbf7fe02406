"""Modules whose weights are sample sites: what all layers of this folder share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroSample
from pyro.poutine import infer_config
from torch import Tensor

from pyro_vrnn.distributions.weight_site import WeightSite
from pyro_vrnn.shapes import check_finite, check_shape, shape_text

Prior = float | Tensor | Mapping[str, float | Tensor]
PRIOR_DEFAULTS = {"scale": 1.0, "loc": 0.0}
OWNER = "the module and its guide"  # what has the dtype of the weights


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
        self._prior_args = {"scale": prior_scale, "loc": prior_loc}
        self._weight_sites: dict[str, WeightSite] = {}  # of its own weights
        self._weight_shapes: dict[str, torch.Size] = {}  # of these and of tied ones
        self._ties: dict[str, tuple[WeightModule, str]] = {}
        self._at_many_places = False
        # Follows .to() and .double(), so that priors are made where the module lives.
        like = torch.empty(0, device=device, dtype=dtype)
        self.register_buffer("_like", like, persistent=False)

    def _add_weight(self, name: str, shape: tuple[int, ...], site: WeightSite) -> None:
        self._weight_sites[name] = site
        self._weight_shapes[name] = torch.Size(shape)
        values = {
            part: prior_value(given, name, site.kind, PRIOR_DEFAULTS[part])
            for part, given in self._prior_args.items()
        }
        self._set_prior(name, name, **values)
        setattr(self, name, PyroSample(partial(_prior, name=name)))

    def _set_prior(self, name: str, label: str, *, scale: Any, loc: Any) -> None:
        """Set the prior of the weight ``name``, which messages call ``label``."""
        shape = self._weight_shapes[name]
        for part, value in (("scale", scale), ("loc", loc)):
            value = _check_prior(f"prior_{part} of {label}", value, shape, self._like)
            if part == "scale" and not bool((value > 0).all()):
                raise ValueError(f"Expected prior_scale of {label} to be positive, got {value}.")
            self.register_buffer(f"_prior_{part}_{name}", value)

    def _check_prior_names(self) -> None:
        """Refuse names in a prior mapping that are neither a weight nor a kind of this module."""
        known = [*self._weight_sites, *{site.kind: 0 for site in self._weight_sites.values()}]
        for part, given in self._prior_args.items():
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
        if name in self._ties:
            owner, owner_name = self._ties[name]
            return owner.prior(owner_name)
        loc, scale = (getattr(self, f"_prior_{part}_{name}") for part in ("loc", "scale"))
        shape = self._weight_shapes[name]
        return dist.Normal(loc, scale).expand(shape).to_event(len(shape))

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """
        Let a guide start from these values, copied, rather than from torch.nn's initialisation.

        :param weights: weight name -> value, for some or all of the module's own weights.
        :raises ValueError: if a name is no weight of the module or a shape does not fit.
        """
        for name, value in weights.items():
            self._check_own(name)
            check_shape(name, value, self._weight_shapes[name])
            start = GivenStart(value.detach().clone())
            self._weight_sites[name] = replace(self._weight_sites[name], start=start)

    def tie(self, name: str, owner: WeightModule, owner_name: str) -> None:
        """
        Read the weight ``name`` from another module: one site, one draw and one KL for both.

        Both modules must be parts of one model. The site is the owner's, with its prior and start.
        A linear layer's weight tied to an embedding makes it a site of kind ``"linear"``, whose
        blocks are columns: it has no word-type dropout and no rows drawn on use.

        Example::

            >>> from pyro_vrnn.nn import Embedding, Linear
            >>> decoder = Linear(16, 100)
            >>> decoder.tie("weight", Embedding(100, 16), "weight")

        :param str name: a weight of this module.
        :param owner: the module that keeps the site; it does not become a submodule of this one.
        :param str owner_name: a weight of ``owner``, of the same shape, kind and gates.
        :raises ValueError: if a name is no weight, or the two differ in shape, kind or gates.
        """
        self._check_own(name)
        owner._check_own(owner_name)
        if owner is self and owner_name == name:
            raise ValueError(f"Expected another weight to tie {name!r} to, got itself.")
        shapes = self._weight_shapes[name], owner._weight_shapes[owner_name]
        mine, theirs = self._weight_sites[name], owner._weight_sites[owner_name]
        kinds = {mine.kind, theirs.kind}
        alike = (mine.kind, mine.gates) == (theirs.kind, theirs.gates)
        if shapes[0] != shapes[1] or not (alike or kinds == {"linear", "embedding"}):
            raise ValueError(
                "Expected tied weights of one shape, kind and number of gates, got "
                + " and ".join(
                    f"{site.kind} {shape_text(shape)} of {site.gates} gates"
                    for site, shape in zip((theirs, mine), reversed(shapes), strict=True)
                )
                + "."
            )
        if not alike:
            owner._weight_sites[owner_name] = replace(theirs, kind="linear")
        delattr(self, name)
        del self._weight_sites[name]
        for part in PRIOR_DEFAULTS:
            delattr(self, f"_prior_{part}_{name}")
        self._ties[name] = owner, owner_name

    @property
    def site_names(self) -> dict[str, str]:
        """
        The name of the site of each weight, in the model that the module is part of.

        >>> from pyro_vrnn.nn import GRU
        >>> GRU(3, 8, bias=False).site_names
        {'weight_ih_l0': 'weight_ih_l0', 'weight_hh_l0': 'weight_hh_l0'}
        """
        names = {}
        for name in self._weight_shapes:
            owner, owner_name = self._ties.get(name, (self, name))
            prefix = owner._pyro_name  # set before the first call too, unlike Pyro's full names
            names[name] = f"{prefix}.{owner_name}" if prefix else owner_name
        return names

    def _check_own(self, name: str) -> None:
        if name not in self._weight_sites:
            raise ValueError(
                f"Expected one of the weights {', '.join(self._weight_sites)} of a "
                f"{type(self).__name__}, got {name!r}."
            )

    def _pyro_set_supermodule(self, name: str, context: Any) -> None:
        # A walk from the root meets a shared module several times; the first place names it.
        if not (self._at_many_places and context is self._pyro_context):
            super()._pyro_set_supermodule(name, context)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        sites = [*self._pyro_samples, *self._ties]
        given = [prefix + name for name in sites if prefix + name in state_dict]
        if given:
            raise RuntimeError(
                f"Expected a state dict without {', '.join(given)}: the weights of a "
                f"pyro_vrnn.nn.{type(self).__name__} are sample sites, not parameters. To start "
                "from trained weights, use pyro_vrnn.nn.bayesianize(module), or "
                "pyro_vrnn.infer.init_to_module(module) as the guide's init_loc_fn."
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _read_tied(self, name: str) -> Any:
        owner, owner_name = self._ties[name]
        if owner._pyro_context is not self._pyro_context:
            raise RuntimeError(
                f"Expected the module that {name!r} is tied to in the same model, got a "
                f"{type(self).__name__} that was copied or moved without its "
                f"{type(owner).__name__}."
            )
        return getattr(owner, owner_name)

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_ties", {}) and name not in self._pyro_samples:
            return self._read_tied(name)
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


@dataclass(frozen=True, eq=False)
class GivenStart:
    """A start that is a given value, whatever the guide."""

    value: Tensor

    def __call__(self, shape: torch.Size) -> Tensor:
        """Return a copy of the value."""
        return self.value.clone()


def prior_value(given: Prior, name: str, kind: str, default: float) -> Any:
    """Look a weight's prior up: by name, then by kind, where ``given`` is a mapping."""
    if isinstance(given, Mapping):
        return given.get(name, given.get(kind, default))
    return given


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
