r"""
An ELBO that scores only what it must.

.. math::
    \mathrm{ELBO} = E_q \log p(y \mid w) - \sum_s \mathrm{KL}(q(w_s) \,\|\, p(w_s)),

the first term at one draw (or several particles), each KL exact. Pyro's TraceMeanField_ELBO has the
same value and gradient, but evaluates the log density of every weight, and falls back to
log q - log p without a word where no KL is registered.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterator
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta, Distribution, ExpandedDistribution, MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vrnn.distributions.wrapped import wrapped
from pyro_vrnn.infer._observed import check_observed
from pyro_vrnn.infer._sites import Site, latent_sites, sample_sites
from pyro_vrnn.infer.elbo_parts import ELBOParts, summed, total
from pyro_vrnn.shapes import check_nonnegative_float, check_positive_int, shape_text

Traces = tuple[Any, Any]  # of the model and of the guide


class TraceExactKL_ELBO(ELBO):
    r"""
    ELBO with the exact KL of every site, which scores observed sites only.

    A site is never scored by ``log_prob``, in the model or the guide, if its KL is registered with
    :func:`torch.distributions.kl.register_kl`. A site without one raises, unless ``sampled`` allows
    the estimate log q - log p at the draw, as in :class:`~pyro.infer.Trace_ELBO`. A guide site that
    is a ``Delta`` counts as such a site: its registered "KL" is a log density that leaves out the
    Jacobian which Pyro's :class:`~pyro.infer.autoguide.AutoNormal` keeps there. Every guide site
    must be reparametrised.

    As with :class:`~pyro.infer.TraceMeanField_ELBO`, the guide may not let a parent of a site, in
    the model, depend on that site. ``differentiable_loss`` never waits for the device. (Pyro's
    distributions do, to check their arguments: ``pyro.enable_validation(False)`` stops that.)

    After each call :attr:`parts` holds the terms of the estimate.

    Example::

        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.SequenceRegression(vrnn.nn.LSTM(16, 8), out_features=1)
        >>> guide = vrnn.infer.AutoSpikeAndSlab(model)
        >>> elbo = TraceExactKL_ELBO()
        >>> loss = elbo(model, guide)(torch.zeros(4, 20, 16), torch.zeros(4, 1))
        >>> torch.allclose(elbo.parts.elbo, -loss)
        True
        >>> list(elbo.parts.log_likelihood), len(elbo.parts.kl)
        (['obs'], 6)

    :param int num_particles: draws of the guide in one estimate.
    :param max_plate_nesting: as in :class:`~pyro.infer.ELBO`.
    :param bool vectorize_particles: run all particles at once, in a plate.
    :param sampled: True, or names of sites, guide-only ones included, that may be estimated by
        sampling where they have no exact KL. It does not stop the use of one.
    :param float kl_weight: multiplies the KL in the loss: below 1 a tempered posterior, and no
        bound; may be set again between steps. :attr:`parts` are without it.
    :param bool retain_graph: passed to ``backward`` by ``loss_and_grads``.
    :ivar ELBOParts parts: the terms of the last estimate; None before the first.
    :raises TypeError: if ``sampled`` is neither a bool nor a collection of names.
    :raises NotImplementedError: in a call, if a site has no exact KL and may not be sampled, is not
        reparametrised or is enumerated.
    :raises ValueError: in a call, if a name in ``sampled`` is no site, the guide lacks a latent,
        particles meet particles in the log density of a site (:ref:`rule 2 <own-models>`), or model
        and guide differ in the scale, mask or shape of a site with an exact KL. Tensor scales
        and masks on an accelerator differ unless they are one tensor, which those that
        ``poutine.scale`` makes never are: give it Python numbers.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        max_plate_nesting: float = math.inf,
        vectorize_particles: bool = False,
        sampled: bool | Collection[str] = False,
        kl_weight: float = 1.0,
        retain_graph: bool | None = None,
    ) -> None:
        super().__init__(
            num_particles=check_positive_int("num_particles", num_particles),
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
            retain_graph=retain_graph,
        )
        self.sampled = _check_sampled(sampled)
        self.kl_weight = check_nonnegative_float("kl_weight", kl_weight)
        self.parts: ELBOParts | None = None

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return minus the ELBO estimate."""
        return self._keep(list(self._particles(model, guide, args, kwargs))).item()

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the ELBO estimate as a float64 scalar, without waiting for the device."""
        particles = list(self._particles(model, guide, args, kwargs))
        self._keep(particles)
        return -total(particle.weighted(self.kl_weight) for particle in particles)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return minus the ELBO estimate, and add its gradient to the parameters' ``grad``."""
        particles = []
        for particle in self._particles(model, guide, args, kwargs):
            loss = -particle.weighted(self.kl_weight)
            if loss.requires_grad:
                loss.backward(retain_graph=self.retain_graph)
            particles.append(summed([particle]))  # without the graph
        return self._keep(particles).item()

    def _keep(self, particles: list[ELBOParts]) -> Tensor:
        """Keep the terms, and return the loss that they make."""
        self.parts = summed(particles)
        loss = -self.parts.weighted(self.kl_weight)
        if loss.device.type == "cpu" and math.isnan(loss):
            _warn_of_nan(self.parts)
        return loss

    def _particles(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Iterator[ELBOParts]:
        """Yield the terms of each particle, or of all at once, so that they sum to the mean."""
        for traces in self._get_traces(model, guide, args, kwargs):
            yield self._terms(*traces)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Traces:
        # As pyro.infer.enum.get_importance_trace, which scores every site.
        messenger = poutine.unwrap(guide)
        if isinstance(messenger, Messenger):  # such as AutoNormalMessenger
            guide(*args, **kwargs)
            model_trace, guide_trace = messenger.get_traces()
        else:
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
            replayed = poutine.replay(model, trace=guide_trace)
            model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
        self._check_sites(model_trace, guide_trace)
        if is_validation_enabled():
            check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
        return prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)

    def _check_sites(self, model_trace: Any, guide_trace: Any) -> None:
        latents, guided = latent_sites(model_trace), sample_sites(guide_trace)
        names = ", ".join(guided)
        check_observed(latents, guided)
        for name, site in {**latents, **guided}.items():
            if site["infer"].get("enumerate"):
                raise NotImplementedError(
                    f"Expected no enumerated site, got '{name}': use pyro.infer.TraceEnum_ELBO."
                )
            if name not in guided:
                raise ValueError(
                    f"Expected every latent of the model in the guide, got none of '{name}' in the "
                    f"guide's sites ({names})."
                )
        unknown = [] if isinstance(self.sampled, bool) else sorted(self.sampled - set(guided))
        if unknown:
            raise ValueError(
                f"Expected the names in sampled to be sites of the guide ({names}), "
                f"got {', '.join(map(repr, unknown))}."
            )

    def _guess_max_plate_nesting(self, model: Any, guide: Any, args: Any, kwargs: Any) -> None:
        # Pyro's own scores every site.
        with poutine.block():
            traces = self._get_trace(model, guide, args, kwargs)
        if is_validation_enabled():
            self._terms(*traces)  # checks shapes now, while no dim counts as a particle's
        dims = [
            -frame.dim
            for trace in traces
            for site in sample_sites(trace).values()
            for frame in site["cond_indep_stack"]
            if frame.vectorized
        ]
        self.max_plate_nesting = max(dims, default=0) + (self.num_particles > 1)

    def _terms(self, model_trace: Any, guide_trace: Any) -> ELBOParts:
        latents, guided = latent_sites(model_trace), sample_sites(guide_trace)
        log_likelihood = {
            name: self._sum(_log_prob(name, site, model_trace), site)
            for name, site in sample_sites(model_trace).items()
            if site["is_observed"]
        }
        kl, exact = {}, set()
        for name, site in guided.items():
            prior = latents.get(name)
            self._check_gradient(name, site)
            try:
                divergence = _kl(site, prior)
            except NotImplementedError as error:
                if not self._may_sample(name):
                    raise _no_exact_kl(name, site, prior, str(error)) from error
                kl[name] = self._sum(_log_prob(name, site, guide_trace), site)
                if prior is not None:
                    kl[name] = kl[name] - self._sum(_log_prob(name, prior, model_trace), prior)
            else:
                assert prior is not None
                kl[name] = self._sum(_scaled_kl(name, divergence, site, prior), site, prior)
                exact.add(name)
        if is_validation_enabled():
            _check_order(list(latents), list(guided), exact)
        self._seen(model_trace, guide_trace, exact)
        return ELBOParts(total(log_likelihood.values()), log_likelihood, kl)

    def _check_gradient(self, name: str, site: Site) -> None:
        """Refuse a site of the guide through which no gradient would come."""
        _check_reparametrised(name, site)

    def _seen(self, model_trace: Any, guide_trace: Any, exact: set[str]) -> None:
        """Do nothing; a subclass may look at what the terms were made of."""

    def _may_sample(self, name: str) -> bool:
        return self.sampled if isinstance(self.sampled, bool) else name in self.sampled

    def _sum(self, value: Tensor, *sites: Site) -> Tensor:
        if is_validation_enabled():
            for site in sites:
                check_site_shape({**site, "log_prob": value}, self.max_plate_nesting)
        if self.vectorize_particles and value.dim() > self.max_plate_nesting:
            self._check_no_dims_beside_particles(value, sites[0])
        total = value.sum(dtype=torch.float64)
        return total if self.num_particles == 1 else total / self.num_particles

    def _check_no_dims_beside_particles(self, value: Tensor, site: Site) -> None:
        """Refuse what would be counted once for each pair of particles."""
        most = int(self.max_plate_nesting)
        if value.shape[: value.dim() - most].numel() > 1:
            raise ValueError(
                f"Expected at most {most} dims in the log density of site '{site['name']}', its "
                f"plates' and the particles', got shape {shape_text(value.shape)}: what weights "
                "make is (S, 1, N, ...) with a plate inside the data plate. Flatten its particle "
                "dims to one, such as logits.flatten(0, particles - 1) if particles > 0, or set "
                "vectorize_particles=False."
            )


