"""
A Bayesian feed-forward network: 1-D regression with a gap in the data.

A stack of ``vrnn.nn.Linear`` in a model of one's own, fitted with two guides: dropout masks and
noise (``drop_prob=0.1``), and noise alone (``drop_prob=0``, a mean-field normal). Both predict on
a grid that goes beyond the data.

    python examples/bayesian_mlp.py --out mlp

writes ``mlp/bayesian_mlp.json`` (configuration, versions, metrics) and ``mlp/bayesian_mlp.png``.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

import pyro_vrnn as vrnn
from pyro_vrnn.files import writable_folder, write_atomic, write_json
from pyro_vrnn.runs import check_device, machine, set_seed, versions
from pyro_vrnn.scores import gaussian_mixture_nll, rmse

GUIDES = {"dropout and noise": 0.1, "noise alone": 0.0}  # name -> drop_prob of the hidden layer
REGIONS = {"data": (1.5, 4.0), "gap": (0.0, 1.5), "beyond": (4.0, 6.0)}  # of |x|


@dataclass(frozen=True)
class Config:
    """What a run depends on, besides its seed and device."""

    num_train: int = 200
    num_test: int = 1000
    noise: float = 0.1
    hidden: int = 20
    start_scale: float = 0.02
    epochs: int = 4000
    learning_rate: float = 0.005
    num_samples: int = 1000


SMOKE = Config(num_test=50, epochs=20, num_samples=20)


class MLP(PyroModule):
    """Two hidden layers of ReLU units with Gaussian priors, and Gaussian noise that is known."""

    def __init__(self, hidden: int, noise: float) -> None:
        super().__init__()
        # Scaled by the number of inputs, so that the prior of functions does not depend on it.
        width = hidden**-0.5
        self.first = vrnn.nn.Linear(1, hidden, prior_scale={"bias": 2.0})
        self.second = vrnn.nn.Linear(hidden, hidden, prior_scale={"weight": 2**0.5 * width})
        self.head = vrnn.nn.Linear(hidden, 1, prior_scale={"weight": width})
        self.noise = noise

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:  # (N, 1) -> (*P, N, 1)
        h = torch.relu(self.first(x))
        h = torch.relu(self.second(h, particles=h.dim() - 2))
        loc = self.head(h, particles=h.dim() - 2)
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(loc, self.noise).to_event(1), obs=y)
        return loc


def truth(x: Tensor) -> Tensor:
    """Return the function that the data are noisy values of."""
    return 0.5 * torch.sin(2.0 * x) + 0.25 * x


def sample_data(n: int, noise: float) -> tuple[Tensor, Tensor]:
    """Return n pairs x, y, both ``(n, 1)``, with x where data are."""
    low, high = REGIONS["data"]
    x = (low + (high - low) * torch.rand(n, 1)) * (2 * torch.randint(2, (n, 1)) - 1)
    return x, truth(x) + noise * torch.randn(n, 1)


def fit_and_predict(config: Config, drop_prob: float, seed: int, device: str) -> dict[str, Any]:
    """Train one guide on the data of the seed; return its metrics, and its curve for the figure."""
    set_seed(seed)
    train, test = (sample_data(n, config.noise) for n in (config.num_train, config.num_test))
    model = MLP(config.hidden, config.noise)
    # The first layer has one input column: dropping it would take x away.
    guide = vrnn.infer.AutoSpikeAndSlab(
        model,
        drop_prob={"second.weight": drop_prob, "first.weight": 0.0, "head.weight": 0.0},
        scale=config.start_scale,
        learn_scale=True,
        scope="sequence",  # a mask for each pair in training: less noise in the gradient
    )
    adam = partial(torch.optim.Adam, lr=config.learning_rate)
    result = vrnn.infer.fit(
        model, guide, [train], num_epochs=config.epochs, optimizer=adam, seed=seed, device=device
    )
    predict = partial(
        vrnn.infer.predict, model, guide, num_samples=config.num_samples, seed=seed, progress=False
    )
    end = REGIONS["beyond"][1]
    x = torch.linspace(-end, end, 241).unsqueeze(-1)
    curve, scored = predict(x), predict(test[0], return_draws="mean")
    mean, epistemic, total = (
        v.squeeze(-1).cpu()
        for v in (curve.mean, curve.epistemic_variance.sqrt(), curve.variance.sqrt())
    )
    last = result.elbo[-max(1, config.epochs // 20) :]
    nll = gaussian_mixture_nll(test[1], scored.mean_draws.cpu(), config.noise)
    metrics: dict[str, Any] = {
        "elbo": math.fsum(last) / len(last),
        "test_nll": float(nll.mean()),
        "test_rmse": rmse(test[1], scored.mean.cpu()),
        "epistemic_sd": {},
        "truth_within_2_sd": {},  # share of the grid where it is in the epistemic interval
    }
    grid = x.squeeze(-1)
    found = (truth(grid) - mean).abs() <= 2 * epistemic
    for name, (low, high) in REGIONS.items():
        inside = (grid.abs() >= low) & (grid.abs() <= high)
        metrics["epistemic_sd"][name] = epistemic[inside].mean().item()
        metrics["truth_within_2_sd"][name] = found[inside].double().mean().item()
    drawn = {"x": grid, "mean": mean, "epistemic": epistemic, "total": total}
    return {"metrics": metrics, "train": train, "curve": drawn}


def draw(path: Path, runs: dict[str, dict[str, Any]]) -> None:
    """Draw the mean of each guide with what the weights, and the weights and noise, leave open."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1, len(runs), sharex=True, sharey=True)
    low, high = REGIONS["data"]
    for ax, (name, run) in zip(axes, runs.items(), strict=True):
        x, mean, epistemic, total = run["curve"].values()
        for left, right in ((-high, -low), (low, high)):
            ax.axvspan(left, right, color="0.93", zorder=0, lw=0)
        for spread, shade, label in (
            (total, 0.25, "± 2 sd, weights and noise"),
            (epistemic, 0.45, "± 2 sd, weights alone (epistemic)"),
        ):
            ax.fill_between(
                x, mean - 2 * spread, mean + 2 * spread, color="C0", alpha=shade, lw=0, label=label
            )
        ax.plot(x, mean, color="C0", label="mean")
        ax.plot(x, truth(x), color="k", lw=1, ls="--", label="truth")
        ax.plot(*run["train"], ".", color="C3", ms=3, label="data (in the grey strips)")
        ax.set(title=f"{name}: drop_prob={GUIDES[name]:g}", xlabel="x", ylim=(-4, 4))
    axes[0].set_ylabel("y")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    write_atomic(path, partial(figure.savefig, dpi=120))


