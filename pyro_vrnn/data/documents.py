"""Documents with a rating or a class each: from the scale data's folders, CSV or JSON lines."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.data._rows import named_rows, naming, shown
from pyro_vrnn.data._text import lines, read_text
from pyro_vrnn.data.vocabulary import Vocabulary
from pyro_vrnn.reprs import short_repr
from pyro_vrnn.shapes import (
    check_choice,
    check_finite,
    check_instance,
    check_path,
    check_positive_int,
    check_sequence,
    check_shape,
)

Range = tuple[float, float]
Tokenize = Callable[[str], Sequence[str]]

AUTHORS = ("Dennis+Schwartz", "James+Berardinelli", "Scott+Renshaw", "Steve+Rhodes")
_SCALES = {
    "rating": ("rating", (0.0, 1.0)),
    "3class": ("label.3class", (0, 2)),
    "4class": ("label.4class", (0, 3)),
}


@dataclass(frozen=True, eq=False)
class Documents:
    """
    n documents with a label each.

    :param texts: the words of each, at least one.
    :param labels: ``(n,)``, float64 ratings or int64 classes.
    :param ids: the n names.
    :param groups: which group each belongs to, such as its author, or None.
    :param classes: the names of the classes, or None.
    :raises ValueError: if a text is empty, a label not finite, or the sizes differ.
    """

    texts: tuple[tuple[str, ...], ...]
    labels: Tensor
    ids: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if isinstance(self.texts, str) or any(isinstance(text, str) for text in self.texts):
            raise TypeError(
                "Expected each of texts to be a sequence of words, got a str: cut it, for instance "
                "with split_words."
            )
        if not self.texts:
            raise ValueError("Expected at least one document, got none.")
        check_finite("labels", check_shape("labels", self.labels, (len(self.texts),)))
        for name, values in (("ids", self.ids), ("groups", self.groups)):
            if values is not None and len(values) != len(self.texts):
                raise ValueError(f"Expected {len(self.texts)} {name}, got {len(values)}.")
        for text, name in zip(self.texts, self.ids, strict=True):
            if not text:
                raise ValueError(f"Expected texts of at least one word, got none for {name!r}.")

    def __len__(self) -> int:
        return len(self.texts)

    def padded(
        self, vocabulary: Vocabulary, max_length: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """
        Return the word ids with zeros behind the end, and the lengths.

        >>> d = Documents((("good", "film"), ("bad",)), torch.tensor([0.9, 0.1]), ("a", "b"))
        >>> x, lengths = d.padded(Vocabulary(("bad", "film", "good")))
        >>> x.tolist(), lengths.tolist()
        ([[2, 1], [0, 0]], [2, 1])

        :param vocabulary: the words' ids.
        :param max_length: so many of the first words of each; default: all.
        :returns: x ``(n, T)`` and lengths ``(n,)``, int64.
        :raises ValueError: if a word is unknown and the vocabulary has no ``<unk>``.
        """
        check_instance("vocabulary", vocabulary, Vocabulary)
        if max_length is not None:
            max_length = check_positive_int("max_length", max_length)
        rows = [
            vocabulary.ids(text[:max_length], source=f"document {name!r}")
            for text, name in zip(self.texts, self.ids, strict=True)
        ]
        lengths = torch.tensor([len(row) for row in rows], device="cpu")
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths

    def select(self, places: Sequence[int]) -> Documents:
        """Return the documents at these places, in this order."""
        chosen = [int(place) for place in check_sequence("places", places, of="ints")]
        for place in chosen:
            if not -len(self) <= place < len(self):
                raise ValueError(f"Expected places in 0..{len(self) - 1}, got {place}.")
        return Documents(
            texts=tuple(self.texts[i] for i in chosen),
            labels=self.labels[chosen],
            ids=tuple(self.ids[i] for i in chosen),
            groups=None if self.groups is None else tuple(self.groups[i] for i in chosen),
            classes=self.classes,
        )


def split_words(text: str) -> list[str]:
    """
    Return the words of prose in lower case, each punctuation mark a word of its own.

    >>> split_words("It's a well-made film, isn't it?")
    ["it's", 'a', 'well-made', 'film', ',', "isn't", 'it', '?']
    """
    check_instance("text", text, str)
    return re.findall(r"\w+(?:['’.-]\w+)*|[^\w\s]", text.lower())


def read_scale_data(folder: str | Path, label: str = "rating") -> Documents:
    """
    Read reviews in the layout of Pang and Lee's scale dataset v1.0.

    Each folder ``AUTHOR`` in ``folder`` that holds ``subj.AUTHOR`` is read: line n of it is a
    review, words separated by spaces, and line n of ``rating.AUTHOR``, ``label.3class.AUTHOR``,
    ``label.4class.AUTHOR`` and ``id.AUTHOR`` is about that review. The four authors of the dataset
    come first, in the order of Gal and Ghahramani's code, then others in that of the alphabet.

    :param folder: where the authors' folders are.
    :param label: ``"rating"``, a number in [0, 1]; ``"3class"`` or ``"4class"``.
    :returns: the documents; their groups are the authors.
    :raises FileNotFoundError: if there is no such folder, or an author's file is missing.
    :raises ValueError: if there is no author, a file is no UTF-8, has another number of lines than
        the others, or holds a label out of range.
    """
    folder = check_path("folder", folder)
    check_choice("label", label, tuple(_SCALES))
    if not folder.is_dir():
        raise FileNotFoundError(f"Expected a folder of authors at {folder}, got none.")
    found = sorted(p.name for p in folder.iterdir() if (p / f"subj.{p.name}").is_file())
    if not found:
        raise ValueError(f"Expected folders AUTHOR with a file subj.AUTHOR in {folder}, got none.")
    authors = [a for a in AUTHORS if a in found] + [a for a in found if a not in AUTHORS]
    texts: list[tuple[str, ...]] = []
    labels: list[float] = []
    ids: list[str] = []
    groups: list[str] = []
    kind, limits = _SCALES[label]
    for author in authors:
        path = folder / author / f"subj.{author}"
        reviews = [tuple(line.split()) for line in lines(read_text(path))]
        for row, words in enumerate(reviews, start=1):
            _check_words(words, f"line {row} of {path}")
        texts += reviews
        labels += _scale_labels(folder / author / f"{kind}.{author}", limits, len(reviews))
        ids += _author_lines(folder / author / f"id.{author}", len(reviews))
        groups += [author] * len(reviews)
    if not texts:
        raise ValueError(f"Expected reviews in {folder}, got empty files.")
    dtype = torch.float64 if label == "rating" else torch.int64
    values = torch.tensor(labels, dtype=dtype, device="cpu")
    return Documents(tuple(texts), values, tuple(ids), tuple(groups))


def _author_lines(path: Path, count: int) -> list[str]:
    """Return the lines of a file about ``count`` reviews."""
    found = [line.strip() for line in lines(read_text(path))]
    if len(found) != count:
        raise ValueError(
            f"Expected {count} lines in {path}, as in the file of texts, got {len(found)}."
        )
    return found


def _scale_labels(path: Path, limits: Range, count: int) -> list[float]:
    """Return the numbers of a file of labels; whole ones if the limits are."""
    whole = isinstance(limits[0], int)
    numbers = []
    for row, text in enumerate(_author_lines(path, count), start=1):
        value = _number(text)
        fits = value is not None and limits[0] <= value <= limits[1]
        if value is None or not fits or (whole and value != int(value)):
            raise ValueError(
                f"Expected a {'class' if whole else 'rating'} in {limits[0]}..{limits[1]}, got "
                f"{text!r} in line {row} of {path}."
            )
        numbers.append(value)
    return numbers


def read_labelled(
    path: str | Path,
    *,
    text: str = "text",
    label: str = "label",
    id: str | None = None,
    classes: bool = False,
    label_range: Range | None = None,
    tokenize: Tokenize = str.split,
) -> Documents:
    """
    Read a UTF-8 file of documents: ``.csv`` with a header row, or ``.jsonl``, an object a line.

    :param path: the file.
    :param text: the column (the key) of texts.
    :param label: that of labels: finite numbers, or with ``classes`` anything that names a class.
    :param id: that of names; default: the line of the file.
    :param classes: whether labels are classes, numbered in the order of their names (of their
        values, if all are whole numbers).
    :param label_range: the least and the greatest number that a label may be.
    :param tokenize: text -> words; default: cut at spaces. For prose: :func:`split_words`.
    :raises FileNotFoundError: if there is no such file.
    :raises ValueError: if it is no such file, a column is missing, a text has no words, or a label
        is no finite number or out of range.
    """
    path = check_path("path", path)
    for name, column in (("text", text), ("label", label), *([] if id is None else [("id", id)])):
        check_instance(name, column, str, " (the name of a column)")
    if not callable(tokenize):
        raise TypeError(f"Expected tokenize to be a function text -> words, got {tokenize!r}.")
    limits = (
        (0, 0) if label_range is None else check_sequence("label_range", label_range, "numbers")
    )
    if len(limits) != 2 or not limits[0] <= limits[1]:
        raise ValueError(f"Expected label_range of (least, greatest), got {label_range}.")
    texts: list[tuple[str, ...]] = []
    labels: list[float] = []
    names: list[str] = []
    ids: list[str] = []
    with naming(path):
        for line, cells in named_rows(path, [text, label, *([] if id is None else [id])]):
            texts.append(_words(cells[0], text, line, tokenize))
            if classes:
                names.append(_class_name(cells[1], label, line))
            if not classes or label_range is not None:
                labels.append(_finite(cells[1], label, line, label_range))
            ids.append(str(line) if id is None else str(cells[2]).strip())
        if not texts:
            raise ValueError("Expected documents, got none.")
    if not classes:
        values = torch.tensor(labels, dtype=torch.float64, device="cpu")
        return Documents(tuple(texts), values, tuple(ids))
    known = sorted(set(names), key=_class_order(names))
    numbers = torch.tensor([known.index(name) for name in names], device="cpu")
    return Documents(tuple(texts), numbers, tuple(ids), classes=tuple(known))


def read_ratings(
    path: str | Path,
    *,
    text: str | None = None,
    label: str | None = None,
    tokenize: Tokenize = str.split,
) -> Documents:
    """
    Read rated reviews in either layout: a folder of the scale data, or a file of labelled texts.

    :param path: for :func:`read_scale_data` if it is a folder, else for :func:`read_labelled`.
    :param text: the file's column of texts; default: ``"text"``.
    :param label: its column of ratings, numbers in any unit; default: ``"label"``.
    :param tokenize: of a file, as for :func:`read_labelled`; the scale data come in words.
    :raises FileNotFoundError: if there is nothing there.
    :raises ValueError: as those functions, or if columns are named for a folder.
    """
    path = check_path("path", path)
    if not path.is_dir():
        return read_labelled(path, text=text or "text", label=label or "label", tokenize=tokenize)
    if text is not None or label is not None:
        raise ValueError(
            "Expected a .csv or .jsonl file where text or label names a column, got the folder "
            f"{path}."
        )
    try:
        return read_scale_data(path)
    except ValueError as error:
        if any(path.glob("*/subj.*")):
            raise
        raise ValueError(f"{error} (Or give a .csv or .jsonl file.)") from error


def _words(text: Any, column: str, line: int, tokenize: Tokenize) -> tuple[str, ...]:
    """Return the words of a text."""
    if not isinstance(text, str):
        raise ValueError(f"Expected {column!r} to be text, got {shown(text)} in line {line}.")
    words = tuple(tokenize(text))
    _check_words(words, f"line {line}")
    return words


def _finite(value: Any, column: str, line: int, limits: Range | None) -> float:
    """Return a label that is a number, as JSON has it or as text."""
    number = _number(str(value))
    if number is None:
        raise ValueError(
            f"Expected {column!r} to be a finite number, got {shown(value)} in line {line}."
        )
    if limits is not None and not limits[0] <= number <= limits[1]:
        raise ValueError(
            f"Expected {column!r} in {limits[0]}..{limits[1]}, got {value} in line {line}."
        )
    return number


def _class_name(value: Any, column: str, line: int) -> str:
    """Return a label that names a class, text or a number."""
    name = str(value).strip() if isinstance(value, (str, int, float)) else ""
    if not name or isinstance(value, bool):
        raise ValueError(f"Expected {column!r} to name a class, got {shown(value)} in line {line}.")
    return name


def _class_order(names: Sequence[str]) -> Callable[[str], Any]:
    """Order by value if all names are whole numbers, else by the alphabet."""
    return int if all(re.fullmatch(r"[+-]?\d{1,18}", name) for name in names) else str


def _number(text: str) -> float | None:
    """Return the finite number that a text stands for, if any."""
    try:
        value = float(text) if "_" not in text else math.nan  # float() reads "1_0" as 10
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _check_words(words: Sequence[str], where: str) -> None:
    if not words:
        raise ValueError(f"Expected a text of at least one word, got none in {where}.")
