"""
Calibration of the demo's model: one short run, its figure and its numbers.

``python benchmarks/calibration.py`` trains the demo's Bayesian LSTM of the weekly CO2 series, with
the lag, p and scale below and no choice among candidates, and forecasts the test part. It writes
``benchmarks/results/calibration.json`` and ``docs/_static/calibration.png``. A test holds the
guide's page to the numbers.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyro_vrnn.data.series import co2_weekly
from pyro_vrnn.diagnostics import (
    ForecastCheck,
    check_forecasts,
    plot_coverage,
    plot_horizon,
    plot_pit,
)
from pyro_vrnn.experiments.forecast import forecast, train_candidate
from pyro_vrnn.experiments.forecast_plan import ForecastConfig, make_plan
from pyro_vrnn.experiments.forecasts import Forecasts
from pyro_vrnn.files import write_json
from pyro_vrnn.runs import machine, versions

ROOT = Path(__file__).parents[1]
CHOSEN = {"lag": 52, "drop_prob": 0.1, "scale": 0.01}
SEED = 0
TITLES = {
    "learned": "noise as learned",
    "chosen": "noise chosen on the validation part",
    "overconfident": "half that noise",
}


def run(config: ForecastConfig) -> tuple[dict[str, ForecastCheck], dict[str, Any]]:
    """Return the checks of the test part's forecasts, and the record of the run."""
    started = time.process_time()
    values = co2_weekly().values
    plan = make_plan(values, config)
    made = train_candidate(values, plan, config, **CHOSEN)
    learned = forecast(made.model, made.guide, values, plan, config, plan.split.test.start)
    factors = {"learned": 1.0, "chosen": made.trial.noise_factor}
    factors["overconfident"] = 0.5 * factors["chosen"]
    checks = {name: _check(learned.with_noise(factor)) for name, factor in factors.items()}
    record = {
        "config": {**asdict(config), **CHOSEN},
        "noise_factors": factors,
        "checks": {name: summary(check) for name, check in checks.items()},
        "tables": {name: str(check) for name, check in checks.items()},
        "versions": versions(),
        "machine": machine(),
        "cpu_seconds": time.process_time() - started,
    }
    return checks, record


def _check(forecasts: Forecasts) -> ForecastCheck:
    return check_forecasts(forecasts.draws, forecasts.y, seed=SEED)


def summary(check: ForecastCheck) -> dict[str, Any]:
    """Return a check as JSON can hold it."""
    curve = check.coverage
    return {
        "pit_inside": check.inside,
        "pit_inside_by_horizon": check.pit_inside.tolist(),
        "coverage_inside": curve.inside,
        "values": check.pit.size,
        "independent_values": check.band.num_values,
        "crps": check.crps.overall._asdict(),
        "crps_by_horizon": check.crps.mean.tolist(),
        "coverage_by_level": dict(zip(map(str, curve.levels), curve.coverage, strict=True)),
        "intervals": {
            str(level): {
                "coverage": part.coverage.overall._asdict(),
                "score": part.score.overall._asdict(),
                "width": part.width.overall._asdict(),
            }
            for level, part in check.intervals.items()
        },
    }


def table(record: dict[str, Any]) -> str:
    """Return the Markdown table of the guide's page, forecasts in each row."""
    lines = [
        "| forecasts | PIT | CRPS (ppm) | 50% coverage | 90% coverage | 90% interval score |",
        "|---|---|---|---|---|---|",
    ]
    for name, check in record["checks"].items():
        half, wide = (check["intervals"][level] for level in ("0.5", "0.9"))
        parts = (check["crps"], half["coverage"], wide["coverage"], wide["score"])
        cells = ["{mean:.2f} [{lower:.2f}, {upper:.2f}]".format(**part) for part in parts]
        title = f"{TITLES[name]} (factor {record['noise_factors'][name]:.2f})"
        inside = "inside" if check["pit_inside"] else "**outside**"
        lines.append(f"| {title} | {inside} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(path: Path, checks: dict[str, ForecastCheck]) -> None:
    """Draw PIT and coverage of each check, and CRPS by horizon of all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 7), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(3, 1.1))
    axes = left.subplots(2, len(checks))
    crps = right.subplots()
    for column, (name, check) in enumerate(checks.items()):
        color = f"C{column}"
        plot_pit(check, ax=axes[0, column], color=color)
        plot_coverage(check, ax=axes[1, column], color=color)
        axes[0, column].set_title(TITLES[name])
        if name == "chosen":  # the ranges of all three would cover each other
            plot_horizon(check.crps, ax=crps, color=color, label=TITLES[name])
        else:
            steps = range(1, len(check.crps.mean) + 1)
            crps.plot(steps, check.crps.mean, color=color, ls="--", label=TITLES[name])
    reach = max(abs(end) for ax in axes[0] for end in ax.get_ylim())
    for ax in axes[0]:
        ax.set_ylim(-reach, reach)
    crps.set(ylim=(0, None), title="CRPS by horizon", ylabel="CRPS (ppm)")
    crps.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-steps", type=int, default=ForecastConfig.num_steps)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/calibration.json")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs/_static/calibration.png")
    arguments = parser.parse_args()
    checks, record = run(ForecastConfig(seed=SEED, num_steps=arguments.num_steps))
    draw(arguments.figure, checks)
    write_json(arguments.json, record)
    for name, text in record["tables"].items():
        print(f"{TITLES[name]} (factor {record['noise_factors'][name]:.3g})\n{text}\n")
    print(table(record))


if __name__ == "__main__":
    main()
