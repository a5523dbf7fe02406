"""Export of a variational posterior to ArviZ."""

from __future__ import annotations

import datetime
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vrnn.diagnostics._datasets import (
    Variable,
    check_coords,
    check_total_size,
    import_arviz,
    make_container,
    make_dataset,
)
from pyro_vrnn.diagnostics._draws import (
    Draw,
    SiteInfo,
    describe_sites,
    dim_sizes,
    full_value,
    iter_draws,
)
from pyro_vrnn.infer import AutoWeightGuide, FitResult
from pyro_vrnn.runs import set_seed, versions
from pyro_vrnn.shapes import check_positive_int, shape_text

Key = tuple[str, str]  # group, variable
Groups = dict[str, dict[str, Variable]]
SAMPLE_DIMS = ("chain", "draw")


@torch.no_grad()
def from_pyro_svi(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *,
    svi_result: FitResult | Sequence[float] | None = None,
    model_args: Sequence[Any] = (),
    model_kwargs: Mapping[str, Any] | None = None,
    num_samples: int = 1000,
    posterior: bool | Sequence[str] = True,
    posterior_predictive: bool = True,
    log_likelihood: bool = True,
    prior: Mapping[str, Tensor] | None = None,
    coords: Mapping[str, ArrayLike] | None = None,
    dims: Mapping[str, Sequence[str | None]] | None = None,
    index_origin: int = 0,
    max_bytes: int = 2**30,
    seed: int | None = None,
    progress: bool = False,
) -> Any:
    r"""
    Draw from a guide and export the draws for ArviZ, with the densities that judge the guide.

    For each of S draws :math:`w_s \sim q` the model is run on its training arguments, once as it
    stands and once un-conditioned. The groups, chain 1 and draw S first:

    ========================= ==================================================================
    group                     variables
    ========================= ==================================================================
    ``posterior``             latents; deterministic sites outside plates
    ``sample_stats``          ``log_p__`` = ``lp`` :math:`= \log p(y, w_s)`; ``log_g__``
                              :math:`= \log q(w_s)`
    ``log_likelihood``        :math:`\log p(y_n \mid w_s)` of each observed site, event dims summed
    ``posterior_predictive``  observed sites drawn anew; deterministic sites inside plates (one
                              value per datum, such as ``"loc"``)
    ``observed_data``         observed sites
    ``prior``,                the draws in ``prior``, divided likewise
    ``prior_predictive``
    ``svi``                   ``elbo`` by ``step``, nats; of a ``FitResult`` also its
                              ``expected_log_likelihood``, ``kl`` (by ``step`` and ``kl_site``),
                              ``gradient_norm`` and ``learning_rate``, and by ``epoch`` the
                              ``epoch_loss`` and held-out scores
    ========================= ==================================================================

    :math:`E_q[\log p - \log q]` is the ELBO, and the difference is the log evidence at every draw
    if q is the exact posterior. Auxiliary sites of the guide (the unconstrained values of Pyro's
    autoguides) are counted in ``log_g__`` with their Jacobians, and not exported. A guide without a
    density (``scale=0``, the dropout limit) has no ``log_g__``; it is left out.

    ``log_p__`` is what the program says: with minibatches, N / B times the batch's log-likelihood.
    ``log_likelihood`` is pointwise and never scaled (0 where a site is masked), so that PSIS-LOO
    has its meaning. Draws are independent: pass ``reff=1.0`` to ``arviz.loo``. Each draw is one
    weight for all sequences and time steps. Un-conditioning reruns the program, so a model that
    feeds ``y`` back in as input is predicted one step ahead.

    A plate names the dim of its sites (``"<plate>_dim"`` where ArviZ reserves the name); other dims
    are ``"<site>_dim_0"``, ``"<site>_dim_1"``, ...

    Example::

        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.SequenceRegression(vrnn.nn.GRU(3, 4), out_features=1)
        >>> guide = vrnn.infer.AutoSpikeAndSlab(model)
        >>> x, y = torch.zeros(5, 20, 3), torch.zeros(5, 1)
        >>> data = vrnn.from_pyro_svi(model, guide, model_args=(x, y), num_samples=8)
        >>> dict(data["posterior_predictive"]["obs"].sizes)
        {'chain': 1, 'draw': 8, 'data': 5, 'obs_dim_0': 1}

    :param model: a Pyro model.
    :param guide: its guide, trained.
    :param svi_result: what :func:`~pyro_vrnn.infer.fit` returned, or the losses (minus the ELBO)
        that ``SVI.step`` returned.
    :param model_args: the training arguments, observations included.
    :param model_kwargs: the training keyword arguments.
    :param int num_samples: S.
    :param posterior: whether to export ``posterior``, or the sites of it to export; every latent is
        drawn and counted in the densities all the same.
    :param bool posterior_predictive: whether to run the un-conditioned model.
    :param bool log_likelihood: whether to export the pointwise log-likelihood.
    :param prior: prior draws, site -> (draws, \*shape), as ``pyro.infer.Predictive(model,
        num_samples=...)`` gives.
    :param coords: dim -> coordinate values.
    :param dims: site -> names of its dims, the leading ones at least; None keeps a name.
    :param int index_origin: where integer coordinates start.
    :param int max_bytes: the most bytes the arrays may take together.
    :param int seed: seed of all generators; None leaves them as they are.
    :param bool progress: show a progress bar.
    :returns: ``arviz.InferenceData`` under ArviZ 0.x, ``xarray.DataTree`` under 1.x. Attributes:
        libraries and versions, guide, model, seed, and ``drop_probs`` (JSON, site -> p) of an
        :class:`~pyro_vrnn.infer.AutoSpikeAndSlab`, ``alphas`` of an
        :class:`~pyro_vrnn.infer.AutoMultiplicativeNormal`.
    :raises ImportError: if ArviZ is not installed.
    :raises TypeError: if an argument is of the wrong type.
    :raises ValueError: if the guide's latents are not the model's, the data or sites change from
        draw to draw, a name or size does not fit, or the arrays would exceed ``max_bytes``.

    **References**

    [1] Yao, Vehtari, Simpson, Gelman (2018), https://arxiv.org/abs/1802.02538
    """
    check_positive_int("num_samples", num_samples)
    check_positive_int("max_bytes", max_bytes)
    kwargs = _check_arguments(model, guide, model_args, model_kwargs)
    history = None if svi_result is None else _history(svi_result)
    arviz = import_arviz()
    if seed is not None:
        set_seed(seed)
    iterator = iter_draws(
        model, guide, model_args, kwargs, num_samples=num_samples, predictive=posterior_predictive
    )
    draws = iter(tqdm(iterator, total=num_samples, desc="draws", disable=not progress))
    first = next(draws)
    sites = describe_sites(first.model, dims)
    sizes = dim_sizes(first.model, sites)
    given = check_coords(coords, sizes)
    kept = _kept_sites(sites, posterior, posterior_predictive)
    observed = [site for site in sites.values() if site.kind == "observed"]
    groups: Groups = defaultdict(dict)
    for name, value in (prior or {}).items():
        group, variable = _prior_variable(name, value, sites, sizes)
        groups[group][name] = variable
    read = partial(_read, kept=kept, pointwise=observed if log_likelihood else [])
    arrays = _stack(itertools.chain([first], draws), read, num_samples, max_bytes)
    for (group, name), array in arrays.items():
        names = sites[name].dims if group != "sample_stats" else ()
        groups[group][name] = ((*SAMPLE_DIMS, *names)[: array.ndim], array)
    for site in observed:
        value = full_value(first.model.nodes[site.name])
        groups["observed_data"][site.name] = (site.dims, _numpy(value))
    if history is not None:
        groups["svi"] = history
    attrs = _attributes(model, guide, seed)
    if isinstance(svi_result, FitResult) and svi_result.kl:
        given = {"kl_site": np.asarray(list(svi_result.kl)), **given}
    datasets = {
        group: make_dataset(variables, given, attrs, index_origin)
        for group, variables in groups.items()
    }
    if isinstance(svi_result, FitResult):
        datasets["svi"].attrs |= _fit_attributes(svi_result)
    return make_container(arviz, datasets, attrs)


