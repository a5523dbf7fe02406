"""What our guides of weights share: one distribution of one form for each weight of a model."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from operator import attrgetter
from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.infer.autoguide import AutoGuide
from pyro.nn import PyroParam
from torch import Tensor

from pyro_vrnn.distributions.block_factor import BlockFactorNormal
from pyro_vrnn.distributions.deferred import PerSequence, RowByRow
from pyro_vrnn.distributions.per_site import PerSite, lookup
from pyro_vrnn.distributions.sequence_draw import SequenceCount
from pyro_vrnn.distributions.weight_site import GATE_CHOICES, KINDS, WeightSite, weight_site_of
from pyro_vrnn.infer import _guide_state
from pyro_vrnn.infer._guide_checks import (
    check_blocks,
    check_names,
    check_real,
    check_scale,
    check_sequence_blocks,
    suits_sequences,
)
from pyro_vrnn.infer._observed import check_observed
from pyro_vrnn.infer.evaluating import evaluating
from pyro_vrnn.infer.function_draws import wants_function_draws
from pyro_vrnn.infer.guide_site import GuideSite
from pyro_vrnn.infer.initialization import InitLocFn, default_initial
from pyro_vrnn.nn.own_params import OwnParamsModule
from pyro_vrnn.nn.plain import plain_torch
from pyro_vrnn.shapes import check_choice, check_finite, shape_text

SCOPES = ("batch", "sequence")
DEFAULT_SCALE = 1e-2


class AutoWeightGuide(AutoGuide):
    r"""
    A guide under which a weight's blocks each have a random factor, and its elements noise.

    .. math::
        w_k = z_k\, m_k + \sigma \epsilon_k

    It is built at its first call, which must include the observations (else they would count as
    latents). After that :attr:`sites` says what was decided for each site. Its parameters are its
    own: two guides never share them through Pyro's parameter store.

    Subclasses say what the factors are: by ``factor_name``, the :class:`GuideSite` field and
    argument that holds their parameter, ``default_factor``, :meth:`_check_factor`,
    :meth:`_start` and :meth:`_make`.

    :param model: a Pyro model.
    :param factor: the factors' parameter, a number or a mapping from kind or site.
    :ivar dict sites: site name -> :class:`GuideSite`.
    :ivar bool is_copy: whether it was copied or unpickled, and its model with it.
    """

    prototype_trace: Any
    factor_name: str
    default_factor: float
    _unknown_latent = (
        "give its block shape in block_shapes or a WeightSite in its infer dictionary, guide it "
        "apart with AutoGuideList, or, if it is an observation, call the guide with the "
        "observations"
    )

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        factor: PerSite,
        scale: PerSite = DEFAULT_SCALE,
        gates: str = "untied",
        scope: str = "batch",
        learn_scale: bool = False,
        block_shapes: Mapping[str, tuple[int, ...]] | None = None,
        init_loc_fn: InitLocFn | None = None,
    ) -> None:
        if not callable(model):
            raise TypeError(f"Expected model to be a Pyro model, got {type(model).__name__}.")
        super().__init__(model)
        check_choice("scope", scope, SCOPES)
        check_choice("gates", gates, GATE_CHOICES)
        for name, given, check in (
            (self.factor_name, factor, self._check_factor),
            ("scale", scale, partial(self._check_scale, learned=bool(learn_scale))),
        ):
            entries = given.items() if isinstance(given, Mapping) else [(None, given)]
            for key, value in entries:
                check(name if key is None else f"{name}[{key!r}]", value)
        self._factor = factor
        self._scale = scale
        self._gates = gates
        self.scope = scope
        self._learn_scale = bool(learn_scale)
        if not (block_shapes is None or isinstance(block_shapes, Mapping)):
            raise TypeError(f"Expected block_shapes by site, in a dict, got {block_shapes!r}.")
        if not (init_loc_fn is None or callable(init_loc_fn)):
            raise TypeError(
                f"Expected init_loc_fn to be a function site -> tensor, got {init_loc_fn!r}."
            )
        self._block_shapes = dict(block_shapes or {})
        self._init_loc_fn = default_initial if init_loc_fn is None else init_loc_fn
        self.sites: dict[str, GuideSite] = {}
        self.is_copy = False

    @staticmethod
    @abstractmethod
    def _check_factor(name: str, value: Any) -> float:
        """Return a value of the factors' parameter, or refuse it."""

    @staticmethod
    def _check_scale(name: str, value: Any, learned: bool) -> float:
        return check_scale(name, value, learned)

    @abstractmethod
    def _start(self, initial: Tensor, decided: GuideSite) -> Tensor:
        """Return the loc under which the mean is ``initial``."""

    @abstractmethod
    def _make(self, decided: GuideSite, loc: Tensor, scale: Tensor) -> BlockFactorNormal:
        """Return q of a site."""

    def _factor_of(self, name: str, record: WeightSite | None, shape: torch.Size) -> float:
        """Return the factors' parameter of a site; what a number stands for depends on the kind."""
        kind = "" if record is None else record.kind
        value, named = lookup(self._factor, name, kind, self.default_factor)
        return value if named or record is None else record.default_drop_prob(shape, value)

    def _check_known(self, name: str, record: WeightSite | None) -> None:
        if record is None and name not in self._block_shapes:
            raise ValueError(
                f"Expected every latent to be a known weight, got '{name}': {self._unknown_latent}."
            )

    def _blocks_of(self, name: str, record: WeightSite | None, shape: torch.Size) -> Any:
        if record is None or name in self._block_shapes:
            return self._block_shapes[name]
        return record.blocks(shape, self._gates)

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        if not (args or kwargs) and _needs_arguments(self.model):
            self._check_built("one that was never called")
        with evaluating(self.model):
            super()._setup_prototype(*args, **kwargs)
        try:
            self._build(dict(self.prototype_trace.iter_stochastic_nodes()))
        except BaseException:
            self.prototype_trace = None  # so that the next call builds the guide anew
            raise

    def _build(self, latents: Mapping[str, dict[str, Any]]) -> None:
        check_observed([name for name, site in latents.items() if site["cond_indep_stack"]])
        records = {name: weight_site_of(site) for name, site in latents.items()}
        kinds = [kind for kind in KINDS if any(r and r.kind == kind for r in records.values())]
        for argument, given in (
            (self.factor_name, self._factor),
            ("scale", self._scale),
            ("block_shapes", self._block_shapes),
        ):
            if isinstance(given, Mapping):
                names = [] if argument == "block_shapes" else kinds
                check_names(argument, given, list(latents), names)
        self.sites = {name: self._decide(name, site) for name, site in latents.items()}
        self.locs = OwnParamsModule("locs")
        self.scales = OwnParamsModule("scales")
        for name, site in latents.items():
            decided = self.sites[name]
            loc = self._start(self._initial(site), decided)
            holder, attribute = _holder(self.locs, name)
            setattr(holder, attribute, PyroParam(loc, constraints.real))
            holder, attribute = _holder(self.scales, name)
            if self._learn_scale:
                scale = torch.full_like(loc, decided.scale)
                setattr(holder, attribute, PyroParam(scale, constraints.softplus_positive))
            else:
                holder.register_buffer(attribute, loc.new_tensor(decided.scale))
        if hasattr(self._init_loc_fn, "check_used"):
            self._init_loc_fn.check_used()

    def _decide(self, name: str, site: dict[str, Any]) -> GuideSite:
        record = weight_site_of(site)
        self._check_known(name, record)
        _check_weight(name, site)
        shape = site["fn"].event_shape
        block_shape = check_blocks(name, self._blocks_of(name, record, shape), shape)
        factor = self._factor_of(name, record, shape)
        kind = "" if record is None else record.kind
        if kind == "bias" and factor != 0:
            raise ValueError(
                f"Expected {self.factor_name} of the bias '{name}' to be 0, got {factor}: biases "
                "are never dropped or scaled."
            )
        scale, _ = lookup(self._scale, name, kind, DEFAULT_SCALE)
        scope = "batch" if factor == 0 else self.scope
        factors: dict[str, Any] = {"drop_prob": 0.0, self.factor_name: float(factor)}
        decided = GuideSite(
            name,
            kind,
            shape,
            block_shape,
            scale=float(scale),
            scope=scope,
            suits_sequences=suits_sequences(record, block_shape, shape),
            **factors,
        )
        if scope == "sequence":
            check_sequence_blocks(decided)
        return decided

    def _initial(self, site: dict[str, Any]) -> Tensor:
        value = self._init_loc_fn(site)
        if value.shape != site["fn"].event_shape:
            raise ValueError(
                f"Expected an initial value of '{site['name']}' of shape "
                f"{shape_text(site['fn'].event_shape)}, got {shape_text(value.shape)}."
            )
        return check_finite(f"the initial value of '{site['name']}'", value.detach()).to(
            site["value"]
        )

    def _check_built(self, got: str) -> None:
        if self.prototype_trace is None:
            raise RuntimeError(
                f"Expected a guide that has its sites, got {got}: first call the guide once with "
                "the model's arguments, observations included."
            )

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        extra = prefix + _guide_state.KEY
        if any(key.startswith(prefix) and key != extra for key in state_dict):
            self._check_built("parameters to load into one without")
        if extra in state_dict:  # before any parameter is overwritten
            self.sites = _guide_state.restored(state_dict[extra], self.factor_name, self.sites)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def get_extra_state(self) -> Tensor:
        """Return what the state dict says of the distributions, for a check when it is loaded."""
        return _guide_state.encode(self.factor_name, self.sites)

    def set_extra_state(self, state: Any) -> None:
        """Do nothing: the state was looked at before parameters were loaded."""

    def distribution(self, name: str) -> BlockFactorNormal:
        """
        Return q of the site ``name``, with gradients to the guide's parameters.

        :raises RuntimeError: if the guide was not called yet.
        :raises KeyError: if the guide has no such site.
        """
        self._check_built("a guide without sites")
        if name not in self.sites:
            raise KeyError(f"Expected one of the sites {list(self.sites)}, got {name!r}.")
        loc, scale = (attrgetter(name)(part) for part in (self.locs, self.scales))
        return self._make(self.sites[name], loc, scale)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """
        Sample every weight once.

        :returns: site name -> sampled weight. In training, that of a site of ``scope="sequence"``
            is a :class:`~pyro_vrnn.distributions.sequence_draw.SequenceDraw`, and that of an
            embedding a :class:`~pyro_vrnn.distributions.lazy_rows.LazyRows`.
        """
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        whole, count = wants_function_draws(), SequenceCount()
        return {
            name: pyro.sample(
                name, self.distribution(name) if whole else self._deferred(name, count)
            )
            for name in self.sites
        }

    def _deferred(self, name: str, count: SequenceCount) -> TorchDistribution:
        """Return what a site is drawn from in training."""
        decided, q = self.sites[name], self.distribution(name)
        if decided.scope == "sequence":
            return PerSequence(q, name, count)
        return RowByRow(q) if decided.has_independent_rows else q

    def mean(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """
        Return E w of each site: the "standard dropout approximation".

        :param args: the model's arguments, needed only before the guide's first call.
        :raises RuntimeError: if they are missing then.
        """
        return self._summary("mean", *args, **kwargs)

    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """
        Return the exact elementwise median of each site; of a spike and slab not the mean.

        :param args: the model's arguments, needed only before the guide's first call.
        :raises RuntimeError: if they are missing then.
        """
        return self._summary("median", *args, **kwargs)

    @torch.no_grad()
    def _summary(self, statistic: str, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        return {name: getattr(self.distribution(name), statistic) for name in self.sites}

    def to_torch(self, model: torch.nn.Module, weights: str = "mean") -> torch.nn.Module:
        """
        Return a plain torch.nn module with weights of this guide in place of the model's priors.

        Layers of :mod:`pyro_vrnn.nn` become torch.nn's, under the same names; what
        :func:`~pyro_vrnn.nn.bayesianize` made becomes what it was made of; a model of
        :mod:`pyro_vrnn.models` becomes a network of :mod:`pyro_vrnn.baselines` that returns its
        means or logits. Another module of your own that runs Pyro statements stays one, and cannot
        be called if its ``forward`` passes torch.nn's layers what only ours take (``particles=``,
        ``batch_dim=``, ``lengths=``): give it a method ``plain_twin(children)``
        (:func:`~pyro_vrnn.nn.plain_torch`).

        :param model: the guide's model, or a part of it such as ``model.rnn``.
        :param str weights: ``"mean"`` for E w, the "standard dropout approximation", which is not
            the mean of the predictions; ``"sample"`` for one draw.
        :raises ValueError: if a weight of the model is no site of the guide.
        :raises RuntimeError: if the guide was not called yet.
        """
        check_choice("weights", weights, ("mean", "sample"))
        self._check_built("a guide without sites")
        with torch.no_grad():
            q = {name: self.distribution(name) for name in self.sites}
            values = {n: q[n].mean if weights == "mean" else q[n].sample() for n in q}
        return plain_torch(model, values)

    def __getstate__(self) -> dict[str, Any]:
        # AutoGuide's own empties the original; a copy keeps the model, so it can be called.
        return {**self.__dict__, "master": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.is_copy = True


def _needs_arguments(model: Callable[..., Any]) -> bool:
    """Whether a call without arguments is known to fail."""
    try:
        inspect.signature(getattr(model, "forward", model)).bind()
    except TypeError:
        return True
    except ValueError:  # nothing is known
        pass
    return False


def _holder(root: OwnParamsModule, site_name: str) -> tuple[OwnParamsModule, str]:
    """Return the module and attribute for a dotted site name, made where missing."""
    *path, last = site_name.split(".")
    for part in path:
        if part not in root._modules:
            _check_free(root, part, site_name)
            setattr(root, part, OwnParamsModule())
        root = getattr(root, part)
    _check_free(root, last, site_name)
    return root, last


def _check_free(root: OwnParamsModule, attribute: str, site_name: str) -> None:
    if hasattr(root, attribute):
        raise ValueError(
            f"Expected a site name whose parts are no other site or attribute of a module, "
            f"got '{site_name}' ({attribute!r} is taken)."
        )


def _check_weight(name: str, site: dict[str, Any]) -> None:
    """Refuse a latent that is not one event on all real numbers outside every plate."""
    if site["cond_indep_stack"]:
        plates = ", ".join(repr(frame.name) for frame in site["cond_indep_stack"])
        raise ValueError(
            f"Expected weight '{name}' outside any plate, got it inside {plates}: read the "
            "weights before the data plate, or each sequence gets a weight of its own. (If it is "
            "an observation, call the guide with the observations.)"
        )
    fn = site["fn"]
    check_real(name, fn.support)
    if fn.batch_shape or not fn.event_shape:
        raise ValueError(
            f"Expected weight '{name}' to be one event (use .to_event), got batch shape "
            f"{shape_text(fn.batch_shape)} and event shape {shape_text(fn.event_shape)}."
        )
