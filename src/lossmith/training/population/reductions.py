"""Rules for sums, extremes and softmax along axes of one candidate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossmith.training.population.elementwise import several
from lossmith.training.population.fallback import without_rule
from lossmith.training.population.shapes import axis
from lossmith.training.population.stacked import RULES, Stacked, apart, leading, named, rule, stacked, stacked_images

_MANY_AXES = "sum mean nansum nanmean amax amin logsumexp any all"
_ONE_AXIS = "prod argmax argmin cumsum cumprod logcumsumexp cummax cummin log_softmax softmax sort argsort norm_except"


def _over_axes(func: Callable[..., Any], x: Stacked, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Stacked:
    """A sum or the like over one axis, several or (None) all."""
    if "axis" in kwargs:
        dim = kwargs.pop("axis")
    dims = x.raw.dim() - (0 if x.images else 1)
    if dim is None or dim == () or dim == []:
        flat = leading(x).flatten(1) if dims else leading(x).unsqueeze(1)
        return stacked(func(flat, 1, **kwargs).reshape(x.count, *[1] * (dims if keepdim else 0)))
    chosen = [axis(one, dims) for one in ((dim,) if isinstance(dim, int) else dim)]
    if x.images and min(chosen) > 2:  # axes of space only
        found = func(x.raw, [one - 1 for one in chosen], keepdim, **kwargs)
        if keepdim or len(set(chosen)) < dims - 2:
            return stacked_images(found, x.count, x.order if keepdim else None)
        return stacked(apart(found, x.count).transpose(0, 1))
    wanted: Any = chosen if len(chosen) > 1 or func not in _SINGLE else chosen[0]
    return stacked(func(leading(x), wanted, keepdim, **kwargs))


def _along_axis(func: Callable[..., Any], x: Stacked, *args: Any, **kwargs: Any) -> Any:
    """A function of one axis, given second or by name."""
    raw = leading(x)
    if "axis" in kwargs:
        kwargs["dim"] = kwargs.pop("axis")
    if args and type(args[0]) is int:
        args = (axis(args[0], raw.dim() - 1), *args[1:])
    elif not args and type(kwargs.get("dim")) is int:
        kwargs["dim"] = axis(kwargs["dim"], raw.dim() - 1)
    else:
        return without_rule(func, (x, *args), kwargs)
    found = func(raw, *args, **kwargs)
    return stacked(found) if isinstance(found, Tensor) else _like_named(found)


def _like_named(found: Any) -> Any:
    """A named tuple of raw tensors (values, indices) as one of stacked ones."""
    return type(found)(tuple(stacked(one) for one in found))


def _extreme(func: Callable[..., Any], full: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
    """`max` and `min`: of two tensors, of all numbers, or with indices along an axis."""
    other = args[0] if args else kwargs.get("other", kwargs.get("dim"))
    if isinstance(other, Tensor):
        return several(func, x, other)
    if other is None:
        return _over_axes(full, x)
    return _along_axis(func, x, *args, **kwargs)


_SINGLE = {*named("any", "all", where=(torch, Tensor))}
for _name in _MANY_AXES.split():
    for _func in named(_name, where=(torch, Tensor)):
        RULES[_func] = partial(_over_axes, _func)
for _name in _ONE_AXIS.split():
    for _func in named(_name, where=(torch, Tensor)):
        RULES[_func] = partial(_along_axis, _func)
for _place in (torch, Tensor):
    RULES[_place.max] = partial(_extreme, _place.max, torch.amax)
    RULES[_place.min] = partial(_extreme, _place.min, torch.amin)


@rule(F.softmax)
def _softmax(x: Stacked, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    dim = F._get_softmax_dim("softmax", x.dim(), _stacklevel) if dim is None else dim  # type: ignore[attr-defined]
    return _along_axis(torch.softmax, x, dim, dtype=dtype)


@rule(F.log_softmax)
def _log_softmax(x: Stacked, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    dim = F._get_softmax_dim("log_softmax", x.dim(), _stacklevel) if dim is None else dim  # type: ignore[attr-defined]
    return _along_axis(torch.log_softmax, x, dim, dtype=dtype)


@rule(F.glu, torch._C._nn.glu)
def _glu(x: Stacked, dim: int = -1) -> Any:
    return _along_axis(F.glu, x, dim)


def _spread(func: Callable[..., Any], x: Stacked, *args: Any, **kwargs: Any) -> Any:
    """`var` and `std` with the axis by position or name; their other forms are left to torch."""
    dims = leading(x).dim() - 1
    dim = kwargs.pop("dim", kwargs.pop("axis", None))
    if args and not isinstance(args[0], bool):
        dim, args = args[0], args[1:]
    elif args:
        kwargs["unbiased"], args = args[0], args[1:]
    chosen = list(range(dims)) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    return stacked(func(leading(x), [axis(one, dims) for one in chosen], *args, **kwargs))


for _func in named("var", "std", where=(torch, Tensor)):
    RULES[_func] = partial(_spread, _func)
