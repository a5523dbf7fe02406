r"""
What a draw for each sequence buys: noise of the gradient, and ELBO against wall time.

Guards against a sequence scope that is biased (its mean gradient is not that of batch scope), or
whose gradient is no less noisy, or so slow that training gains nothing.

(a) The gradient of the expected log-likelihood of one minibatch, with respect to the guide's
``loc``, over many draws. The trace of its variance is estimated from independent pairs of draws,
:math:`\frac12 \|g - g'\|^2`, which gives it a standard error. (b) The ELBO while training, same
start, batches and optimiser; evaluation is not on the clock.

``python benchmarks/scope_variance.py --reviews PATH`` adds film reviews in the layout of scale-data
v1.0 (``PATH/<author>/{subj,rating}.<author>``). No word of theirs gets into the results.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from pyro import poutine
from torch import Tensor
from tqdm.auto import tqdm

import pyro_vrnn as vrnn
from benchmarks.scope_problems import BATCH, Batch, Problem, review_problem, series_problem
from pyro_vrnn.files import write_json
from pyro_vrnn.runs import check_device, machine, set_seed, versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS, FIGURE = ROOT / "benchmarks" / "results", ROOT / "docs" / "_static" / "scope_elbo.png"
SCOPES = ("batch", "sequence")
DROP_PROB = 0.25
SCALES, TRAINING_SCALE = (0.0, 0.01), 0.01
PROJECTIONS = 8
Guide = vrnn.infer.AutoSpikeAndSlab


def built(model: Any, scope: str, scale: float, batch: Batch) -> Guide:
    """Return a guide that has its sites."""
    guide = Guide(model, scope=scope, scale=scale, drop_prob=DROP_PROB)
    with torch.no_grad():
        guide(*batch)
    return guide


def log_likelihood(model: Any, guide: Guide, batch: Batch) -> Tensor:
    """Return the scaled log-likelihood of a minibatch under one draw."""
    drawn = poutine.trace(guide).get_trace(*batch)
    trace = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(*batch)
    return trace.log_prob_sum(lambda name, site: name == "obs")


class Moments:
    """Running moments of a vector over draws: mean, variance, half squares of pairs."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.count = 0
        self.mean = torch.zeros(size, dtype=torch.float64, device=device)
        self.squares = torch.zeros_like(self.mean)
        self.pairs: list[float] = []
        self._last: Tensor | None = None
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(2, (PROJECTIONS, size), generator=generator) * 2 - 1
        self._directions = signs.to(self.mean)
        self.projected: list[Tensor] = []

    def see(self, gradient: Tensor) -> None:
        """Count one draw."""
        g = gradient.double()
        self.count += 1
        step = g - self.mean
        self.mean += step / self.count
        self.squares += step * (g - self.mean)
        self.projected.append((self._directions @ g).cpu())
        if self._last is None:
            self._last = g
        else:
            self.pairs.append(float((g - self._last).square().sum()) / 2)
            self._last = None

    def variance(self) -> dict[str, float]:
        """Return the trace of the variance and its standard error."""
        error = statistics.stdev(self.pairs) / math.sqrt(len(self.pairs))
        return {"trace": statistics.fmean(self.pairs), "standard_error": error}


def mean_scores(a: Moments, b: Moments) -> dict[str, Any]:
    """
    Return how two mean gradients differ, in standard errors.

    Under equal means the coordinates' scores have root mean square 1 and exceed 1.96 in 5 %; the
    scores of fixed random directions are independent of each other, nearly.
    """

    def squared_error(m: Moments) -> Tensor:
        return m.squares / (m.count - 1) / m.count

    error = (squared_error(a) + squared_error(b)).sqrt()
    z = ((a.mean - b.mean) / error)[error > 0]
    ones, twos = torch.stack(a.projected), torch.stack(b.projected)
    spread = (ones.var(0) / len(ones) + twos.var(0) / len(twos)).sqrt()
    along = (ones.mean(0) - twos.mean(0)) / spread
    return {
        "coordinates": z.numel(),
        "rms": float(z.square().mean().sqrt()),
        "share_above_1.96": float((z.abs() > 1.96).double().mean()),
        "largest": float(z.abs().max()),
        "directions": [round(float(d), 3) for d in along],
    }


