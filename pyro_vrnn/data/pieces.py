"""Documents cut in pieces of equal length, as Gal and Ghahramani prepared film reviews."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from pyro_vrnn.data.documents import Documents
from pyro_vrnn.data.vocabulary import Vocabulary
from pyro_vrnn.reprs import short_repr
from pyro_vrnn.runs import check_seed
from pyro_vrnn.shapes import (
    check_choice,
    check_instance,
    check_positive_int,
    check_sequence,
    check_share,
)

PAD, START, UNKNOWN = 0, 1, 2
LINE_FEED = "\n"
READERS = ", as read_labelled and read_scale_data return"
_RESERVED = ("<pad>", "<start>", Vocabulary.UNK, "<unused>")


@dataclass(frozen=True, eq=False)
class PieceSplit:
    """
    Pieces of documents, for training and for testing.

    :param train_x: ``(n, length)`` int64, zeros in front of pieces that are shorter.
    :param train_y: ``(n,)``, for each piece the label of its document.
    :param train_lengths: ``(n,)`` int64, words of each piece without the zeros.
    :param train_documents: ``(n,)`` int64, place of each piece's document in what was cut.
    :param vocabulary: the words of the ids; the first four stand for padding, start, unknown words
        and nothing.

    ``test_x``, ``test_y``, ``test_lengths`` and ``test_documents`` likewise.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    train_lengths: Tensor
    test_lengths: Tensor
    train_documents: Tensor
    test_documents: Tensor
    vocabulary: Vocabulary

    __repr__ = short_repr


def paper_pieces(
    documents: Documents,
    *,
    length: int = 200,
    vocabulary_size: int = 20000,
    seed: int = 0,
    train_share: float = 0.8,
    split: str = "piece",
) -> PieceSplit:
    r"""
    Prepare documents as in the code of Gal and Ghahramani (2016).

    The documents are shuffled by numpy's legacy generator. Each gets a start symbol (id 1) before
    its words and a line feed (``"\n"``) as its last word, and is cut in pieces of ``length``, the
    last one shorter and padded with 0 in front. The r-th most frequent word has id r + 3, r from
    1, so that id 3 is never used; words of equal counts are in the order of the alphabet. Ids from
    ``vocabulary_size`` on become 2: it is the number of ids, those of the four symbols included,
    and ``vocabulary_size - 4`` words are kept. A text's own ``<pad>``, ``<start>``, ``<unk>`` and
    ``<unused>`` become 2 too.

    With ``split="piece"``, the paper's, the first pieces are for training and words are counted in
    all documents: the document at the border may have pieces on both sides, and what words are
    frequent is known from the test documents too. With ``split="document"`` the first documents
    are for training, and words are counted in those alone.

    :param documents: what is cut.
    :param length: words of a piece.
    :param vocabulary_size: number of ids V; every id is below it.
    :param seed: of the shuffle.
    :param train_share: share of pieces (of documents) for training, rounded down.
    :param split: ``"piece"`` or ``"document"``.
    :raises ValueError: if a part would be empty, or vocabulary_size is below 5.
    """
    check_instance("documents", documents, Documents, READERS)
    length = check_positive_int("length", length)
    if check_positive_int("vocabulary_size", vocabulary_size) <= len(_RESERVED):
        raise ValueError(f"Expected vocabulary_size of at least 5, got {vocabulary_size}.")
    check_share("train_share", train_share)
    check_choice("split", split, ("piece", "document"))
    order = _shuffled(len(documents), seed)
    num_known = int(len(order) * train_share)
    counted = order if split == "piece" else order[:num_known]
    vocabulary = _vocabulary((documents.texts[i] for i in counted), vocabulary_size)
    pieces: list[list[int]] = []
    places: list[int] = []
    num_train = 0
    for rank, place in enumerate(order):
        if split == "document" and rank == num_known:
            num_train = len(pieces)
        cut = _cut(documents.texts[place], vocabulary, length)
        pieces += cut
        places += [place] * len(cut)
    if split == "piece":
        num_train = int(len(pieces) * train_share)
    if not 0 < num_train < len(pieces):
        raise ValueError(
            f"Expected train_share to leave pieces on both sides, got {train_share} of "
            f"{len(order)} documents in {len(pieces)} pieces."
        )
    x, lengths = _padded(pieces, length)
    owners = torch.tensor(places, device="cpu")
    y = documents.labels[owners]
    return PieceSplit(
        train_x=x[:num_train],
        train_y=y[:num_train],
        test_x=x[num_train:],
        test_y=y[num_train:],
        train_lengths=lengths[:num_train],
        test_lengths=lengths[num_train:],
        train_documents=owners[:num_train],
        test_documents=owners[num_train:],
        vocabulary=vocabulary,
    )


def split_documents(
    documents: Documents, shares: Sequence[float], seed: int
) -> tuple[Documents, ...]:
    """
    Shuffle documents and split them in parts.

    :param documents: n documents.
    :param shares: of the parts; they sum to 1. The bounds are rounded to whole documents.
    :param seed: of the shuffle.
    :raises ValueError: if shares are not positive, do not sum to 1, or a part would be empty.
    """
    check_instance("documents", documents, Documents, READERS)
    shares = check_sequence("shares", shares, of="numbers")
    if not all(isinstance(share, (int, float)) for share in shares):
        raise TypeError(f"Expected shares to be a sequence of numbers, got {shares!r}.")
    if not shares or not all(share > 0 for share in shares):
        raise ValueError(f"Expected positive shares, got {tuple(shares)}.")
    if not math.isclose(sum(shares), 1.0, abs_tol=1e-9):
        raise ValueError(f"Expected shares that sum to 1, got a sum of {sum(shares)}.")
    order = _shuffled(len(documents), seed)
    bounds = [0, *(round(share * len(order)) for share in accumulate(shares))]
    parts = [order[a:b] for a, b in pairwise(bounds)]
    if not all(parts):
        raise ValueError(
            f"Expected a document in each of {len(parts)} parts, got {len(order)} documents for "
            f"shares {tuple(shares)}."
        )
    return tuple(documents.select(part) for part in parts)


def _shuffled(count: int, seed: int) -> list[int]:
    """Return 0 .. count - 1 as numpy's legacy generator shuffles a list."""
    order = list(range(count))
    check_seed(seed)
    np.random.RandomState(seed).shuffle(order)
    return order


def _vocabulary(texts: Iterable[tuple[str, ...]], size: int) -> Vocabulary:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
        counts[LINE_FEED] += 1
    for word in _RESERVED:
        counts.pop(word, None)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return Vocabulary((*_RESERVED, *ranked[: size - len(_RESERVED)]))


def _cut(text: tuple[str, ...], vocabulary: Vocabulary, length: int) -> list[list[int]]:
    index = vocabulary.index
    found = (index.get(word, UNKNOWN) for word in (*text, LINE_FEED))
    ids = [START, *(i if i >= len(_RESERVED) else UNKNOWN for i in found)]
    return [ids[i : i + length] for i in range(0, len(ids), length)]


def _padded(pieces: list[list[int]], length: int) -> tuple[Tensor, Tensor]:
    """Return pieces as rows with zeros in front, and their lengths."""
    rows = np.full((len(pieces), length), PAD, dtype=np.int64)
    for row, piece in zip(rows, pieces, strict=True):
        row[length - len(piece) :] = piece
    lengths = torch.tensor([len(piece) for piece in pieces], device="cpu")
    return torch.from_numpy(rows), lengths
