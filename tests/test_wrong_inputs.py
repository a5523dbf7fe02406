"""What a newcomer gets wrong at the doors of the package: each says what was expected."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch

import pyro_vrnn as vrnn
from pyro_vrnn import baselines, data, diagnostics, scores
from pyro_vrnn.experiments import compare, demo, train
from pyro_vrnn.experiments.forecast_plan import ForecastConfig
from pyro_vrnn.experiments.train_config import SequencesConfig, SeriesConfig
from pyro_vrnn.files import writable_folder
from pyro_vrnn.infer import (
    CheckpointFolder,
    FitResult,
    Prediction,
    elbo_draws,
    fit,
    fit_loss,
    held_out,
)

DOCUMENTS = data.Documents((("a", "b"), ("c",)), torch.tensor([0.1, 0.9]), ("1", "2"))
X, Y = torch.zeros(4, 5, 3), torch.zeros(4, 1)
LENGTHS = torch.tensor([5, 4, 3, 2])
STATE = torch.zeros(1, 4, 6)

DATA = {
    "a path to cut": (lambda: data.paper_pieces("f.csv"), r"documents .* Documents.*, got str"),
    "texts to cut": (lambda: data.paper_pieces([["a"]]), r"as read_labelled and.*, got list"),
    "a path to split": (lambda: data.split_documents("f", (0.5, 0.5), 0), r"documents .* got str"),
    "a share": (lambda: data.split_documents(DOCUMENTS, 0.5, 0), r"of numbers, got 0\.5"),
    "shares of text": (lambda: data.split_documents(DOCUMENTS, ("a",), 0), r"of numbers, got \('a"),
    "a seed": (lambda: data.paper_pieces(DOCUMENTS, seed="a"), r"seed .* int, got 'a'"),
    "train_share": (lambda: data.paper_pieces(DOCUMENTS, train_share="a"), r"in \(0, 1\), got 'a'"),
    "no text": (lambda: data.split_words(None), r"text to be of the class str, got NoneType"),
    "no path": (lambda: data.read_labelled(None), r"path to be a path, got None"),
    "a number as path": (lambda: data.read_corpus(3), r"folder to be a path, got 3"),
    "a column": (lambda: data.read_labelled("f.csv", text=0), r"name of a column\), got int"),
    "tokenize": (lambda: data.read_labelled("f.csv", tokenize=" "), r"text -> words, got ' '"),
    "a range": (lambda: data.read_labelled("f.csv", label_range=1.0), r"of numbers, got 1\.0"),
    "uncut texts": (lambda: data.Documents(("a b",), torch.zeros(1), ("1",)), r"got a str: cut it"),
    "no vocabulary": (lambda: DOCUMENTS.padded(["a"]), r"vocabulary .* Vocabulary, got list"),
    "one place": (lambda: DOCUMENTS.select(1), r"places to be a sequence of ints, got 1"),
    "words as a text": (lambda: data.Vocabulary("abc"), r"sequence of words, got 'abc'"),
    "tokens as a text": (lambda: data.Vocabulary.from_tokens("a b"), r"of words, got 'a b'"),
    "no checksum": (lambda: data.download("file:///x", "x", sha256=None), r"hexadecimal .*NoneT"),
}
RECURRENT = {
    f"{cls.__module__.split('.')[1]} {cls.__name__}": cls
    for cls in (
        *(vrnn.nn.LSTM, vrnn.nn.GRU, vrnn.nn.RNN),
        *(baselines.LSTM, baselines.GRU, baselines.RNN),
    )
}


@pytest.mark.parametrize(("call", "message"), DATA.values(), ids=DATA)
def test_data(call, message):
    with pytest.raises((TypeError, ValueError), match=rf"^Expected .*{message}"):
        call()


def test_a_place_that_is_none():
    with pytest.raises(ValueError, match=r"Expected places in 0\.\.1, got 2"):
        DOCUMENTS.select([0, 2])


@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS.tolist(), LENGTHS.numpy()], ids=str)
@pytest.mark.parametrize("cls", RECURRENT.values(), ids=RECURRENT)
def test_lengths_in_the_place_of_a_state(cls, lengths):
    shape = r"Expected hx to be .*h_0.* of shape \(1, 4, 6\), got .*"
    with pytest.raises(TypeError, match=shape + r"are these lengths\? Give them as lengths="):
        cls(3, 6, batch_first=True)(X, lengths)


@pytest.mark.parametrize("cls", RECURRENT.values(), ids=RECURRENT)
def test_a_state_in_the_place_of_lengths(cls):
    rnn = cls(3, 6, batch_first=True)
    with pytest.raises(TypeError, match=r"lengths of shape \(4,\), got \(1, 4, 6\) .*a state\?"):
        rnn(X, lengths=STATE)
    with pytest.raises(TypeError, match=r"lengths to be integers of shape \(4,\), got tuple"):
        rnn(X, lengths=(STATE, STATE))


@pytest.mark.parametrize("cls", [vrnn.nn.LSTM, baselines.LSTM])
def test_a_state_without_its_cells(cls):
    with pytest.raises(TypeError, match=r"a pair \(h_0, c_0\) .*, got a Tensor \(1, 4, 6\)\.$"):
        cls(3, 6, batch_first=True)(X, STATE)


def pair():
    model = vrnn.models.SequenceRegression(vrnn.nn.GRU(3, 2), 1)
    guide = vrnn.infer.AutoSpikeAndSlab(model)
    guide(X, Y)
    return model, guide


def run(batches=((X, Y),), **options):
    adam = partial(torch.optim.Adam, lr=0.01)
    options = {"num_epochs": 1, "optimizer": adam, "progress": False, **options}
    return fit(*pair(), batches, **options)


def plain():
    model = vrnn.models.SequenceRegression(vrnn.nn.GRU(3, 2), 1)
    adam = partial(torch.optim.Adam, lr=0.01)
    return fit_loss(model, [(X, Y)], num_epochs=1, optimizer=adam, progress=False)


def guide(**options):
    return vrnn.infer.AutoSpikeAndSlab(pair()[0], **options)


TRAINING = {
    "no data": (lambda: run(None), r"data in batches or as a dataset, got NoneType"),
    "a schedule's name": (lambda: run(scheduler="step"), r"scheduler to make .*, got 'step'"),
    "validation": (lambda: run(validation=3), r"validation in batches, or a function.*, got int"),
    "a folder": (lambda: run(checkpoint_dir=3), r"checkpoint_dir to be a path, got 3"),
    "checkpoints": (lambda: CheckpointFolder(3), r"path to be a path, got 3"),
    "a model as a loss": (
        plain,
        r"with parameters to train, got a SequenceRegression without",
    ),
    "swapped": (lambda: held_out(*pair()[::-1], [(X, Y)]), r"a model before its guide, got the g"),
    "a device": (lambda: held_out(*pair(), [(X, Y)], device="gpu"), r"device that is here, got 'g"),
    "no draws": (lambda: list(elbo_draws(*pair(), (X, Y), num_samples=0)), r"num_samples .* got 0"),
    "no model": (lambda: vrnn.infer.AutoSpikeAndSlab(None), r"model to be a Pyro model, got NoneT"),
    "block_shapes": (lambda: guide(block_shapes=(1, 1)), r"block_shapes by site, .* got \(1, 1\)"),
    "init_loc_fn": (lambda: guide(init_loc_fn=3), r"function site -> tensor, got 3"),
    "tau": (lambda: vrnn.models.SequenceRegression(vrnn.nn.GRU(1, 2), 1, tau="a"), r"tau .*, got"),
    "one level": (lambda: scores.coverage_curve(np.eye(2), levels=0.9), r"levels .*, got 0\.9"),
}


@pytest.mark.parametrize(("call", "message"), TRAINING.values(), ids=TRAINING)
def test_training(call, message):
    with pytest.raises((TypeError, ValueError), match=rf"^Expected .*{message}"):
        call()


def test_a_file_in_the_place_of_a_folder(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(FileExistsError, match=r"Expected checkpoint_dir to be a folder, got file"):
        run(checkpoint_dir=file)
    with pytest.raises(FileExistsError, match=r"Expected a folder at .*file, got a file\."):
        writable_folder(file)
    assert file.read_text() == "mine"


def results():
    """Return one of each result that a diagnostic may be given in the place of another."""
    rng = np.random.default_rng(0)
    options = {"model_args": (X, Y), "num_samples": 2}
    found = [
        diagnostics.check_forecasts(rng.normal(size=(9, 8, 2)), rng.normal(size=(8, 2))),
        diagnostics.check_classes(rng.dirichlet([1.0, 1.0], size=20), np.arange(20) % 2),
        diagnostics.elbo_anatomy(*pair(), **options),
        diagnostics.site_norms(*pair(), **options),
        FitResult(),
        Prediction(num_samples=3, seed=0, strategy="loop"),
    ]
    return {type(result).__name__: result for result in [*found, None, "a path", {}]}


# What a diagnostic takes first, the results that will do, and the arguments after it.
DIAGNOSTICS = {
    "check_classes": ("predicted", {"Prediction"}, (Y[:, 0],)),
    "check_forecasts": ("predicted", {"Prediction"}, (Y,)),
    "concat_runs": ("runs", set(), ()),
    "plot_coverage": ("coverage", {"ForecastCheck"}, ()),
    "plot_elbo": ("elbo", {"FitResult"}, ()),
    "plot_elbo_parts": ("history", {"FitResult"}, ()),
    "plot_fan": ("draws", set(), (range(3),)),
    "plot_horizon": ("scores", set(), ()),
    "plot_kl_by_site": ("anatomy", {"ELBOAnatomy"}, ()),
    "plot_pit": ("pit", {"ForecastCheck"}, ()),
    "plot_ppc": ("data", set(), ()),
    "plot_reliability": ("bins", {"ClassCheck"}, ()),
    "plot_site_norms": ("norms", {"SiteNorms"}, ()),
    "plot_weight_map": ("q", set(), ()),
}
RESULTS = results()
WRONG = [(d, r) for d, (_, fitting, _) in DIAGNOSTICS.items() for r in RESULTS if r not in fitting]


@pytest.mark.parametrize(("name", "result"), WRONG)
def test_a_result_in_the_place_of_another(name, result):
    first, _, others = DIAGNOSTICS[name]
    with pytest.raises(TypeError, match=rf"^Expected {first} to be .*, got {result}\.$"):
        getattr(diagnostics, name)(RESULTS[result], *others)


def test_every_plot_is_asked():
    assert {n for n in diagnostics.__all__ if n.startswith("plot_")} <= set(DIAGNOSTICS)


@pytest.mark.parametrize(
    "value", [*RESULTS.values(), [[1.0], [1.0, 2.0]], object()], ids=lambda v: type(v).__name__
)
@pytest.mark.parametrize("score", [scores.crps, scores.class_nll])
def test_scores_of_something_else(score, value):
    numbers = rf"Expected y to be an array of numbers, got {type(value).__name__}\."
    with pytest.raises(TypeError, match=f"^{numbers}$"):
        score(value, np.ones((3, 1)))


EXPERIMENTS = {
    "lag": (lambda: SeriesConfig(column="a", lag=-1), r"lag to be a positive int.*, got -1"),
    "validation": (lambda: SequencesConfig(validation="a"), r"validation .* in \(0, 1\), got 'a'"),
    "series": (lambda: train.train_series("f", SequencesConfig(), "o"), r"SeriesConfig, got Sequ"),
    "sequences": (lambda: train.train_sequences("f", None, "o"), r"SequencesConfig, got NoneType"),
    "demo": (
        lambda: demo.run_demo("f.csv", ForecastConfig(), "o"),
        r"\(read_csv\), got str",
    ),
    "one run": (lambda: compare.read_runs("runs"), r"paths to be a sequence of paths, got 'runs'"),
    "no runs": (lambda: compare.draw_curves([], "a.png"), r"at least one run, got none"),
}


@pytest.mark.parametrize(("call", "message"), EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_experiments(call, message):
    with pytest.raises((TypeError, ValueError), match=rf"^Expected .*{message}"):
        call()


RUN = {
    "layout": 1, "experiment": "toy", "method": "svi", "seed": 0, "metrics": {}, "best_epoch": 0,
    "finished": True, "wall_time": 1.0,
    "curve": {"train_loss": [3.0], "train_nll": [2.0], "test_nll": [2.5]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "magic"}, r"the method of .*run\.json to be one of 'none'.*, got 'magic'"),
        ({"curve": {}}, r"a whole run in .*, got one without curve of training and test data"),
        ({"curve": [1.0]}, r"a whole run in .*, got one without curve of training and test data"),
        ({"metrics": None}, r"a whole run in .*, got one without metrics"),
    ],
)
def test_runs_of_something_else(change, message, tmp_path):
    found = {name: value for name, value in {**RUN, **change}.items() if value is not None}
    (tmp_path / "run.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=f"^Expected {message}"):
        compare.read_runs([tmp_path])
