"""A trained posterior in a folder, to keep and to share: readable without the training code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vrnn.archives import Archive, DamagedArchiveError, read_archive, write_archive
from pyro_vrnn.infer._posterior_models import build_model, describe_model
from pyro_vrnn.infer.auto_drop_connect import AutoDropConnect
from pyro_vrnn.infer.auto_mean_field_normal import AutoMeanFieldNormal
from pyro_vrnn.infer.auto_multiplicative_normal import AutoMultiplicativeNormal
from pyro_vrnn.infer.auto_spike_and_slab import AutoSpikeAndSlab
from pyro_vrnn.infer.evaluating import evaluating
from pyro_vrnn.infer.guide_site import GuideSite
from pyro_vrnn.infer.initialization import default_initial
from pyro_vrnn.infer.pairs import check_pair
from pyro_vrnn.infer.training_state import flatten_state, restore_state
from pyro_vrnn.infer.weight_guide import AutoWeightGuide
from pyro_vrnn.nn.weights import WeightModule
from pyro_vrnn.runs import lent_generators, versions
from pyro_vrnn.shapes import shape_text

FORMAT, VERSION = "pyro_vrnn posterior", 1
MODEL = "model."
# Names in a file are looked up here and never imported.
GUIDES: dict[str, type[AutoWeightGuide]] = {
    guide.__name__: guide
    for guide in (AutoDropConnect, AutoMeanFieldNormal, AutoMultiplicativeNormal, AutoSpikeAndSlab)
}
SITE_FACTS = ("kind", "drop_prob", "alpha", "scale", "scope", "suits_sequences")


def save_posterior(
    folder: str | Path,
    model: Callable[..., Any],
    guide: AutoWeightGuide,
    *,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    r"""
    Save a trained guide and its model's parameters as an archive (:mod:`pyro_vrnn.archives`).

    In ``tensors.safetensors`` stand ``rnn.weight_hh_l0.loc`` and ``.scale`` for each site, and the
    model's state dict under ``model.``: priors, scaling, learned parameters. What is learned under
    a constraint stands there twice, as it is and as ``..._unconstrained``, from which it is loaded
    bit for bit. ``facts.json`` says what the guide decided for each site, how to build guide and
    model, and the versions. Of the data there are shapes and the greatest integers alone.

    :param folder: made; a posterior there is replaced.
    :param model: the model; one of :mod:`pyro_vrnn.models` is described so that
        :func:`load_posterior` can build it, another has to be given there.
    :param guide: a guide of :mod:`pyro_vrnn.infer` that was called.
    :param facts: what else to keep: numbers, strings, lists, dicts.
    :returns: ``folder`` as a :class:`~pathlib.Path`.
    :raises TypeError: if the guide is of another class, a fact is nothing that JSON can say, or an
        argument that the guide was built with is not one of tensors, numbers and strings.
    :raises RuntimeError: if the guide was not called yet.
    :raises ValueError: if the guide lacks a latent of the model, as a part of an
        :class:`~pyro.infer.autoguide.AutoGuideList` does: keep the state dicts of model and list.
    """
    if type(guide) not in GUIDES.values():
        raise TypeError(
            f"Expected guide to be one of {_names()}, got {type(guide).__name__}: of others, keep "
            "the state dicts of model and guide."
        )
    guide._check_built("a guide without sites")
    _check_layers(model, guide)
    check_pair(model, guide)
    tensors = _guide_tensors(guide)
    inputs = _input_facts(guide, tensors)
    if guide.model is not model:
        _check_whole(model, guide, inputs)
    if isinstance(model, torch.nn.Module):
        tensors |= {MODEL + name: value for name, value in model.state_dict().items()}
        tensors |= {MODEL + name: value for name, value in _constrained(model).items()}
    sites = {name: _site_facts(site) for name, site in guide.sites.items()}
    content = {
        "guide": {"class": type(guide).__name__, "options": _guide_options(guide)},
        "sites": sites,
        "model": describe_model(model),
        "inputs": inputs,
        "versions": versions(),
        "facts": dict(facts or {}),
    }
    return write_archive(folder, tensors, content, format=FORMAT, version=VERSION)


def _check_layers(model: Callable[..., Any], guide: AutoWeightGuide) -> None:
    """Refuse a model whose layers have other weights than the guide."""
    if not isinstance(model, torch.nn.Module):
        return
    for layer in model.modules():
        if not isinstance(layer, WeightModule):
            continue
        for name, site in layer.site_names.items():
            shape = layer.prior(name).event_shape
            found = guide.sites[site].shape if site in guide.sites else None
            if found != shape:
                got = "none" if found is None else shape_text(found)
                raise ValueError(
                    f"Expected the guide of this model, with a weight '{site}' of shape "
                    f"{shape_text(shape)}, got {got}."
                )


def _check_whole(
    model: Callable[..., Any], guide: AutoWeightGuide, inputs: Mapping[str, Any]
) -> None:
    """Refuse the guide of a part of the model, such as one in an AutoGuideList."""
    device = _device(model)
    args, kwargs = _inputs(inputs, device)
    with lent_generators(), evaluating(model):
        missing = [name for name in _latents(model, args, kwargs) if name not in guide.sites]
    if missing:
        raise ValueError(
            f"Expected a guide of all latents of the model, got none of "
            f"{', '.join(map(repr, missing))}: of a list of guides, keep the state dicts of model "
            "and list."
        )


def posterior_facts(folder: str | Path) -> dict[str, Any]:
    """
    Return what a saved posterior says of itself; the facts given to ``save_posterior`` too.

    :raises FileNotFoundError: if nothing is there.
    :raises DamagedArchiveError: if it is not what was saved.
    """
    return read_archive(folder, format=FORMAT, max_version=VERSION).facts


def load_posterior(
    folder: str | Path, model: Callable[..., Any] | None = None
) -> tuple[Any, AutoWeightGuide]:
    """
    Load a model and its trained guide, which draw and train on as the saved ones would.

    The random generators are left as they are.

    Example::

        >>> import tempfile
        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.SequenceRegression(vrnn.nn.GRU(3, 8), out_features=1)
        >>> guide = AutoSpikeAndSlab(model)
        >>> _ = guide(torch.zeros(2, 5, 3), torch.zeros(2, 1))  # stands for the training
        >>> with tempfile.TemporaryDirectory() as scratch:
        ...     folder = save_posterior(f"{scratch}/gru", model, guide, facts={"data": "none"})
        ...     model, guide = load_posterior(folder)
        >>> guide.sites["rnn.weight_hh_l0"].drop_prob
        0.25

    :param folder: what :func:`save_posterior` wrote.
    :param model: a model with the sites of the saved one, needed if that was none of
        :mod:`pyro_vrnn.models`. A module gets the saved parameters; it may be on a GPU. Default:
        the saved model, built anew on the CPU.
    :returns: model and guide.
    :raises FileNotFoundError: if nothing is there.
    :raises DamagedArchiveError: if it is not what was saved.
    :raises ValueError: if ``model`` has other sites or parameters, or is needed and not given.
    """
    archive = read_archive(folder, format=FORMAT, max_version=VERSION)
    try:
        parts = _parse(archive)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedArchiveError(
            f"Expected the facts of a posterior in {folder}, got ones that lack {error}."
        ) from error
    make_guide, options, sites = parts
    state = {n.removeprefix(MODEL): t for n, t in archive.tensors.items() if n.startswith(MODEL)}
    if model is None:
        model = build_model(archive.facts["model"], state)
    device = _device(model)
    args, kwargs = _inputs(archive.facts["inputs"], device)
    with lent_generators():
        _check_sites(model, sites, args, kwargs)
        guide = make_guide(
            model, init_loc_fn=lambda site: archive.tensors[site["name"] + ".loc"], **options
        )
        guide(*args, **kwargs)
    guide._init_loc_fn = default_initial
    _load_guide(guide, sites, archive.tensors)
    if isinstance(model, torch.nn.Module):
        _load_model(model, state)  # last: a run in between changes a BatchNorm
    return model, guide


def _names() -> str:
    return ", ".join(sorted(GUIDES))


def _guide_tensors(guide: AutoWeightGuide) -> dict[str, Tensor]:
    state = guide.state_dict()
    tensors = {}
    for name in guide.sites:
        tensors[f"{name}.loc"] = state[f"locs.{name}_unconstrained"]
        learned = state.get(f"scales.{name}_unconstrained")
        if learned is None:
            tensors[f"{name}.scale"] = state[f"scales.{name}"]
        else:
            tensors[f"{name}.scale"] = guide.distribution(name).scale.detach()
            tensors[f"{name}.scale_unconstrained"] = learned
    return tensors


def _constrained(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return the learned parameters that are constrained, for readers of the file."""
    suffix = "_unconstrained"
    found = {}
    for name, _ in model.named_parameters():
        if name.endswith(suffix):
            *path, last = name.removesuffix(suffix).split(".")
            found[".".join([*path, last])] = getattr(
                model.get_submodule(".".join(path)), last
            ).detach()
    return found