def _check_arguments(
    model: Any, guide: Any, model_args: Any, model_kwargs: Any
) -> Mapping[str, Any]:
    for name, value in (("model", model), ("guide", guide)):
        if not callable(value):
            raise TypeError(f"Expected {name} to be callable, got {type(value).__name__}.")
    # A tensor would be taken apart into its first dim.
    if not isinstance(model_args, (tuple, list)):
        raise TypeError(f"Expected model_args to be a tuple, got {type(model_args).__name__}.")
    if model_kwargs is not None and not isinstance(model_kwargs, Mapping):
        raise TypeError(f"Expected model_kwargs to be a dict, got {type(model_kwargs).__name__}.")
    return model_kwargs or {}


def _history(svi_result: FitResult | Sequence[float]) -> dict[str, Variable]:
    result = svi_result if isinstance(svi_result, FitResult) else None
    loss = np.asarray(svi_result if result is None else result.loss, dtype=np.float64)
    if loss.ndim != 1 or not loss.size:
        raise ValueError(
            "Expected svi_result to be a FitResult of some steps or a sequence of losses, "
            f"got losses of shape {shape_text(loss.shape)}."
        )
    if result is None:
        return {"elbo": (("step",), -loss)}
    history: dict[str, Variable] = {"elbo": (("step",), np.asarray(result.elbo))}
    for name in ("expected_log_likelihood", "gradient_norm", "learning_rate", "kl_weight"):
        if values := getattr(result, name):
            history[name] = (("step",), np.asarray(values))
    if kl := result.kl:
        history["kl"] = (("step", "kl_site"), np.stack([np.asarray(kl[n]) for n in kl], axis=1))
    history["epoch_loss"] = (("epoch",), np.asarray(result.epoch_loss))
    for name, values in result.validation.items():
        history[f"held_out_{name}"] = (("epoch",), np.asarray(values))
    return history


