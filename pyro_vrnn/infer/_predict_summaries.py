"""What is kept of a posterior predictive: sums over draws that need no draw to be kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_vrnn.infer._predict_outcome import Outcome
from pyro_vrnn.infer._predict_runs import Program

SORTED_AT_ONCE = 2**20  # numbers


class Collector:
    """
    All that is kept of a prediction: the moments, and draws for as many sequences as are asked for.

    :param kept: which of ``DRAWS`` to keep for all sequences.
    :param levels: of quantiles.
    """

    def __init__(
        self,
        program: Program,
        num_samples: int,
        num_sequences: int,
        kept: Sequence[str],
        levels: Sequence[float],
        device: torch.device,
    ) -> None:
        self._program, self._num_samples, self._levels = program, num_samples, levels
        self._device = device
        shape = (num_sequences, *program.out)
        self._moments = (Classes if program.classes else Moments)(shape, device)
        self._kept = {name: self._empty(name, num_samples, num_sequences) for name in kept}
        self._quantiles = self._empty("observation", len(levels), num_sequences) if levels else None
        self._cut = slice(0, 0)
        self._held: dict[str, Tensor] = {}

    def _empty(self, name: str, count: int, num_sequences: int) -> Tensor:
        shape, dtype = self._program.row(name)
        return torch.empty((count, num_sequences, *shape), dtype=dtype, device=self._device)

    def begin(self, cut: slice) -> None:
        """Make room for all draws of the next sequences, where they are needed."""
        self._cut = cut
        self._held = {name: whole[:, cut] for name, whole in self._kept.items()}
        if self._levels and "observation" not in self._held:
            self._held["observation"] = self._empty(
                "observation", self._num_samples, cut.stop - cut.start
            )

    def add(self, rows: slice, seen: int, outcome: Outcome) -> None:
        """Take what draws number ``seen`` and on say of some sequences of the cut."""
        self._moments.add(rows, seen, outcome.mean, outcome.variance)
        draws = slice(seen, seen + len(outcome.mean))
        inside = slice(rows.start - self._cut.start, rows.stop - self._cut.start)
        for name, value in (("mean", outcome.mean), ("observation", outcome.sample)):
            if name in self._held and value is not None:
                self._held[name][draws, inside] = value

    def end(self) -> None:
        """All draws of the cut are in."""
        if self._quantiles is not None:
            found = draw_quantiles(self._held["observation"], self._levels)
            self._quantiles[:, self._cut] = found
        self._held = {}

    def fields(self) -> dict[str, Tensor | None]:
        """Return the fields of a Prediction."""
        return {
            **self._moments.result(self._num_samples, self._program.dtype),
            "quantiles": self._quantiles,
            "draws": self._kept.get("observation"),
            "mean_draws": self._kept.get("mean"),
        }


class Moments:
    """
    Mean and variance of the mixture of the draws' distributions, merged chunk by chunk in float64.

    :param shape: of the observations of all sequences, ``(N, *out)``.
    """

    def __init__(self, shape: Sequence[int], device: torch.device) -> None:
        self.mean = torch.zeros(tuple(shape), dtype=torch.float64, device=device)
        self.square_sum = torch.zeros_like(self.mean)  # of the means, about their mean
        self.variance_sum = torch.zeros_like(self.mean)

    def add(self, rows: slice, seen: int, mean: Tensor, variance: Tensor | None) -> None:
        """
        Merge P more draws of some sequences, of which ``seen`` draws are in already (Chan et al.).

        :param mean: of the observation given each draw, ``(P, n, *out)``; ``variance`` likewise.
        """
        assert variance is not None
        size = len(mean)
        square_sum, center = torch.var_mean(mean.double(), dim=0, correction=0)
        shift = center - self.mean[rows]
        self.mean[rows] += shift * (size / (seen + size))
        self.square_sum[rows] += size * square_sum + shift.square() * (seen * size / (seen + size))
        self.variance_sum[rows] += variance.sum(0, dtype=torch.float64)

    def result(self, count: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the fields of a Prediction."""
        epistemic, aleatoric = self.square_sum / count, self.variance_sum / count
        fields = {
            "mean": self.mean,
            "variance": epistemic + aleatoric,
            "epistemic_variance": epistemic,
            "aleatoric_variance": aleatoric,
        }
        return {name: value.to(dtype) for name, value in fields.items()}


class Classes:
    """
    Mean probabilities of classes, and the mean entropy, summed in float64.

    :param shape: of the probabilities of all sequences, ``(N, *out, V)``.
    """

    def __init__(self, shape: Sequence[int], device: torch.device) -> None:
        self.prob_sum = torch.zeros(tuple(shape), dtype=torch.float64, device=device)
        self.entropy_sum = torch.zeros(tuple(shape[:-1]), dtype=torch.float64, device=device)

    def add(self, rows: slice, seen: int, mean: Tensor, variance: Tensor | None) -> None:
        """Add P more draws of some sequences; ``mean`` are probabilities ``(P, n, *out, V)``."""
        self.prob_sum[rows] += mean.sum(0, dtype=torch.float64)
        self.entropy_sum[rows] += torch.special.entr(mean).sum((0, -1), dtype=torch.float64)

    def result(self, count: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the fields of a Prediction."""
        probs, expected = self.prob_sum / count, self.entropy_sum / count
        entropy = torch.special.entr(probs).sum(-1)
        fields = {
            "probs": probs,
            "entropy": entropy,
            "expected_entropy": expected,
            # At least 0 by Jensen's inequality, but for rounding.
            "mutual_information": (entropy - expected).clamp(min=0.0),
        }
        return {name: value.to(dtype) for name, value in fields.items()}


def draw_quantiles(draws: Tensor, levels: Sequence[float]) -> Tensor:
    """
    Return quantiles over the first dim, interpolated linearly between draws as NumPy does.

    >>> draw_quantiles(torch.tensor([4.0, 0.0, 1.0]), [0.0, 0.25, 1.0])
    tensor([0.0000, 0.5000, 4.0000])

    :param draws: ``(S, *)``.
    :returns: ``(Q, *)``.
    """
    # torch.quantile takes 16 million numbers at most, and sorts them all at once.
    num_draws = len(draws)
    flat = draws.reshape(num_draws, -1)
    found = flat.new_empty(len(levels), flat.shape[1])
    for columns in range(0, flat.shape[1], step := max(1, SORTED_AT_ONCE // num_draws)):
        part = slice(columns, columns + step)
        ordered = flat[:, part].sort(dim=0).values
        for k, level in enumerate(levels):
            position = level * (num_draws - 1)
            low = min(int(position), num_draws - 1)
            high = min(low + 1, num_draws - 1)
            found[k, part] = torch.lerp(ordered[low], ordered[high], position - low)
    return found.reshape(len(levels), *draws.shape[1:])