def _check_sampled(sampled: Any) -> bool | frozenset[str]:
    if isinstance(sampled, bool):
        return sampled
    is_collection = isinstance(sampled, Collection) and not isinstance(sampled, str)
    if not is_collection or not all(isinstance(name, str) for name in sampled):
        raise TypeError(f"Expected sampled to be a bool or a collection of names, got {sampled!r}.")
    return frozenset(sampled)


def _kl(site: Site, prior: Site | None) -> Tensor | float:
    """Return the registered KL, neither scaled nor masked; the values are not read."""
    if prior is None:
        raise NotImplementedError("The model has no such latent.")
    q, p = site["fn"], prior["fn"]
    if any(isinstance(fn, Delta) for fn in wrapped(q)):
        raise NotImplementedError("A Delta has no density.")
    # What has no expand of its own is wrapped, and no KL is registered for the wrapper.
    bases = [fn.base_dist if isinstance(fn, ExpandedDistribution) else fn for fn in (q, p)]
    kl: Tensor | float = kl_divergence(*bases)
    if isinstance(kl, Tensor) and not (bases[0] is q and bases[1] is p):
        return kl.expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))
    return kl


def _scaled_kl(name: str, kl: Tensor | float, site: Site, prior: Site) -> Tensor:
    q, p = site["fn"], prior["fn"]
    if not isinstance(kl, Tensor):  # Pyro's, for a mask of False
        kl = torch.full(q.batch_shape, kl)
    sizes = {math.prod(shape) for shape in (q.batch_shape, p.batch_shape, kl.shape)}
    if q.event_shape != p.event_shape or len(sizes) > 1:
        raise ValueError(
            f"Expected one shape of site '{name}', got batch shape {shape_text(q.batch_shape)} "
            f"in the guide, {shape_text(p.batch_shape)} in the model, {shape_text(kl.shape)} of "
            f"the KL; event shape {shape_text(q.event_shape)} and {shape_text(p.event_shape)}."
        )
    for what, ours, theirs in (
        ("scale", [site["scale"]], [prior["scale"]]),
        ("mask", _masks(site), _masks(prior)),
    ):
        if len(ours) != len(theirs) or not all(map(_same, ours, theirs)):
            raise ValueError(
                f"Expected one {what} for site '{name}', which has an exact KL, got {ours} in the "
                f"guide and {theirs} in the model: apply poutine.{what} to both. (Tensors on an "
                "accelerator count as equal only if they are one tensor.)"
            )
    return scale_and_mask(kl, site["scale"], site["mask"])


