"""Pieces of documents: the paper's preparation, checked against one written in plain Python."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from pyro_vrnn.data import Documents, paper_pieces, read_scale_data, split_documents
from tests.shared_data import shared_data


def made_up(num_documents=12, seed=1, most=23):
    """Return documents of random words whose label is their place."""
    rng = random.Random(seed)
    texts = tuple(
        tuple(f"w{min(int(rng.paretovariate(0.8)), 60)}" for _ in range(rng.randint(1, most)))
        for _ in range(num_documents)
    )
    labels = torch.arange(num_documents, dtype=torch.float64)
    return Documents(texts, labels, tuple(map(str, range(num_documents))))


def reference(documents, length, size, seed, share):
    """Prepare as the paper's code does: rows of ids and labels, training first."""
    texts = [[*text, "\n"] for text in documents.texts]
    counts = Counter(word for text in texts for word in text)
    ranks = {w: r for r, w in enumerate(sorted(counts, key=lambda w: (-counts[w], w)), start=1)}
    numbers = [[ranks[word] for word in text] for text in texts]
    labels = documents.labels.tolist()
    for values in (numbers, labels):  # the same shuffle twice, as there
        np.random.RandomState(seed).shuffle(values)
    numbers = [[1] + [rank + 3 for rank in text] for text in numbers]
    pieces, targets = [], []
    for text, label in zip(numbers, labels, strict=True):
        for i in range(0, len(text), length):
            pieces.append([2 if w >= size else w for w in text[i : i + length]])
            targets.append(label)
    cut = int(len(pieces) * share)
    rows = [[0] * (length - len(piece)) + piece for piece in pieces]
    return rows[:cut], targets[:cut], rows[cut:], targets[cut:]


@pytest.mark.parametrize("size", [6, 15, 1000])
@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("length", [1, 5, 40])
def test_pieces_are_those_of_the_papers_code(length, seed, size):
    documents = made_up()
    got = paper_pieces(documents, length=length, vocabulary_size=size, seed=seed, train_share=0.7)
    train_x, train_y, test_x, test_y = reference(documents, length, size, seed, 0.7)
    assert (got.train_x.tolist(), got.train_y.tolist()) == (train_x, train_y)
    assert (got.test_x.tolist(), got.test_y.tolist()) == (test_x, test_y)
    assert got.train_x.dtype == got.test_x.dtype == torch.int64
    assert got.train_y.dtype == torch.float64


@pytest.mark.parametrize("split", ["piece", "document"])
def test_pieces_of_a_document_are_its_words(split):
    documents = made_up()
    got = paper_pieces(documents, length=4, vocabulary_size=99, split=split)
    words: dict[int, list[str]] = {}
    for x, lengths, owners in (
        (got.train_x, got.train_lengths, got.train_documents),
        (got.test_x, got.test_lengths, got.test_documents),
    ):
        for row, length, owner in zip(x, lengths.tolist(), owners.tolist(), strict=True):
            assert not row[: 4 - length].any()
            assert row[4 - length :].all()
            words.setdefault(owner, []).extend(got.vocabulary.tokens(row[4 - length :]))
    known = set(got.vocabulary.words)
    for place, text in enumerate(documents.texts):
        expected = [word if word in known else "<unk>" for word in (*text, "\n")]
        assert words[place] == ["<start>", *expected]
    assert got.train_y.equal(documents.labels[got.train_documents])
    assert got.test_y.equal(documents.labels[got.test_documents])


@pytest.mark.parametrize("seed", range(5))
def test_a_split_by_document_shares_no_document(seed):
    got = paper_pieces(made_up(), length=4, vocabulary_size=99, seed=seed, split="document")
    train, test = set(got.train_documents.tolist()), set(got.test_documents.tolist())
    assert not train & test
    assert len(train) == int(12 * 0.8)
    assert train | test == set(range(12))


def test_a_split_by_piece_may_cut_a_document():
    cut = [
        set(got.train_documents.tolist()) & set(got.test_documents.tolist())
        for got in (
            paper_pieces(made_up(), length=4, vocabulary_size=99, seed=s) for s in range(20)
        )
    ]
    assert any(cut)
    assert max(map(len, cut)) == 1


def test_words_of_test_documents_are_not_counted_in_a_split_by_document():
    texts = (*((f"word{i}", "all") for i in range(10)),)
    documents = Documents(texts, torch.zeros(10), tuple(map(str, range(10))))
    got = paper_pieces(documents, length=4, vocabulary_size=99, split="document")
    seen = {word for i in set(got.train_documents.tolist()) for word in texts[i]}
    assert set(got.vocabulary.words[4:]) == seen | {"\n"}
    assert (got.test_x == 2).sum() == 2
    assert (got.train_x == 2).sum() == 0


