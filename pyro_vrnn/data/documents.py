"""Documents with a rating or a class each: from the scale data's folders, CSV or JSON lines."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.data._csv import checked_records, find_column, finite_number
from pyro_vrnn.data._text import lines, read_text
from pyro_vrnn.shapes import check_choice, check_finite, check_shape

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

    def __post_init__(self) -> None:
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

    def select(self, places: Sequence[int]) -> Documents:
        """Return the documents at these places, in this order."""
        chosen = [int(place) for place in places]
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
    folder = Path(folder)
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
    return Documents(tuple(texts), torch.tensor(labels, dtype=dtype), tuple(ids), tuple(groups))


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
    numbers = []
    for row, line in enumerate(_author_lines(path, count), start=1):
        value = _number(line, limits)
        if value is None or (isinstance(limits[0], int) and value != int(value)):
            kind = "a class" if isinstance(limits[0], int) else "a number"
            raise ValueError(
                f"Expected {kind} in {limits[0]}..{limits[1]}, got {line!r} in line {row} of "
                f"{path}."
            )
        numbers.append(value)
    return numbers


def _number(text: str, limits: Range) -> float | None:
    """Return the number a text stands for, if it is one in a range."""
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        return None
    return value if limits[0] <= value <= limits[1] else None


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
    :param id: that of names; default: the row of the file.
    :param classes: whether labels are classes, numbered in the order of their names (of whole
        numbers, if all are).
    :param label_range: the least and the greatest number that a label may be.
    :param tokenize: text -> words; default: cut at spaces. For prose: :func:`split_words`.
    :raises FileNotFoundError: if there is no such file.
    :raises ValueError: if it is no such file, a column is missing, a text has no words, or a label
        is no finite number or out of range.
    """
    path = Path(path)
    readers = {".csv": _csv_rows, ".jsonl": _json_rows}
    if path.suffix.lower() not in readers:
        raise ValueError(f"Expected a .csv or .jsonl file, got {path}.")
    texts: list[tuple[str, ...]] = []
    labels: list[Any] = []
    ids: list[str] = []
    with _naming(path):
        for row, cells in readers[path.suffix.lower()](path, text, label, id):
            words = tuple(tokenize(cells[0]))
            _check_words(words, f"column {text!r} in row {row}")
            texts.append(words)
            labels.append(_label(cells[1], label, row, classes, label_range))
            ids.append(str(row) if cells[2] is None else cells[2])
        if not texts:
            raise ValueError("Expected documents, got none.")
    if not classes:
        return Documents(tuple(texts), torch.tensor(labels, dtype=torch.float64), tuple(ids))
    names = sorted(set(labels), key=_class_order(labels))
    numbers = torch.tensor([names.index(value) for value in labels])
    return Documents(tuple(texts), numbers, tuple(ids), classes=tuple(names))


Row = tuple[int, tuple[str, Any, str | None]]  # row of the file; text, label, name


def _csv_rows(path: Path, text: str, label: str, id: str | None) -> Iterator[Row]:
    header, rows = checked_records(path)
    places = [find_column(header, text), find_column(header, label)]
    named = None if id is None else find_column(header, id)
    for row, cells in rows:
        name = None if named is None else cells[named].strip()
        yield row, (cells[places[0]], cells[places[1]].strip(), name)


def _json_rows(path: Path, text: str, label: str, id: str | None) -> Iterator[Row]:
    for row, line in enumerate(lines(read_text(path)), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"Expected a JSON object, got {error.msg} at column {error.colno} of row {row}."
            ) from None
        if not isinstance(found, dict):
            raise ValueError(f"Expected a JSON object, got {_shown(found)} in row {row}.")
        for key in (text, label, *([] if id is None else [id])):
            if key not in found:
                raise ValueError(f"Expected a key {key!r}, got none in row {row}.")
        if not isinstance(found[text], str):
            raise ValueError(
                f"Expected {text!r} to be a string, got {_shown(found[text])} in row {row}."
            )
        yield row, (found[text], found[label], None if id is None else str(found[id]))


def _label(value: Any, column: str, row: int, classes: bool, limits: Range | None) -> Any:
    """Return a label as a number, or as the name of a class."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if classes:
        name = str(value).strip()
        if not (number or isinstance(value, str)) or not name:
            raise ValueError(
                f"Expected a class in column {column!r}, got {_shown(value)} in row {row}."
            )
        if limits is None:
            return name
        value, number = name, False
    if not number and not isinstance(value, str):
        raise ValueError(
            f"Expected a finite number in column {column!r}, got {_shown(value)} in row {row}."
        )
    found = finite_number(str(value), column, row)
    if limits is not None and not limits[0] <= found <= limits[1]:
        raise ValueError(f"Expected labels in {limits[0]}..{limits[1]}, got {value} in row {row}.")
    return value if classes else found


def _class_order(names: Sequence[str]) -> Callable[[str], Any]:
    """Order by value if all names are whole numbers, else by the alphabet."""
    whole = all(re.fullmatch(r"[+-]?\d+", name) for name in names)
    return int if whole else str


def _check_words(words: Sequence[str], where: str) -> None:
    if not words:
        raise ValueError(f"Expected a text of at least one word, got none in {where}.")


def _shown(value: Any) -> str:
    written = json.dumps(value, ensure_ascii=False)
    return written if len(written) <= 40 else written[:37] + "..."


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the file to messages that do not name it."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{str(error).removesuffix('.')}: {path}.") from error
