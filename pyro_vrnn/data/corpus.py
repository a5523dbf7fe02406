"""A text corpus, cut in training, validation and test files of one sentence a line."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vrnn.data._text import lines, read_text
from pyro_vrnn.data.vocabulary import Vocabulary
from pyro_vrnn.reprs import short_repr
from pyro_vrnn.shapes import check_path, check_positive_int

SUFFIXES = (".txt", ".tokens")
SPLITS = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True, eq=False)
class Corpus:
    """
    Three texts as word ids, ``<eos>`` after every line.

    :param vocabulary: the words of the training text.
    :param train: ``(n,)`` int64, and ``valid`` and ``test`` likewise.
    """

    vocabulary: Vocabulary
    train: Tensor
    valid: Tensor
    test: Tensor

    __repr__ = short_repr


def read_corpus(folder: str | Path, *, max_train_lines: int | None = None) -> Corpus:
    r"""
    Read a folder of three UTF-8 text files, words separated by spaces.

    The files are those ending in ``.txt`` or ``.tokens`` whose names say ``train``, ``valid``
    (``validation``, ``val``, ``dev``) and ``test``: ``ptb.train.txt``, ``wiki.train.tokens``,
    ``train.txt``. Words are taken as they stand. The end of every line is one ``<eos>``, that of
    a blank line too (so texts of WikiText count as usual); where a line ends in a written
    ``<eos>``, no second one is added. The vocabulary is that of the training lines read; other
    words of the other files become ``<unk>``, if a training line has that word, and are refused
    otherwise.

    :param folder: where the files are; those in folders below are not looked at.
    :param max_train_lines: read so many lines of the training file at most; default: all.
    :raises FileNotFoundError: if there is no such folder.
    :raises ValueError: if a split has no file or two, a file is empty or no UTF-8, or a word is
        unknown.
    """
    if max_train_lines is not None:
        max_train_lines = check_positive_int("max_train_lines", max_train_lines)
    paths = _find_splits(check_path("folder", folder))
    texts = {split: read_text(path) for split, path in paths.items()}
    counts: Counter[str] = Counter()
    for words in _sentences(texts["train"], max_train_lines):
        counts.update(words)
    for split, path in paths.items():
        empty = counts.keys() <= {Vocabulary.EOS} if split == "train" else not texts[split].strip()
        if empty:
            raise ValueError(f"Expected words in {path}, got none.")
    vocabulary = Vocabulary.from_counts(counts)
    train = _encode(vocabulary, texts["train"], paths["train"], max_train_lines)
    valid = _encode(vocabulary, texts["valid"], paths["valid"])
    return Corpus(vocabulary, train, valid, _encode(vocabulary, texts["test"], paths["test"]))


def _find_splits(folder: Path) -> dict[str, Path]:
    """Return the one file of each split."""
    if not folder.is_dir():
        raise FileNotFoundError(f"Expected a folder of text files at {folder}, got none.")
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    found: dict[str, Path] = {}
    for split, names in SPLITS.items():
        # Whole parts first: "latest.txt" is a test set only if there is no other.
        matches = [p for p in files if set(_parts(p)) & set(names)]
        matches = matches or [p for p in files if any(name in p.stem.lower() for name in names)]
        if len(matches) != 1:
            got = ", ".join(path.name for path in matches or files) or "none"
            raise ValueError(
                f"Expected one {split} file ({' or '.join(SUFFIXES)}, {' or '.join(names)} in its "
                f"name) in {folder}, got {got}."
            )
        found[split] = matches[0]
    for split, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        if found[split] == found[other]:
            raise ValueError(
                f"Expected a {split} and a {other} file in {folder}, got {found[split].name} for "
                "both."
            )
    return found


def _parts(path: Path) -> list[str]:
    return re.split(r"[^a-z]+", path.stem.lower())


def _sentences(text: str, most: int | None = None) -> Iterator[list[str]]:
    """Give the words of each line with ``<eos>`` as the last."""
    for line in islice(lines(text), most):
        words = line.split()
        if words[-1:] != [Vocabulary.EOS]:
            words.append(Vocabulary.EOS)
        yield words


def _encode(vocabulary: Vocabulary, text: str, path: Path, most: int | None = None) -> Tensor:
    """Return the ids of a text; name the line of an unknown word."""
    index = vocabulary.index
    unknown = index.get(Vocabulary.UNK, -1)
    ids = array("q")
    for number, words in enumerate(_sentences(text, most), start=1):
        found = [index.get(word, unknown) for word in words]
        if -1 in found:
            raise ValueError(
                f"Expected words of the training file, which has no {Vocabulary.UNK!r}, got "
                f"{words[found.index(-1)]!r} in line {number} of {path}."
            )
        ids.extend(found)
    return torch.from_numpy(np.array(ids, dtype=np.int64))
