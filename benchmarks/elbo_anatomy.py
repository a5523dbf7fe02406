"""
The ELBO of the demo's Bayesian LSTM taken apart, and two guides of it compared.

Guards against an anatomy that shows nothing a user could act on: the figure is to be looked at.
``python benchmarks/elbo_anatomy.py`` trains on the weekly CO2 of statsmodels' wheel and writes
``results/elbo_anatomy.json`` and ``docs/_static/elbo_anatomy.png``; the same seed gives the same
numbers.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

from pyro_vrnn.data.series import co2_weekly
from pyro_vrnn.diagnostics import (
    Comparison,
    ELBOAnatomy,
    compare_guides,
    elbo_anatomy,
    plot_elbo_parts,
    plot_kl_by_site,
    plot_site_norms,
    plot_weight_map,
    site_norms,
)
from pyro_vrnn.experiments.forecast import Candidate, train_candidate
from pyro_vrnn.experiments.forecast_plan import ForecastConfig, make_plan
from pyro_vrnn.files import write_json
from pyro_vrnn.runs import machine, set_seed, versions

ROOT = Path(__file__).parents[1]
FIGURE = ROOT / "docs" / "_static" / "elbo_anatomy.png"
RESULT = ROOT / "benchmarks" / "results" / "elbo_anatomy.json"
GRID = ((0.1, 0.05), (0.1, 0.01))  # p, sigma; the first is taken apart
MAX_WINDOWS = 200  # the program scales a part of the windows up to all, as it does a minibatch


def name_of(drop_prob: float, scale: float) -> str:
    """Return what a guide is called."""
    return f"p={drop_prob:g}, sigma={scale:g}"


def facts(anatomy: ELBOAnatomy) -> dict[str, Any]:
    """Return the numbers of an anatomy, in nats."""
    parts = {"sites": anatomy.sites, "layers": anatomy.layers}
    return {
        "elbo": vars(anatomy.elbo),
        "expected_log_likelihood": vars(anatomy.expected_log_likelihood),
        "kl": vars(anatomy.kl),
        "num_observations": anatomy.num_observations,
        "elbo_bits_per_observation": anatomy.per_observation(anatomy.elbo.value, "bits"),
        "reference": anatomy.reference,
        "is_vacuous": anatomy.is_vacuous,
        **{
            what: {
                part.name: {
                    "num_weights": part.num_weights,
                    "kl": part.kl.value,
                    "constant": part.constant,
                    "slab": part.slab,
                    "mask": part.mask,
                    "gal": part.gal,
                    "sampled": None if part.sampled is None else vars(part.sampled),
                }
                for part in group
            }
            for what, group in parts.items()
        },
    }


def draw(candidate: Candidate, anatomy: ELBOAnatomy, norms: Any, path: Path) -> None:
    """Draw six plots of one guide."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(18, 9), layout="constrained")
    (trace, divergence, trained), (signal, distance, forest) = figure.subplots(2, 3)
    result = candidate.result
    window = min(result.steps_per_epoch, len(result.elbo))
    skip = min(window, len(result.elbo) - window)
    plot_elbo_parts(result, window=window, skip=skip, relative=True, ax=trace)
    trace.set_title(f"ELBO and its parts, means of an epoch ({window} steps)")
    plot_kl_by_site(anatomy, ax=divergence)
    divergence.set_title("KL by site")
    plot_kl_by_site(anatomy, constant=False, ax=trained)
    trained.set_title("KL by site, without the constant part")
    q = candidate.guide.distribution("rnn.weight_hh_l0")
    plot_weight_map(q, gates="ifgo", ax=signal)
    signal.set_title("rnn.weight_hh_l0: |m| / σ of each weight")
    plot_weight_map(q, what="distance", gates="ifgo", ax=distance)
    distance.set_title("rnn.weight_hh_l0: distance d of each block")
    plot_site_norms(norms, ax=forest)
    forest.set_title("Size of the weights")
    figure.savefig(path, dpi=90)


def run(config: ForecastConfig, num_samples: int) -> tuple[Candidate, ELBOAnatomy, Comparison, Any]:
    """Train the guides, take the first apart and compare all."""
    values = co2_weekly().values
    plan = make_plan(values, config)
    candidates = {}
    for drop_prob, scale in GRID:
        set_seed(config.seed)
        candidates[name_of(drop_prob, scale)] = train_candidate(
            values, plan, config, lag=plan.lags[0], drop_prob=drop_prob, scale=scale
        )
    first = next(iter(candidates.values()))
    train = first.train
    # Each observed value counts once, whatever the overlap of the windows.
    count = len(train.y) * plan.horizon / train.overlap
    stride = -(-len(train.x) // MAX_WINDOWS)
    batch = (train.x[::stride], train.y[::stride])
    anatomy = elbo_anatomy(
        first.model,
        first.guide,
        model_args=batch,
        num_samples=num_samples,
        num_observations=count,
        # The standard units of the training part: one Gaussian for all of it.
        reference=-count * 0.5 * math.log(2 * math.pi * math.e),
        seed=config.seed,
    )
    test = plan.origins(values, config, plan.split.validation.start)
    comparison = compare_guides(
        {name: (c.model, c.guide) for name, c in candidates.items()},
        model_args=batch,
        held_out=[(test.x, test.y)],
        num_samples=num_samples,
        seed=config.seed,
    )
    norms = site_norms(
        first.model,
        first.guide,
        model_args=(train.x[:2], train.y[:2]),
        num_samples=100,
        seed=config.seed,
    )
    return first, anatomy, comparison, norms


def main() -> None:
    """Run, print the tables, and write numbers and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--num-samples", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()
    started = time.perf_counter()
    config = ForecastConfig(num_steps=args.steps, seed=args.seed)
    first, anatomy, comparison, norms = run(config, args.num_samples)
    print(anatomy, comparison, sep="\n\n")
    draw(first, anatomy, norms, args.figure)
    found = {
        "config": {"steps": args.steps, "num_samples": args.num_samples, "seed": args.seed},
        "guide": name_of(*GRID[0]),
        "anatomy": facts(anatomy),
        "comparison": {
            "by": comparison.by,
            "names": list(comparison.names),
            "scores": {
                kind: {name: vars(score) for name, score in scores.items()}
                for kind, scores in comparison.scores.items()
            },
        },
        "text": {"anatomy": str(anatomy).splitlines(), "comparison": str(comparison).splitlines()},
        "wall_time_seconds": time.perf_counter() - started,
        "versions": versions(),
        "machine": machine(),
    }
    print(write_json(args.result, found))


if __name__ == "__main__":
    main()
