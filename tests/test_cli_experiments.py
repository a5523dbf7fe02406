"""``pyro-vrnn experiment`` and ``compare``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pyro_vrnn import cli
from tests.experiments.test_studies import small, write_corpus, write_reviews


@pytest.fixture(autouse=True)
def small_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyro_vrnn.experiments import study_config

    for name in ("ptb-fifth", "sentiment-lstm"):
        monkeypatch.setitem(study_config.CONFIGS, name, small(name))


def run(capsys: pytest.CaptureFixture[str], *args: Any) -> tuple[int, str, str]:
    argv = sys.argv
    sys.argv = ["pyro-vrnn", *map(str, args)]
    try:
        cli.main()
        status = 0
    except SystemExit as done:
        status = int(done.code or 0)
    finally:
        sys.argv = argv
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize("method", ["none", "svi"])
@pytest.mark.parametrize("name", ["ptb-fifth", "sentiment-lstm"])
def test_an_experiment_and_its_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, method: str
) -> None:
    write = write_corpus if name == "ptb-fifth" else write_reviews
    data = write(tmp_path / "data")
    status, out, _ = run(
        capsys, "experiment", name, "--data", data, "--method", method, "--out",
        tmp_path / "runs", "--epochs", 1, "--samples", 2, "--no-progress",
    )  # fmt: skip
    assert status == 0
    path = tmp_path / "runs" / f"{name}-{method}-seed0" / "run.json"
    assert str(path) in out
    found = json.loads(path.read_text())
    assert (found["config"]["num_epochs"], found["config"]["num_samples"]) == (1, 2)
    picture = tmp_path / "curves.png"
    status, out, _ = run(capsys, "compare", tmp_path / "runs", "--figure", picture)
    assert status == 0
    assert name in out
    assert picture.stat().st_size > 0


def csv(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


BAD: dict[str, tuple[str, Any, str]] = {
    "no folder": ("ptb-fifth", lambda p: p / "nowhere", "nowhere"),
    "no test text": ("ptb-fifth", lambda p: _without(p, "test"), "test"),
    "empty text": ("ptb-fifth", lambda p: _emptied(p, "valid"), "valid"),
    "encoding": ("ptb-fifth", lambda p: _latin(p), "UTF-8"),
    "columns": ("sentiment-lstm", lambda p: csv(p / "r.csv", "words,label\na,1\n"), "text"),
    "label": ("sentiment-lstm", lambda p: csv(p / "r.csv", "text,label\na b,x\n"), "label"),
    "rating": ("sentiment-lstm", lambda p: _rated(p, "1.5"), "1.5"),
    "name": ("ptb-tenth", lambda p: p, "ptb-tenth"),
}


def _without(path: Path, split: str) -> Path:
    (write_corpus(path / "c") / f"toy.{split}.txt").unlink()
    return path / "c"


def _emptied(path: Path, split: str) -> Path:
    (write_corpus(path / "c") / f"toy.{split}.txt").write_text("")
    return path / "c"


def _latin(path: Path) -> Path:
    (write_corpus(path / "c") / "toy.train.txt").write_bytes(b"w1 caf\xe9\n")
    return path / "c"


def _rated(path: Path, rating: str) -> Path:
    folder = write_reviews(path / "r")
    file = folder / "A+B" / "rating.A+B"
    file.write_text("\n".join([rating, *file.read_text().split()[1:]]) + "\n")
    return folder


@pytest.mark.parametrize("what", BAD)
def test_bad_data_are_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    name, make, word = BAD[what]
    status, out, err = run(
        capsys, "experiment", name, "--data", make(tmp_path), "--out", tmp_path / "runs"
    )
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert word in err
    assert not (tmp_path / "runs").exists()


def test_a_text_of_another_name_and_reviews_in_a_table_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_corpus(tmp_path / "c")
    for split in ("train", "valid", "test"):
        text = (data / f"toy.{split}.txt").read_text()
        # As WikiText is laid out.
        (data / f"wiki.{split}.tokens").write_text(f" \n = w1 = \n \n {text}")
        (data / f"toy.{split}.txt").unlink()
    out = tmp_path / "runs"
    status, *_ = run(
        capsys, "experiment", "ptb-fifth", "--data", data, "--method", "none", "--out", out,
        "--epochs", 1, "--no-progress",
    )  # fmt: skip
    assert status == 0
    rows = "\n".join(f"{'good ' * (k % 7 + 1)}w,{k % 7 / 7}" for k in range(40))
    table = csv(tmp_path / "reviews.csv", f"review,stars\n{rows}\n")
    command = (
        "experiment", "sentiment-lstm", "--data", table, "--method", "none", "--out", out,
        "--epochs", 1, "--no-progress",
    )  # fmt: skip
    status, _, err = run(capsys, *command)
    assert (status, "one of 'review', 'stars', got 'text'" in err) == (2, True)
    status, *_ = run(capsys, *command, "--text", "review", "--label", "stars")
    assert status == 0


def test_columns_of_what_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, texts = write_reviews(tmp_path / "r"), write_corpus(tmp_path / "c")
    status, _, err = run(
        capsys, "experiment", "sentiment-lstm", "--data", folder, "--text", "review"
    )
    assert (status, f"names a column, got the folder {folder}" in err) == (2, True)
    status, _, err = run(capsys, "experiment", "ptb-fifth", "--data", texts, "--label", "stars")
    assert (status, "with sentiment only, got 'ptb-fifth'" in err) == (2, True)