def _site_facts(site: GuideSite) -> dict[str, Any]:
    facts = {name: getattr(site, name) for name in SITE_FACTS}
    return {**facts, "shape": list(site.shape), "block_shape": list(site.block_shape)}


def _guide_options(guide: AutoWeightGuide) -> dict[str, Any]:
    """Return what to build the guide with, beside values for each site."""
    options: dict[str, Any] = {"learn_scale": guide._learn_scale}
    if not isinstance(guide, (AutoDropConnect, AutoMeanFieldNormal)):
        blocks = {name: list(shape) for name, shape in guide._block_shapes.items()}
        options |= {"gates": guide._gates, "scope": guide.scope, "block_shapes": blocks}
    return options


def _input_facts(guide: AutoWeightGuide, saved: Mapping[str, Tensor]) -> dict[str, Any]:
    """Describe the arguments that the guide was built with: shapes, dtypes, greatest integers."""
    trace = guide.prototype_trace
    given = trace.nodes["_INPUT"]
    tensors, facts = flatten_state(
        "the arguments of the guide's first call",
        {"args": tuple(given["args"]), "kwargs": dict(given["kwargs"])},
    )
    first = next(iter(guide.sites))
    # A pair that was converted after its first call runs on inputs of its new dtype.
    old, new = trace.nodes[first]["value"].dtype, saved[f"{first}.loc"].dtype
    described = {}
    for name, value in tensors.items():
        dtype = new if value.dtype == old else value.dtype
        fill = 1 if value.dtype.is_floating_point or not value.numel() else int(value.max())
        described[name] = {"shape": list(value.shape), "dtype": _dtype_name(dtype), "fill": fill}
    return {"tensors": described, "tree": facts}


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _inputs(
    facts: Mapping[str, Any], device: torch.device
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    tensors = {}
    for name, value in facts["tensors"].items():
        dtype = getattr(torch, value["dtype"], None)
        if not isinstance(dtype, torch.dtype):
            raise DamagedArchiveError(f"Expected a dtype of {name}, got {value['dtype']!r}.")
        tensors[name] = torch.full(value["shape"], value["fill"], dtype=dtype, device=device)
    tree = restore_state(tensors, facts["tree"])
    return tree["args"], tree["kwargs"]


def _device(model: Callable[..., Any]) -> torch.device:
    if isinstance(model, torch.nn.Module):
        for value in (*model.parameters(), *model.buffers()):
            return value.device
    return torch.device("cpu")


def _parse(
    archive: Archive,
) -> tuple[Callable[..., AutoWeightGuide], dict[str, Any], dict[str, GuideSite]]:
    """Return the guide's class, its options with values for each site, and its sites."""
    facts = archive.facts
    for needed in ("model", "inputs"):
        _ = facts[needed]["class" if needed == "model" else "tensors"].__len__
    guide_class = GUIDES[facts["guide"]["class"]]
    sites = {
        name: GuideSite(
            name,
            shape=torch.Size(site["shape"]),
            block_shape=tuple(site["block_shape"]),
            **{key: site[key] for key in SITE_FACTS},
        )
        for name, site in facts["sites"].items()
    }
    for name, site in sites.items():
        if archive.tensors[f"{name}.loc"].shape != site.shape:
            raise KeyError(f"{name}.loc of shape {shape_text(site.shape)}")
        _ = archive.tensors[f"{name}.scale"]
    options = dict(facts["guide"]["options"])
    if "block_shapes" in options:
        blocks = options["block_shapes"].items()
        options["block_shapes"] = {name: tuple(shape) for name, shape in blocks}
    options["scale"] = {name: site.scale for name, site in sites.items()}
    if guide_class is not AutoMeanFieldNormal:
        factor = guide_class.factor_name
        options[factor] = {name: getattr(site, factor) for name, site in sites.items()}
    return guide_class, options, sites


def _latents(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, tuple[int, ...]]:
    """Run the model on inputs like those of the guide, and return its latents with their shapes."""
    try:
        with torch.no_grad():
            trace = pyro.poutine.block(pyro.poutine.trace(model).get_trace)(*args, **kwargs)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            "Expected a model that takes arguments like those the saved guide was built with, "
            f"got {type(error).__name__}: {error}"
        ) from error
    return {
        name: tuple(site["fn"].event_shape)
        for name, site in trace.iter_stochastic_nodes()
        if not site_is_subsample(site)
    }