@pytest.mark.parametrize(("size", "kept"), [(5, 1), (7, 3), (99, 4)])
def test_vocabulary_size_counts_every_id(size, kept):
    documents = Documents((("a", "a", "b"), ("a", "c")), torch.zeros(2), ("x", "y"))
    got = paper_pieces(documents, length=9, vocabulary_size=size, train_share=0.5)
    words = ("<pad>", "<start>", "<unk>", "<unused>", "a", "\n", "b", "c")
    assert got.vocabulary.words == words[: 4 + kept]
    ids = torch.cat([got.train_x, got.test_x])
    assert int(ids.max()) == 3 + kept < size
    assert not (ids == 3).any()


def test_symbols_that_a_text_has_itself_are_unknown_words():
    documents = Documents(
        (("<pad>", "<start>", "a"), ("<unk>", "<unused>", "a")), torch.zeros(2), ("x", "y")
    )
    got = paper_pieces(documents, length=5, vocabulary_size=99, train_share=0.5)
    found = torch.cat([got.train_x, got.test_x]).tolist()
    assert found == [[1, 2, 2, 5, 4]] * 2 or found == [[1, 2, 2, 4, 5]] * 2


def test_labels_may_be_classes():
    documents = Documents((("a",), ("b",)), torch.tensor([3, 1]), ("x", "y"))
    got = paper_pieces(documents, length=4, train_share=0.5)
    assert got.train_y.dtype == torch.int64
    assert sorted([*got.train_y.tolist(), *got.test_y.tolist()]) == [1, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(length=0), "length to be a positive int"),
        (dict(vocabulary_size=4), "vocabulary_size of at least 5, got 4"),
        (dict(train_share=1.0), r"train_share in \(0, 1\), got 1\.0"),
        (dict(train_share=0.0), r"train_share in \(0, 1\), got 0\.0"),
        (dict(train_share=0.01), "leave pieces on both sides, got 0.01 of 12 documents"),
        (
            dict(train_share=0.01, split="document"),
            "leave pieces on both sides, got 0.01 of 12 documents in",
        ),
        (dict(split="word"), "split to be one of 'piece', 'document', got 'word'"),
    ],
    ids=["length", "size", "all", "none", "few", "few-documents", "split"],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        paper_pieces(made_up(), **{"length": 50, **options})


def test_the_global_generator_is_left_alone():
    state = np.random.mtrand._rand.get_state()[1].copy()
    paper_pieces(made_up(), length=4)
    split_documents(made_up(), (0.5, 0.5), 0)
    assert (np.random.mtrand._rand.get_state()[1] == state).all()


@pytest.mark.parametrize(
    ("shares", "sizes"),
    [
        ((0.8, 0.2), [10, 2]),
        ((0.5, 0.25, 0.25), [6, 3, 3]),
        ((1.0,), [12]),
        ((1 / 3,) * 3, [4] * 3),
    ],
    ids=["two", "three", "one", "thirds"],
)
def test_parts_hold_every_document_once(shares, sizes):
    documents = made_up()
    parts = split_documents(documents, shares, seed=4)
    assert [len(part) for part in parts] == sizes
    places = [int(i) for part in parts for i in part.ids]
    assert sorted(places) == list(range(12))
    for part in parts:
        assert part.labels.tolist() == [float(i) for i in part.ids]
        assert part.texts == tuple(documents.texts[int(i)] for i in part.ids)


def test_a_seed_is_one_split():
    first, again, other = (
        [part.ids for part in split_documents(made_up(), (0.5, 0.5), seed)] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("count", range(2, 30))
def test_rounding_loses_no_document(count):
    parts = split_documents(made_up(count), (0.6, 0.4), seed=0)
    assert sum(map(len, parts)) == count


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((), r"positive shares, got \(\)"),
        ((0.5, 0.5, 0.0), "positive shares, got"),
        ((0.5, 0.4), "sum to 1, got a sum of 0.9"),
        ((0.99, 0.01), "a document in each of 2 parts, got 12 documents"),
    ],
    ids=["none", "zero", "sum", "empty"],
)
def test_bad_shares_are_refused(shares, message):
    with pytest.raises(ValueError, match=message):
        split_documents(made_up(), shares, seed=0)


def test_the_papers_numbers():
    got = paper_pieces(read_scale_data(shared_data("scaledata")))
    assert got.train_x.shape == (10_620, 200)
    assert got.test_x.shape == (2_655, 200)
    mean, sd = got.train_y.mean(), got.train_y.std(unbiased=False)
    rmse = (got.test_y - mean).square().mean().sqrt()
    assert [round(float(v), 4) for v in (mean, sd, rmse)] == [0.5892, 0.1839, 0.1915]
    assert len(got.vocabulary) == 20_000
    assert int(got.train_x.max()) == 19_999
    straddling = set(got.train_documents.tolist()) & set(got.test_documents.tolist())
    assert len(straddling) == 1
    counts = torch.bincount(torch.cat([got.train_x, got.test_x]).flatten(), minlength=20_000)[4:]
    assert all(a >= b for a, b in pairwise(counts.tolist()))
