"""Experiments as configurations and results files."""

from pyro_vrnn.experiments.demo import DemoResult, run_demo
from pyro_vrnn.experiments.forecast import ForecastConfig, Study, run_study

__all__ = ["DemoResult", "ForecastConfig", "Study", "run_demo", "run_study"]
