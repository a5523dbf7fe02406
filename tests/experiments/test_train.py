"""Training on files of one's own, and predictions from what it left."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

import pyro_vrnn as vrnn
from pyro_vrnn.data import Sequences, Series
from pyro_vrnn.experiments import train
from pyro_vrnn.experiments.predict_run import predict_file
from pyro_vrnn.experiments.train_config import SequencesConfig, SeriesConfig
from pyro_vrnn.experiments.train_data import sequences_task, series_task
from pyro_vrnn.experiments.train_predictions import Posterior, predict_rows
from pyro_vrnn.infer import posterior_facts
from tests.experiments.cases import write_sequences, write_series

TINY = {"hidden_size": 3, "num_epochs": 2, "num_samples": 100, "batch_size": 16}
SERIES = SeriesConfig(column="value", horizon=3, lag="4", window=8, num_origins=2, **TINY)
SEQUENCES = SequencesConfig(**TINY)


def read(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def column(rows, name):
    return np.array([float(row[name]) for row in rows])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder and file of a training of each kind."""
    scratch = tmp_path_factory.mktemp("train")
    series = write_series(scratch / "series.csv")
    classes = write_sequences(scratch / "classes.csv", lambda n: "xyz"[n % 3])
    numbers = write_sequences(scratch / "numbers.csv", lambda n: 1000 + 5 * n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "EXPORTED_DRAWS", 5)
        train.train_series(series, SERIES, scratch / "series", progress=False)
        train.train_sequences(classes, SEQUENCES, scratch / "classes", progress=False)
        train.train_sequences(numbers, SEQUENCES, scratch / "numbers", progress=False)
    return {p.stem: (scratch / p.stem, p) for p in (series, classes, numbers)}


COLUMNS = {
    "series": ["origin", "step", "truth", "mean", "sd", "sd_weights", "5%", "50%", "95%"],
    "numbers": ["sequence", "truth", "mean", "sd", "sd_weights", "5%", "50%", "95%"],
    "classes": ["sequence", "truth", "predicted", "p(x)", "p(y)", "p(z)", "entropy",
                "mutual_information"],
}  # fmt: skip
SCORES = {
    "series": ["nll", "rmse", "crps", "coverage_50%", "coverage_90%", "variance_share_of_weights"],
    "classes": ["nll", "accuracy", "entropy", "mutual_information"],
}
SCORES["numbers"] = SCORES["series"]


@pytest.mark.parametrize("kind", list(COLUMNS))
def test_files_of_a_training(runs, kind):
    folder, _ = runs[kind]
    names = ["config.json", "figure.png", "predictions.csv", "results.json", "run.nc"]
    assert sorted(p.name for p in folder.iterdir() if p.is_file()) == names
    rows = read(folder / "predictions.csv")
    assert list(rows[0]) == COLUMNS[kind]
    assert len(rows) == {"series": 6, "numbers": 5, "classes": 5}[kind]
    found = json.loads((folder / "results.json").read_text())
    assert list(found["validation"]) == SCORES[kind]
    assert found["training"]["epochs"] == 2
    assert (found["config"]["seed"], found["config"]["device"]) == (0, "cpu")
    assert found["versions"]["torch"] == str(torch.__version__)


def test_scores_are_those_of_the_table(runs):
    found = json.loads((runs["numbers"][0] / "results.json").read_text())["validation"]
    rows = read(runs["numbers"][0] / "predictions.csv")
    truth, mean = column(rows, "truth"), column(rows, "mean")
    inside = (column(rows, "5%") <= truth) & (truth <= column(rows, "95%"))
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((truth - mean) ** 2)), rel=1e-6)
    assert found["coverage_90%"] == inside.mean()
    rows = read(runs["classes"][0] / "predictions.csv")
    found = json.loads((runs["classes"][0] / "results.json").read_text())["validation"]
    of_truth = np.array([float(row[f"p({row['truth']})"]) for row in rows])
    assert found["nll"] == pytest.approx(-np.log(of_truth).mean(), rel=1e-6)
    assert found["accuracy"] == np.mean([row["truth"] == row["predicted"] for row in rows])


def test_truth_and_times_of_the_validation_part(runs):
    folder, path = runs["series"]
    rows, values = read(folder / "predictions.csv"), column(read(path), "value")
    np.testing.assert_allclose(column(rows, "truth"), values[-6:], rtol=1e-8)
    at = [int(row["origin"]) + int(row["step"]) - 1 for row in rows]
    assert at == list(range(54, 60))