def table(metrics: dict[str, dict[str, Any]]) -> str:
    """Return the metrics as text, a line for each guide."""
    columns = {"elbo": "ELBO", "test_nll": "test NLL", "test_rmse": "test RMSE"}
    heads = [*columns.values(), *(f"{what} {r}" for what in ("sd", "in") for r in REGIONS)]
    width = max(map(len, metrics))
    lines = [" " * width + "".join(f"{head:>11}" for head in heads)]
    for name, found in metrics.items():
        values = [found[key] for key in columns]
        values += [found["epistemic_sd"][r] for r in REGIONS]
        values += [found["truth_within_2_sd"][r] for r in REGIONS]
        lines.append(f"{name:<{width}}" + "".join(f"{value:>11.3f}" for value in values))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run both guides, print the table, write the JSON and the figure."""
    parser = argparse.ArgumentParser(description="Bayesian MLP: regression with a gap in the data.")
    parser.add_argument("--out", type=Path, default=Path("bayesian_mlp"), help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it runs")
    args = parser.parse_args(argv)
    config, device = SMOKE if args.smoke else Config(), str(check_device(args.device))
    folder = writable_folder(args.out)
    started = time.perf_counter()
    runs = {
        name: fit_and_predict(config, drop_prob, args.seed, device)
        for name, drop_prob in GUIDES.items()
    }
    record = {
        "example": "bayesian_mlp",
        "config": asdict(config) | {"smoke": args.smoke, "drop_prob": GUIDES, "regions": REGIONS},
        "seed": args.seed,
        "device": device,
        "versions": versions(),
        "machine": machine(),
        "wall_time_seconds": time.perf_counter() - started,
        "metrics": {name: run["metrics"] for name, run in runs.items()},
    }
    write_json(folder / "bayesian_mlp.json", record)
    draw(folder / "bayesian_mlp.png", runs)
    print(table(record["metrics"]))


if __name__ == "__main__":
    main()
