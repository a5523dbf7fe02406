"""Every example runs and writes its files; the page of one has its committed run's numbers."""

from __future__ import annotations

import importlib.util
import json
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


def test_page_of_the_feed_forward_network():
    """Its table is the committed run's, and that run is of today's defaults."""
    source = ROOT / "examples" / "bayesian_mlp.py"
    spec = importlib.util.spec_from_file_location("bayesian_mlp", source)
    example = importlib.util.module_from_spec(spec)
    sys.modules["bayesian_mlp"] = example  # where dataclasses look for the module's names
    try:
        spec.loader.exec_module(example)
    finally:
        del sys.modules["bayesian_mlp"]
    record = json.loads((ROOT / "benchmarks" / "results" / "bayesian_mlp.json").read_text())
    assert record["config"].items() >= asdict(example.Config()).items()
    assert not record["config"]["smoke"]
    page = (ROOT / "docs" / "guide" / "feed-forward.md").read_text(encoding="utf-8")
    assert f"```text\n{example.table(record['metrics'])}\n```" in page
