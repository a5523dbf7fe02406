"""What the dropping layers share: their settings, what drops with which probability, masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pyro_vrnn.distributions.per_site import (
    DEFAULT_DROP_PROB,
    PerSite,
    check_drop_prob,
    lookup,
)
from pyro_vrnn.distributions.weight_site import GATE_CHOICES, KINDS, WeightSite
from pyro_vrnn.shapes import check_choice, check_positive_int, check_shape

METHODS = ("none", "naive", "non-recurrent", "variational", "gaussian")
SCOPES = ("sequence", "batch")
PARAMETRIZATIONS = ("non-inverted", "inverted")
# What of each method's own drops; the input masks of the first layer stand for an embedding's.
_DROPS = {
    "none": (),
    "naive": ("weight_ih", "weight_hh", "linear"),
    "non-recurrent": ("weight_ih", "linear"),
    "variational": ("weight_ih", "weight_hh", "linear", "embedding"),
    "gaussian": ("weight_ih", "weight_hh", "linear", "embedding"),
}
_TIED = ("variational", "gaussian")


class Dropping(torch.nn.Module):
    """
    A layer of torch.nn whose weights are dropped in training.

    :ivar str method: see :class:`~pyro_vrnn.baselines.LSTM`.
    :ivar dict drop_probs: name of each weight that can be dropped -> its p, 0 where this method
        does not drop it.
    """

    method: str
    drop_probs: dict[str, float]

    def _set_dropping(
        self,
        sites: Mapping[str, WeightSite],
        method: str,
        drop_prob: PerSite,
        scope: str,
        parametrization: str,
        gates: str = "untied",
    ) -> None:
        """Keep the settings; to be called when the weights are there."""
        self.method = check_choice("method", method, METHODS)
        self.scope = check_choice("scope", scope, SCOPES)
        self.parametrization = check_choice("parametrization", parametrization, PARAMETRIZATIONS)
        self.gates = check_choice("gates", gates, GATE_CHOICES)
        if isinstance(drop_prob, Mapping):
            for key, value in drop_prob.items():
                check_drop_prob(f"drop_prob[{key!r}]", value)
            known = [*sites, *(kind for kind in KINDS if kind != "bias")]
            unknown = [key for key in drop_prob if key not in known]
            if unknown:
                raise ValueError(
                    f"Expected the names in drop_prob to be weights or kinds ({', '.join(known)}), "
                    f"got {', '.join(map(repr, unknown))}."
                )
        else:
            check_drop_prob("drop_prob", drop_prob)
        self.drop_probs = {}
        self._groups: dict[str, int] = {}
        for name, site in sites.items():
            shape = self._parameter(name).shape
            self.drop_probs[name] = self._decide(name, site, shape, drop_prob)
            self._groups[name] = shape[0] // site.blocks(shape, gates)[0]

    def _decide(self, name: str, site: WeightSite, shape: torch.Size, given: PerSite) -> float:
        if site.kind not in _DROPS[self.method]:
            return 0.0
        value, named = lookup(given, name, site.kind, DEFAULT_DROP_PROB)
        return float(value) if named else site.default_drop_prob(shape, float(value))

    @property
    def is_dropping(self) -> bool:
        """Whether a call drops something now: in training, with some p above 0."""
        return self.training and any(self.drop_probs.values())

    @property
    def has_tied_masks(self) -> bool:
        """Whether a mask serves a whole sequence, as a draw of the weights does."""
        return self.method in _TIED

    @property
    def shares_draws(self) -> bool:
        """Whether all sequences of a call in training have one mask."""
        return self.has_tied_masks and self.scope == "batch" and any(self.drop_probs.values())

    def _draw(self, name: str, *shape: int) -> Tensor:
        """Draw factors for a weight, before any scaling."""
        like, p = self._parameter(name), self.drop_probs[name]
        factors = like.new_empty(shape)
        if self.method == "gaussian":
            return factors.normal_(1.0, (p / (1 - p)) ** 0.5)
        return factors.bernoulli_(1 - p)

    def _scaled(self, name: str, mask: Tensor) -> Tensor:
        """Return the factors of a draw as they are used."""
        if self.parametrization == "inverted" and self.method != "gaussian":
            return mask / (1 - self.drop_probs[name])
        return mask

    def _mean_factor(self, name: str) -> float:
        """Return the mean of a factor as it is used."""
        inverted = self.parametrization == "inverted" or self.method == "gaussian"
        return 1.0 if inverted else 1 - self.drop_probs[name]

    def _mean_weight(self, name: str) -> Tensor:
        weight, factor = self._parameter(name), self._mean_factor(name)
        return weight if factor == 1 else weight * factor

    def _parameter(self, name: str) -> Tensor:
        value: Tensor = getattr(self, name)
        return value

    def _dropping_repr(self) -> str:
        """Show the settings that matter to the method."""
        text = f", method={self.method!r}"
        if self.method == "none":
            return text
        return f"{text}, drop_probs={self.drop_probs}, parametrization={self.parametrization!r}"


class ColumnDropping(Dropping):
    """A layer that drops input columns of its weights, so that masks can be handed to it."""

    def draw_masks(self, num_sequences: int) -> dict[str, Tensor]:
        """
        Draw what ``masks=`` takes: for each weight with p > 0 the factors of its input columns.

        :param int num_sequences: N.
        :returns: name -> ``(N, K, D)``, or ``(1, K, D)`` with ``scope="batch"``; K is the number
            of gates, or 1 where all rows share a mask. They are 0 or 1, and Gaussian with
            ``method="gaussian"``; the scaling of ``parametrization="inverted"`` comes with use.
        :raises ValueError: with a method whose masks do not last for a sequence.
        """
        check_positive_int("num_sequences", num_sequences)
        if not self.has_tied_masks:
            raise ValueError(
                f"Expected method 'variational' or 'gaussian', got {self.method!r}, which has no "
                "masks that last for a sequence."
            )
        leading = 1 if self.scope == "batch" else num_sequences
        return {
            name: self._draw(name, leading, self._groups[name], self._parameter(name).shape[1])
            for name, p in self.drop_probs.items()
            if p > 0
        }

    def _masks_of_call(
        self, masks: Mapping[str, Tensor] | None, num_sequences: int
    ) -> dict[str, Tensor] | None:
        """Return the masks of a call as they are used, or None if weights are at their means."""
        if masks is None:
            if not (self.is_dropping and self.has_tied_masks):
                return None
            masks = self.draw_masks(num_sequences)
        else:
            self._check_masks(masks, num_sequences)
        return {name: self._scaled(name, mask.detach()) for name, mask in masks.items()}

    def _check_masks(self, masks: Mapping[str, Tensor], num_sequences: int) -> None:
        if not self.has_tied_masks:
            raise ValueError(
                f"Expected masks with method 'variational' or 'gaussian', got {self.method!r}."
            )
        names = [name for name, p in self.drop_probs.items() if p > 0]
        if set(masks) != set(names):
            raise ValueError(
                f"Expected masks of the weights with p > 0 ({', '.join(names)}), "
                f"got {', '.join(masks) or 'none'}."
            )
        for name, mask in masks.items():
            columns = self._parameter(name).shape[1]
            check_shape(f"masks[{name!r}]", mask, ("N", "K", columns))
            groups = {1, self._groups[name]}
            if mask.shape[0] not in (1, num_sequences) or mask.shape[1] not in groups:
                raise ValueError(
                    f"Expected masks[{name!r}] for 1 or {num_sequences} sequences and "
                    f"{' or '.join(map(str, sorted(groups)))} parts of the rows, "
                    f"got {tuple(mask.shape)}."
                )
