"""A trained torch.nn module as a Pyro model: its layers replaced by ours."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

import torch
from pyro.nn import PyroModule
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from pyro_vrnn.nn._trees import deepcopy_with, to_pyro
from pyro_vrnn.nn._twins import OURS, our_twin
from pyro_vrnn.nn.weights import PRIOR_DEFAULTS, Prior, WeightModule, prior_value

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_EMBEDDING_OPTIONS = ("max_norm", "scale_grad_by_freq", "sparse")


def bayesianize(
    module: nn.Module, *, prior_scale: Prior = 1.0, prior_loc: Prior = 0.0
) -> PyroModule:
    r"""
    Return a copy of a torch.nn module with priors :math:`N(m_0, s^2)` on its layers' weights.

    ``RNN``, ``LSTM``, ``GRU``, ``Linear`` and ``Embedding`` become those of :mod:`pyro_vrnn.nn`
    with the same options. All else keeps its class and its ``forward``. The sites have the names
    of the parameters, such as ``"encoder.lstm.weight_hh_l0"``. The trained weights become the start
    of :class:`~pyro_vrnn.infer.AutoSpikeAndSlab`, so that E w = W. The module given is not changed,
    and shares no storage with the copy.

    Two layers with one parameter have one site, of the first one's name. Where a ``Linear`` and an
    ``Embedding`` share, the site is of kind ``"linear"``: its blocks are columns,
    not word types.

    What is left deterministic is listed in one warning: parameters of other modules, subclasses of
    the layers, layers with hooks or under a parametrization, and layers that are frozen, which is
    how to leave one out on purpose (``layer.requires_grad_(False)``). They remain point estimates,
    trained along if they require a gradient. (Frozen parameters become buffers of the same name,
    since Pyro would make them trainable.) Layers that are ours already stay as they are.

    A ``forward`` written for torch tells a ``Linear`` neither how many particle dims its input has
    nor, with an ``Embedding``, which dim counts the sequences. So ``vectorize_particles`` and
    ``parallel=True`` raise, and ``scope="sequence"`` may; :func:`~pyro_vrnn.infer.predict` then
    runs draw by draw.

    Example::

        >>> net = torch.nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
        >>> model = bayesianize(net, prior_scale={"bias": 0.1, "2.weight": 0.5})
        >>> model[2].prior("weight").stddev[0, 0], model[0].site_names["weight"]
        (tensor(0.5000), '0.weight')

    :param module: any module that :func:`copy.deepcopy` can copy; a layer alone gives ours.
    :param prior_scale: s > 0: a number or a tensor for every weight, or a mapping from kind
        (``"weight_ih"``, ``"weight_hh"``, ``"linear"``, ``"embedding"``, ``"bias"``) or site name,
        which comes first, to one (1 for those not named).
    :param prior_loc: :math:`m_0`, likewise (0 for those not named).
    :raises TypeError: if ``module`` is no module, or a prior is no number or tensor.
    :raises ValueError: if there is no layer to replace, a module is compiled (compile what this
        returns instead), a parameter is lazy or on the meta device,
        the row of a ``padding_idx`` is not 0, weights of two kinds are tied, or a prior does not
        fit or names no site or kind.
    :raises RuntimeError: if :func:`copy.deepcopy` cannot copy the module.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"Expected module to be a torch.nn.Module, got {type(module).__name__}.")
    _check_not_compiled(module)
    _check_initialised(module)
    names = {part: name for name, part in module.named_modules()}
    reasons = _reasons(names)
    layers = [part for part in names if type(part) in OURS and part not in reasons]
    if not layers and not any(isinstance(part, WeightModule) for part in names):
        stay = ", ".join(_deterministic(names, reasons))
        found = f": {stay}" if stay else ""
        raise ValueError(
            f"Expected a torch.nn RNN, LSTM, GRU, Linear or Embedding to replace, got none in a "
            f"{type(module).__name__}{found}."
        )
    twins: dict[nn.Module, WeightModule] = {}
    for layer in layers:
        _check_padding(layer, names[layer])
        twins[layer] = our_twin(layer)
    _tie(twins, names)
    _set_priors({names[layer]: twin for layer, twin in twins.items()}, prior_scale, prior_loc)
    message = _message(names, reasons, twins)
    copied = deepcopy_with(module, {id(layer): twin for layer, twin in twins.items()})
    to_pyro(copied)
    if message:
        warnings.warn(message, UserWarning, stacklevel=2)
    assert isinstance(copied, PyroModule)
    return copied


