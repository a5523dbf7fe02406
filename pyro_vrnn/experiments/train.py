"""Train on a file of one's own: posterior, predictions, figure and ArviZ file in one folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from pyro_vrnn.data.sequences import read_sequences
from pyro_vrnn.data.series import read_csv
from pyro_vrnn.diagnostics.arviz_export import from_pyro_svi
from pyro_vrnn.experiments.train_config import (
    ARVIZ,
    CHECKPOINTS,
    FIGURE,
    POSTERIOR,
    PREDICTIONS,
    RESULTS,
    SequencesConfig,
    SeriesConfig,
    TrainConfig,
    check_packages,
    claim,
    request,
    threads_for,
)
from pyro_vrnn.experiments.train_data import Part, Task, sequences_task, series_task
from pyro_vrnn.experiments.train_figure import (
    Draw,
    draw_classes,
    draw_series,
    draw_training,
    draw_values,
)
from pyro_vrnn.experiments.train_predictions import (
    Posterior,
    predict_rows,
    scores_text,
    write_table,
)
from pyro_vrnn.files import staged, write_json
from pyro_vrnn.infer.auto_spike_and_slab import AutoSpikeAndSlab
from pyro_vrnn.infer.fit import fit
from pyro_vrnn.infer.fit_result import FitResult
from pyro_vrnn.infer.posterior_files import save_posterior
from pyro_vrnn.shapes import check_instance

EXPORTED_DRAWS, MAX_EXPORTED_ROWS = 200, 512
MAX_EXPORTED_BYTES = 2**28  # of draws of the weights
CHECKPOINT_EVERY = 200  # steps, beside every epoch


@dataclass(frozen=True)
class TrainResult:
    """What a training found, and the folder with the files."""

    folder: Path
    found: dict[str, Any]
    result: FitResult


def train_series(
    path: str | Path, config: SeriesConfig, out: str | Path, *, progress: bool = True
) -> TrainResult:
    """
    Train forecasts of one column of a CSV file; the same call goes on where it was interrupted.

    The last values of the series are the validation part. File, options and folder are checked
    first. The folder then holds the checkpoints; at the end the posterior, predictions of the
    validation part with their intervals, a figure, the ArviZ file and the numbers appear, each
    file whole.

    :param path: the file; see :func:`~pyro_vrnn.data.read_csv`.
    :param out: the folder, which belongs to this file and these options from then on.
    :raises ImportError: if a package that writes the results is missing.
    :raises ValueError: if the file or an option does not fit, or ``out`` is another run's.
    :raises OSError: if the folder cannot be written.
    """
    check_packages()
    check_instance("config", config, SeriesConfig)
    series = read_csv(path, config.column)
    task = series_task(series, config)
    draw = partial(draw_series, series, task.facts["horizon"])
    with threads_for(config.hidden_size):
        return _train(task, config, Path(path), Path(out), draw, progress)


def train_sequences(
    path: str | Path, config: SequencesConfig, out: str | Path, *, progress: bool = True
) -> TrainResult:
    """
    Train a class or a number for each sequence of a CSV file; otherwise as :func:`train_series`.

    A share of the sequences, drawn by the seed, is the validation part.

    :param path: the file; see :func:`~pyro_vrnn.data.read_sequences`.
    """
    check_packages()
    check_instance("config", config, SequencesConfig)
    data = read_sequences(
        path, sequence=config.sequence, label=config.label, time=config.time, labelled=True
    )
    task = sequences_task(data, config)
    classes = task.facts["classes"]
    draw = partial(draw_classes, classes) if classes else partial(draw_values, config.label)
    with threads_for(config.hidden_size):
        return _train(task, config, Path(path), Path(out), draw, progress)


def describe(done: TrainResult) -> str:
    """Return a few lines of text: the data, the training, the scores, the files."""
    data, training = done.found["data"], done.found["training"]
    if data["kind"] == "series":
        task = f"horizon {data['horizon']}, window {data['window']}, lag {data['lag']}"
    elif data["classes"]:
        task = f"{len(data['classes'])} classes, {len(data['features'])} features"
    else:
        task = f"labels as numbers, {len(data['features'])} features"
    best = "" if training["best_epoch"] is None else f", the best was {training['best_epoch'] + 1}"
    resumed = "".join(f", went on from step {step}" for step in training["resumed_from"][-1:])
    lines = [
        f"{data['file']}: {task}; {data['training_rows']} rows to train on, "
        f"{data['validation_rows']} to validate.",
        f"{training['epochs']} epochs, {training['steps']} steps{best}; stopped by "
        f"{training['stopped']}{resumed}.",
        f"Validation: {scores_text(done.found['validation'])}.",
    ]
    names = (PREDICTIONS, FIGURE, ARVIZ, RESULTS, POSTERIOR)
    return "\n".join([*lines, *(f"{done.folder / name}" for name in names)])


def _train(
    task: Task, config: TrainConfig, path: Path, out: Path, draw: Draw, progress: bool
) -> TrainResult:
    wanted = request(config, path)
    claim(out, wanted)
    guide = AutoSpikeAndSlab(
        task.model, drop_prob=config.drop_prob, scale=config.scale, scope=config.scope
    )
    num_rows = len(task.train[0])
    loader = DataLoader(
        TensorDataset(*task.train),
        batch_size=config.batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(config.seed),
        collate_fn=_trimmed,
    )
    result = fit(
        task.model,
        guide,
        loader,
        num_epochs=config.epochs(num_rows),
        optimizer=partial(torch.optim.Adam, lr=config.learning_rate),
        validation=_batches(task.validation, min(config.batch_size, num_rows)),
        patience=config.patience,
        seed=config.seed,
        device=config.device,
        checkpoint_dir=out / CHECKPOINTS,
        checkpoint_every=CHECKPOINT_EVERY,
        progress=progress,
    )
    posterior = Posterior(task.model, guide, config.num_samples, config.seed)
    x, _, *lengths = task.validation
    predictions = predict_rows(posterior, (x, *lengths), task.facts, task.keys, task.truth)
    found = {
        "config": {**wanted, "device": config.device},
        "data": {
            **task.facts,
            "file": path.name,
            "training_rows": num_rows,
            "validation_rows": len(x),
        },
        "validation": predictions.scores,
        "training": _history(result),
        "versions": result.versions,
        "machine": result.machine,
        "wall_time_seconds": result.wall_time,
    }
    save_posterior(out / POSTERIOR, task.model, guide, facts=task.facts)
    with staged(out) as aside:
        write_table(aside / PREDICTIONS, predictions.records)
        draw_training(aside / FIGURE, predictions, result, draw)
        _export(task, guide, result, config).to_netcdf(aside / ARVIZ)
        write_json(aside / RESULTS, found)
    return TrainResult(out, found, result)


def _batches(part: Part, size: int) -> list[Part]:
    return [tuple(t[k : k + size] for t in part) for k in range(0, len(part[0]), size)]


def _trimmed(rows: Sequence[Part]) -> Part:
    """Return a batch, cut behind its longest sequence."""
    x, *others = (torch.stack(column) for column in zip(*rows, strict=True))
    longest = int(others[1].max()) if len(others) > 1 else x.shape[1]
    return (x[:, :longest], *others)


def _history(result: FitResult) -> dict[str, Any]:
    steps = max(1, result.steps_per_epoch)
    return {
        "steps": len(result.loss),
        "epochs": len(result.epoch_loss),
        "best_epoch": result.best_epoch,
        "stopped": result.stopped,
        "resumed_from": result.resumed_from,
        "elbo_of_last_epoch": sum(result.elbo[-steps:]) / len(result.elbo[-steps:]),
        "held_out": result.validation,
    }


def _export(task: Task, guide: AutoSpikeAndSlab, result: FitResult, config: TrainConfig) -> Any:
    """Return the model on training rows, as ArviZ keeps it."""
    # The program scales a part of the rows up to all of them, as it does a minibatch.
    stride = -(-len(task.train[0]) // MAX_EXPORTED_ROWS)
    numbers = sum(site.shape.numel() for site in guide.sites.values())
    return from_pyro_svi(
        task.model,
        guide,
        svi_result=result,
        model_args=tuple(part[::stride].to(config.device) for part in task.train),
        num_samples=EXPORTED_DRAWS,
        posterior=4 * numbers * EXPORTED_DRAWS <= MAX_EXPORTED_BYTES,
        seed=config.seed,
        progress=False,
    )
