"""The README's own loop runs, and its commands are the ones that CI runs."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from benchmarks.demo_table import load, markdown_table, undecided, weight_shares

README = (Path(__file__).parent.parent / "README.md").read_text()


def block(heading, language):
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)
    assert len(found) == 1, f"{heading} must have one {language} block"
    return found[0].strip()


def test_each_command_is_one_line():
    assert "\n" not in block("Run it", "sh")
    assert "\n" not in block("Test it", "sh")


def test_loop_runs():
    data = torch.utils.data.TensorDataset(torch.randn(8, 12, 3), torch.randn(8, 1))
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    scope = {"loader": loader, "x_new": torch.randn(5, 12, 3)}
    exec(block("In your own loop", "python"), scope)
    assert scope["prediction"].mean.shape == (5, 1)
    assert (scope["prediction"].epistemic_variance > 0).all()


def test_table_comes_from_the_committed_results():
    assert markdown_table(load()) in README


def test_what_the_demo_shows_comes_from_the_committed_results():
    text = " ".join(README.split())
    includes_0, differences = undecided(load())
    assert f"of {differences} differences" in text
    assert f"range includes 0 in {includes_0}." in text
    ours, others = weight_shares(load())
    assert f"is {ours} of the predictive variance of the Bayesian network, and {others} of" in text
