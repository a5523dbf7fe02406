"""
Which of ArviZ's own functions run on an export, in the ArviZ that is installed.

Guards against an export that ArviZ cannot read: a dim or a group out of place stops its functions,
which differ between 0.23 and 1.x. ``python benchmarks/arviz_functions.py`` writes
``benchmarks/results/arviz_functions_<version>.json``; ``docs/results/arviz.md`` is made from these.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
import warnings
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    mpl.use("Agg")

import numpy as np  # noqa: E402
import pyro  # noqa: E402
import pyro.distributions as dist  # noqa: E402
from pyro.infer import SVI, Trace_ELBO  # noqa: E402
from pyro.infer.autoguide import AutoNormal  # noqa: E402

import pyro_vrnn as vrnn  # noqa: E402
from pyro_vrnn.diagnostics import concat_runs  # noqa: E402
from pyro_vrnn.runs import machine, set_seed, versions  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
# (what it gives, call in ArviZ 0.23, call in 1.x). `plain` is a regression in Pyro with AutoNormal,
# `other` one with a covariate less, `net` two runs of an LSTM forecaster as chains.
CALLS = (
    ("means, intervals, ESS", "az.summary(plain)", "az.summary(plain)"),
    (
        "the same of a network's head",
        'az.summary(net, var_names=["head.weight"])',
        'az.summary(net, var_names=["head.weight"])',
    ),
    (
        "R-hat over runs",
        'az.rhat(net, var_names=["head.bias"])',
        'az.rhat(net, var_names=["head.bias"])',
    ),
    ("effective sample size", "az.ess(plain)", "az.ess(plain)"),
    ("Monte Carlo errors", "az.mcse(plain)", "az.mcse(plain)"),
    ("highest-density intervals", "az.hdi(plain)", "az.hdi(plain)"),
    ("draws in one dim", "az.extract(plain)", "az.extract(plain)"),
    (
        "draws of one gate",
        'az.extract(net, var_names=["rnn.weight_hh_l0"]).sel(gate="f")',
        'az.extract(net, var_names=["rnn.weight_hh_l0"]).sel(gate="f")',
    ),
    ("PSIS-LOO", "az.loo(plain, reff=1.0)", "az.loo(plain, reff=1.0)"),
    ("PSIS-LOO by sequence", "az.loo(net, reff=1.0)", "az.loo(net, reff=1.0)"),
    ("WAIC", "az.waic(plain)", None),
    (
        "PSIS-LOO with draws of q corrected",
        None,
        "az.loo_approximate_posterior(plain, log_p=plain.sample_stats.log_p__, "
        "log_q=plain.sample_stats.log_g__)",
    ),
    (
        "two models compared",
        'az.compare({"both": plain, "one": other})',
        'az.compare({"both": plain, "one": other})',
    ),
    (
        "Pareto k of q for p (0.23 takes log p - log q)",
        "az.psislw((plain.sample_stats.log_p__ - plain.sample_stats.log_g__).values.ravel())[1]",
        None,
    ),
    (
        "Pareto k of q for p (1.x takes log q - log p)",
        None,
        "(plain.sample_stats.log_g__ - plain.sample_stats.log_p__)"
        ".azstats.psislw(dim=['chain', 'draw'])[1]",
    ),
    (
        "LOO-PIT",
        'az.loo_pit(plain, y="obs")',
        'az.loo_pit(plain, var_names=["obs"])',
    ),
    ("traces", "az.plot_trace(plain)", "az.plot_trace(plain)"),
    (
        "forest of a weight matrix",
        'az.plot_forest(net, var_names=["rnn.bias_hh_l0"])',
        'az.plot_forest(net, var_names=["rnn.bias_hh_l0"])',
    ),
    (
        "forest of the sites' norms",
        'az.plot_forest(net.sample_stats[["norm"]])',
        'az.plot_forest(net, group="sample_stats", var_names=["norm"])',
    ),
    ("marginal densities", "az.plot_posterior(plain)", "az.plot_dist(plain)"),
    ("pairs", "az.plot_pair(plain)", "az.plot_pair(plain)"),
    ("rank plots", "az.plot_rank(plain)", "az.plot_rank(plain)"),
    ("autocorrelation", "az.plot_autocorr(plain)", "az.plot_autocorr(plain)"),
    (
        "posterior predictive check",
        "az.plot_ppc(plain, num_pp_samples=20)",
        'az.plot_ppc_dist(plain, var_names=["obs"], num_samples=20)',
    ),
    (
        "prior predictive check",
        'az.plot_ppc(plain, group="prior", num_pp_samples=20)',
        'az.plot_ppc_dist(plain, group="prior_predictive", var_names=["obs"], num_samples=20)',
    ),
    (
        "the same of a network",
        'az.plot_ppc(net, var_names=["obs"], num_pp_samples=20)',
        'az.plot_ppc_dist(net, var_names=["obs"], num_samples=20)',
    ),
    (
        "posterior predictive p-values, PIT",
        'az.plot_bpv(plain, kind="p_value")',
        'az.plot_ppc_pit(plain, var_names=["obs"])',
    ),
    (
        "LOO-PIT plot",
        'az.plot_loo_pit(plain, y="obs")',
        'az.plot_loo_pit(plain, var_names=["obs"])',
    ),
    (
        "Pareto k by datum",
        "az.plot_khat(az.loo(plain, reff=1.0, pointwise=True))",
        "az.plot_khat(az.loo(plain, reff=1.0, pointwise=True))",
    ),
    (
        "prior against posterior",
        'az.plot_dist_comparison(plain, var_names=["slope"])',
        'az.plot_prior_posterior(plain, var_names=["slope"])',
    ),
    (
        "table of a comparison as a plot",
        'az.plot_compare(az.compare({"both": plain, "one": other}))',
        'az.plot_compare(az.compare({"both": plain, "one": other}))',
    ),
)


def regression(x: torch.Tensor, y: torch.Tensor | None = None) -> None:
    """Make a linear regression, as anybody writes it in Pyro."""
    intercept = pyro.sample("intercept", dist.Normal(0.0, 1.0))
    slope = pyro.sample("slope", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("obs", dist.Normal(intercept + x @ slope, 0.5), obs=y)


def plain_export(num_columns: int, num_samples: int, num_steps: int) -> Any:
    """Return the regression with Pyro's own guide and SVI."""
    set_seed(0)
    pyro.clear_param_store()
    x = torch.randn(40, 2)
    y = x @ torch.tensor([1.0, -0.5]) + 0.5 * torch.randn(40)
    args = x[:, :num_columns], y
    guide = AutoNormal(regression)
    svi = SVI(regression, guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    losses = [svi.step(*args) for _ in range(num_steps)]
    return vrnn.from_pyro_svi(
        regression,
        guide,
        model_args=args,
        svi_result=losses,
        num_samples=num_samples,
        prior=True,
        constant_data=True,
        seed=0,
    )


def network_export(num_samples: int, num_epochs: int) -> Any:
    """Return two runs of an LSTM that forecasts a noisy wave."""
    set_seed(0)
    wave = torch.sin(torch.arange(80.0) / 4) + 0.1 * torch.randn(80)
    windows = wave.unfold(0, 14, 2)  # (N, 14)
    batch = windows[:, :12, None], windows[:, 12:]
    runs = []
    for seed in (0, 1):
        set_seed(seed)
        model = vrnn.models.Forecaster(vrnn.nn.LSTM(1, 4), 2)
        guide = vrnn.infer.AutoSpikeAndSlab(model, learn_scale=True)
        adam = partial(torch.optim.Adam, lr=0.02)
        result = vrnn.infer.fit(
            model, guide, [batch], num_epochs=num_epochs, optimizer=adam, seed=seed, progress=False
        )
        run = vrnn.from_pyro_svi(
            model, guide, model_args=batch, svi_result=result, num_samples=num_samples, seed=seed
        )
        runs.append(run)
    return concat_runs(runs)


def exports(quick: bool) -> dict[str, Any]:
    """Return the objects that the calls are made on."""
    num_samples, num_steps = (50, 20) if quick else (100, 100)
    return {
        "plain": plain_export(2, num_samples, num_steps),
        "other": plain_export(1, num_samples, num_steps),
        "net": network_export(num_samples // 2, num_steps // 5),
    }


def run_call(code: str, objects: dict[str, Any]) -> dict[str, Any]:
    """Make one call, and say whether it ran."""
    import arviz as az
    from matplotlib import pyplot as plt

    start = time.perf_counter()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            eval(code, {"az": az, "np": np, **objects})
        outcome: dict[str, Any] = {"ran": True}
    except Exception as error:
        outcome = {"ran": False, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
    plt.close("all")
    kept = [w for w in caught if not issubclass(w.category, (FutureWarning, DeprecationWarning))]
    outcome["warnings"] = sorted({str(w.message).splitlines()[0] for w in kept})
    return outcome | {"seconds": round(time.perf_counter() - start, 3)}


def calls(version: str) -> list[tuple[str, str | None]]:
    """Return what each function gives, and its call in this version of ArviZ."""
    index = 1 if version.startswith("0.") else 2
    return [(call[0], call[index]) for call in CALLS]


def main() -> None:
    """Run all calls, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="few draws and steps")
    options = parser.parse_args()
    version = metadata.version("arviz")
    torch.set_num_threads(1)
    start = time.perf_counter()
    objects = exports(options.quick)
    rows = []
    for what, code in calls(version):
        outcome = {} if code is None else run_call(code, objects)
        rows.append({"what": what, "call": code, **outcome})
        print(what, code, outcome, flush=True)
    record = {
        "command": "python benchmarks/arviz_functions.py" + " --quick" * options.quick,
        "config": {"quick": options.quick, "seed": 0},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "wall_time_seconds": round(time.perf_counter() - start, 1),
        "versions": versions() | arviz_parts(),
        "machine": machine(),
        "arviz": version,
        "rows": rows,
    }
    path = options.out / f"arviz_functions_{version}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(path)


def arviz_parts() -> dict[str, str]:
    """Return the versions of what ArviZ 1.x is made of, and of its plots."""
    found = {}
    for package in ("arviz-base", "arviz-stats", "arviz-plots", "xarray", "matplotlib"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
