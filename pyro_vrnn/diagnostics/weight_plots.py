"""Plots of weights: what a guide knows of a matrix, and the sizes of sites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from pyro_vrnn.diagnostics._axes import given_or_new
from pyro_vrnn.diagnostics.site_norms import SiteNorms
from pyro_vrnn.distributions.block_factor import BlockFactorNormal
from pyro_vrnn.distributions.spike_and_slab import SpikeAndSlab
from pyro_vrnn.ops.blocks import block_square_ratios, scale_blocks
from pyro_vrnn.scores import central_interval
from pyro_vrnn.shapes import FloatArray, check_choice, check_instance, shape_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS = {
    "signal_to_noise": "|m| / σ",
    "distance": "distance d of slab and spike",
    "drop_prob": "drop probability",
}
LEVELS = (0.5, 0.94)  # of the thick and the thin line of a forest


@torch.no_grad()
def plot_weight_map(
    q: Any,
    *,
    what: str = "signal_to_noise",
    gates: Sequence[str] = "",
    colorbar: bool = True,
    ax: Axes | None = None,
) -> Axes:
    r"""
    Draw what a guide knows of a weight matrix as an image, outputs down and inputs across.

    :math:`|m| / \sigma` of each weight is its signal-to-noise ratio; a block whose distance
    :math:`d = \|m_k / \sigma\|` is small cannot be told from a dropped one, and below about 8 the
    KL's gradient is not that of weight decay. Both are on a logarithmic scale, from 0.01 up.

    Example::

        plot_weight_map(guide.distribution("rnn.weight_hh_l0"), gates="ifgo")

    :param q: the distribution of one weight of one or two dims: of our guides,
        ``guide.distribution(name)``, or ``Normal(...).to_event()``.
    :param str what: ``"signal_to_noise"``, by weight; ``"distance"`` or ``"drop_prob"``, by block.
    :param gates: names of the gates stacked in the rows, which lines part: ``"ifgo"`` of an LSTM,
        ``"rzn"`` of a GRU.
    :param bool colorbar: draw one beside the axes.
    :param ax: matplotlib axes; None for new ones.
    :returns: the axes.
    :raises TypeError: if ``q`` is no such distribution, or has no blocks where they are asked for.
    :raises ValueError: if ``q`` has no noise to compare with, another number of dims, or rows that
        the gates do not divide.
    """
    from matplotlib.colors import LogNorm, Normalize

    check_choice("what", what, tuple(LABELS))
    values = _matrix(q, what)
    rows = len(values)
    if gates and rows % len(gates):
        raise ValueError(f"Expected rows in {len(gates)} gates of one size, got {rows} rows.")
    ax = given_or_new(ax)
    if what == "drop_prob":
        norm = Normalize(0.0, 1.0)
    else:
        values = np.maximum(values, 0.01)
        norm = LogNorm(0.01, max(float(values.max()), 0.1))
    image = ax.imshow(values, aspect="auto", interpolation="nearest", norm=norm, cmap="viridis")
    ax.set(xlabel="input", ylabel="output", title=LABELS[what])
    if gates:
        size = rows // len(gates)
        for gate in range(1, len(gates)):
            ax.axhline(gate * size - 0.5, color="white", lw=1.5)
        ax.set_yticks([(k + 0.5) * size - 0.5 for k in range(len(gates))], list(gates))
        ax.set_ylabel("gate")
    if colorbar:
        ax.figure.colorbar(image, ax=ax)
    return ax


def _matrix(q: Any, what: str) -> FloatArray:
    """Return the values of a map, (rows, columns)."""
    is_normal = isinstance(q, Independent) and isinstance(q.base_dist, Normal)
    if not isinstance(q, BlockFactorNormal) and not is_normal:
        raise TypeError(
            "Expected q to be guide.distribution(name) of one of our guides, or a "
            f"Normal(...).to_event(), got {type(q).__name__}."
        )
    if q.batch_shape or not 1 <= len(q.event_shape) <= 2:
        raise ValueError(
            "Expected q of one weight of 1 or 2 dims, got batch shape "
            f"{shape_text(q.batch_shape)} and event shape {shape_text(q.event_shape)}."
        )
    values = _normal_map(q, what) if is_normal else _block_map(q, what)
    array: FloatArray = values.double().cpu().numpy()
    return array.reshape(len(array), -1)


def _normal_map(q: Any, what: str) -> Tensor:
    if what != "signal_to_noise":
        raise TypeError(f"Expected q of blocks (BlockFactorNormal) for {what!r}, got a normal.")
    return (q.mean / q.stddev).abs()


def _block_map(q: BlockFactorNormal, what: str) -> Tensor:
    if what == "drop_prob":
        if not isinstance(q, SpikeAndSlab):
            raise TypeError(f"Expected q to be a SpikeAndSlab for 'drop_prob', got {q}.")
        of_blocks = torch.as_tensor(q.drop_prob, dtype=torch.float64).expand(q.grid_shape)
    elif not q.has_noise:
        raise ValueError(
            f"Expected noise for {what!r}, got scale=0: every weight that is kept is certain."
        )
    elif what == "signal_to_noise":
        return (q.loc / q.scale).abs()
    else:
        of_blocks = block_square_ratios(q.loc, q.scale, q.block_shape).sqrt()
    return scale_blocks(of_blocks.new_ones(q.event_shape), of_blocks, q.block_shape)


def plot_site_norms(
    norms: SiteNorms, *, root_mean_square: bool = True, ax: Axes | None = None
) -> Axes:
    """
    Draw the size of each site's weights as a forest: posterior against prior.

    The dot is the median of the draws, the thick line their central 50 %, the thin line 94 %. The
    horizontal scale is logarithmic.

    :param norms: what :func:`~pyro_vrnn.diagnostics.site_norms` returned.
    :param bool root_mean_square: divide norms by the root of the number of weights, so that sites
        of all sizes compare; a prior N(0, s^2) then lies at s.
    :param ax: matplotlib axes; None for new ones.
    :returns: the axes.
    :raises TypeError: if ``norms`` is not a :class:`~pyro_vrnn.diagnostics.SiteNorms`.
    """
    check_instance("norms", norms, SiteNorms, " (site_norms)")
    ax = given_or_new(ax)
    shown = norms.root_mean_squares() if root_mean_square else norms
    names = list(shown.posterior)
    for label, draws, color, shift in (
        ("posterior", shown.posterior, "C0", -0.15),
        ("prior", shown.prior, "0.55", 0.15),
    ):
        rows = np.arange(len(names)) + shift
        for level, width in zip(LEVELS, (3.5, 1.2), strict=True):
            ends = np.array([central_interval(draws[name], level) for name in names])
            ax.hlines(rows, ends[:, 0], ends[:, 1], color=color, lw=width)
        medians = [float(np.median(draws[name])) for name in names]
        ax.plot(medians, rows, "o", ms=5, color=color, mec="white", label=label)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.set(xlabel="root mean square of the weights" if root_mean_square else "norm of the weights")
    ax.legend()
    return ax
