"""Experiments as configurations and results files."""

from pyro_vrnn.experiments.demo import DemoResult, run_demo
from pyro_vrnn.experiments.forecast import Study, run_study
from pyro_vrnn.experiments.forecast_plan import ForecastConfig

__all__ = ["DemoResult", "ForecastConfig", "Study", "run_demo", "run_study"]
