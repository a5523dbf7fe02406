"""Where a plot goes: into the caller's axes, or into new ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_vrnn.shapes import check_instance

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def given_or_new(ax: Axes | None) -> Axes:
    """Return ``ax``, or the axes of a new figure of pyplot's."""
    if ax is not None:
        return check_axes(ax)
    from matplotlib import pyplot

    return pyplot.subplots(layout="constrained")[1]


def check_axes(ax: Axes) -> Axes:
    """Return ``ax`` if it is one: not its figure, and not an array of several."""
    from matplotlib.axes import Axes

    return check_instance("ax", ax, Axes, " of matplotlib")
