"""Rules for functions of single numbers: of one tensor, or of several that are broadcast against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossmith.training.population.stacked import (
    RULES,
    NotStackable,
    Stacked,
    alike,
    leading,
    named,
    overwrite,
    stacked,
    stacked_images,
    without_rules,
)

_ONE = """
abs neg negative positive exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square sin cos tan asin acos atan sinh cosh
tanh asinh acosh atanh arcsin arccos arctan sigmoid erf erfc erfinv floor ceil round trunc frac sign sgn reciprocal
relu relu6 leaky_relu elu selu celu gelu silu mish softplus softsign hardtanh hardswish hardsigmoid logsigmoid
tanhshrink hardshrink softshrink threshold logit lgamma digamma isnan isinf isfinite nan_to_num bitwise_not
logical_not sinc __neg__ __abs__ __invert__ __pos__ float double half bfloat16 int long short bool detach zero_
zeros_like ones_like full_like"""
_SEVERAL = """
add sub subtract mul multiply div divide true_divide floor_divide remainder fmod pow float_power maximum minimum fmax
fmin atan2 arctan2 hypot where lerp addcmul addcdiv clamp clip clamp_min clamp_max eq ne lt le gt ge not_equal less
less_equal greater greater_equal logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor xlogy logaddexp
logaddexp2 copysign heaviside rsub masked_fill copy_ fill_ __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__
__truediv__ __rtruediv__ __div__ __rdiv__ __pow__ __rpow__ __floordiv__ __rfloordiv__ __mod__ __rmod__ __eq__ __ne__
__lt__ __le__ __gt__ __ge__ __and__ __rand__ __or__ __ror__ __xor__ __rxor__ __iadd__ __isub__ __imul__ __itruediv__
__idiv__ __ipow__ __ifloordiv__ __imod__ __iand__ __ior__ __ixor__"""


def unary(func: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
    """A function of each number, with settings; in place where torch does it in place."""
    for setting in (*args, *kwargs.values()):
        if isinstance(setting, Stacked):
            raise NotStackable(f"{func.__name__} takes a setting that differs between candidates.")
    raw = x.raw
    found = func(raw, *args, **kwargs)
    return x if found is raw else alike(x, found)


def several(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A function of numbers of several tensors, broadcast against each other."""
    if len(args) == 2 and not kwargs:
        x, y = args
        if isinstance(x, Stacked):
            if type(y) is float or type(y) is int:
                return alike(x, func(x.raw, y))
            if (
                isinstance(y, Stacked)
                and x.raw.shape == y.raw.shape
                and x.images is y.images
                and x.raw.dtype == y.raw.dtype
            ):
                return alike(x, func(x.raw, y.raw))
    keys = list(kwargs)
    values = _promoted(func, [*args, *kwargs.values()])
    found, reference = _as_images(values)
    if reference is not None:
        raw = func(*found[: len(args)], **dict(zip(keys, found[len(args) :], strict=True)))
        return stacked_images(raw, reference.count, reference.order)
    found = aligned(values)
    return stacked(func(*found[: len(args)], **dict(zip(keys, found[len(args) :], strict=True))))


def in_place(func: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
    """The same, into the first tensor."""
    if not isinstance(x, Stacked):
        name = func.__name__
        raise NotStackable(f"{name} writes numbers of each candidate into one tensor that all of them share.")
    keys, values = list(kwargs), [x, *args, *kwargs.values()]
    if x.images:
        found, reference = _as_images(values)
        if reference is None or found[0] is not x.raw:
            overwrite(x, leading(x).contiguous())
            return in_place(func, x, *args, **kwargs)
    else:
        found = aligned(values)
    func(x.raw, *found[1 : 1 + len(args)], **dict(zip(keys, found[1 + len(args) :], strict=True)))
    return x


def aligned(values: Sequence[Any]) -> list[Any]:
    """Raw tensors [P, *shape] with as many axes behind the first as the longest shape has, so that they broadcast."""
    most = max(value.dim() for value in values if isinstance(value, Tensor))
    found = []
    for value in values:
        if isinstance(value, Stacked):
            value = leading(value)
            missing = most + 1 - value.dim()
            if missing:
                value = value.reshape(value.shape[0], *[1] * missing, *value.shape[1:])
        found.append(value)
    return found


def _as_images(values: Sequence[Any]) -> tuple[list[Any], Stacked | None]:
    """Raw tensors that broadcast in the layout of images, and one that has it already; (…, None) if none has."""
    reference = None
    for value in values:
        if (
            isinstance(value, Stacked)
            and value.images
            and (reference is None or value.raw.shape[1] > reference.raw.shape[1])
        ):
            reference = value
    if reference is None:
        return [], None
    found = []
    for value in values:
        one = _operand(value, reference) if isinstance(value, Tensor) else value
        if one is None:
            return [], None
        found.append(one)
    return found, reference


def _operand(value: Tensor, reference: Stacked) -> Tensor | None:
    """A tensor as it broadcasts against the raw images of another; None where that would need more memory."""
    axes, count, channels = reference.raw.dim(), reference.count, reference.raw.shape[1] // reference.count
    dims = value.dim()
    if dims > axes:
        return None
    if isinstance(value, Stacked):
        if value.images:
            return value.raw if dims == axes and value.raw.shape[1] == reference.raw.shape[1] else None
        raw = value.raw.reshape(count, *[1] * (axes - dims), *value.raw.shape[1:])  # [P, n, c, *spatial]
        if raw.shape[2] == 1 and raw.shape[1] == 1:
            raw = raw.expand(-1, -1, channels, *[-1] * (axes - 2))
        return raw.transpose(0, 1).flatten(1, 2) if raw.shape[2] == channels else None
    at = dims - (axes - 1)  # where the channels of the shared tensor are
    if at < 0 or value.shape[at] == 1:
        return value
    return torch.cat([value] * count, at) if value.shape[at] == channels else None


def _promoted(func: Callable[..., Any], values: list[Any]) -> list[Any]:
    """One type for all, where candidates' tensors without axes would count for less in torch's choice of it."""
    tensors = [v for v in values if isinstance(v, Tensor) and v.dtype != torch.bool]
    if len({t.dtype for t in tensors}) < 2 or all(t.dim() or not isinstance(t, Stacked) for t in tensors):
        return values
    with without_rules():
        kind = tensors[0].dtype if func.__name__.endswith("_") else torch.result_type(tensors[0], tensors[-1])
    return [v.to(kind) if isinstance(v, Tensor) and v.dtype != torch.bool else v for v in values]


def _in_place_name(name: str) -> bool:
    dunder = name.startswith("__i") and name.endswith("__") and name != "__invert__"
    return dunder or (name.endswith("_") and not name.endswith("__"))


for _name in _ONE.split():
    for _func in named(_name, f"{_name}_"):
        RULES.setdefault(_func, partial(unary, _func))
for _name in _SEVERAL.split():
    for _each in (_name, f"{_name}_"):
        for _func in named(_each, where=(torch, Tensor)):
            RULES.setdefault(_func, partial(in_place if _in_place_name(_each) else several, _func))


def _prelu(x: Any, weight: Any) -> Any:
    if weight.numel() > 1 and x.dim() > 1:
        weight = weight.reshape(-1, *[1] * (x.dim() - 2))  # one per channel
    return torch.where(x > 0, x, weight * x)


RULES[F.prelu] = RULES[torch.prelu] = RULES[Tensor.prelu] = _prelu
