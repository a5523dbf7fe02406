"""The picture of :mod:`pyro_vrnn.experiments.dropout_limit`: where the limit holds, where not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def draw_dropout_limit(path: Path, found: dict[str, Any]) -> None:
    """Draw the figure to ``path``; its suffix gives the format."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    _draw_rates(axes[0, 0], found["gradients"])
    _draw_sampled(axes[0, 1], found["gradients"])
    _draw_block(axes[1, 0], found["block"])
    _draw_starts(axes[1, 1], found["random_start"], found["config"]["column"])
    figure.savefig(path, dpi=120)


def _draw_rates(axis: Any, gradients: dict[str, Any]) -> None:
    sigma = np.array(gradients["sigma"])
    for name, label, color in (
        ("fixed_noise", "one fixed noise", "C0"),
        ("antithetic", "mean over the noise and its negative", "C1"),
    ):
        error = np.array(gradients["error"][name])
        slope = gradients["slope"][name]
        axis.loglog(sigma, error, "o-", color=color, label=f"{label}: slope {slope:.2f}")
    axis.set(
        xlabel=r"scale of the noise $\sigma$",
        ylabel="relative distance of the gradients",
        title=f"Exact KL: the limit is dropout with weight decay\n"
        f"(all blocks far from 0: min d = {min(gradients['min_distance']):.0f} or more)",
    )
    axis.legend()


def _draw_sampled(axis: Any, gradients: dict[str, Any]) -> None:
    sigma = gradients["sigma"]
    for name, label, color in (
        ("sampled_kl_to_dropout", "to dropout, (1 - p) m / s² on all blocks", "C3"),
        ("sampled_kl_to_kept_decay", "to z m / s², decay of the kept blocks", "C2"),
    ):
        axis.loglog(sigma, gradients["error"][name], "o-", color=color, label=label)
    axis.set(
        xlabel=r"scale of the noise $\sigma$",
        ylabel="relative distance of the gradients",
        title="Sampled KL (Trace_ELBO): the limit is another one\n(equal to the first in mean)",
    )
    axis.legend()


def _draw_block(axis: Any, block: dict[str, Any]) -> None:
    axis.semilogy(block["d"], block["error"], color="C0", label="measured")
    axis.semilogy(block["d"], block["bound"], color="0.5", ls="--", label="bound of the derivation")
    for edge, label in ((8.0, "reported below"), (12.0, "claimed above")):
        axis.axvline(edge, color="0.7", lw=0.8)
        axis.text(edge + 0.1, 0.5, f"d = {edge:.0f}\n{label}", fontsize=8, va="top")
    axis.set(
        xlabel=r"distance of slab and spike $d = \|m / \sigma\|$",
        ylabel=r"$\sigma$ times the error of the KL's gradient",
        title="One block: the KL's gradient is not weight decay near 0",
        ylim=(1e-12, 1),
    )
    axis.legend(loc="lower left")


def _draw_starts(axis: Any, starts: dict[str, Any], column: int) -> None:
    sigma = starts["sigma"]
    for name, label, color in (
        ("single", "blocks of one weight (DropConnect)", "C3"),
        ("column", f"columns of {column} weights", "C0"),
    ):
        # What rounding leaves of an error that is 0 is not shown as one.
        mean = np.maximum(starts[name]["mean"], 1e-12)
        error = starts[name]["standard_error"]
        axis.errorbar(sigma, mean, yerr=error, fmt="o-", color=color, label=label, capsize=3)
    axis.loglog()
    axis.axhline(starts["single"]["limit"], color="0.5", ls="--", label=r"limit $H_B(p) / a$")
    axis.set(
        xlabel=r"scale of the noise $\sigma$",
        ylabel="mean error of the KL's gradient",
        title=f"Random starts U(±{starts['reach']}): single weights never get there",
        ylim=(1e-13, 1e2),
    )
    axis.annotate("0 to rounding", (sigma[-1], 1e-12), (0, 6), textcoords="offset points")
    axis.legend(loc="center left")
