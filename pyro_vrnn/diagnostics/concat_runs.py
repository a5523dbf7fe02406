"""Several runs of one model as the chains of one export."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyro_vrnn.diagnostics._datasets import groups_of, import_arviz, make_container

DATA_GROUPS = ("observed_data", "constant_data", "predictions_constant_data")
HISTORY = "svi"


def concat_runs(runs: Sequence[Any]) -> Any:
    """
    Put exports of several seeds or runs together as the chains of one.

    Each run must be of the same model on the same data, with as many draws. Groups of data are
    taken once. ``svi`` gets a dim ``chain`` too; a run of fewer steps or epochs ends in NaN. An
    attribute that differs between runs, such as ``seed``, becomes a JSON list of all values.

    Runs find weights that differ by a permutation of units and by signs, so R-hat over runs says
    something of the ELBO, of predictions and of scales, and nothing of single weights.

    Example::

        >>> import torch
        >>> import pyro_vrnn as vrnn
        >>> model = vrnn.models.SequenceRegression(vrnn.nn.GRU(3, 4), out_features=1)
        >>> batch = torch.zeros(5, 20, 3), torch.zeros(5, 1)
        >>> runs = []
        >>> for seed in (0, 1):
        ...     guide = vrnn.infer.AutoSpikeAndSlab(model)
        ...     runs.append(vrnn.from_pyro_svi(model, guide, model_args=batch, num_samples=8))
        >>> dict(concat_runs(runs)["posterior"]["head.bias"].sizes)
        {'chain': 2, 'draw': 8, 'head_output': 1}

    :param runs: what :func:`~pyro_vrnn.from_pyro_svi` gave, or this function.
    :returns: ``arviz.InferenceData`` under ArviZ 0.x, ``xarray.DataTree`` under 1.x.
    :raises ImportError: if ArviZ is not installed.
    :raises TypeError: if ``runs`` is no list of exports.
    :raises ValueError: if there is none, or they differ in groups, variables, dims, coordinates,
        number of draws or data.
    """
    arviz = import_arviz()
    found = [_datasets(run) for run in _checked(runs)]
    expected = list(found[0])
    for index, datasets in enumerate(found[1:], start=1):
        _check_names("groups", expected, list(datasets), index)
    merged = {group: _merged(group, [datasets[group] for datasets in found]) for group in expected}
    return make_container(arviz, merged, _attributes([run.attrs for run in runs]))


def _checked(runs: Any) -> Sequence[Any]:
    if not isinstance(runs, (list, tuple)):
        raise TypeError(f"Expected runs to be a list of exports, got {type(runs).__name__}.")
    if not runs:
        raise ValueError("Expected at least one run, got none.")
    for run in runs:
        if type(run).__name__ not in ("InferenceData", "DataTree"):
            raise TypeError(f"Expected runs to be exports, got {type(run).__name__}.")
    return runs


def _datasets(run: Any) -> dict[str, Any]:
    found = {}
    for group, dataset in groups_of(run).items():
        if group == HISTORY and "chain" not in dataset.dims:
            chains = _num_chains(run)
            if chains > 1:
                raise ValueError(
                    f"Expected the group svi of a run of {chains} chains to have them too, "
                    "got a history without a dim chain."
                )
            dataset = dataset.expand_dims(chain=[0])
        found[group] = dataset
    return found


def _num_chains(run: Any) -> int:
    return max([d.sizes.get("chain", 1) for d in groups_of(run).values()], default=1)


def _check_names(what: str, expected: Sequence[str], got: Sequence[str], index: int) -> None:
    differing = sorted(set(expected) ^ set(got))
    if differing:
        raise ValueError(
            f"Expected runs with the same {what}, got {', '.join(map(repr, differing))} in one of "
            f"runs 0 and {index} alone."
        )


def _merged(group: str, datasets: Sequence[Any]) -> Any:
    """Return one dataset of a group's datasets."""
    import xarray

    first = datasets[0]
    for index, dataset in enumerate(datasets[1:], start=1):
        _check_names(f"variables in {group}", list(first.data_vars), list(dataset.data_vars), index)
        for name in first.data_vars:
            _check_alike(group, str(name), first, dataset, index)
    attrs = _attributes([dataset.attrs for dataset in datasets])
    if group in DATA_GROUPS:
        return first.assign_attrs(attrs)
    join = "outer" if group == HISTORY else "exact"
    merged = xarray.concat(
        datasets,
        dim="chain",
        data_vars="all",
        coords="minimal",
        compat="override",
        join=join,
        combine_attrs="drop",
    )
    return merged.assign_coords(chain=np.arange(merged.sizes["chain"])).assign_attrs(attrs)


def _check_alike(group: str, name: str, first: Any, other: Any, index: int) -> None:
    """Refuse a variable of other dims or coordinates, and other data."""
    place = f"{group}/{name}"
    mine, theirs = first[name], other[name]
    free = ("chain", "step", "epoch") if group == HISTORY else ("chain",)
    sizes = [{d: n for d, n in v.sizes.items() if d not in free} for v in (mine, theirs)]
    if mine.dims != theirs.dims or sizes[0] != sizes[1]:
        raise ValueError(
            f"Expected runs with the same dims of {place}, got {sizes[0]} in run 0 and "
            f"{sizes[1]} in run {index}."
        )
    for dim in sizes[0]:
        if not np.array_equal(mine[dim].values, theirs[dim].values):
            raise ValueError(
                f"Expected runs with the same coordinates {dim!r} of {place}, got others in run "
                f"{index}."
            )
    if group in DATA_GROUPS and not mine.equals(theirs):
        raise ValueError(f"Expected runs of the same {place}, got other values in run {index}.")


def _attributes(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the attributes of all runs: as they are where all agree, else a list of them."""
    names = dict.fromkeys(name for attrs in found for name in attrs)
    merged = {}
    for name in names:
        values = [attrs.get(name) for attrs in found]
        same = all(value == values[0] for value in values[1:])
        merged[name] = values[0] if same else json.dumps([_plain(value) for value in values])
    return merged


def _plain(value: Any) -> Any:
    """Return a NumPy number, as files give, as Python's."""
    return value.item() if isinstance(value, np.generic) else value
