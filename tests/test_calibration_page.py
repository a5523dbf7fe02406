"""The guide's page on calibration has the numbers of the committed run, one of the defaults."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from benchmarks import calibration
from pyro_vrnn.experiments.forecast_plan import ForecastConfig

ROOT = Path(__file__).parents[1]
RECORD = json.loads((ROOT / "benchmarks" / "results" / "calibration.json").read_text())


def test_table_of_the_page_is_the_committed_run():
    page = (ROOT / "docs" / "guide" / "calibration.md").read_text(encoding="utf-8")
    assert calibration.table(RECORD) in page


def test_run_is_of_the_defaults():
    config = {**asdict(ForecastConfig(seed=calibration.SEED)), **calibration.CHOSEN}
    assert RECORD["config"] == json.loads(json.dumps(config))


def test_half_the_noise_is_outside_the_band():
    assert not RECORD["checks"]["overconfident"]["pit_inside"]
    assert RECORD["noise_factors"]["overconfident"] == RECORD["noise_factors"]["chosen"] / 2
