"""From arrays to xarray datasets and the container of the ArviZ that is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyro_vrnn.shapes import shape_text

Variable = tuple[tuple[str, ...], NDArray[Any]]  # names of the dims, values


def import_arviz() -> Any:
    """
    Import ArviZ, which takes seconds: not before it is needed.

    :raises ImportError: if it is not installed.
    """
    try:
        import arviz
    except ImportError as error:
        raise ImportError(
            "Expected the package arviz, got no such module: pip install arviz."
        ) from error
    return arviz


def check_coords(
    coords: Mapping[str, ArrayLike] | None, sizes: Mapping[str, int]
) -> dict[str, NDArray[Any]]:
    """
    Return ``coords`` as arrays, each of the size of the dim it is for.

    :param sizes: every dim's name -> its size.
    :raises ValueError: for an unknown dim or a wrong size.
    """
    arrays = {name: np.asarray(values) for name, values in (coords or {}).items()}
    for name, values in arrays.items():
        if name not in sizes:
            raise ValueError(
                f"Expected the names in coords to be dims ({', '.join(sizes)}), got {name!r}."
            )
        if values.shape != (sizes[name],):
            raise ValueError(
                f"Expected coords[{name!r}] to be a list of {sizes[name]} values, "
                f"got shape {shape_text(values.shape)}."
            )
    return arrays


def make_dataset(
    variables: Mapping[str, Variable],
    coords: Mapping[str, NDArray[Any]],
    attrs: Mapping[str, Any],
    index_origin: int = 0,
) -> Any:
    """Return a dataset in which every dim has a coordinate: the given one, else a range."""
    import xarray

    used: dict[str, NDArray[Any]] = {}
    for dims, values in variables.values():
        for dim, size in zip(dims, values.shape, strict=True):
            given = coords.get(dim)
            used[dim] = np.arange(index_origin, index_origin + size) if given is None else given
    return xarray.Dataset(dict(variables), coords=used, attrs=dict(attrs))


def make_container(arviz: Any, groups: Mapping[str, Any], attrs: Mapping[str, Any]) -> Any:
    """Return an ``InferenceData`` for ArviZ 0.x, a ``DataTree`` for 1.x."""
    # arviz.from_dict of 0.x drops groups it does not know, such as "svi"; the constructor does not.
    if int(arviz.__version__.split(".")[0]) < 1:
        return arviz.InferenceData(attrs=dict(attrs), **groups)
    import xarray

    return xarray.DataTree.from_dict({"/": xarray.Dataset(attrs=dict(attrs)), **groups})


def groups_of(container: Any) -> dict[str, Any]:
    """Return the datasets of an ``InferenceData`` or a ``DataTree``, by group."""
    if hasattr(container, "children"):
        return {name: node.to_dataset() for name, node in container.children.items()}
    return {name: container[name] for name in container.groups()}


def size_text(num_bytes: int) -> str:
    """
    Write a number of bytes in binary units.

    >>> size_text(3 * 2**29), size_text(1000 * 2**20), size_text(1000)
    ('1.5 GiB', '1000 MiB', '1000 B')
    """
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            value = num_bytes / size
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{num_bytes} B"


def check_total_size(sizes: Mapping[tuple[str, str], int], max_bytes: int) -> None:
    """
    Refuse an export that would not fit, and say what is large in it.

    :param sizes: (group, variable) -> bytes.
    :raises ValueError: if they exceed ``max_bytes`` together.
    """
    total = sum(sizes.values())
    if total <= max_bytes:
        return
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:3]
    listed = ", ".join(f"{'/'.join(key)} {size_text(size)}" for key, size in largest)
    raise ValueError(
        f"Expected an export of at most {size_text(max_bytes)} (max_bytes), got "
        f"{size_text(total)}, most of it {listed}: name the sites to keep in posterior=[...], "
        "lower num_samples, leave out a group with log_likelihood=False or "
        "posterior_predictive=False, or raise max_bytes."
    )
