"""Windows of parallel streams of a long text, for truncated back-propagation through time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pyro_vrnn.shapes import check_positive_int, shape_text

Window = tuple[Tensor, ...]  # x, y and, of all tokens, lengths


class StreamWindows:
    """
    A text as N parallel streams, cut in windows of T steps that follow each other.

    A step is a word and the word after it, the target. The n - 1 steps of a text of n words are
    cut in N contiguous streams of equal length, stream i + 1 going on where stream i ends; the
    last steps, fewer than N, are left out. Each window goes on in every stream where the one before
    ended, so that a network can carry its state over; the last window may be shorter.

    With ``all_tokens`` no step is left out: the first streams are one step longer, the others are
    padded with id 0, and a window is ``(x, y, lengths)``. So that no length is 0, that one step is
    part of the window before it where it would be a window of its own.

    Every stream but the first starts without the words before it, so a test score of N streams is
    that of a text cut in N: use one stream for the score of the text as a whole.

    Example::

        >>> for x, y in StreamWindows(torch.arange(8), batch_size=2, window=2):
        ...     print(x.tolist(), y.tolist())
        [[0, 1], [3, 4]] [[1, 2], [4, 5]]
        [[2], [5]] [[3], [6]]
        >>> x, y, lengths = StreamWindows(torch.arange(8), 2, 4, all_tokens=True)[0]
        >>> y.tolist(), lengths.tolist()
        ([[1, 2, 3, 4], [5, 6, 7, 0]], [4, 3])

    :param ids: the text ``(n,)``, of an integer dtype; windows are int64 on its device.
    :param batch_size: number of streams N.
    :param window: number of steps T of a window.
    :param start: an id put before the text, so that its first word is a target too; None: none.
    :param all_tokens: whether every step is in a window.
    :raises TypeError: if ids are no integers.
    :raises ValueError: if ids are not of shape ``(n,)`` or fewer than N steps.
    """

    def __init__(
        self,
        ids: Tensor,  # (n,)
        batch_size: int,
        window: int,
        *,
        start: int | None = None,
        all_tokens: bool = False,
    ) -> None:
        self.batch_size = check_positive_int("batch_size", batch_size)
        self.window = check_positive_int("window", window)
        self.all_tokens = all_tokens
        text = _checked(ids, start)
        num_steps = len(text) - 1
        if num_steps < self.batch_size:
            missing = 0 if start is not None else 1
            raise ValueError(
                f"Expected a text of at least {self.batch_size + missing} words for "
                f"{self.batch_size} streams, got {len(ids)}."
            )
        even, longer = divmod(num_steps, self.batch_size)
        longer = longer if all_tokens else 0
        self._lengths = torch.full((self.batch_size,), even, device="cpu")
        self._lengths[:longer] += 1
        self._x = _streams(text[:-1], self._lengths)
        self._y = _streams(text[1:], self._lengths)
        steps = self._x.shape[1]
        starts = list(range(0, steps, self.window))
        if longer and len(starts) > 1 and starts[-1] == steps - 1:
            starts.pop()
        self._bounds = list(zip(starts, [*starts[1:], steps], strict=True))

    @property
    def num_targets(self) -> int:
        """Number of words that are a target in some window."""
        return int(self._lengths.sum())

    def __len__(self) -> int:
        return len(self._bounds)

    def __getitem__(self, place: int) -> Window:
        first, end = self._bounds[place]
        x, y = self._x[:, first:end].contiguous(), self._y[:, first:end].contiguous()
        if not self.all_tokens:
            return x, y
        return x, y, (self._lengths - first).clamp(max=end - first)

    def __iter__(self) -> Iterator[Window]:
        return (self[place] for place in range(len(self)))


def _checked(ids: Tensor, start: int | None) -> Tensor:
    """Return the text as int64, ``start`` before it."""
    if not isinstance(ids, Tensor):
        raise TypeError(f"Expected ids to be a Tensor, got {type(ids).__name__}.")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"Expected ids of an integer dtype, got {ids.dtype}.")
    if ids.dim() != 1:
        raise ValueError(f"Expected ids of shape (n,), got {shape_text(ids.shape)}.")
    ids = ids.to(torch.int64)
    if start is None:
        return ids
    if isinstance(start, bool) or not isinstance(start, int):
        raise TypeError(f"Expected start to be an id or None, got {start!r}.")
    if start < 0:
        raise ValueError(f"Expected start to be an id of at least 0, got {start}.")
    return torch.cat([ids.new_tensor([start]), ids])


def _streams(words: Tensor, lengths: Tensor) -> Tensor:
    """Cut words in streams of these lengths, ``(N, max(lengths))``, zeros behind their ends."""
    streams = words[: int(lengths.sum())].split(lengths.tolist())
    return torch.nn.utils.rnn.pad_sequence(list(streams), batch_first=True)
