"""Where a guide starts: torch's initialisation, or a trained module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vrnn.distributions.weight_site import weight_site_of

InitLocFn = Callable[[dict[str, Any]], Tensor]


def default_initial(site: dict[str, Any]) -> Tensor:
    """Return torch.nn's initialisation for a known weight, a draw from the prior for another."""
    record = weight_site_of(site)
    return site["value"] if record is None else record.initial(site["fn"].event_shape)


def init_to_module(module: torch.nn.Module, prefix: str = "") -> InitLocFn:
    """
    Return an ``init_loc_fn`` that starts a guide from the parameters of a trained module.

    A site takes the parameter of the same name, after ``prefix`` is taken off. Sites outside the
    prefix start as they would without this function.

    Example::

        >>> import pyro_vrnn as vrnn
        >>> lstm = torch.nn.LSTM(3, 8)
        >>> model = vrnn.models.SequenceRegression(vrnn.nn.LSTM(3, 8), 1)
        >>> init = init_to_module(lstm, prefix="rnn.")
        >>> guide = vrnn.infer.AutoSpikeAndSlab(model, drop_prob=0.5, init_loc_fn=init)
        >>> W = guide.mean(torch.zeros(2, 5, 3), torch.zeros(2, 1))["rnn.weight_hh_l0"]
        >>> torch.allclose(W, lstm.weight_hh_l0)
        True

    :param module: a module with torch.nn's parameter names, such as a trained
        :class:`torch.nn.LSTM`.
    :param str prefix: what the model puts before those names, ``"rnn."`` for a model that holds
        the network as ``self.rnn``.
    :raises ValueError: when the guide is built, if no site is under the prefix or one there has no
        parameter.
    """
    return _FromModule(module, prefix)


class _FromModule:
    def __init__(self, module: torch.nn.Module, prefix: str) -> None:
        self.values = {name: value.detach().clone() for name, value in module.named_parameters()}
        self.prefix = prefix
        self.seen: list[str] = []

    def __call__(self, site: dict[str, Any]) -> Tensor:
        name = site["name"]
        self.seen.append(name)
        if not name.startswith(self.prefix):
            return default_initial(site)
        own = name.removeprefix(self.prefix)
        if own not in self.values:
            raise ValueError(
                f"Expected a parameter {own!r} for site '{name}', "
                f"got a module with {', '.join(self.values)}."
            )
        return self.values[own]

    def check_used(self) -> None:
        """Refuse a prefix that no site had since the last check."""
        seen, self.seen = self.seen, []
        if not any(name.startswith(self.prefix) for name in seen):
            raise ValueError(
                f"Expected a site under prefix {self.prefix!r}, got sites {', '.join(seen)}."
            )
