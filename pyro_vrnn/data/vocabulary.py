"""The words a model knows, and their numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from pyro_vrnn.reprs import short_repr
from pyro_vrnn.shapes import check_positive_int, check_range


@dataclass(frozen=True)
class Vocabulary:
    """
    V words, each with an id: its place in ``words``.

    Example::

        >>> v = Vocabulary.from_tokens("the cat saw the dog <eos>".split())
        >>> v.words
        ('the', '<eos>', 'cat', 'dog', 'saw')
        >>> v.ids(["the", "dog"]), v.tokens([0, 3])
        (tensor([0, 3]), ['the', 'dog'])

    :param words: different words, not none.
    :raises ValueError: if there is no word, or one stands there twice.
    """

    EOS: ClassVar[str] = "<eos>"
    UNK: ClassVar[str] = "<unk>"

    words: tuple[str, ...]

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if isinstance(self.words, str):
            raise TypeError(f"Expected words to be a sequence of words, got {self.words!r:.40}.")
        if not self.words:
            raise ValueError("Expected a vocabulary of at least one word, got none.")
        if len(self.index) != len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise ValueError(f"Expected different words, got {twice!r} more than once.")

    @classmethod
    def from_tokens(
        cls, tokens: Iterable[str], max_size: int | None = None, *, unknown: bool = False
    ) -> Vocabulary:
        """
        Return the words of a text, the most frequent first and the alphabet where counts are equal.

        :param tokens: the text.
        :param max_size: keep so many words: ``<eos>``, if it occurs, ``<unk>`` for the words that
            are left out, and the most frequent; default: all words.
        :param unknown: whether ``<unk>`` is a word even if nothing is left out; where it does not
            occur in the text, it is the last.
        :raises ValueError: if the text is empty, or max_size leaves no room.
        """
        if isinstance(tokens, str):
            raise TypeError(f"Expected tokens to be a sequence of words, got {tokens!r:.40}.")
        return cls.from_counts(Counter(tokens), max_size, unknown=unknown)

    @classmethod
    def from_counts(
        cls, counts: Mapping[str, int], max_size: int | None = None, *, unknown: bool = False
    ) -> Vocabulary:
        """Return the vocabulary of words with these counts in a text; see :meth:`from_tokens`."""
        if not counts:
            raise ValueError("Expected a text of at least one word, got none.")
        size = len(counts.keys() | {cls.UNK}) if unknown else len(counts)
        if max_size is not None and check_positive_int("max_size", max_size) < size:
            size, unknown = max_size, True
        kept = ({cls.UNK} if unknown else set()) | (counts.keys() & {cls.EOS})
        if size < len(kept):
            raise ValueError(f"Expected max_size of at least {len(kept)}, got {max_size}.")
        ordered = sorted(counts.keys() - kept, key=lambda word: (-counts[word], word))
        kept.update(ordered[: size - len(kept)])
        return cls(tuple(sorted(kept, key=lambda word: (-counts.get(word, 0), word))))

    @cached_property
    def index(self) -> dict[str, int]:
        """Word -> id."""
        return {word: i for i, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self.index

    def ids(self, tokens: Sequence[str], *, source: str | None = None) -> Tensor:
        """
        Return the words' ids, int64; those of unknown words are that of ``<unk>``.

        :param tokens: n words.
        :param source: where they are from, for the message.
        :raises TypeError: if ``tokens`` is one str.
        :raises ValueError: if a word is unknown and the vocabulary has no ``<unk>``.
        """
        if isinstance(tokens, str):
            raise TypeError(f"Expected tokens to be a sequence of words, got the str {tokens!r}.")
        unknown = self.index.get(self.UNK, -1)
        numbers = [self.index.get(token, unknown) for token in tokens]
        if -1 in numbers:
            place = numbers.index(-1)
            where = "" if source is None else f" of {source}"
            raise ValueError(
                f"Expected words of the vocabulary, which has no {self.UNK!r}, got "
                f"{tokens[place]!r} as word {place + 1}{where}."
            )
        return torch.tensor(numbers, dtype=torch.int64, device="cpu")

    def tokens(self, ids: Tensor | Sequence[int]) -> list[str]:
        """
        Return the words of ids.

        :param ids: ``(n,)``.
        :raises TypeError: if an id is no integer.
        :raises ValueError: if an id is not in 0..V-1.
        """
        given = torch.as_tensor(ids)
        if given.numel() and given.is_floating_point():
            raise TypeError(f"Expected ids of an integer dtype, got {given.dtype}.")
        numbers = check_range("ids", given.long(), 0, len(self) - 1)
        return [self.words[i] for i in numbers.tolist()]
