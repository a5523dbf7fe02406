"""Predictive draws beside the observations, by ArviZ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vrnn.diagnostics._axes import check_axes
from pyro_vrnn.diagnostics._datasets import import_arviz
from pyro_vrnn.diagnostics._predicted import is_arviz, read_draws
from pyro_vrnn.shapes import check_choice, check_positive_int

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GROUPS = {"posterior_predictive": "posterior", "prior_predictive": "prior"}


def plot_ppc(
    data: Any,
    *,
    var_name: str = "obs",
    group: str = "posterior_predictive",
    num_samples: int = 50,
    ax: Axes | None = None,
    **options: Any,
) -> Axes:
    """
    Draw the distribution of observations beside those of predictive draws: ArviZ's own plot.

    That is ``arviz.plot_ppc`` under ArviZ 0.x and ``arviz.plot_ppc_dist`` under 1.x, called so that
    it shows the one observed site and not the deterministic ones beside it. All observations are
    pooled, so it says little of single forecasts: see :func:`~pyro_vrnn.diagnostics.plot_pit`.

    :param data: what :func:`~pyro_vrnn.from_pyro_svi` gives.
    :param str var_name: the observed site.
    :param str group: ``"posterior_predictive"`` or ``"prior_predictive"``.
    :param int num_samples: draws shown, at most those that there are.
    :param ax: matplotlib axes; None for new ones.
    :param options: more of ArviZ's arguments, such as ``kind``.
    :returns: the axes.
    :raises ImportError: if ArviZ is not installed.
    :raises TypeError: if ``data`` is no ArviZ object, or ``ax`` no axes.
    :raises ValueError: if group or variable is missing.
    """
    if not is_arviz(data):
        raise TypeError(
            f"Expected data to be an InferenceData or a DataTree, got {type(data).__name__}."
        )
    if ax is not None:
        check_axes(ax)
    check_choice("group", group, tuple(GROUPS))
    count = min(
        check_positive_int("num_samples", num_samples), len(read_draws(data, group, var_name))
    )
    arviz = import_arviz()
    if int(arviz.__version__.split(".")[0]) < 1:
        axes = arviz.plot_ppc(
            data, group=GROUPS[group], var_names=[var_name], num_pp_samples=count, ax=ax, **options
        )
        return np.ravel(axes)[0]
    if ax is not None:
        options["plot_collection"] = _collection(arviz, data[group], var_name, ax)
    collection = arviz.plot_ppc_dist(
        data, group=group, var_names=[var_name], num_samples=count, backend="matplotlib", **options
    )
    return collection.viz["plot"][var_name].item()


def _collection(arviz: Any, group: Any, var_name: str, ax: Axes) -> Any:
    """Return what ArviZ 1.x draws into: a grid of plots, here of one that is there already."""
    import xarray

    def one(value: Any) -> tuple[tuple[()], Any]:
        array = np.empty((), dtype=object)
        array[()] = value
        return (), array

    plots = xarray.DataTree.from_dict(
        {
            "/": xarray.Dataset({"figure": one(ax.figure)}),
            "plot": xarray.Dataset({var_name: one(ax)}),
            "row_index": xarray.Dataset({var_name: ((), 0)}),
            "col_index": xarray.Dataset({var_name: ((), 0)}),
        }
    )
    draws = group.to_dataset()[[var_name]].stack(sample=("chain", "draw"))
    overlaid = {"overlay_ppc": ["sample"]}  # one line for each draw, as plot_ppc_dist has it
    return arviz.PlotCollection(draws, plots, aes=overlaid, backend="matplotlib")
