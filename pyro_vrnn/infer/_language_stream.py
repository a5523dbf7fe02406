"""Draws of a language network run over the windows of a text, a token's score at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vrnn.baselines.language import LanguageNetwork
from pyro_vrnn.ops.gemm import linear
from pyro_vrnn.shapes import check_lengths, check_token_targets, check_tokens

Make = Callable[[], LanguageNetwork]
Window = tuple[Tensor, Tensor, Tensor | None]


@dataclass
class Sums:
    """
    What is known of the tokens of a text after S draws.

    :ivar draws: minus the log-likelihood of all tokens under each draw, ``(S,)``.
    :ivar first: minus the log predictive of all tokens by the first 1, 2, ..., S draws, ``(S,)``.
    :ivar log_predictive: of each token, ``(n,)`` in pieces.
    :ivar log_square: log of the mean over draws of the squared probability of each token.
    :ivar entropy: of the mean over draws, of each token.
    :ivar expected_entropy: mean over draws of the entropy, of each token.
    """

    draws: Tensor
    first: Tensor
    log_predictive: list[Tensor] = field(default_factory=list)
    log_square: list[Tensor] = field(default_factory=list)
    entropy: list[Tensor] = field(default_factory=list)
    expected_entropy: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)


class _Head(torch.nn.Linear):
    """A linear layer by the faster of torch's two libraries."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def run_draws(
    make: Make,
    windows: Iterable[Any],
    *,
    num_samples: int,
    redraw: bool,
    seed: int,
    entropies: bool,
    max_bytes: int,
    device: torch.device,
    update: Callable[[int], Any],
) -> Sums:
    """
    Run S draws over a text, each with its own state.

    The text is taken in segments: all of it, or with ``entropies`` as many windows as have their
    probabilities in ``max_bytes``. A draw that comes back for the next segment is made again from
    the same seed.

    :param make: draws a network from torch's global generators.
    :param bool redraw: whether a draw is made anew for each window.
    :param update: told the number of tokens after each window of each draw.
    """
    example = _seeded(make, device, seed, 0, 0)
    vocab_size = example.head.out_features
    size = vocab_size * example.head.weight.element_size()
    del example
    sums = Sums(*torch.zeros(2, num_samples, dtype=torch.float64, device=device))
    states: list[Any] = [None] * (num_samples if entropies else 0)
    number = 0
    for segment in _segments(windows, vocab_size, max_bytes // size if entropies else None):
        tokens = _Tokens(segment, num_samples, vocab_size, entropies, device)
        for draw in range(num_samples):
            state = states[draw] if entropies else None
            network = None
            for place, window in enumerate(segment):
                if network is None or redraw:
                    key = (draw, number + place) if redraw else (draw, 0)
                    network = _seeded(make, device, seed, *key)
                x, y, lengths = window
                logits = network(x.to(device), lengths, state)
                state = network.state
                tokens.add(place, logits, y.to(device), lengths)
                update(tokens.counts[place])
            if entropies:
                states[draw] = state
            tokens.end(draw, sums)
        tokens.close(sums, segment)
        number += len(segment)
    if number == 0:
        raise ValueError("Expected at least one window, got none.")
    return sums


class _Tokens:
    """Running sums over draws for each token of a segment."""

    def __init__(
        self,
        segment: list[Window],
        num_samples: int,
        vocab_size: int,
        entropies: bool,
        device: torch.device,
    ) -> None:
        self.counts = [
            y.numel() if lengths is None else int(lengths.sum()) for _, y, lengths in segment
        ]
        self.starts = np.cumsum([0, *self.counts]).tolist()
        total = self.starts[-1]
        double: dict[str, Any] = {"dtype": torch.float64, "device": device}
        self.num_samples = num_samples
        self.current = torch.empty(total, **double)  # log p of each token under this draw
        self.log_sum = torch.full((total,), -math.inf, **double)
        self.log_square = torch.full((total,), -math.inf, **double)
        self.expected = torch.zeros(total, **double) if entropies else None
        self.probs: Tensor | None = None  # (n, V), made when the dtype is known
        self._vocab_size = vocab_size

    def add(self, place: int, logits: Tensor, y: Tensor, lengths: Tensor | None) -> None:
        """Take the logits of a window under one draw."""
        rows = slice(self.starts[place], self.starts[place + 1])
        flat, targets = flat_valid(logits, lengths), flat_valid(y, lengths)
        if self.expected is None:
            self.current[rows] = -torch.nn.functional.cross_entropy(
                flat, targets.long(), reduction="none"
            )
            return
        log_probs = flat.log_softmax(-1)
        self.current[rows] = log_probs.gather(-1, targets.long().unsqueeze(-1)).squeeze(-1)
        probs = log_probs.exp()
        if self.probs is None:
            self.probs = probs.new_zeros(len(self.current), self._vocab_size)
        self.probs[rows] += probs
        # A class of probability 0 has no share, where its logarithm is minus infinity.
        share = probs.mul_(log_probs.clamp_(min=torch.finfo(probs.dtype).min))
        self.expected[rows] -= share.sum(-1).double()

    def end(self, draw: int, sums: Sums) -> None:
        """Take what the draw gave over the segment into the sums."""
        self.log_sum = torch.logaddexp(self.log_sum, self.current)
        self.log_square = torch.logaddexp(self.log_square, 2 * self.current)
        sums.draws[draw] -= self.current.sum()
        sums.first[draw] -= (self.log_sum - math.log(draw + 1)).sum()

    def close(self, sums: Sums, segment: list[Window]) -> None:
        """Take what is known of each token to the sums, on the CPU."""
        logs = math.log(self.num_samples)
        sums.log_predictive.append((self.log_sum - logs).cpu())
        sums.log_square.append((self.log_square - logs).cpu())
        sums.targets.extend(flat_valid(y, lengths).cpu() for _, y, lengths in segment)
        if self.expected is None:
            return
        assert self.probs is not None
        sums.expected_entropy.append((self.expected / self.num_samples).cpu())
        mean = self.probs.div_(self.num_samples)
        pieces = mean.split(1024)  # not a second (n, V)
        sums.entropy.extend(torch.special.entr(p).sum(-1).double().cpu() for p in pieces)


def flat_valid(values: Tensor, lengths: Tensor | None) -> Tensor:  # (N, T, *) -> (n, *)
    """Return what is not behind the end of its sequence, sequence after sequence."""
    if lengths is None:
        return values.flatten(0, 1)
    valid = torch.arange(values.shape[1]) < lengths.cpu().unsqueeze(-1)
    return values[valid.to(values.device)]


def _seeded(make: Make, device: torch.device, *key: int) -> LanguageNetwork:
    """Make the draw of a key, for evaluation, with a head by the faster library."""
    word = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(word) >> 1)
    network = make().to(device)
    head = _Head(1, 1, bias=False, device="meta")
    head.weight = network.head.weight
    head.bias = network.head.bias
    head.in_features, head.out_features = network.head.in_features, network.head.out_features
    return LanguageNetwork(network.embedding, network.rnn, head).eval()


def _segments(windows: Iterable[Any], vocab_size: int, most: int | None) -> Iterator[list[Window]]:
    """Yield windows, checked, in lists of at most so many tokens (or of one window)."""
    segment: list[Window] = []
    count = 0
    for number, given in enumerate(windows):
        window = _checked(number, given, vocab_size)
        size = window[1].numel()
        if segment and most is not None and count + size > most:
            yield segment
            segment, count = [], 0
        segment.append(window)
        count += size
    if segment:
        yield segment


def _checked(number: int, window: Any, vocab_size: int) -> Window:
    if not isinstance(window, (tuple, list)) or len(window) not in (2, 3):
        got = f"{len(window)} parts" if isinstance(window, (tuple, list)) else type(window).__name__
        raise TypeError(
            f"Expected windows (x, y) or (x, y, lengths), got {got} as window {number}."
        )
    x, y, *rest = window
    check_tokens("x", x)
    check_token_targets(y, x.shape, vocab_size)
    return x, y, check_lengths(rest[0], *x.shape) if rest and rest[0] is not None else None
