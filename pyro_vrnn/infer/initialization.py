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
    :raises ValueError: when the guide is built, if a site under the prefix has no parameter.
    """
    values = {name: value.detach().clone() for name, value in module.named_parameters()}

    def init_loc_fn(site: dict[str, Any]) -> Tensor:
        name = site["name"]
        if not name.startswith(prefix):
            return default_initial(site)
        if name.removeprefix(prefix) not in values:
            raise ValueError(
                f"Expected a parameter {name.removeprefix(prefix)!r} for site '{name}', "
                f"got a module with {', '.join(values)}."
            )
        return values[name.removeprefix(prefix)]

    return init_loc_fn