def compare_gradients(
    model: Any, guides: dict[str, Guide], batch: Batch, draws: int
) -> dict[str, Any]:
    """Return variances, their ratio and the mean's scores, for each kind of weight and all."""
    some = guides["batch"]
    members: dict[str, list[int]] = {"all": []}
    for k, site in enumerate(some.sites.values()):
        members.setdefault(site.kind, []).append(k)
        members["all"].append(k)
    found: dict[str, dict[str, Moments]] = {group: {} for group in members}
    for scope in SCOPES:
        guide = guides[scope]
        named = dict(guide.named_parameters())
        leaves = [_leaf(named, name) for name in guide.sites]
        for _ in range(draws):
            gradients = torch.autograd.grad(log_likelihood(model, guide, batch), leaves)
            for group, ks in members.items():
                flat = torch.cat([gradients[k].flatten() for k in ks])
                moments = found[group].setdefault(scope, Moments(len(flat), flat.device))
                moments.see(flat)
    return {group: _compared(by_scope) for group, by_scope in found.items()}


def _leaf(named: dict[str, Tensor], site: str) -> Tensor:
    (name,) = (n for n in named if n.removesuffix("_unconstrained") == f"locs.{site}")
    return named[name]


def _compared(by_scope: dict[str, Moments]) -> dict[str, Any]:
    variances = {scope: moments.variance() for scope, moments in by_scope.items()}
    batch, sequence = (variances[scope] for scope in SCOPES)
    ratio = sequence["trace"] / batch["trace"]
    relative = [v["standard_error"] / v["trace"] for v in (batch, sequence)]
    return {
        **variances,
        "ratio": ratio,
        "ratio_standard_error": ratio * math.hypot(*relative),
        "mean_z": mean_scores(by_scope["batch"], by_scope["sequence"]),
    }


def gradient_variance(
    problem: Problem, scale: float, draws: int, seed: int, epochs: int
) -> dict[str, Any]:
    """Compare the scopes at the start, and after training in sequence scope."""
    set_seed(seed)
    model = problem.build()
    batch = next(problem.batches(torch.Generator().manual_seed(seed)))
    guides = {scope: built(model, scope, scale, batch) for scope in SCOPES}
    guides["batch"].load_state_dict(guides["sequence"].state_dict())
    found = {"start": compare_gradients(model, guides, batch, draws)}
    list(train(problem, model, guides["sequence"], epochs, seed))
    guides["batch"].load_state_dict(guides["sequence"].state_dict())
    found["trained"] = compare_gradients(model, guides, batch, draws)
    return found


def train(problem: Problem, model: Any, guide: Guide, epochs: int, seed: int) -> Iterator[float]:
    """Train, and yield the seconds of each epoch."""
    generator = torch.Generator().manual_seed(seed)
    loss = vrnn.infer.TraceExactKL_ELBO()(model, guide)
    parameters = [p for p in loss.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=problem.learning_rate)
    for _ in range(epochs):
        started = time.perf_counter()
        for batch in problem.batches(generator):
            optimizer.zero_grad(set_to_none=True)
            loss(*batch).backward()
            optimizer.step()
        yield time.perf_counter() - started


@torch.no_grad()
def evaluate(problem: Problem, model: Any, guide: Guide, scale: float) -> tuple[float, float]:
    """Return ELBO and expected log-likelihood of all data, nats a sequence; a draw for each."""
    count = len(problem.data[0])
    other = built(model, "sequence", scale, tuple(part[:BATCH] for part in problem.data))
    other.load_state_dict(guide.state_dict())
    elbo = vrnn.infer.TraceExactKL_ELBO()
    total, divergence = 0.0, 0.0
    for rows in torch.arange(count).split(512):
        elbo.differentiable_loss(model, other, *(part[rows] for part in problem.data))
        assert elbo.parts is not None
        total += float(elbo.parts.expected_log_likelihood) * len(rows) / count
        divergence = float(sum(elbo.parts.kl.values()))
    return (total - divergence) / count, total / count


def training_curve(problem: Problem, scope: str, scale: float, seed: int) -> dict[str, Any]:
    """Train once; ELBO after every epoch, against the seconds of training alone."""
    set_seed(seed)
    model = problem.build()
    guide = built(model, scope, scale, tuple(part[:BATCH] for part in problem.data))
    seconds, values = [0.0], [evaluate(problem, model, guide, scale)]
    for spent in train(problem, model, guide, problem.epochs, seed):
        seconds.append(seconds[-1] + spent)
        values.append(evaluate(problem, model, guide, scale))
    elbo, likelihood = (list(part) for part in zip(*values, strict=True))
    return {
        "scope": scope, "seed": seed, "seconds": seconds, "elbo": elbo,
        "expected_log_likelihood": likelihood,
    }  # fmt: skip


