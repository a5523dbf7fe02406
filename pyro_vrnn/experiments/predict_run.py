"""Predict new data by what a training left in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.data.sequences import read_sequences
from pyro_vrnn.data.series import read_csv
from pyro_vrnn.experiments.train_config import OWNED, POSTERIOR, check_samples, threads_for
from pyro_vrnn.experiments.train_data import Truth, padded, raw_truth
from pyro_vrnn.experiments.train_predictions import (
    Posterior,
    Predictions,
    Record,
    predict_rows,
    write_table,
)
from pyro_vrnn.files import write_atomic
from pyro_vrnn.infer.posterior_files import load_posterior, posterior_facts
from pyro_vrnn.runs import check_device, check_seed

KINDS = ("series", "sequences")


@dataclass(frozen=True)
class PredictResult:
    """What was predicted, the file that holds it, and whether a file stood there before."""

    path: Path
    predictions: Predictions
    replaced: bool = False


def predict_file(
    folder: str | Path,
    path: str | Path,
    out: str | Path | None = None,
    *,
    num_samples: int = 1000,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
) -> PredictResult:
    """
    Predict the data of a CSV file by the posterior of a training, and write a table.

    Of a series the values that follow its end are forecast. Sequences whose labels are in the file
    are scored too.

    :param folder: that of the training.
    :param path: a file with the columns of the training's.
    :param out: the table; default: ``predictions-NAME.csv`` in ``folder``, NAME that of the file.
    :param num_samples: draws of the weights, at least 100.
    :raises FileNotFoundError: if a file is not there.
    :raises ValueError: if the file does not fit the training, or the posterior is damaged.
    :raises OSError: if the table cannot be written.
    """
    folder, path = Path(folder), Path(path)
    check_samples(num_samples)
    check_seed(seed)
    place = check_device(device)
    out = folder / f"predictions-{path.stem}.csv" if out is None else Path(out)
    if out.exists() and path.exists() and out.samefile(path):
        raise ValueError(f"Expected another file for the predictions, got the data's, {path}.")
    if out.is_dir():
        raise IsADirectoryError(f"Expected a file for the table at {out}, got a folder.")
    _check_free(out, folder)
    if not out.parent.is_dir() and out.parent != folder:
        raise FileNotFoundError(f"Expected a folder for the table at {out.parent}, got none.")
    facts = posterior_facts(folder / POSTERIOR)["facts"]
    if facts.get("kind") not in KINDS:
        raise ValueError(
            f"Expected a posterior of 'pyro-vrnn train' in {folder}, got one of another origin."
        )
    inputs, keys, truth = (_series if facts["kind"] == "series" else _sequences)(path, facts)
    model, guide = load_posterior(folder / POSTERIOR)
    model.to(place)
    guide.to(place)
    posterior = Posterior(model, guide, num_samples, seed, progress)
    with threads_for(model.rnn.hidden_size):
        predictions = predict_rows(posterior, inputs, facts, keys, truth)
    replaced = out.exists()
    write_atomic(out, lambda aside: write_table(aside, predictions.records))
    return PredictResult(out, predictions, replaced)


def _check_free(out: Path, folder: Path) -> None:
    """Refuse a table in the place of what the training left."""
    try:
        inside = out.resolve().relative_to(folder.resolve())
    except ValueError:
        return
    if len(inside.parts) > 1 or inside.name in OWNED:
        raise ValueError(
            f"Expected another place for the predictions than the training's own files, got {out}."
        )


Rows = tuple[tuple[Tensor, ...], list[Record], Truth | None]


def _series(path: Path, facts: Mapping[str, Any]) -> Rows:
    series = read_csv(path, facts["column"])
    n, window = len(series.values), facts["window"]
    if n < window:
        raise ValueError(f"Expected at least {window} values (the window), got {n}: {path}.")
    past = (series.values[-window:] - facts["center"]) / facts["unit"]
    x = torch.as_tensor(past, dtype=torch.float32)[None, :, None]
    return (x,), [{"origin": n}], None


def _sequences(path: Path, facts: Mapping[str, Any]) -> Rows:
    data = read_sequences(
        path,
        sequence=facts["sequence"],
        label=facts["label"],
        time=facts["time"],
        features=facts["features"],
        labelled=False,
    )
    x, lengths = padded(data, facts)
    is_padded = bool((lengths < x.shape[1]).any())
    inputs = (x, lengths) if is_padded else (x,)
    keys: list[Record] = [{"sequence": name} for name in data.ids]
    if data.labels is None or not any(data.labels):
        return inputs, keys, None
    if not all(data.labels):
        missing = data.ids[data.labels.index("")]
        raise ValueError(f"Expected labels of all sequences or of none, got none for {missing!r}.")
    return inputs, keys, raw_truth(data.labels, facts)
