"""Every example runs and writes its files; the page of one has its committed run's numbers."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WRITES = {
    "bayesian_mlp": {"bayesian_mlp.json", "bayesian_mlp.png"},
    "dropout_is_vi": {"dropout_is_vi.json", "dropout_is_vi.png"},
    "review_debugging": {"review_debugging.json", "review_debugging.png"},
    "word_uncertainty": {"word_uncertainty.json", "word_uncertainty.png"},
}
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
examples = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
STARTS = {".png": b"\x89PNG", ".json": b"{"}


@examples
def test_example_has_an_entry(path):
    assert path.stem in WRITES, f"Expected the files that {path.name} writes in WRITES."


@examples
def test_example_runs(path, tmp_path):
    run = subprocess.run(
        [sys.executable, str(path), "--smoke", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    written = {p.name: p for p in (tmp_path / "out").iterdir()}
    assert written.keys() == WRITES[path.stem]
    assert all(p.read_bytes().startswith(STARTS[p.suffix]) for p in written.values())


def load_example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    example = importlib.util.module_from_spec(spec)
    sys.modules[name] = example  # where dataclasses look for the module's names
    try:
        spec.loader.exec_module(example)
    finally:
        del sys.modules[name]
    return example


def committed_run(example):
    """Return the committed results of an example, which are of today's defaults."""
    name = example.__spec__.name
    record = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    assert record["config"].items() >= asdict(example.Config()).items()
    assert not record["config"]["smoke"]
    return record


def test_page_of_the_feed_forward_network():
    """Its table is the committed run's, and that run is of today's defaults."""
    example = load_example("bayesian_mlp")
    record = committed_run(example)
    page = (ROOT / "docs" / "guide" / "feed-forward.md").read_text(encoding="utf-8")
    assert f"```text\n{example.table(record['metrics'])}\n```" in page


@pytest.mark.parametrize("name", ["word_uncertainty", "review_debugging"])
def test_page_of_language_models(name):
    """Its lists are the committed runs', on the texts made up for them."""
    example = load_example(name)
    record = committed_run(example)
    assert record["config"]["made_up"]
    page = (ROOT / "docs" / "guide" / "language.md").read_text(encoding="utf-8")
    assert f"```text\n{example.report(record)}\n```" in page


def test_made_up_language_is_as_it_says():
    """The open places have their entropies, the rare plants are met once, and no word is new."""
    example = load_example("word_uncertainty")
    corpus = example.made_up_corpus(3000, seed=1)
    words = corpus.vocabulary.tokens(corpus.train.tolist())
    assert {words.count(plant) for plant in example.RARE} == {1}
    text = " ".join(words).replace(" <eos>", ".")
    for start, ends in example.OPEN.items():
        counts = {end: text.count(f"{start} {end}.") for end in ends}
        total = sum(counts.values())
        shares = [ends[end] / sum(ends.values()) for end in ends]
        for end, share in zip(ends, shares, strict=True):
            error = (share * (1 - share) / total) ** 0.5
            assert abs(counts[end] / total - share) < 4.26 * error
    assert math.fsum(example.sentence_probs().values()) == pytest.approx(1)
    assert example.true_entropy(("the", "die", "shows")) == pytest.approx(math.log(6))
    assert example.true_entropy(("the", "baker", "sells")) == pytest.approx(0.500402423)
    assert example.true_entropy(()) == example.true_entropy(("the", "velmora", "has")) == 0


def test_made_up_reviews_are_as_they_say():
    """'strange' says nothing about the rating, and unseen words are in no training review."""
    example = load_example("review_debugging")
    train, test, vocabulary = example.made_up_documents(example.Config(num_train=2000), seed=1)
    seen = {word for text in train.texts for word in text}
    assert not seen & set(example.UNSEEN)
    assert {word for text in test.texts for word in text} & set(example.UNSEEN)
    assert set(example.UNSEEN) <= set(vocabulary.words)
    has = [example.STRANGE in text for text in train.texts]
    ratings = [train.labels[[h is which for h in has]] for which in (True, False)]
    error = sum(float(r.var()) / len(r) for r in ratings) ** 0.5
    assert abs(float(ratings[0].mean() - ratings[1].mean())) < 4.26 * error
    assert float(ratings[0].var()) > 0.01


def reviews_of_ones_own(folder, layout):
    """Write 20 reviews of 1 to 5 stars; those of the scale data are from 0 to 1."""
    stars = [k % 5 + 1 for k in range(20)]
    texts = [f"{'good ' * s}film {k} ." for k, s in enumerate(stars)]
    if layout == "table":
        rows = [f"{text},{s}" for text, s in zip(texts, stars, strict=True)]
        path = folder / "reviews.csv"
        path.write_text("\n".join(["review,stars", *rows, ""]))
        return path, ["--text", "review", "--label", "stars"]
    author = folder / "scale" / "Ann"
    author.mkdir(parents=True)
    ratings = [str((s - 1) / 4) for s in stars]
    for kind, found in {"subj": texts, "rating": ratings, "id": map(str, range(20))}.items():
        (author / f"{kind}.Ann").write_text("\n".join(found) + "\n")
    return author.parent, []


def test_reviews_of_ones_own_in_both_layouts(tmp_path):
    """The same reviews give the same numbers: stars are brought to 0..1."""
    example = load_example("review_debugging")
    found = {}
    for layout in ("table", "folder"):
        path, columns = reviews_of_ones_own(tmp_path, layout)
        out = tmp_path / layout
        example.main(["--data", str(path), *columns, "--smoke", "--epochs", "1", "--out", str(out)])
        found[layout] = json.loads((out / "review_debugging.json").read_text())
    assert found["table"]["metrics"] == found["folder"]["metrics"]
    assert found["table"]["reviews"] == found["folder"]["reviews"]
    assert {0 <= review["rating"] <= 1 for review in found["table"]["reviews"]} == {True}


def test_too_few_reviews_of_ones_own(tmp_path):
    example = load_example("review_debugging")
    path, columns = reviews_of_ones_own(tmp_path, "table")
    with pytest.raises(ValueError, match="more reviews than the 60 to hold out and one, got 20"):
        example.main(["--data", str(path), *columns, "--out", str(tmp_path / "out")])
