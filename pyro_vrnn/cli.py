"""The command line, ``pyro-vrnn``."""

from __future__ import annotations

import re
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Bayesian recurrent networks in Pyro.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(
    help="Train on your own data; the same command goes on where it was interrupted.",
    no_args_is_help=True,
)
app.add_typer(train_app, name="train")

# Options that several commands have.
Out = Annotated[Path, typer.Option(help="Folder for checkpoints and results.")]
Cell = Annotated[str, typer.Option(help="lstm, gru or rnn.")]
HiddenSize = Annotated[int, typer.Option(help="Units of the cell.")]
DropProb = Annotated[float, typer.Option(help="Probability of the spike at 0.")]
Scale = Annotated[float, typer.Option(help="Standard deviation of spike and slab.")]
Scope = Annotated[str, typer.Option(help="Draws in training: one a batch, or one a sequence.")]
Epochs = Annotated[int | None, typer.Option(help="Epochs, at most; instead of --steps.")]
Steps = Annotated[
    int | None, typer.Option(help="Optimiser steps, at least, in whole epochs; by default 500.")
]
Patience = Annotated[int, typer.Option(help="Stop after so many epochs without a better score.")]
BatchSize = Annotated[int, typer.Option(help="Rows of a batch.")]
LearningRate = Annotated[float, typer.Option(help="Adam's.")]
Samples = Annotated[int, typer.Option(help="Draws of the weights for predictions, at least 100.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Progress = Annotated[bool, typer.Option(help="Show a progress bar.")]

# What messages call by its name in Python; not in paths, quoted columns or options of a run.
RENAMED = re.compile(r"(?<![\w'/.\\-])num_(samples|epochs|steps|origins)(?=[ ,]|\.?$)")


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
    seed: Seed = 0,
    device: Device = "cpu",
    cell: Cell = "lstm",
    steps: Annotated[int, typer.Option(help="Optimiser steps of each candidate.")] = 500,
    progress: Progress = True,
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


@train_app.command("series")
def train_series(
    file: Annotated[Path, typer.Argument(help="A CSV file with a header.")],
    column: Annotated[str, typer.Option(help="The column to forecast.")],
    out: Out,
    horizon: Annotated[int | None, typer.Option(help="Steps to forecast; default: 13.")] = None,
    lag: Annotated[str, typer.Option(help="Work on changes over so many steps; or none.")] = "auto",
    window: Annotated[int | None, typer.Option(help="Past steps that are seen.")] = None,
    origins: Annotated[
        int | None, typer.Option(help="Forecasts in the validation part, at the end.")
    ] = None,
    cell: Cell = "lstm",
    hidden_size: HiddenSize = 32,
    drop_prob: DropProb = 0.1,
    scale: Scale = 0.01,
    scope: Scope = "sequence",
    epochs: Epochs = None,
    steps: Steps = None,
    patience: Patience = 20,
    batch_size: BatchSize = 64,
    learning_rate: LearningRate = 0.01,
    samples: Samples = 1000,
    seed: Seed = 0,
    device: Device = "cpu",
    progress: Progress = True,
) -> None:
    """Train forecasts of one column of FILE, a row for each time."""
    from pyro_vrnn.experiments import train
    from pyro_vrnn.experiments.train_config import SeriesConfig

    config = SeriesConfig(
        column=column,
        horizon=horizon,
        lag=lag,
        window=window,
        num_origins=origins,
        cell=cell,
        hidden_size=hidden_size,
        drop_prob=drop_prob,
        scale=scale,
        scope=scope,
        num_epochs=epochs,
        num_steps=steps,
        patience=patience,
        batch_size=batch_size,
        learning_rate=learning_rate,
        num_samples=samples,
        seed=seed,
        device=device,
    )
    typer.echo(train.describe(train.train_series(file, config, out, progress=progress)))


@train_app.command("sequences")
def train_sequences(
    file: Annotated[Path, typer.Argument(help="A CSV file with a header, a row for each step.")],
    out: Out,
    sequence: Annotated[str, typer.Option(help="The column of names.")] = "sequence",
    label: Annotated[str, typer.Option(help="The column of labels.")] = "label",
    time: Annotated[str | None, typer.Option(help="A column to order the steps by.")] = None,
    classes: Annotated[bool, typer.Option("--classes", help="Labels are classes.")] = False,
    validation: Annotated[float, typer.Option(help="Share that is not trained on.")] = 0.2,
    cell: Cell = "lstm",
    hidden_size: HiddenSize = 32,
    drop_prob: DropProb = 0.1,
    scale: Scale = 0.01,
    scope: Scope = "sequence",
    epochs: Epochs = None,
    steps: Steps = None,
    patience: Patience = 20,
    batch_size: BatchSize = 64,
    learning_rate: LearningRate = 0.01,
    samples: Samples = 1000,
    seed: Seed = 0,
    device: Device = "cpu",
    progress: Progress = True,
) -> None:
    """Train a class or a number for each sequence in FILE; every other column is a feature."""
    from pyro_vrnn.experiments import train
    from pyro_vrnn.experiments.train_config import SequencesConfig

    config = SequencesConfig(
        sequence=sequence,
        label=label,
        time=time,
        classes=classes,
        validation=validation,
        cell=cell,
        hidden_size=hidden_size,
        drop_prob=drop_prob,
        scale=scale,
        scope=scope,
        num_epochs=epochs,
        num_steps=steps,
        patience=patience,
        batch_size=batch_size,
        learning_rate=learning_rate,
        num_samples=samples,
        seed=seed,
        device=device,
    )
    typer.echo(train.describe(train.train_sequences(file, config, out, progress=progress)))


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(help="The folder of a training.")],
    file: Annotated[Path, typer.Argument(help="A CSV file with the training's columns.")],
    out: Annotated[
        Path | None, typer.Option(help="The table; default: predictions-FILE.csv in FOLDER.")
    ] = None,
    samples: Samples = 1000,
    seed: Seed = 0,
    device: Device = "cpu",
    progress: Progress = True,
) -> None:
    """Forecast what follows a series, or predict new sequences, with intervals."""
    from pyro_vrnn.experiments.predict_run import predict_file
    from pyro_vrnn.experiments.train_predictions import scores_text, text_table

    done = predict_file(
        folder, file, out, num_samples=samples, seed=seed, device=device, progress=progress
    )
    typer.echo(text_table(done.predictions.records))
    if done.predictions.scores:
        typer.echo(scores_text(done.predictions.scores))
    typer.echo(f"table: {done.path}{', in the place of another' if done.replaced else ''}")


