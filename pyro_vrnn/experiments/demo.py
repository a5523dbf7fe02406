"""The demo: forecast a real series with Bayesian and plain networks, and judge the forecasts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from pyro_vrnn.data.series import Series
from pyro_vrnn.diagnostics.arviz_export import from_pyro_svi
from pyro_vrnn.experiments.demo_figure import draw_demo
from pyro_vrnn.experiments.forecast import Study, num_trials, run_study
from pyro_vrnn.experiments.forecast_plan import ForecastConfig, make_plan
from pyro_vrnn.experiments.forecast_report import report
from pyro_vrnn.experiments.forecasts import Trial
from pyro_vrnn.files import staged, write_json
from pyro_vrnn.runs import machine, versions
from pyro_vrnn.shapes import check_instance

EXPORTED_DRAWS = 200
MAX_EXPORTED_WINDOWS = 512


@dataclass(frozen=True)
class DemoResult:
    """What the demo found, and where it wrote it."""

    found: dict[str, Any]
    figure: Path
    json: Path
    arviz: Path


def run_demo(
    series: Series, config: ForecastConfig, out: str | Path, *, progress: bool = True
) -> DemoResult:
    """
    Run the study of a series and write figure, numbers and ArviZ file to the folder ``out``.

    The series and the folder are checked first. After an error nothing new is in the folder.

    :raises ValueError: if the series is too short for the config.
    :raises OSError: if the folder cannot be written.
    """
    started = time.perf_counter()
    check_instance("series", series, Series, " (read_csv)")
    check_instance("config", config, ForecastConfig)
    total = num_trials(make_plan(series.values, config), config)
    stem = f"demo-{series.name}-seed{config.seed}".replace("/", "_").replace(" ", "_")
    out = Path(out)
    with staged(out) as aside:
        with tqdm(total=total, desc="training", unit="fit", disable=not progress) as bar:
            study = run_study(series.values, config, on_trial=partial(_show_trial, bar))
        found = {
            "series": {
                "name": series.name,
                "source": series.source,
                "values": len(series.values),
                "gaps_interpolated": series.filled,
            },
            **report(series.values, study),
            "versions": versions(),
            "machine": machine(),
        }
        draw_demo(aside / f"{stem}.png", series, study, found)
        _export(study).to_netcdf(aside / f"{stem}.nc")
        found["wall_time_seconds"] = time.perf_counter() - started
        write_json(aside / f"{stem}.json", found)
    return DemoResult(found, out / f"{stem}.png", out / f"{stem}.json", out / f"{stem}.nc")


def _show_trial(bar: Any, trial: Trial) -> None:
    bar.set_description(trial.method)
    bar.set_postfix(
        lag=trial.lag, p=trial.drop_prob, sigma=trial.scale, nll=f"{trial.validation_nll:.3g}"
    )
    bar.update()


def _export(study: Study) -> Any:
    """Return the chosen model on training windows, and the forecasts that were judged."""
    import xarray

    chosen, train, test = study.chosen, study.chosen.train, study.test
    # The program scales a part of the windows up to all of them, as it does a minibatch.
    stride = -(-len(train.x) // MAX_EXPORTED_WINDOWS)
    device = study.config.device
    data = from_pyro_svi(
        chosen.model,
        chosen.guide,
        svi_result=chosen.result,
        model_args=(train.x[::stride].to(device), train.y[::stride].to(device)),
        num_samples=EXPORTED_DRAWS,
        coords={"sequence": train.origins[::stride].numpy()},
        seed=study.config.seed,
    )
    coords = {"origin": test.origins, "step": range(1, study.plan.horizon + 1)}
    dims = ("chain", "draw", "origin", "step")
    attrs = {
        "offset": study.plan.offset,
        "unit": study.plan.unit,
        "noise_factor": chosen.trial.noise_factor,
        "units": "predictions are in the series' units; every other group is in standard units, "
        "(value - offset) / unit, and without the noise factor",
    }
    forecasts = xarray.Dataset(
        {"obs": (dims, test.draws[None]), "loc": (dims, test.loc[None])}, coords, attrs
    )
    observed = xarray.Dataset({"obs": (dims[2:], test.y)}, coords, attrs)
    groups = {"predictions": forecasts, "predictions_constant_data": observed}
    if hasattr(data, "add_groups"):  # ArviZ 0.x
        data.add_groups(groups)
    else:
        for name, group in groups.items():
            data[name] = xarray.DataTree(group)
    return data
