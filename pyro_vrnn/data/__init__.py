"""Data a sequence model is fitted to: series, texts, documents; windows and splits."""

from pyro_vrnn.data.corpus import Corpus, read_corpus
from pyro_vrnn.data.documents import (
    Documents,
    read_labelled,
    read_ratings,
    read_scale_data,
    split_words,
)
from pyro_vrnn.data.download import download
from pyro_vrnn.data.pieces import PieceSplit, paper_pieces, split_documents
from pyro_vrnn.data.sequences import Sequences, read_sequences
from pyro_vrnn.data.series import Series, co2_weekly, read_csv
from pyro_vrnn.data.streams import StreamWindows
from pyro_vrnn.data.vocabulary import Vocabulary
from pyro_vrnn.data.windowing import TimeSplit, Windows, rolling_origins, split_in_time, windows

__all__ = [
    "Corpus",
    "Documents",
    "PieceSplit",
    "Sequences",
    "Series",
    "StreamWindows",
    "TimeSplit",
    "Vocabulary",
    "Windows",
    "co2_weekly",
    "download",
    "paper_pieces",
    "read_corpus",
    "read_csv",
    "read_labelled",
    "read_ratings",
    "read_scale_data",
    "read_sequences",
    "rolling_origins",
    "split_documents",
    "split_in_time",
    "split_words",
    "windows",
]