def _kept_sites(
    sites: Mapping[str, SiteInfo], posterior: bool | Sequence[str], predictive: bool
) -> list[SiteInfo]:
    candidates = [name for name, site in sites.items() if site.group == "posterior"]
    if isinstance(posterior, str):
        raise TypeError(f"Expected posterior to be a bool or a list of sites, got {posterior!r}.")
    if isinstance(posterior, bool):
        chosen = candidates if posterior else []
    else:
        chosen = list(posterior)
        unknown = [name for name in chosen if name not in candidates]
        if unknown:
            raise ValueError(
                f"Expected the sites in posterior to be among {', '.join(candidates)}, "
                f"got {', '.join(map(repr, unknown))}."
            )
    return [
        site
        for name, site in sites.items()
        if (name in chosen if site.group == "posterior" else predictive)
    ]


def _read(
    draw: Draw, kept: Sequence[SiteInfo], pointwise: Sequence[SiteInfo]
) -> dict[Key, NDArray[Any]]:
    """Return all that is exported of one draw."""
    values: dict[Key, NDArray[Any]] = {}
    for site in kept:
        values[site.group, site.name] = _numpy(draw.value(site))
    for site in pointwise:
        values["log_likelihood", site.name] = _numpy(draw.log_likelihood(site.name))
    log_p, log_g = draw.log_p(), draw.log_g()
    for name, value in (("lp", log_p), ("log_p__", log_p), ("log_g__", log_g)):
        if value is not None:
            values["sample_stats", name] = np.asarray(value)
    return values


def _stack(
    draws: Iterable[Draw],
    read: Callable[[Draw], dict[Key, NDArray[Any]]],
    num_samples: int,
    max_bytes: int,
) -> dict[Key, NDArray[Any]]:
    """Put the draws in arrays (1, S, *shape), made once their sizes are known to be allowed."""
    arrays: dict[Key, NDArray[Any]] = {}
    for index, draw in enumerate(draws):
        values = read(draw)
        if not arrays:
            check_total_size({k: v.nbytes * num_samples for k, v in values.items()}, max_bytes)
            arrays = {k: np.empty((1, num_samples, *v.shape), v.dtype) for k, v in values.items()}
        for key, value in values.items():
            expected = arrays[key].shape[2:]
            if value.shape != expected:
                raise ValueError(
                    f"Expected site {key[1]!r} of shape {shape_text(expected)} in every draw, "
                    f"got {shape_text(value.shape)}."
                )
            arrays[key][0, index] = value
    return arrays


def _prior_variable(
    name: str, value: Tensor, sites: Mapping[str, SiteInfo], sizes: Mapping[str, int]
) -> tuple[str, Variable]:
    if name not in sites:
        raise ValueError(
            f"Expected the names in prior to be sites of the model ({', '.join(sites)}), "
            f"got {name!r}."
        )
    site, array = sites[name], _numpy(torch.as_tensor(value))
    shape = tuple(sizes[dim] for dim in site.dims)
    # Predictive gives sites outside plates a size of 1 for each plate of the model.
    padding = (1,) * (array.ndim - 1 - len(shape))
    if array.shape[1:] != padding + shape:
        expected = shape_text(("draws", *shape))
        raise ValueError(
            f"Expected prior[{name!r}] of shape {expected}, got {shape_text(array.shape)}."
        )
    group = "prior" if site.group == "posterior" else "prior_predictive"
    return group, ((*SAMPLE_DIMS, *site.dims), array.reshape(1, -1, *shape))


def _attributes(model: Any, guide: Any, seed: int | None) -> dict[str, Any]:
    found = versions()
    attrs: dict[str, Any] = {
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(),
        "creation_library": "pyro_vrnn",
        "creation_library_version": found["pyro-vrnn"],
        "inference_library": "pyro",
        "inference_library_version": found["pyro-ppl"],
        "torch_version": found["torch"],
        "model": _name_of(model),
        "guide": _name_of(guide),
    }
    if seed is not None:
        attrs["seed"] = seed
    modules = guide.modules() if isinstance(guide, torch.nn.Module) else ()
    factors: dict[str, dict[str, float]] = {}
    for part in modules:
        if isinstance(part, AutoWeightGuide):
            of_sites = factors.setdefault(f"{part.factor_name}s", {})
            of_sites |= {n: getattr(site, part.factor_name) for n, site in part.sites.items()}
    return attrs | {name: json.dumps(of_sites) for name, of_sites in factors.items() if of_sites}


def _name_of(program: Any) -> str:
    return getattr(program, "__qualname__", type(program).__qualname__)


def _fit_attributes(result: FitResult) -> dict[str, Any]:
    # The export's own seed is another one.
    seed = {} if result.seed is None else {"fit_seed": result.seed}
    return {"wall_time": result.wall_time, "steps_per_epoch": result.steps_per_epoch, **seed}


def _numpy(value: Tensor) -> NDArray[Any]:
    return value.detach().cpu().numpy()
