"""Data a sequence model is fitted to: series, windows, splits."""

from pyro_vrnn.data.sequences import Sequences, read_sequences
from pyro_vrnn.data.series import Series, co2_weekly, read_csv
from pyro_vrnn.data.windowing import TimeSplit, Windows, rolling_origins, split_in_time, windows

__all__ = [
    "Sequences",
    "Series",
    "TimeSplit",
    "Windows",
    "co2_weekly",
    "read_csv",
    "read_sequences",
    "rolling_origins",
    "split_in_time",
    "windows",
]