def _masks(site: Site) -> list[Any]:
    """Return the masks of a site that are not known to include all of it."""
    inner = [fn._mask for fn in wrapped(site["fn"]) if isinstance(fn, MaskedDistribution)]
    return [mask for mask in (site["mask"], *inner) if mask is not None and mask is not True]


def _same(a: Any, b: Any) -> bool:
    """Whether two scales or masks are equal, as far as can be known without a device."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.device.type == b.device.type == "cpu":
            return torch.equal(a, b)
        return a is b or (a.dtype == b.dtype and a.is_set_to(b))
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return False
    return math.isclose(a, b, rel_tol=1e-9)  # products of the same factors in another order


def _log_prob(name: str, site: Site, trace: Any) -> Tensor:
    try:
        log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    except ValueError as error:
        error.add_note(f"While scoring site '{name}'.\n{trace.format_shapes(last_site=name)}")
        raise
    return scale_and_mask(log_prob, site["scale"], site["mask"])


def _check_reparametrised(name: str, site: Site) -> None:
    fn = site["fn"]
    # What is reparametrised in part, such as a Rejector, says so in a method that scores it.
    default, delegates = Distribution.score_parts, (ExpandedDistribution, MaskedDistribution)
    own = [part for part in wrapped(fn) if not isinstance(part, delegates)]
    in_part = any(getattr(type(part), "score_parts", default) is not default for part in own)
    if in_part or not fn.has_rsample:
        raise NotImplementedError(
            f"Expected site '{name}' of the guide to be fully reparametrised, got {fn}: use "
            "pyro.infer.Trace_ELBO or TraceGraph_ELBO."
        )


def _no_exact_kl(name: str, site: Site, prior: Site | None, reason: str) -> NotImplementedError:
    model = "nothing" if prior is None else prior["fn"]
    return NotImplementedError(
        f"Expected an exact KL at site '{name}', got {site['fn']} in the guide and {model} in the "
        f"model. {reason or 'None is registered.'} Register one with "
        "torch.distributions.kl.register_kl, allow an estimate with TraceExactKL_ELBO(sampled="
        f"['{name}']) (or sampled=True), or use Pyro's Trace_ELBO (elbo=Trace_ELBO() in fit)."
    )


def _check_order(latents: list[str], guided: list[str], exact: set[str]) -> None:
    """Warn if a site that comes before an exact one in the model comes after it in the guide."""
    position = {name: k for k, name in enumerate(guided)}
    last, early = -1, []
    for name in latents:
        if name in exact and position[name] < last:
            early.append(name)
        last = max(last, position[name])
    if early:
        warnings.warn(
            "Expected the guide to draw its sites in the model's order, got "
            f"{', '.join(map(repr, early))} before sites that precede it in the model: if these "
            "depend on it in the guide, the KL there is not exact. If they do not, such as in an "
            "AutoGuideList, append its guides in the order of the model's sites.",
            stacklevel=2,
        )


def _warn_of_nan(parts: ELBOParts) -> None:
    terms = {**parts.log_likelihood, **parts.kl}
    names = [repr(name) for name, value in terms.items() if not math.isfinite(value)]
    warnings.warn(
        f"Encountered NaN in the ELBO; not finite: the terms of {', '.join(names)}.", stacklevel=4
    )
