"""
Is dropout with weight decay variational inference? The claim, measured with its conditions.

A Bayesian LSTM under a spike-and-slab guide and a plain LSTM with dropout get the same means, the
same masks and the same data. As the guide's noise sigma goes to 0, the gradient of the ELBO goes to
that of squared error plus weight decay - for blocks of weights that are far from 0, and with the
exact KL. The figure shows the rate, the other limit of a sampled KL, and the two places where it
fails: blocks near 0, and blocks of one weight.

    python examples/dropout_is_vi.py --out dropout_is_vi

writes dropout_is_vi.png and dropout_is_vi.json to the folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from pyro_vrnn.experiments.dropout_limit import CELLS, DropoutLimitConfig, run_dropout_limit
from pyro_vrnn.experiments.dropout_limit_figure import draw_dropout_limit
from pyro_vrnn.files import staged, write_json

ROWS = {
    "fixed_noise": ("exact KL, one fixed noise", "slope 1"),
    "antithetic": ("exact KL, noise and its negative", "slope 2"),
    "sampled_kl_to_kept_decay": ("sampled KL, to z m / s^2", "slope 1"),
    "sampled_kl_to_dropout": ("sampled KL, to (1 - p) m / s^2", "does not go to 0"),
}


def describe(found: dict[str, Any]) -> str:
    """Return the numbers of the figure as text."""
    gradients, starts = found["gradients"], found["random_start"]
    head = "".join(f"{sigma:>11.0e}" for sigma in gradients["sigma"])
    lines = [f"{'relative distance of gradients, sigma =':<42}{head}{'slope':>8}"]
    for name, (label, expected) in ROWS.items():
        cells = "".join(f"{error:>11.1e}" for error in gradients["error"][name])
        lines.append(f"{label:<42}{cells}{gradients['slope'][name]:>8.2f}  ({expected})")
    distances = "".join(f"{d:>11.0f}" for d in gradients["min_distance"])
    lines += [f"{'least d of a block':<42}{distances}", ""]
    lines.append(
        "mean error of the KL's gradient at a random start, sigma = "
        f"{starts['sigma'][0]:.0e} and {starts['sigma'][-1]:.0e}:"
    )
    for name, label in (("single", "blocks of one weight"), ("column", "columns")):
        mean, error = starts[name]["mean"], starts[name]["standard_error"]
        lines.append(
            f"  {label:<22}{mean[0]:.3g} (s.e. {error[0]:.1g}) and {mean[-1]:.3g} "
            f"(s.e. {error[-1]:.1g})"
        )
    lines += ["", "guide.near_spike(), blocks with d < 8 at torch's start and sigma = 0.01:"]
    for guide, sites in found["sites_near_spike"].items():
        near = sum(site["num_near"] for site in sites.values())
        lines.append(f"  {guide.replace('_', ' ')}: {near} blocks in {len(sites)} sites")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(description="Is dropout with weight decay VI?")
    parser.add_argument("--out", type=Path, default=Path("dropout_is_vi"), help="folder")
    parser.add_argument("--cell", choices=tuple(CELLS), default="lstm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="a small network, to try the script")
    options = parser.parse_args()

    torch.set_num_threads(1)
    small = {"hidden_size": 9, "num_layers": 1, "blocks": 500} if options.smoke else {}
    config = DropoutLimitConfig(cell=options.cell, seed=options.seed, **small)
    with staged(options.out) as aside:
        with tqdm(total=3) as bar:

            def show(part: str) -> None:
                bar.set_description(part)
                bar.update()

            found = run_dropout_limit(config, on_part=show)
        draw_dropout_limit(aside / "dropout_is_vi.png", found)
        write_json(aside / "dropout_is_vi.json", found)
    print(describe(found))
    print(f"figure and numbers: {options.out}")


if __name__ == "__main__":
    main()
