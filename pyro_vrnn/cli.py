"""The command line, ``pyro-vrnn``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Bayesian recurrent networks in Pyro.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def commands(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Bayesian recurrent networks in Pyro."""


@app.command()
def demo(
    csv: Annotated[Path | None, typer.Option(help="Your own series: a CSV file.")] = None,
    column: Annotated[str | None, typer.Option(help="The column of --csv to forecast.")] = None,
    season: Annotated[
        int | None, typer.Option(help="Steps in a season; by default read off the series.")
    ] = None,
    horizon: Annotated[
        int | None, typer.Option(help="Steps to forecast; by default 13, fewer if it is short.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    cell: Annotated[str, typer.Option(help="lstm, gru or rnn.")] = "lstm",
    steps: Annotated[int, typer.Option(help="Optimiser steps of each candidate.")] = 500,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Forecast a real series (weekly CO2, or your own) by seven methods, and judge them."""
    import torch

    from pyro_vrnn.data.series import co2_weekly, read_csv
    from pyro_vrnn.experiments.demo import run_demo
    from pyro_vrnn.experiments.forecast_plan import ForecastConfig
    from pyro_vrnn.experiments.forecast_text import describe

    if (csv is None) != (column is None):
        raise ValueError("Expected --csv and --column together, got only one of them.")
    series = co2_weekly() if csv is None or column is None else read_csv(csv, column)
    torch.set_num_threads(1)  # as fast for a network of this size, and far faster beside others
    config = ForecastConfig(
        horizon=horizon, season=season, cell=cell, num_steps=steps, seed=seed, device=device
    )
    result = run_demo(series, config, out, progress=progress)
    typer.echo(describe(result.found))
    for name, path in (
        ("figure", result.figure),
        ("numbers", result.json),
        ("ArviZ", result.arviz),
    ):
        typer.echo(f"{name:>8}: {path}")


def main() -> None:
    """Run the command line; a refused argument is one line on stderr and exit status 2."""
    # As an exception, so that half-made files are cleared away on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        if "--debug" in sys.argv:
            raise
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        typer.echo(f"pyro-vrnn: {message}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
