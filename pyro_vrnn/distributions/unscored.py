r"""
A number that cannot be read: the log density where there is none, or where it is not computed.

Pyro asks every site for ``log_prob``, also where the ELBO then takes an analytic KL and does
nothing with the answer. What a distribution without a density returns there must bear being
scaled, masked, summed and checked for NaN. It must never become a number.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle


class Unscored(Tensor):
    """
    A tensor of a shape, dtype and device whose values raise an error when they are asked for.

    Whatever is computed from it is unscored too, with the same message: ``loss - unscored``,
    ``unscored.sum()``, ``torch.stack([loss, unscored])``. Reading a value (``float``, ``bool``,
    ``item``, ``numpy``, an operation whose shape depends on values), writing one into another
    tensor in place, and ``backward`` raise ``NotImplementedError(message)``. These are answered:

    - checks for NaN and infinity, with no: nothing is known to be wrong;
    - shape, dtype and device, and tensors made after them, as by ``zeros_like``;
    - requests for a hook, which is never called.

    Nothing is computed, on any device, and no GPU is waited for.

    Example::

        >>> log_q = Unscored((), dtype=torch.float32, device="cpu", message="No density.")
        >>> elbo = torch.ones(5) - log_q.sum()
        >>> elbo.shape, bool(torch.isnan(elbo).any())
        (torch.Size([5]), False)
        >>> elbo.mean().item()
        Traceback (most recent call last):
        ...
        NotImplementedError: No density.

    :param tuple shape: as that of a tensor.
    :param torch.dtype dtype: as that of a tensor.
    :param torch.device device: as that of a tensor.
    :param str message: what to say to those who ask for a value.
    :param bool requires_grad: whether it counts as depending on parameters. By default it does
        where gradients are recorded, so that no loss made of it is taken for a constant.
    """

    message: str

    @staticmethod
    def __new__(
        cls,
        shape: Sequence[int],
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        message: str,
        requires_grad: bool | None = None,
    ) -> Unscored:
        if requires_grad is None:
            requires_grad = torch.is_grad_enabled()
        made: Unscored = Tensor._make_wrapper_subclass(
            cls,
            shape,
            dtype=dtype,
            device=torch.device(device),
            requires_grad=requires_grad and (dtype.is_floating_point or dtype.is_complex),
        )
        made.message = message
        return made

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        return f"Unscored(shape: {tuple(self.shape)}, message: {self.message!r})"

    def __format__(self, spec: str) -> str:
        return self.refuse() if spec else repr(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Unscored:
        return _rebuild(*self._parts())

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _rebuild, self._parts()

    def _parts(self) -> tuple[Any, ...]:
        return tuple(self.shape), self.dtype, self.device, self.message, self.requires_grad

    def refuse(self) -> NoReturn:
        """Raise the error."""
        raise NotImplementedError(self.message)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return _answer(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> NoReturn:
        # Only what torch does by itself, in C++, gets here.
        _first_of(_tensors([args, kwargs])).refuse()


def _rebuild(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device, message: str, grad: bool
) -> Unscored:
    return Unscored(shape, dtype=dtype, device=device, message=message, requires_grad=grad)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VIEWS = {getattr(Tensor, name).__get__ for name in ("T", "mT", "H", "mH", "real", "imag", "data")}
_PROPERTY = ("__get__", "__set__", "__delete__")
_ABOUT = _names(
    "size dim numel nelement ndimension __len__ stride is_contiguous is_floating_point is_complex "
    "is_signed element_size get_device storage_offset is_same_size is_inference"
)
_CHECKS = {"isnan": False, "isinf": False, "isposinf": False, "isneginf": False, "isfinite": True}
_EQUALITIES = {"eq": True, "__eq__": True, "ne": False, "__ne__": False}
_COMPARISONS = frozenset(("lt", "le", "gt", "ge", *_EQUALITIES))
_ELEMENTWISE = _COMPARISONS | _names(
    "add sub rsub __rsub__ mul div true_divide __rdiv__ pow __pow__ __rpow__ neg abs square exp "
    "log sqrt"
)
_READERS = _names(
    "item tolist numpy __array__ __float__ __int__ __bool__ __index__ __complex__ __contains__ "
    "__dlpack__ is_nonzero equal allclose backward grad"
)
_HOOKS = frozenset(("register_hook", "register_post_accumulate_grad_hook"))
_CONVERSIONS = _names("to cpu cuda type type_as float double half bfloat16")
_MAKERS = _names(
    "zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full "
    "new_empty new_tensor"
)


def _answer(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    name = func.__name__
    if name in _PROPERTY and func not in _VIEWS:
        return func(*args, **kwargs)
    tensors = _tensors([args, kwargs])
    me = _first_of(tensors)
    if name in _CHECKS:
        return _all(_CHECKS[name], me)
    if name in _EQUALITIES and not kwargs:
        # As one looks for NaN and infinity: x == x, x == inf.
        one, other = args
        if one is other or (isinstance(other, float) and math.isinf(other)):
            return _all(_EQUALITIES[name] == (one is other), me)
    if name in _HOOKS:
        return RemovableHandle(OrderedDict())
    if name in _CONVERSIONS:
        return _convert(func, args, kwargs)
    if name in _MAKERS:
        return _make(func, args, kwargs)
    if name in _READERS or kwargs.get("out") is not None:
        me.refuse()
    if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
        return _in_place(func, args, kwargs, me)
    grad = torch.is_grad_enabled() and name != "detach" and any(x.requires_grad for x in tensors)
    known = _shape_and_dtype(name, args, tensors) if not kwargs else None
    if known is not None:
        return _rebuild(*known, me.device, me.message, grad)
    return _wrap(_on_meta(func, args, kwargs, me), me, grad, about=name in _ABOUT)


def _first_of(tensors: list[Tensor]) -> Unscored:
    return next(x for x in tensors if isinstance(x, Unscored))


def _tensors(x: Any) -> list[Tensor]:
    """Return the tensors in nested arguments."""
    if isinstance(x, Tensor):
        return [x]
    if isinstance(x, dict):
        x = x.values()
    elif not isinstance(x, (list, tuple)):
        return []
    return [tensor for part in x for tensor in _tensors(part)]


def _all(value: bool, like: Tensor) -> Tensor:
    return torch.full((), value, dtype=torch.bool, device=like.device).expand(like.shape)


def _shape_and_dtype(
    name: str, operands: Sequence[Any], tensors: list[Tensor]
) -> tuple[Sequence[int], torch.dtype] | None:
    """Say what an operation results in, if it is a usual one; the meta device takes 0.1 ms."""
    is_total = name == "sum" and len(operands) == 1
    if not (is_total or (name in _ELEMENTWISE and len(operands) <= 2)):
        return None
    dtype = tensors[0].dtype if len(operands) == 1 else torch.result_type(*operands)
    if not dtype.is_floating_point:
        return None
    if is_total:
        return (), dtype
    shapes = {x.shape for x in tensors} - {torch.Size()}
    shape = torch.broadcast_shapes(*shapes) if len(shapes) > 1 else next(iter(shapes), ())
    return shape, torch.bool if name in _COMPARISONS else dtype


def _on_meta(
    func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], me: Unscored
) -> Any:
    """Run it on tensors without values."""
    try:
        with torch.no_grad():
            return func(*_without_values(args), **_without_values(kwargs))
    except NotImplementedError:  # the shape of the result depends on values
        me.refuse()


def _without_values(x: Any) -> Any:
    if isinstance(x, Tensor):
        return torch.empty(x.shape, dtype=x.dtype, device="meta")
    if isinstance(x, dict):
        return {key: _without_values(value) for key, value in x.items()}
    if type(x) in (list, tuple):
        return type(x)(_without_values(value) for value in x)
    return x


def _wrap(result: Any, me: Unscored, grad: bool, about: bool) -> Any:
    if isinstance(result, Tensor):
        return _rebuild(result.shape, result.dtype, me.device, me.message, grad)
    if isinstance(result, (bool, int, float, complex)) and not about:
        me.refuse()
    if isinstance(result, (list, tuple)) and not isinstance(result, torch.Size):
        make = getattr(type(result), "_make", type(result))
        return make([_wrap(part, me, grad, about) for part in result])
    return result


def _in_place(
    func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], me: Unscored
) -> Any:
    """Refuse what would put an unknown number into a tensor of numbers, or change a shape."""
    target = args[0] if args else None
    if not isinstance(target, Unscored):
        me.refuse()
    if func.__name__ in ("requires_grad_", "detach_"):
        value = kwargs.get("requires_grad", args[1] if len(args) > 1 else True)
        return target.requires_grad_(value and func.__name__ != "detach_")
    result = _on_meta(func, args, kwargs, me)
    if isinstance(result, Tensor) and result.shape != target.shape:
        me.refuse()
    return None if result is None else target


def _convert(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Change dtype or device, of an unscored tensor or to those of one."""
    source = args[0]
    probes = [_any_value(x, ()) for x in args]
    result = func(*probes, **{key: _any_value(value, ()) for key, value in kwargs.items()})
    if not isinstance(source, Unscored) or not isinstance(result, Tensor):
        return result
    grad = torch.is_grad_enabled() and source.requires_grad
    return _rebuild(source.shape, result.dtype, result.device, source.message, grad)


def _make(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Make a tensor of known values in the shape of an unscored one."""
    source, *rest = args or [kwargs["input"]]
    kwargs = {key: value for key, value in kwargs.items() if key != "input"}
    return func(_any_value(source, source.shape), *rest, **kwargs)


def _any_value(x: Any, shape: Sequence[int]) -> Any:
    if isinstance(x, Unscored):
        return torch.empty((), dtype=x.dtype, device=x.device).expand(shape)
    return x