def summary(curves: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians over seeds, and when each scope got as far as both did."""
    by_scope = {s: [c for c in curves if c["scope"] == s] for s in SCOPES}
    level = min(statistics.median(c["elbo"][-1] for c in by_scope[s]) for s in SCOPES)
    found: dict[str, Any] = {"level": level}
    for scope, some in by_scope.items():
        reached = [
            next((t for t, e in zip(c["seconds"], c["elbo"], strict=True) if e >= level), None)
            for c in some
        ]
        found[scope] = {
            "final_elbo": statistics.median(c["elbo"][-1] for c in some),
            "final_expected_log_likelihood": statistics.median(
                c["expected_log_likelihood"][-1] for c in some
            ),
            "seconds_an_epoch": statistics.median(
                c["seconds"][-1] / (len(c["seconds"]) - 1) for c in some
            ),
            "seconds_to_level": None if None in reached else statistics.median(reached),
        }
    return found


def draw_figure(found: dict[str, Any], path: Path) -> None:
    """Draw ELBO and expected log-likelihood against the seconds of training."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(found)
    figure, axes = plt.subplots(
        2, len(names), figsize=(5.5 * len(names), 6), squeeze=False, constrained_layout=True
    )
    keys = {"elbo": "ELBO", "expected_log_likelihood": "expected log-likelihood"}
    for column, name in enumerate(names):
        for row, (key, text) in enumerate(keys.items()):
            axis = axes[row][column]
            for curve in found[name]["training"]["curves"]:
                first = curve["seed"] == min(c["seed"] for c in found[name]["training"]["curves"])
                axis.plot(
                    curve["seconds"][1:],
                    curve[key][1:],
                    color={"batch": "tab:orange", "sequence": "tab:blue"}[curve["scope"]],
                    alpha=0.8,
                    label=f"{curve['scope']} scope" if first else None,
                )
            axis.set(xlabel="seconds of training", ylabel=f"{text} (nats a sequence)", title=name)
            axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reviews", type=Path, help="folder of film reviews, see above")
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="few draws and epochs")
    parser.add_argument("--out", type=Path, default=RESULTS / "scope_variance.json")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    return parser.parse_args()


def study(problem: Problem, draws: int, seeds: list[int]) -> dict[str, Any]:
    """Return all that is found on one problem."""
    runs = [(scope, seed) for seed in seeds for scope in SCOPES]
    with tqdm(total=len(SCALES) + len(runs), desc=problem.name) as bar:
        variance = []
        for scale in SCALES:
            found = gradient_variance(problem, scale, draws, seeds[0], problem.epochs // 2)
            variance.append({"scale": scale, **found})
            bar.update()
        curves = []
        for scope, seed in runs:
            curves.append(training_curve(problem, scope, TRAINING_SCALE, seed))
            bar.update()
    return {
        "facts": problem.facts,
        "learning_rate": problem.learning_rate,
        "epochs": problem.epochs,
        "variance": variance,
        "training": {"scale": TRAINING_SCALE, **summary(curves), "curves": curves},
    }


def main() -> None:
    """Measure, draw and write."""
    args = arguments()
    started, load = time.perf_counter(), os.getloadavg()[0]
    torch.set_num_threads(args.threads)
    device = check_device(args.device)
    problems = [series_problem(device, args.quick)]
    if args.reviews is not None:
        problems.append(review_problem(args.reviews, device, args.quick))
    draws = 20 if args.quick else args.draws
    found = {problem.name: study(problem, draws, args.seeds) for problem in problems}
    draw_figure(found, args.figure)
    record = {
        "command": "python benchmarks/scope_variance.py"
        + (" --reviews PATH" if args.reviews is not None else ""),
        "config": {
            "draws": draws,
            "seeds": args.seeds,
            "threads": args.threads,
            "device": args.device,
            "quick": args.quick,
            "batch": BATCH,
            "drop_prob": DROP_PROB,
        },
        "date": datetime.now(UTC).date().isoformat(),
        "wall_time_seconds": time.perf_counter() - started,
        "load_average": {"start": load, "end": os.getloadavg()[0]},
        "versions": versions(),
        "machine": machine(),
        "problems": found,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    print(write_json(args.out, record))


if __name__ == "__main__":
    main()
