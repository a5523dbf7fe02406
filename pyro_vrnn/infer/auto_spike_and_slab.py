r"""The spike-and-slab guide of Gal & Ghahramani (2016) as a Pyro AutoGuide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.infer.autoguide import AutoGuide
from pyro.nn import PyroParam
from torch import Tensor

from pyro_vrnn.distributions import BlockDropout, SpikeAndSlab
from pyro_vrnn.distributions.deferred import PerSequence, RowByRow
from pyro_vrnn.distributions.sequence_draw import SequenceCount
from pyro_vrnn.distributions.weight_site import (
    GATE_CHOICES,
    KINDS,
    weight_site_of,
)
from pyro_vrnn.infer._guide_checks import (
    PerSite,
    check_blocks,
    check_drop_prob,
    check_real,
    check_scale,
    check_sequence_blocks,
    lookup,
)
from pyro_vrnn.infer.function_draws import wants_function_draws
from pyro_vrnn.infer.initialization import InitLocFn, default_initial
from pyro_vrnn.nn.own_params import OwnParamsModule
from pyro_vrnn.shapes import (
    check_choice,
    check_finite,
    shape_text,
)

SCOPES = ("batch", "sequence")
DEFAULT_DROP_PROB = 0.25
DEFAULT_SCALE = 1e-2


@dataclass(frozen=True)
class GuideSite:
    """
    What the guide decided for one site: shape of a block, probability of the spike, scale, scope.

    :ivar str scope: ``"sequence"`` if a draw in training has a mask for each sequence.
    """

    name: str
    kind: str
    shape: torch.Size
    block_shape: tuple[int, ...]
    drop_prob: float
    scale: float
    scope: str


class AutoSpikeAndSlab(AutoGuide):
    r"""
    Guide that gives every weight of a model a block-wise spike-and-slab posterior.

    .. math::
        q(w_k) = p\, N(0, \sigma^2 I) + (1 - p)\, N(m_k, \sigma^2 I)

    for each block :math:`w_k` of a weight: an input column of ``weight_ih`` and ``weight_hh``
    (``_reverse`` too; of one gate if ``gates="untied"``), a row of an embedding, an input column
    of a linear layer. Biases are one Gaussian block, never dropped. One draw serves all time
    steps, because a model reads its weights once.

    ``loc`` is non-inverted, E w = (1 - p) loc. A weight that starts from W gets
    loc = W / (1 - p), so that E w = W.

    The guide is built at its first call, which must include the observations (else they would
    count as latents). After that :attr:`sites` says what was decided for each site. Its
    parameters are its own: two guides never share them through Pyro's parameter store.

    Example::

        >>> from pyro.infer import SVI, TraceMeanField_ELBO
        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.SequenceRegression(vrnn.nn.LSTM(16, 8), out_features=1)
        >>> guide = AutoSpikeAndSlab(model, drop_prob={"weight_hh": 0.5})
        >>> svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), TraceMeanField_ELBO())
        >>> _ = svi.step(torch.zeros(4, 20, 16), torch.zeros(4, 1))
        >>> guide.sites["rnn.weight_hh_l0"].block_shape, guide.sites["head.weight"].drop_prob
        ((8, 1), 0.0)

    :param model: a Pyro model. Its latents must be weights: each with a
        :class:`~pyro_vrnn.distributions.WeightSite` in its ``infer`` dictionary (our modules put
        it there) or a shape in ``block_shapes``.
    :param drop_prob: probability p of the spike, in [0, 1). A number goes to every weight except
        biases, first-layer input weights with fewer than 8 inputs and linear layers with fewer
        than 8 outputs, which get 0. A mapping from kind (``"weight_ih"``, ``"weight_hh"``,
        ``"linear"``, ``"embedding"``, ``"bias"``) or site name is taken as given, the name before
        the kind; sites it does not name get 0.25 under the same exceptions.
    :param scale: :math:`\sigma \ge 0`, in the units of the weights: a number, or such a mapping
        (0.01 for sites it does not name). 0 is the dropout limit,
        :class:`~pyro_vrnn.distributions.BlockDropout`: masks without noise, and an ELBO that is
        defined up to a constant.
    :param str gates: ``"untied"`` (a mask for each gate) or ``"tied"`` (one for all).
    :param str scope: ``"batch"``: one draw for the whole call. ``"sequence"``: in training, a mask
        for each sequence of the batch, the noise shared (see ``docs/guide/scopes.md``). Such a site
        is scored by its analytic KL alone, with
        :class:`~pyro_vrnn.infer.TraceExactKL_ELBO` or ``TraceMeanField_ELBO``. Under
        :class:`~pyro.infer.Predictive`, and inside
        :func:`~pyro_vrnn.infer.function_draws`, a draw is one weight for all sequences whatever
        the scope.
    :param bool learn_scale: learn :math:`\sigma` elementwise, starting at ``scale``.
    :param block_shapes: site name -> shape of a block, for latents without a record.
    :param init_loc_fn: trace site -> initial weight W, such as Pyro's ``init_to_value`` or
        :func:`~pyro_vrnn.infer.init_to_module`. Default: torch.nn's initialisation.
    :raises ValueError: if an argument is out of range or names a site that is not there.

    **References**

    [1] Gal, Ghahramani (2016), https://arxiv.org/abs/1512.05287
    """

    prototype_trace: Any

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        drop_prob: PerSite = DEFAULT_DROP_PROB,
        scale: PerSite = DEFAULT_SCALE,
        gates: str = "untied",
        scope: str = "batch",
        learn_scale: bool = False,
        block_shapes: Mapping[str, tuple[int, ...]] | None = None,
        init_loc_fn: InitLocFn | None = None,
    ) -> None:
        super().__init__(model)
        check_choice("scope", scope, SCOPES)
        check_choice("gates", gates, GATE_CHOICES)
        for name, given, check in (
            ("drop_prob", drop_prob, check_drop_prob),
            ("scale", scale, partial(check_scale, learned=bool(learn_scale))),
        ):
            entries = given.items() if isinstance(given, Mapping) else [(None, given)]
            for key, value in entries:
                check(name if key is None else f"{name}[{key!r}]", value)
        self._drop_prob = drop_prob
        self._scale = scale
        self._gates = gates
        self.scope = scope
        self._learn_scale = bool(learn_scale)
        self._block_shapes = dict(block_shapes or {})
        self._init_loc_fn = default_initial if init_loc_fn is None else init_loc_fn
        self.sites: dict[str, GuideSite] = {}

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        try:
            self._build(dict(self.prototype_trace.iter_stochastic_nodes()))
        except BaseException:
            self.prototype_trace = None  # so that the next call builds the guide anew
            raise

    def _build(self, latents: Mapping[str, dict[str, Any]]) -> None:
        self._check_names(latents)
        self.sites = {name: self._decide(name, site) for name, site in latents.items()}
        self.locs = OwnParamsModule("locs")
        self.scales = OwnParamsModule("scales")
        for name, site in latents.items():
            decided = self.sites[name]
            loc = self._initial(site) / (1 - decided.drop_prob)
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

    def _check_names(self, latents: Mapping[str, Any]) -> None:
        for argument, given in (
            ("drop_prob", self._drop_prob),
            ("scale", self._scale),
            ("block_shapes", self._block_shapes),
        ):
            known = [*latents, *(KINDS if argument != "block_shapes" else ())]
            unknown = sorted(set(given) - set(known)) if isinstance(given, Mapping) else []
            if unknown:
                raise ValueError(
                    f"Expected the names in {argument} to be sites or kinds of weights "
                    f"({', '.join(known)}), got {', '.join(map(repr, unknown))}."
                )

    def _decide(self, name: str, site: dict[str, Any]) -> GuideSite:
        record = weight_site_of(site)
        given = self._block_shapes.get(name)
        if record is None and given is None:
            raise ValueError(
                f"Expected every latent to be a known weight, got '{name}': give its block shape "
                "in block_shapes or a WeightSite in its infer dictionary, guide it apart with "
                "AutoGuideList, or, if it is an observation, call the guide with the observations."
            )
        if site["cond_indep_stack"]:
            plates = ", ".join(repr(frame.name) for frame in site["cond_indep_stack"])
            raise ValueError(
                f"Expected weight '{name}' outside any plate, got it inside {plates}: read the "
                "weights before the data plate, or each sequence gets a weight of its own."
            )
        fn = site["fn"]
        check_real(name, fn.support)
        shape = fn.event_shape
        if fn.batch_shape or not shape:
            raise ValueError(
                f"Expected weight '{name}' to be one event (use .to_event), got batch shape "
                f"{shape_text(fn.batch_shape)} and event shape {shape_text(shape)}."
            )
        if given is not None:
            block_shape = check_blocks(name, given, shape)
        else:
            assert record is not None
            block_shape = check_blocks(name, record.blocks(shape, self._gates), shape)
        kind = "" if record is None else record.kind
        drop_prob, named = lookup(self._drop_prob, name, kind, DEFAULT_DROP_PROB)
        if record is not None and not named:
            drop_prob = record.default_drop_prob(shape, drop_prob)
        scale, _ = lookup(self._scale, name, kind, DEFAULT_SCALE)
        scope = "batch" if drop_prob == 0 else self.scope
        if scope == "sequence":
            check_sequence_blocks(name, record, block_shape, shape)
        return GuideSite(name, kind, shape, block_shape, float(drop_prob), float(scale), scope)

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
        if any(key.startswith(prefix) for key in state_dict):
            self._check_built("parameters to load into one without")
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def distribution(self, name: str) -> SpikeAndSlab:
        """
        Return q of the site ``name``, with gradients to the guide's parameters.

        :raises RuntimeError: if the guide was not called yet.
        :raises KeyError: if the guide has no such site.
        """
        self._check_built("a guide without sites")
        if name not in self.sites:
            raise KeyError(f"Expected one of the sites {list(self.sites)}, got {name!r}.")
        decided, loc = self.sites[name], attrgetter(name)(self.locs)
        if decided.scale == 0:
            return BlockDropout(loc, decided.drop_prob, decided.block_shape)
        scale = attrgetter(name)(self.scales)
        return SpikeAndSlab(loc, scale, decided.drop_prob, decided.block_shape)

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
        rows = decided.kind == "embedding" and decided.block_shape == (1, decided.shape[1])
        return RowByRow(q) if rows else q

    def mean(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """
        Return E w = (1 - p) loc of each site: the "standard dropout approximation".

        :param args: the model's arguments, needed only before the guide's first call.
        """
        return self._summary("mean", *args, **kwargs)

    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """
        Return the exact elementwise median of each site; it is not the mean.

        :param args: the model's arguments, needed only before the guide's first call.
        """
        return self._summary("median", *args, **kwargs)

    @torch.no_grad()
    def _summary(self, statistic: str, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        return {name: getattr(self.distribution(name), statistic) for name in self.sites}

    def __getstate__(self) -> dict[str, Any]:
        # AutoGuide's own empties the original; a copy keeps the model, so it can be called.
        return {**self.__dict__, "master": None}


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
