"""The experiments on text: runs on made-up data, their files, and going on after a crash."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_vrnn.data.corpus import Corpus, read_corpus
from pyro_vrnn.data.streams import StreamWindows
from pyro_vrnn.experiments import compare, language_study, studies, study_run
from pyro_vrnn.experiments.language_study import first_lines, run_language
from pyro_vrnn.experiments.sentiment_study import Ratings, run_sentiment
from pyro_vrnn.experiments.study_config import CONFIGS, METHODS, LanguageConfig, find_config
from pyro_vrnn.experiments.study_networks import Bayesian, language, sentiment
from pyro_vrnn.experiments.study_run import StudyRequest

WORDS = [f"w{k}" for k in range(30)]
FACTS = {"versions", "machine", "wall_time", "seed", "config", "curve", "metrics", "data"}


def write_corpus(folder: Path, lines: int = 60) -> Path:
    rng = random.Random(0)
    folder.mkdir(exist_ok=True)
    for split, count in (("train", lines), ("valid", 8), ("test", 8)):
        text = [
            " ".join(WORDS[(start + k) % len(WORDS)] for k in range(9))
            for start in (rng.randrange(len(WORDS)) for _ in range(count))
        ]
        (folder / f"toy.{split}.txt").write_text("\n".join(text) + "\n")
    return folder


def write_reviews(folder: Path) -> Path:
    rng = random.Random(0)
    author = folder / "A+B"
    author.mkdir(parents=True)
    columns: dict[str, list[str]] = {"subj": [], "rating": [], "id": []}
    for number in range(60):
        good = rng.random()
        text = ["good" if rng.random() < good else "bad" for _ in range(30)]
        columns["subj"].append(" ".join(text))
        columns["rating"].append(f"{good:.2f}")
        columns["id"].append(str(number))
    for name, values in columns.items():
        (author / f"{name}.A+B").write_text("\n".join(values) + "\n")
    for name in ("label.3class", "label.4class"):
        (author / f"{name}.A+B").write_text("0\n" * 60)
    return folder


def small(name: str, **changes: Any) -> Any:
    config = find_config(name)
    common = {"num_epochs": 2, "hidden_size": 8, "batch_size": 4, "num_samples": 3}
    if isinstance(config, LanguageConfig):
        return replace(config, **{"window": 5, **common, **changes})
    own = {"embedding_dim": 8, "piece_length": 20, "vocabulary_size": 50}
    return replace(config, **{**own, **common, **changes})


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return read_corpus(write_corpus(tmp_path / "toy"))


def study(folder: Path, method: str = "svi", **changes: Any) -> StudyRequest:
    config = small("ptb-fifth", **changes)
    return StudyRequest("ptb-fifth", config, method, 0, folder, progress=False)


@pytest.mark.parametrize("method", METHODS)
def test_a_language_run_writes_what_it_found(tmp_path: Path, corpus: Corpus, method: str) -> None:
    found = run_language(study(tmp_path / "run", method), corpus)
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == found
    assert set(found) >= FACTS
    assert found["finished"]
    assert found["config"]["hidden_size"] == 8
    for part in ("train", "valid", "test"):
        assert len(found["curve"][f"{part}_nll"]) == 2
    best = found["best_epoch"]
    at_best = math.exp(found["curve"]["valid_nll"][best])
    assert found["metrics"]["valid_perplexity"] == pytest.approx(at_best, rel=1e-5)
    text = json.dumps(found)
    assert not any(word in text for word in WORDS)


@pytest.mark.parametrize("method", METHODS)
def test_a_sentiment_run_writes_what_it_found(tmp_path: Path, method: str) -> None:
    data = write_reviews(tmp_path / "reviews")
    config = small("sentiment-gru")
    pieces = studies.read_pieces(data, config)
    run = StudyRequest("sentiment-gru", config, method, 0, tmp_path / "run", progress=False)
    found = run_sentiment(run, pieces)
    assert set(found) >= FACTS
    metrics = found["metrics"]
    assert metrics["num_samples"] == (1 if method == "none" else 3)
    assert (metrics["epistemic_sd"] > 0) == (method != "none")
    labels = pieces.test_y - pieces.train_y.mean()
    assert metrics["constant_test_rmse"] == pytest.approx(labels.square().mean().sqrt().item())
    assert metrics["test_rmse"] == pytest.approx(min(found["curve"]["test_rmse"]), rel=1e-5)


def test_a_finished_run_is_read_and_not_trained_again(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_language(study(tmp_path / "run", "none"), corpus)

    def refuse(*args: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(language_study, "language", refuse)
    assert run_language(study(tmp_path / "run", "none"), corpus) == first


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_broken_off_ends_as_if_it_was_not(
    tmp_path: Path, corpus: Corpus, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_language(study(tmp_path / "a", method), corpus)
    calls = []
    real = study_run.EpochScores.__call__

    def crash(self: Any) -> Any:
        calls.append(0)
        if len(calls) == 2:
            raise RuntimeError("power cut")
        return real(self)

    monkeypatch.setattr(study_run.EpochScores, "__call__", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        run_language(study(tmp_path / "b", method), corpus)
    between = json.loads((tmp_path / "b" / "run.json").read_text())
    assert (between["finished"], len(between["curve"]["valid_nll"])) == (False, 1)
    monkeypatch.undo()
    resumed = run_language(study(tmp_path / "b", method), corpus)
    assert resumed["resumed_from"]
    for name in ("train_nll", "valid_nll", "test_nll", "train_loss"):
        assert resumed["curve"][name] == whole["curve"][name]
    assert resumed["metrics"] == whole["metrics"]


@pytest.mark.parametrize("method", ["none", "svi"])
def test_a_run_goes_on_with_more_epochs_or_draws(
    tmp_path: Path, corpus: Corpus, method: str
) -> None:
    whole = run_language(study(tmp_path / "a", method, num_epochs=3), corpus)
    run_language(study(tmp_path / "b", method, num_epochs=2), corpus)
    more = run_language(study(tmp_path / "b", method, num_epochs=3), corpus)
    assert more["curve"]["valid_nll"] == whole["curve"]["valid_nll"]
    assert (more["metrics"], more["best_epoch"]) == (whole["metrics"], whole["best_epoch"])
    drawn = run_language(study(tmp_path / "b", method, num_epochs=3, num_samples=5), corpus)
    assert drawn["config"]["num_samples"] == 5
    assert drawn["metrics"].get("num_samples") == (5 if method == "svi" else None)
    assert run_language(study(tmp_path / "b", method, num_epochs=3), corpus) == drawn
    with pytest.raises(ValueError, match="Expected at least the 3 epochs that the run in"):
        run_language(study(tmp_path / "b", method, num_epochs=2), corpus)


def test_a_folder_of_another_run_is_refused(tmp_path: Path, corpus: Corpus) -> None:
    run_language(study(tmp_path / "run", "none"), corpus)
    with pytest.raises(ValueError, match=r"Expected the options of the run in .*method=none"):
        run_language(study(tmp_path / "run", "dropout"), corpus)
    with pytest.raises(ValueError, match=r"\(config.init=0.1\), got config.init=0.2: give them"):
        run_language(study(tmp_path / "run", "none", init=0.2), corpus)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("ptb")])
@pytest.mark.parametrize("method", METHODS)
def test_every_configuration_of_a_language_model_makes_a_step(
    tmp_path: Path, corpus: Corpus, name: str, method: str
) -> None:
    # Real depth, schedule and probabilities; a narrow network, as 1,500 units take gigabytes.
    config = replace(find_config(name), hidden_size=16, num_epochs=1, num_samples=2)
    run = StudyRequest(name, config, method, 0, tmp_path / "run", progress=False)
    found = run_language(run, corpus)
    assert math.isfinite(found["metrics"]["test_perplexity"])


@pytest.mark.parametrize("clip", [0.5, 100.0], ids=["clipped", "not clipped"])
def test_training_makes_the_steps_of_the_recipe(
    tmp_path: Path, corpus: Corpus, clip: float
) -> None:
    run = study(tmp_path / "run", "none", decay_after=1, clip_norm=clip)
    config, corpus = run.config, replace(corpus, train=corpus.train[:581])
    windows = StreamWindows(corpus.train, config.batch_size, config.window)
    assert windows.num_targets % (config.batch_size * config.window) == 0
    found = run_language(run, corpus)
    torch.manual_seed(0)
    trainee = language(config, "none", len(corpus.vocabulary), windows.num_targets)
    network = trainee.loss.network
    torch.manual_seed(0)
    parameters, scores = list(network.parameters()), []
    for epoch in range(2):
        network.reset_state()
        for x, y in windows:
            logits = network(x, state=network.state)
            loss = torch.nn.functional.cross_entropy(logits.mT, y, reduction="sum") / len(x)
            gradients = torch.autograd.grad(loss, parameters)
            norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter -= 1.2**-epoch * min(1.0, clip / norm) * gradient
        eos = corpus.vocabulary.index["<eos>"]
        valid = StreamWindows(corpus.valid, 1, 500, start=eos)
        scores.append(language_study.score(trainee, valid, draws="mean").nats_per_token)
    assert found["curve"]["valid_nll"] == pytest.approx(scores, rel=1e-4)


def test_only_the_methods_with_dropout_drop(corpus: Corpus) -> None:
    for name, build in (("ptb-fifth", language), ("sentiment-lstm", sentiment)):
        args = (40, 1000) if name == "ptb-fifth" else (1000,)
        probs = {
            method: [
                p
                for layer in build(small(name), method, *args).loss.network.children()
                for p in layer.drop_probs.values()
            ]
            for method in ("none", "dropout")
        }
        assert not any(probs["none"])
        assert probs["dropout"].count(0.25) == len(probs["dropout"]) - (name != "ptb-fifth")


def test_errors_of_ratings_are_in_their_own_units(tmp_path: Path) -> None:
    pieces = studies.read_pieces(write_reviews(tmp_path / "r"), small("sentiment-lstm"))
    data = Ratings(pieces)
    constant = torch.zeros_like(data.test_y)
    expected = (pieces.test_y - pieces.train_y.mean()).square().mean().sqrt().item()
    assert data.raw_rmse(data.test_y, constant) == pytest.approx(expected, rel=1e-5)


def test_schedules_are_those_of_the_literature() -> None:
    def rates(name: str, epochs: list[int]) -> list[float]:
        return [language_study._rate(epoch - 1, find_config(name)) for epoch in epochs]

    assert rates("ptb-fifth", [1, 6, 7, 8]) == pytest.approx([1, 1, 1 / 1.2, 1 / 1.44])
    assert rates("ptb-small", [1, 180]) == [1, 1]
    assert rates("ptb-medium", [6, 7]) == pytest.approx([1, 1 / 1.2])
    assert rates("ptb-large", [10, 11, 12]) == pytest.approx([1, 1 / 1.15, 1 / 1.15**2])


def test_the_prior_pulls_as_the_weight_decay_of_the_recipe(corpus: Corpus) -> None:
    config = small("ptb-fifth", drop_probs=replace(find_config("ptb-fifth").drop_probs, linear=0.0))
    num_tokens = 1000
    trainee = language(config, "svi", 40, num_tokens)
    assert isinstance(trainee, Bayesian)
    x = torch.zeros(2, 3, dtype=torch.int64)
    trainee.guide(x, x)
    name = "head.weight"
    q = trainee.guide.distribution(name)
    kl = torch.distributions.kl_divergence(q, trainee.model.head.prior("weight"))
    (gradient,) = torch.autograd.grad(kl.sum(), q.loc)
    step = config.learning_rate * config.window / num_tokens * gradient
    torch.testing.assert_close(step, config.weight_decay * q.loc, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_methods_start_from_one_distribution(corpus: Corpus, method: str) -> None:
    config = small("ptb-fifth", init=0.3)
    torch.manual_seed(0)
    trainee = language(config, method, 40, 1000)
    x = torch.zeros(2, 3, dtype=torch.int64)
    if isinstance(trainee, Bayesian):
        trainee.guide(x, x)
    values = trainee.mean_network().state_dict()
    flat = torch.cat([value.flatten() for value in values.values()])
    assert 0.29 < flat.abs().max() <= 0.3 + 1e-6
    assert set(values) == set(language(config, "none", 40, 1000).mean_network().state_dict())


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_ratings_start_from_one_distribution_in_every_method(cell: str) -> None:
    config = small(f"sentiment-{cell}", embedding_init=0.3)
    x, y = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 1)
    shapes = []
    for method in METHODS:
        trainee = sentiment(config, method, 100)
        if isinstance(trainee, Bayesian):
            trainee.guide(x, y)
        values = trainee.mean_network().state_dict()
        assert 0.25 < values["embedding.weight"].abs().max() <= 0.3 + 1e-6
        by_gate = values["rnn.bias_ih_l0"].unflatten(0, (-1, 8)).mean(1)
        forget = [0.0, 1.0, 0.0, 0.0] if cell == "lstm" else [0.0] * 3
        assert by_gate.tolist() == pytest.approx(forget, abs=0.36)  # torch's U(+-0.354)
        shapes.append({name: value.shape for name, value in values.items()})
    assert shapes[0] == shapes[1] == shapes[2]


def test_first_lines_end_with_their_eos() -> None:
    ids = torch.tensor([5, 1, 6, 7, 1, 8, 1])
    assert first_lines(ids, 1, 2).tolist() == [5, 1, 6, 7, 1]
    assert first_lines(ids, 1, 9).tolist() == ids.tolist()
    assert first_lines(ids, 1, None) is ids


def test_runs_are_compared(tmp_path: Path, corpus: Corpus) -> None:
    for method in ("svi", "none"):
        run_language(study(tmp_path / f"ptb-fifth-{method}-seed0", method), corpus)
    runs = compare.read_runs([tmp_path])
    assert [run["method"] for run in runs] == ["none", "svi"]
    lines = compare.table(runs).splitlines()
    assert len(lines) == 3
    best = runs[0]["best_epoch"]
    shown = compare.curves(runs[0])["test"][best]
    assert f"{shown:.1f}" in lines[1]
    assert shown == pytest.approx(math.exp(runs[0]["curve"]["test_nll"][best]))
    picture = compare.draw_curves(runs, tmp_path / "curves.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Expected a run \(run.json\) in"):
        compare.read_runs([tmp_path])
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match="Expected a run of an experiment"):
        compare.read_runs([tmp_path / "x.json"])
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match="Expected JSON in"):
        compare.read_runs([tmp_path / "x.json"])
    with pytest.raises(ValueError, match="Expected at least one run"):
        compare.read_runs([])


@pytest.mark.parametrize("epochs", [1, 2])
def test_one_epoch_is_drawn_as_a_point(tmp_path: Path, corpus: Corpus, epochs: int) -> None:
    from matplotlib.figure import Figure

    found = run_language(study(tmp_path / "run", "none", num_epochs=epochs), corpus)
    axes = Figure().subplots()
    compare._draw_panel(axes, [found])
    train = axes.lines[1]
    assert list(train.get_ydata()) == compare.curves(found)["train"]
    assert (train.get_marker() == "o") == (epochs == 1)
    labels = [handle.get_label() for handle in compare._handles([found])]
    assert (compare.ALONE in labels) == (epochs == 1)


def test_a_picture_of_no_format(tmp_path: Path, corpus: Corpus) -> None:
    found = run_language(study(tmp_path / "run", "none"), corpus)
    with pytest.raises(ValueError, match=r"a picture that ends in one of .*\.png.*, got .*a\.xyz"):
        compare.draw_curves([found], tmp_path / "a.xyz")