def _check_sites(
    model: Callable[..., Any],
    sites: Mapping[str, GuideSite],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    """Compare the model's sites with the saved ones."""
    here = _latents(model, args, kwargs)
    there = {name: tuple(site.shape) for name, site in sites.items()}
    for name in [*there, *here]:
        if here.get(name) != there.get(name):
            expected, got = (
                f"of shape {shape_text(side[name])}" if name in side else "absent"
                for side in (there, here)
            )
            raise ValueError(
                f"Expected the site '{name}' of the model to be {expected}, as saved, got {got}."
            )


def _load_model(model: torch.nn.Module, state: Mapping[str, Tensor]) -> None:
    known = model.state_dict()
    # Without the constrained values that stand beside the unconstrained ones.
    own = {n: t for n, t in state.items() if n in known or f"{n}_unconstrained" not in state}
    try:
        model.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(f"Expected a model with the saved parameters, got {error}") from error


def _load_guide(
    guide: AutoWeightGuide, sites: Mapping[str, GuideSite], tensors: Mapping[str, Tensor]
) -> None:
    state = {}
    for name, site in sites.items():
        if guide.sites[name] != site:
            raise ValueError(
                f"Expected the saved record {site} of '{name}', got {guide.sites[name]}: the "
                "model's weight is of another kind."
            )
        state[f"locs.{name}_unconstrained"] = tensors[f"{name}.loc"]
        if guide._learn_scale:
            state[f"scales.{name}_unconstrained"] = tensors[f"{name}.scale_unconstrained"]
        else:
            state[f"scales.{name}"] = tensors[f"{name}.scale"]
    own = guide.state_dict()
    for name, value in state.items():
        if own[name].dtype != value.dtype:
            raise ValueError(
                f"Expected a model of the saved dtype {value.dtype}, got {own[name].dtype}: "
                "convert it with .to() first."
            )
    guide.load_state_dict({**own, **state})
