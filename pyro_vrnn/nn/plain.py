"""From a tree of our layers back to one of torch.nn's, with weights given for the sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from pyro_vrnn.nn._trees import deepcopy_with, to_plain
from pyro_vrnn.nn._twins import THEIRS, torch_shaped, torch_twin
from pyro_vrnn.nn.weights import WeightModule
from pyro_vrnn.shapes import shape_text

HOOK = "plain_twin"


def plain_torch(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """
    Return a copy in which each of our layers is torch.nn's, holding the weights given.

    It is the inverse of :func:`~pyro_vrnn.nn.bayesianize`: the result runs without Pyro, and its
    state dict has torch.nn's names. Tied weights are one parameter, and the row of a
    ``padding_idx`` is 0. Modules that ``bayesianize`` made PyroModules get their classes back.

    A container with a method ``plain_twin(children)`` is replaced by the module that this returns
    for its children (a dict from name to module, of torch.nn's layers already). Any other
    PyroModule with a class of its own, or with sites or constrained parameters besides our layers,
    stays one: its ``forward`` is a Pyro program. If that passes its layers what only ours take,
    such as ``particles=`` or ``lengths=``, torch.nn's raise when it is called: it needs a
    ``plain_twin``.

    Example::

        >>> import torch
        >>> from pyro_vrnn.nn import GRU
        >>> weights = {"weight_ih_l0": torch.zeros(24, 3), "weight_hh_l0": torch.ones(24, 8)}
        >>> plain_torch(GRU(3, 8, bias=False), weights)
        GRU(3, 8, bias=False)

    :param module: a model or a part of one, such as ``model.rnn``; a layer alone will do.
    :param weights: site name, as in the whole model, -> value. Other names are not looked at.
    :raises TypeError: if ``module`` is no module, or one of its layers is of a class derived from
        ours and has no ``plain_twin``.
    :raises ValueError: if a site is missing or its value has another shape.
    :raises RuntimeError: if :func:`copy.deepcopy` cannot copy the module.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"Expected module to be a torch.nn.Module, got {type(module).__name__}.")
    plain = _Twins(weights).copy(module)
    to_plain(plain)
    return plain


class _Twins:
    """What takes the places of the modules seen so far."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights
        self.parameters: dict[str, nn.Parameter] = {}  # by site, so that ties stay ties
        self.memo: dict[int, Any] = {}

    def copy(self, module: nn.Module) -> nn.Module:
        self._replace(module)
        return deepcopy_with(module, self.memo)

    def _replace(self, module: nn.Module) -> None:
        if id(module) in self.memo:
            return
        for child in module.children():
            self._replace(child)
        if callable(getattr(type(module), HOOK, None)):
            children = {
                name: self.copy(child)
                for name, child in module._modules.items()
                if child is not None
            }
            for child in children.values():
                to_plain(child)
            twin = self.memo[id(module)] = getattr(module, HOOK)(children)
            twin.training = module.training
        elif isinstance(module, WeightModule):
            if type(module) not in THEIRS:
                raise TypeError(
                    f"Expected layers of pyro_vrnn.nn's own classes, got a {type(module).__name__}:"
                    f" give it a method {HOOK}(children) that returns its torch.nn twin."
                )
            names = module.site_names
            own = {name: self._parameter(module, name, site) for name, site in names.items()}
            self.memo[id(module)] = torch_twin(module, own)

    def _parameter(self, layer: WeightModule, name: str, site: str) -> nn.Parameter:
        if site not in self.weights:
            raise ValueError(
                f"Expected a weight for each site, got none for '{site}' "
                f"(given: {', '.join(self.weights) or 'none'})."
            )
        value, shape = self.weights[site], layer.prior(name).event_shape
        if value.shape != shape:
            raise ValueError(
                f"Expected the weight of site '{site}' of shape {shape_text(shape)}, "
                f"got {shape_text(value.shape)}."
            )
        if site not in self.parameters:
            self.parameters[site] = nn.Parameter(torch_shaped(layer, value))
        return self.parameters[site]