def _path(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _check_not_compiled(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if "_orig_mod" in part._modules:
            what = f"'{name}', a compiled one" if name else "a compiled one"
            inside = _path(name, "_orig_mod")
            raise ValueError(
                f"Expected modules that are not compiled, got {what}: give what is in it "
                f"(module.{inside}), and compile what bayesianize returns."
            )


def _check_initialised(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if is_lazy(parameter) or parameter.is_meta:
            what = "a lazy one: call the module once" if is_lazy(parameter) else "one on 'meta'"
            raise ValueError(f"Expected parameters with values, got '{name}', {what}.")


def _reasons(names: Mapping[nn.Module, str]) -> dict[nn.Module, str]:
    """Say why layers stay torch.nn's: for their own sake, or for what they share weights with."""
    reasons = {}
    for part in names:
        reason = _why_not(part)
        if reason is not None:
            reasons[part] = reason
    uses = _uses(names)
    spread = True
    while spread:
        spread = False
        for users in uses.values():
            fixed = [(u, n) for u, n in users if u in reasons or type(u) not in OURS]
            for user, name in users if fixed else ():
                if user not in reasons and type(user) in OURS:
                    other = _path(names[fixed[0][0]], fixed[0][1])
                    reasons[user] = f"{type(user).__name__}, its {name} is tied to '{other}'"
                    spread = True
    return reasons


def _uses(names: Mapping[nn.Module, str]) -> dict[int, list[tuple[nn.Module, str]]]:
    """Return where each parameter is, by its id, the first place first."""
    uses: dict[int, list[tuple[nn.Module, str]]] = {}
    for part in names:
        for name, parameter in part._parameters.items():
            if parameter is not None:
                uses.setdefault(id(parameter), []).append((part, name))
    return uses


def _why_not(layer: nn.Module) -> str | None:
    """Return why an instance of one of the layers, or of a subclass, stays as it is."""
    base = next((cls for cls in OURS if isinstance(layer, cls)), None)
    if base is None:
        return None
    kind = base.__name__
    own = {name: p for name, p in layer._parameters.items() if p is not None}
    rewritten = any(name.endswith(("_v", "_orig")) for name in own)  # weight_norm, prune, ...
    if is_parametrized(layer) or rewritten:
        return f"{kind} under a parametrization"
    if not own:
        return None
    if type(layer) is not base:
        return f"{type(layer).__name__}, a subclass of {kind}"
    if any(getattr(layer, hooks) for hooks in _HOOKS) or "forward" in layer.__dict__:
        return f"{kind} with hooks or a forward of its own"
    frozen = [name for name, p in own.items() if not p.requires_grad]
    if frozen:
        whole = len(frozen) == len(own)
        return f"{kind}, {'frozen' if whole else 'partly frozen (' + ', '.join(frozen) + ')'}"
    dtypes = {p.dtype for p in own.values()}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        return f"{kind} of {', '.join(sorted(map(str, dtypes)))}"
    if getattr(layer, "proj_size", 0):
        return f"{kind} with proj_size={layer.proj_size}"
    if isinstance(layer, nn.Embedding):
        given = [f"{o}={getattr(layer, o)}" for o in _EMBEDDING_OPTIONS if getattr(layer, o)]
        return f"{kind} with {', '.join(given)}" if given else None
    return None


def _check_padding(layer: nn.Module, name: str) -> None:
    if isinstance(layer, nn.Embedding) and layer.padding_idx is not None:
        largest = layer.weight[layer.padding_idx].abs().max().item()
        if largest != 0:
            raise ValueError(
                f"Expected row {layer.padding_idx} (the padding) of '{_path(name, 'weight')}' to "
                f"be 0, since its site has no such row, got a row with an entry of {largest:.3g}: "
                "set it to 0, or padding_idx = None."
            )


def _tie(twins: Mapping[nn.Module, WeightModule], names: Mapping[nn.Module, str]) -> None:
    """Give parameters that several layers share one site, the first layer's."""
    shared = [users for users in _uses(names).values() if len(users) > 1 and users[0][0] in twins]
    for (first, first_name), *others in shared:
        for user, name in others:
            places = [_path(names[first], first_name), _path(names[user], name)]
            for part in (first, user):
                if getattr(part, "padding_idx", None) is not None:
                    raise ValueError(
                        f"Expected tied weights ('{places[0]}' and '{places[1]}') of an Embedding "
                        f"without padding_idx, got padding_idx={part.padding_idx}: its site would "
                        "have a row less. Set padding_idx = None (lengths keep padding out), or "
                        "give the Linear a parameter of its own."
                    )
            try:
                twins[user].tie(name, twins[first], first_name)
            except ValueError as error:
                raise ValueError(f"'{places[0]}' and '{places[1]}' are tied: {error}") from None


def _set_priors(twins: Mapping[str, WeightModule], scale: Prior, loc: Prior) -> None:
    """Set the priors by full site name or by kind, as they are after tying."""
    sites = {
        _path(prefix, name): (twin, name, record.kind)
        for prefix, twin in twins.items()
        for name, record in twin._weight_sites.items()
    }
    known = [*sites, *dict.fromkeys(kind for _, _, kind in sites.values())]
    given: dict[str, Prior] = {"scale": scale, "loc": loc}
    for part, prior in given.items():
        unknown = sorted(set(prior) - set(known)) if isinstance(prior, Mapping) else []
        if unknown:
            raise ValueError(
                f"Expected the names in prior_{part} to be sites or kinds of weights "
                f"({', '.join(known)}), got {', '.join(map(repr, unknown))}."
            )
    for site, (twin, name, kind) in sites.items():
        values = {p: prior_value(g, site, kind, PRIOR_DEFAULTS[p]) for p, g in given.items()}
        twin._set_prior(name, site, **values)


def _deterministic(
    names: Mapping[nn.Module, str], reasons: Mapping[nn.Module, str]
) -> Iterator[str]:
    """Name what stays a point estimate: a layer whole, other parameters by module or by name."""
    covered: set[nn.Module] = set()
    for part, name in names.items():
        own = {n: p for n, p in part._parameters.items() if p is not None}
        if part in covered:
            continue
        if part in reasons:
            covered.update(part.modules())
            yield f"'{name}' ({reasons[part]})" if name else reasons[part]
        elif own and type(part) not in OURS:
            frozen = "" if any(p.requires_grad for p in own.values()) else ", frozen"
            kind = type(part).__name__
            if part._modules:
                yield from (f"'{_path(name, n)}' (a parameter of {kind}{frozen})" for n in own)
            else:
                yield f"'{name}' ({kind}{frozen})" if name else f"{kind}{frozen}"


def _message(
    names: Mapping[nn.Module, str],
    reasons: Mapping[nn.Module, str],
    twins: Mapping[nn.Module, WeightModule],
) -> str:
    """Say what is not Bayesian, and which dropout is gone or stays."""
    stay = list(_deterministic(names, reasons))
    gone = [
        f"'{name}' (dropout={part.dropout})" if name else f"dropout={part.dropout}"
        for part, name in names.items()
        if part in twins and getattr(part, "dropout", False)
    ]
    kept = [
        f"'{name}' ({type(part).__name__}, p={part.p})"
        for part, name in names.items()
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.p
    ]
    sentences = (
        ("Deterministic, without a prior, are", stay),
        ("Left out, since dropping is the guide's drop_prob, is the dropout of", gone),
        ("Kept, active in train mode and no part of the guide, is the dropout of", kept),
    )
    return " ".join(f"{start} {', '.join(found)}." for start, found in sentences if found)