def test_forecast_equals_predict_on_the_loaded_posterior(runs, tmp_path):
    folder, path = runs["series"]
    done = predict_file(folder, path, tmp_path / "out.csv", num_samples=100, seed=3, progress=False)
    facts = posterior_facts(folder / "posterior")["facts"]
    model, guide = vrnn.infer.load_posterior(folder / "posterior")
    past = (column(read(path), "value")[-8:] - facts["center"]) / facts["unit"]
    x = torch.tensor(past, dtype=torch.float32)[None, :, None]
    p = vrnn.infer.predict(
        model, guide, x, num_samples=100, quantiles=(0.05, 0.5, 0.95), seed=3, progress=False
    )
    rows = read(done.path)
    assert [row["origin"] for row in rows] == ["60", "60", "60"]
    expected = facts["center"] + facts["unit"] * p.mean[0].double().numpy()
    np.testing.assert_allclose(column(rows, "mean"), expected, rtol=1e-8)
    for name, values in zip(("5%", "50%", "95%"), p.quantiles[:, 0].double(), strict=True):
        expected = facts["center"] + facts["unit"] * values.numpy()
        np.testing.assert_allclose(column(rows, name), expected, rtol=1e-8)
    expected = facts["unit"] * p.variance[0].double().sqrt().numpy()
    np.testing.assert_allclose(column(rows, "sd"), expected, rtol=1e-8)


def test_the_trained_posterior_predicts_the_validation_part_again(runs, tmp_path):
    """The sequences that were held out, read again, get the probabilities of the training's."""
    folder, path = runs["classes"]
    done = predict_file(folder, path, tmp_path / "out.csv", num_samples=100, progress=False)
    again = {record["sequence"]: record for record in done.predictions.records}
    assert len(again) == 24
    for row in read(folder / "predictions.csv"):
        assert again[row["sequence"]]["p(x)"] == pytest.approx(float(row["p(x)"]), rel=1e-5)
    assert list(done.predictions.scores) == SCORES["classes"]


def test_new_sequences_without_labels(runs, tmp_path):
    path = write_sequences(tmp_path / "new.csv", None, count=3, labelled=False)
    done = predict_file(runs["numbers"][0], path, num_samples=100, progress=False)
    assert done.path == runs["numbers"][0] / "predictions-new.csv"
    rows = read(done.path)
    assert list(rows[0]) == [name for name in COLUMNS["numbers"] if name != "truth"]
    assert [row["sequence"] for row in rows] == ["s0", "s1", "s2"]
    assert not done.predictions.scores


def test_chunks_change_no_score(runs, monkeypatch):
    task = series_task(as_series(read_values(runs["series"][1])), SERIES)
    model, guide = vrnn.infer.load_posterior(runs["series"][0] / "posterior")
    posterior = Posterior(model, guide, 100, 0)
    arguments = (posterior, task.validation[:1], task.facts, task.keys, task.truth)
    whole = predict_rows(*arguments)
    monkeypatch.setattr("pyro_vrnn.experiments.train_predictions.DRAWS_AT_ONCE", 1)
    parts = predict_rows(*arguments)
    assert [r["origin"] for r in parts.records] == [r["origin"] for r in whole.records]
    for name in ("nll", "rmse"):  # those without noise
        assert parts.scores[name] == pytest.approx(whole.scores[name], rel=1e-5)


def read_values(path):
    return column(read(path), "value")


def as_series(values):
    return Series(values, None, "value", 0, "test")


def test_run_again_only_writes_the_results_again(runs, monkeypatch):
    monkeypatch.setattr(train, "EXPORTED_DRAWS", 5)
    folder, path = runs["series"]
    before = (folder / "predictions.csv").read_bytes()
    checkpoints = sorted(p.stat().st_mtime_ns for p in (folder / "checkpoints").iterdir())
    (folder / "predictions.csv").unlink()
    done = train.train_series(path, SERIES, folder, progress=False)
    assert (folder / "predictions.csv").read_bytes() == before
    assert sorted(p.stat().st_mtime_ns for p in (folder / "checkpoints").iterdir()) == checkpoints
    assert f"went on from step {len(done.result.loss)}" in train.describe(done)


def test_other_options_in_the_same_folder(runs):
    folder, path = runs["series"]
    other = SeriesConfig(**{**vars(SERIES), "drop_prob": 0.3, "seed": 1})
    with pytest.raises(ValueError, match=r"\(drop_prob=0\.1, seed=0\), got drop_prob=0\.3, seed=1"):
        train.train_series(path, other, folder, progress=False)


def test_other_data_in_the_same_folder(runs, tmp_path):
    path = write_series(tmp_path / "series.csv", n=61)
    with pytest.raises(ValueError, match=r"Expected the options of the run in .*data_sha256"):
        train.train_series(path, SERIES, runs["series"][0], progress=False)


