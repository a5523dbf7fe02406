"""Words and their ids: order, limits, unknown words."""

from __future__ import annotations

import random
from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_vrnn.data import Vocabulary

WORDS = st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=40)


def test_frequent_words_come_first_then_the_alphabet_decides():
    words = Vocabulary.from_tokens(["b", "c", "a", "c", "b", "d"]).words
    assert words == ("b", "c", "a", "d")


@given(WORDS, st.randoms())
def test_the_order_of_the_text_does_not_matter(tokens, rng):
    shuffled = rng.sample(tokens, len(tokens))
    assert Vocabulary.from_tokens(shuffled) == Vocabulary.from_tokens(tokens)


@given(WORDS)
def test_ids_and_tokens_are_inverse(tokens):
    vocabulary = Vocabulary.from_tokens(tokens)
    ids = vocabulary.ids(tokens)
    assert ids.dtype == torch.int64
    assert vocabulary.tokens(ids) == tokens


def test_empty_text_has_empty_ids():
    ids = Vocabulary(("a",)).ids([])
    assert (ids.shape, ids.dtype) == ((0,), torch.int64)
    assert Vocabulary(("a",)).tokens(ids) == []


def test_length_and_membership():
    vocabulary = Vocabulary(("a", "b"))
    assert (len(vocabulary), "b" in vocabulary, "c" in vocabulary) == (2, True, False)


def test_an_unknown_word_is_unk():
    vocabulary = Vocabulary(("a", Vocabulary.UNK, "b"))
    assert vocabulary.ids(["b", "zebra", "a"]).tolist() == [2, 1, 0]


def test_an_unknown_word_without_unk_is_named_with_its_place():
    vocabulary = Vocabulary(("a", "b"))
    with pytest.raises(ValueError, match=r"no '<unk>', got 'zebra' as word 3\.$"):
        vocabulary.ids(["b", "a", "zebra", "lion"])
    with pytest.raises(ValueError, match=r"got 'zebra' as word 1 of line 7 of a\.txt\.$"):
        vocabulary.ids(["zebra"], source="line 7 of a.txt")


def test_max_size_keeps_the_most_frequent_words_and_unk():
    tokens = ["a", "a", "a", "b", "b", "c", "c", "d", "<eos>"]
    vocabulary = Vocabulary.from_tokens(tokens, max_size=4)
    assert vocabulary.words == ("a", "b", "<eos>", "<unk>")
    assert vocabulary.ids(["c", "a"]).tolist() == [3, 0]


def test_unk_of_the_text_keeps_its_rank():
    words = Vocabulary.from_tokens(
        ["<unk>", "<unk>", "<unk>", "a", "a", "b", "c"], max_size=3
    ).words
    assert words == ("<unk>", "a", "b")


@pytest.mark.parametrize("max_size", [None, 3, 4], ids=str)
def test_a_size_that_is_enough_adds_nothing(max_size):
    assert Vocabulary.from_tokens(["a", "b", "c"], max_size).words == ("a", "b", "c")


@pytest.mark.parametrize(
    ("tokens", "max_size", "words"),
    [
        ("a b c", None, ("a", "b", "c", "<unk>")),
        ("a b c", 4, ("a", "b", "c", "<unk>")),
        ("a b c", 3, ("a", "b", "<unk>")),
        ("a <unk> c", 3, ("<unk>", "a", "c")),
    ],
    ids=["all", "room", "no-room", "there"],
)
def test_unk_can_be_asked_for(tokens, max_size, words):
    assert Vocabulary.from_tokens(tokens.split(), max_size, unknown=True).words == words


@given(WORDS, st.integers(2, 50), st.booleans())
def test_size_is_at_most_what_was_asked_for(tokens, max_size, unknown):
    vocabulary = Vocabulary.from_tokens(tokens, max_size, unknown=unknown)
    assert len(vocabulary) == min(max_size, len({*tokens, "<unk>"} if unknown else set(tokens)))
    assert ("<unk>" in vocabulary) >= unknown


def test_vocabulary_is_frozen():
    with pytest.raises(FrozenInstanceError):
        Vocabulary(("a",)).words = ("b",)


def test_ids_stay_on_the_cpu_whatever_the_default_device():
    with torch.device("meta"):
        ids = Vocabulary(("a",)).ids(["a"])
    assert ids.device.type == "cpu"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Vocabulary(()), ValueError, "at least one word, got none"),
        (lambda: Vocabulary(("a", "b", "a")), ValueError, "different words, got 'a' more than"),
        (lambda: Vocabulary.from_tokens([]), ValueError, "a text of at least one word, got none"),
        (lambda: Vocabulary.from_tokens(["a"], 0), ValueError, "max_size to be a positive int"),
        (lambda: Vocabulary.from_tokens(["a"], 1.0), TypeError, "max_size to be a positive int"),
        (
            lambda: Vocabulary.from_tokens(["a", "<eos>"], 1),
            ValueError,
            "max_size of at least 2, got 1",
        ),
        (lambda: Vocabulary(("a",)).ids("a"), TypeError, "a sequence of words, got the str 'a'"),
        (lambda: Vocabulary(("a",)).tokens([1]), ValueError, r"ids in 0\.\.0, got 1"),
        (lambda: Vocabulary(("a",)).tokens([-1]), ValueError, r"ids in 0\.\.0, got -1"),
    ],
    ids=["none", "twice", "no-text", "size-0", "float", "no-room", "str", "high", "negative"],
)
def test_bad_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_large_vocabulary_is_ordered_by_count():
    rng = random.Random(0)
    tokens = [f"w{int(rng.paretovariate(1.0))}" for _ in range(5000)]
    words = Vocabulary.from_tokens(tokens).words
    counts = [tokens.count(word) for word in words]
    assert counts == sorted(counts, reverse=True)


def test_ids_that_are_no_integers_are_refused():
    words = Vocabulary(("a", "b"))
    with pytest.raises(TypeError, match=r"Expected ids of an integer dtype, got torch.float32"):
        words.tokens([1.7, 0.2])
    assert words.tokens([]) == []
