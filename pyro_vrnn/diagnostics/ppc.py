"""Predictive draws beside the observations, by ArviZ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

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
    :param options: more of ArviZ's arguments, such as ``kind``.
    :returns: matplotlib axes.
    :raises ImportError: if ArviZ is not installed.
    :raises TypeError: if ``data`` is no ArviZ object.
    :raises ValueError: if group or variable is missing.
    """
    if not is_arviz(data):
        raise TypeError(
            f"Expected data to be an InferenceData or a DataTree, got {type(data).__name__}."
        )
    check_choice("group", group, tuple(GROUPS))
    count = min(
        check_positive_int("num_samples", num_samples), len(read_draws(data, group, var_name))
    )
    arviz = import_arviz()
    if int(arviz.__version__.split(".")[0]) < 1:
        axes = arviz.plot_ppc(
            data, group=GROUPS[group], var_names=[var_name], num_pp_samples=count, **options
        )
        return np.ravel(axes)[0]
    collection = arviz.plot_ppc_dist(
        data, group=group, var_names=[var_name], num_samples=count, backend="matplotlib", **options
    )
    return collection.viz["plot"][var_name].item()