def test_checkpoints_without_their_options(runs, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=r"Expected config\.json beside the checkpoints"):
        train.train_series(runs["series"][1], SERIES, tmp_path, progress=False)


def test_damaged_options(runs, tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"Expected JSON in .*config\.json"):
        train.train_series(runs["series"][1], SERIES, tmp_path, progress=False)


@pytest.mark.parametrize("name", ["h5netcdf", "matplotlib", "scoringrules"])
def test_missing_package(runs, tmp_path, monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda each: None if each == name else each)
    with pytest.raises(ImportError, match=rf"Expected the package {name}, got no such module"):
        train.train_series(runs["series"][1], SERIES, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


NEW = {
    "unknown-class": ("classes", "sequence,a,b,label\ns,1,2,w\n", r"one of 'x', 'y', 'z', got 'w'"),
    "some-labels": ("classes", "sequence,a,b,label\ns,1,2,x\nt,1,2,\n", r"none for 't'"),
    "text-label": ("numbers", "sequence,a,b,label\ns,1,2,x\n", r"labels to be numbers, got 'x'"),
    "other-features": ("numbers", "sequence,a\ns,1\n", r"the 2 features 'a', 'b', got 1: 'a'"),
    "nan": ("numbers", "sequence,a,b\ns,1,nan\n", r"column 'b', got 'nan' in row 2"),
    "short": ("series", "date,value\n" + "d,1\n" * 7, r"Expected at least 8 values \(the window\)"),
    "column": ("series", "date,price\nd,1\n", r"Expected column to be one of .*got 'value'"),
}


@pytest.mark.parametrize(("kind", "text", "message"), NEW.values(), ids=NEW)
def test_new_data_that_does_not_fit(runs, tmp_path, kind, text, message):
    path = tmp_path / "new.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        predict_file(runs[kind][0], path, tmp_path / "out.csv", progress=False)
    assert not (tmp_path / "out.csv").exists()


def test_the_table_does_not_overwrite_the_data(runs):
    with pytest.raises(ValueError, match=r"Expected another file for the predictions"):
        predict_file(*runs["series"], runs["series"][1], progress=False)


def test_no_folder_for_the_table(runs, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected a folder for the table at .*none"):
        predict_file(*runs["series"], tmp_path / "none" / "out.csv", progress=False)


def test_arviz_file(runs):
    import xarray

    for group in ("posterior", "posterior_predictive", "sample_stats", "log_likelihood", "svi"):
        with xarray.open_dataset(runs["classes"][0] / "run.nc", group=group) as data:
            assert data.sizes
    with xarray.open_dataset(runs["classes"][0] / "run.nc", group="posterior") as data:
        assert data["head.weight"].shape == (1, 5, 3, 3)


def test_posterior_of_another_origin(runs, tmp_path):
    model, guide = vrnn.infer.load_posterior(runs["series"][0] / "posterior")
    vrnn.infer.save_posterior(tmp_path / "posterior", model, guide)
    with pytest.raises(ValueError, match=r"Expected a posterior of 'pyro-vrnn train'"):
        predict_file(tmp_path, runs["series"][1], progress=False)


def test_no_training_in_the_folder(runs, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected an archive at .*posterior"):
        predict_file(tmp_path, runs["series"][1], progress=False)


# The parts


def sequences(labels):
    generator = np.random.default_rng(0)
    values = tuple(generator.normal(7, 2, (k % 3 + 1, 2)) for k in range(len(labels)))
    return Sequences(tuple(f"s{k}" for k in range(len(labels))), ("a", "b"), values, tuple(labels))


def test_units_are_those_of_the_training_part():
    task = sequences_task(sequences([str(k) for k in range(20)]), SEQUENCES)
    x, y, lengths = task.train
    steps = torch.cat([row[:n] for row, n in zip(x, lengths, strict=True)])
    torch.testing.assert_close(steps.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(steps.std(0, correction=0), torch.ones(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(1), atol=1e-5, rtol=0)
    assert len(task.validation[0]) == 4
    np.testing.assert_array_equal(task.truth[:, 0], [int(key["sequence"][1:]) for key in task.keys])


def test_seed_chooses_the_validation_part():
    data = sequences([str(k) for k in range(20)])
    parts = [sequences_task(data, SequencesConfig(seed=seed, **TINY)).keys for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]


def test_a_class_stays_in_the_training_part():
    labels = ["rare", *["often"] * 9]
    config = SequencesConfig(validation=0.8, **TINY)
    task = sequences_task(sequences(labels), config)
    assert sorted(task.train[1].tolist()) == [0, 1]
    assert task.facts["classes"] == ["often", "rare"]


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        (["10", "9", "10", "9"], True, ["9", "10"]),
        (["10", "9", "10", "x"], True, ["10", "9", "x"]),
        (["b", "a", "b", "a"], False, ["a", "b"]),
        (["10", "9", "1e1", "9"], False, None),
    ],
    ids=["numbers-as-classes", "mixed", "text", "numbers"],
)
def test_what_labels_are(labels, classes, expected):
    config = SequencesConfig(classes=classes, **TINY)
    assert sequences_task(sequences(labels), config).facts["classes"] == expected


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (["0.5", "n/a", "1.5"], False, r"all numbers, or --classes, got 'n/a' among numbers"),
        (["1", "1.0", "2", "1"], True, r"one way to write each class, got '1' and '1.0'"),
    ],
    ids=["one-text", "one-number-twice"],
)
def test_labels_that_are_not_clear(labels, classes, message):
    with pytest.raises(ValueError, match=message):
        sequences_task(sequences(labels), SequencesConfig(classes=classes, **TINY))


def test_changes_that_do_not_vary():
    config = SeriesConfig(lag="12", horizon=2)
    with pytest.raises(ValueError, match=r"Expected changes over 12 steps that vary.*--lag none"):
        series_task(as_series(np.arange(240.0)), config)


@pytest.mark.parametrize("name", ["predictions.csv", "config.json", "posterior/p.csv"])
def test_the_table_does_not_overwrite_the_training(runs, name):
    folder, data = runs["series"]
    with pytest.raises(ValueError, match=r"another place .* than the training's own files"):
        predict_file(folder, data, folder / name, progress=False)


FEW = {
    "one-class": (["x"] * 5, r"Expected labels of at least 2 classes, got 'x' alone"),
    "all-different": (["x", "y", "z"], r"Expected at least 2 sequences of one class"),
    "two-numbers": (["1", "2"], r"Expected at least 3 sequences, .* got 2"),
}


@pytest.mark.parametrize(("labels", "message"), FEW.values(), ids=FEW)
def test_too_few_sequences(labels, message):
    with pytest.raises(ValueError, match=message):
        sequences_task(sequences(labels), SEQUENCES)


SIZES = {
    "short": ({}, 19, r"Expected at least 20 values .* got 19"),
    "window": ({"window": 4}, 60, r"Expected window of at least 5 steps \(lag 4\), got 4"),
    "lag": ({"lag": "2"}, 60, r"Expected lag of at least horizon=3, got 2"),
}


@pytest.mark.parametrize(("options", "n", "message"), SIZES.values(), ids=SIZES)
def test_sizes_that_do_not_fit(options, n, message):
    config = SeriesConfig(**{**vars(SERIES), **options})
    with pytest.raises(ValueError, match=message):
        series_task(as_series(np.sin(np.arange(float(n)))), config)


@pytest.mark.parametrize(("lag", "expected"), [("auto", 12), ("none", None), ("5", 5)])
def test_lag(lag, expected):
    values = np.sin(2 * np.pi * np.arange(240) / 12) + np.arange(240) / 100
    values = values + np.random.default_rng(0).normal(0, 0.01, 240)
    task = series_task(as_series(values), SeriesConfig(lag=lag, horizon=2))
    assert (task.model.lag, task.facts["lag"]) == (expected, expected)
    assert task.validation[0].shape == (24, task.facts["window"], 1)
    # No value of the validation part is a target, or in the units, of the training part.
    np.testing.assert_allclose(task.facts["center"], values[: 240 - 48].mean(), atol=1e-12)
    assert len(task.train[0]) == 240 - 48 - task.facts["window"] - 1


OPTIONS = {
    "both": ({"num_epochs": 2, "num_steps": 3}, r"one of num_epochs and num_steps, got 2 and 3"),
    "samples": ({"num_samples": 99}, r"Expected num_samples of at least 100, got 99"),
    "lag": ({"lag": "1.5"}, r"Expected lag to be a positive int, 'auto' or 'none', got '1\.5'"),
    "drop_prob": ({"drop_prob": 1.5}, r"Expected drop_prob in \[0, 1\], got 1\.5"),
}


@pytest.mark.parametrize(("options", "message"), OPTIONS.values(), ids=OPTIONS)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SeriesConfig(**options)


def test_bad_share():
    with pytest.raises(ValueError, match=r"Expected validation in \(0, 1\), got 1\.0"):
        SequencesConfig(validation=1.0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"num_epochs": 7}, 7), ({"num_steps": 10}, 4), ({}, 167)],
    ids=["epochs", "steps", "default"],
)
def test_epochs(options, expected):
    assert SeriesConfig(batch_size=10, **options).epochs(25) == expected