@app.command()
def experiment(
    name: Annotated[str, typer.Argument(help="ptb-fifth, ptb-small, ..., sentiment-gru.")],
    data: Annotated[Path, typer.Option(help="Folder of the texts or reviews, or a file of them.")],
    text: Annotated[
        str | None, typer.Option(help="The column of texts in a file; default: text.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="The column of ratings in a file; default: label.")
    ] = None,
    method: Annotated[str, typer.Option(help="none, dropout or svi.")] = "svi",
    out: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
    epochs: Annotated[int | None, typer.Option(help="Instead of the configuration's.")] = None,
    samples: Annotated[
        int | None, typer.Option(help="Draws for the last scores, instead of the configuration's.")
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    progress: Progress = True,
) -> None:
    """Run one of the paper's experiments by one method; the same command goes on with it."""
    from pyro_vrnn.experiments.compare import table
    from pyro_vrnn.experiments.studies import run_experiment

    folder, found = run_experiment(
        name,
        data,
        method=method,
        seed=seed,
        out=out,
        device=device,
        num_epochs=epochs,
        num_samples=samples,
        text=text,
        label=label,
        progress=progress,
    )
    typer.echo(table([found]))
    typer.echo(f"run: {folder / 'run.json'}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Runs, their folders, or a folder of runs.")],
    figure: Annotated[Path, typer.Option(help="Where the learning curves are drawn.")] = Path(
        "compare.png"
    ),
) -> None:
    """Print a table of runs and draw their learning curves, train and test."""
    from pyro_vrnn.experiments.compare import draw_curves, read_runs, table

    found = read_runs(runs)
    typer.echo(table(found))
    typer.echo(f"figure: {draw_curves(found, figure)}")


def main() -> None:
    """Run the command line; a refused argument is one line on stderr and exit status 2."""
    # As an exception, so that half-made files are cleared away on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    default, warnings.formatwarning = warnings.formatwarning, _one_line
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        if "--debug" in sys.argv:
            raise
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        typer.echo(f"pyro-vrnn: {RENAMED.sub(_option, message)}", err=True)
        sys.exit(2)
    finally:
        warnings.formatwarning = default


def _option(name: re.Match[str]) -> str:
    return f"--{name[1]}"


def _one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    return f"pyro-vrnn: {message}\n"


if __name__ == "__main__":
    main()
