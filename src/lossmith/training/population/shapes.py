"""Rules for views, indices and joins: the axes of a candidate are those of the raw tensor behind the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossmith.training.population.elementwise import aligned
from lossmith.training.population.fallback import without_rule
from lossmith.training.population.stacked import (
    RULES,
    NotStackable,
    Stacked,
    apart,
    count_of,
    leading,
    leading_shape,
    memory_order,
    named,
    overwrite,
    rule,
    stacked,
    stacked_images,
    viewed,
)


def axis(dim: int, dims: int) -> int:
    """The axis of the raw tensor for an axis of one candidate's, which has `dims` of them."""
    if not -dims <= dim < dims:
        raise IndexError(f"axis {dim} of a tensor with {dims} axes.")
    return dim % dims + 1


def sizes(given: tuple[Any, ...]) -> tuple[int, ...]:
    """Sizes given as numbers or as one sequence of them."""
    return tuple(given[0]) if len(given) == 1 and not isinstance(given[0], int) else given


@rule(*named("reshape", "view", where=(torch, Tensor)))
def _reshape(x: Stacked, *shape: Any, **kwargs: Any) -> Any:
    if kwargs or (shape and isinstance(shape[0], torch.dtype)):
        if "shape" in kwargs:
            return _reshape(x, kwargs["shape"])
        return without_rule(Tensor.view, (x, *shape), kwargs)
    wanted = sizes(shape)
    return viewed(x, leading(x).reshape(x.count, *wanted), lambda one: one.reshape(wanted))


@rule(Tensor.reshape_as, Tensor.view_as)
def _reshape_as(x: Any, other: Any) -> Any:
    return x.reshape(leading_shape(other) if isinstance(other, Stacked) else other.shape)


@rule(torch.flatten, Tensor.flatten)
def _flatten(x: Stacked, start_dim: int = 0, end_dim: int = -1) -> Stacked:
    raw = leading(x)
    dims = raw.dim() - 1
    flat = raw.flatten(axis(start_dim, dims), axis(end_dim, dims)) if dims else raw.unsqueeze(1)
    return viewed(x, flat, lambda one: one.flatten(start_dim, end_dim))


@rule(torch.unflatten, Tensor.unflatten)
def _unflatten(x: Stacked, dim: int, sizes: Sequence[int]) -> Stacked:
    raw = leading(x)
    at, parts = (
        axis(dim, raw.dim() - 1),
        torch.empty(raw.shape[axis(dim, raw.dim() - 1)], device="meta").view(sizes).shape,
    )
    split = raw.reshape(*raw.shape[:at], *parts, *raw.shape[at + 1 :])
    return viewed(x, split, lambda one: one.reshape(split.shape[1:]))


@rule(torch.squeeze, Tensor.squeeze)
def _squeeze(x: Stacked, dim: Any = None) -> Stacked:
    raw = leading(x)
    dims = raw.dim() - 1
    if dim is None:
        dim = [i for i in range(dims) if raw.shape[i + 1] == 1]
    chosen = [dim] if isinstance(dim, int) else list(dim)
    kept = raw.squeeze([axis(one, dims) for one in chosen]) if chosen else raw
    return viewed(x, kept, lambda one: one.squeeze(tuple(chosen)))


@rule(torch.unsqueeze, Tensor.unsqueeze)
def _unsqueeze(x: Stacked, dim: int) -> Stacked:
    raw = leading(x)
    return viewed(x, raw.unsqueeze(axis(dim, raw.dim())), lambda one: one.unsqueeze(dim))


@rule(*named("transpose", "swapaxes", "swapdims", where=(torch, Tensor)))
def _transpose(x: Stacked, dim0: int, dim1: int) -> Stacked:
    raw = leading(x)
    dims = raw.dim() - 1
    turned = raw.transpose(axis(dim0, dims), axis(dim1, dims))
    return viewed(x, turned, lambda one: one.transpose(dim0, dim1))


@rule(torch.permute, Tensor.permute)
def _permute(x: Stacked, *dims: Any, **kwargs: Any) -> Stacked:
    raw = leading(x)
    given = sizes((kwargs["dims"],) if kwargs else dims)
    turned = raw.permute(0, *(axis(one, raw.dim() - 1) for one in given))
    return viewed(x, turned, lambda one: one.permute(given))


@rule(*named("movedim", "moveaxis", where=(torch, Tensor)))
def _movedim(x: Stacked, source: Any, destination: Any) -> Stacked:
    raw = leading(x)
    pairs = [[one] if isinstance(one, int) else list(one) for one in (source, destination)]
    first, second = ([axis(one, raw.dim() - 1) for one in part] for part in pairs)
    return viewed(x, raw.movedim(first, second), lambda one: one.movedim(source, destination))


@rule(Tensor.T.__get__, Tensor.mT.__get__, torch.t, Tensor.t)  # type: ignore[attr-defined]
def _turned(x: Stacked) -> Stacked:
    raw = leading(x)
    return viewed(x, raw.mT, lambda one: one.mT) if raw.dim() > 2 else x


@rule(Tensor.expand, Tensor.broadcast_to, torch.broadcast_to)
def _expand(x: Stacked, *shape: Any, **kwargs: Any) -> Stacked:
    raw, wanted = leading(x), sizes((kwargs["size"],) if "size" in kwargs else shape)
    missing = len(wanted) + 1 - raw.dim()
    return stacked(raw.reshape(x.count, *[1] * missing, *raw.shape[1:]).expand(-1, *wanted))


@rule(Tensor.expand_as)
def _expand_as(x: Any, other: Any) -> Any:
    return x.expand(leading_shape(other) if isinstance(other, Stacked) else other.shape)


@rule(Tensor.repeat)
def _repeat(x: Stacked, *times: Any) -> Stacked:
    raw, wanted = leading(x), sizes(times)
    missing = len(wanted) + 1 - raw.dim()
    return stacked(raw.reshape(x.count, *[1] * missing, *raw.shape[1:]).repeat(1, *wanted))


_KEEP_AXES = {torch.narrow, Tensor.narrow}


def _along(func: Callable[..., Any], x: Any, dim: Any, *args: Any, **kwargs: Any) -> Any:
    """A function (tensor, axis, …) that keeps the layout of the rest."""
    if not isinstance(x, Stacked) or any(isinstance(one, Stacked) for one in (*args, *kwargs.values())):
        return without_rule(func, (x, dim, *args), kwargs)
    raw = leading(x)
    found = func(raw, axis(dim, raw.dim() - 1), *args, **kwargs)
    return viewed(x, found, lambda one: one.narrow(dim, 0, 1)) if func in _KEEP_AXES else stacked(found)


for _func in named("select", "narrow", "index_select", where=(torch, Tensor)):
    RULES[_func] = partial(_along, _func)


def _parts(func: Callable[..., Any], x: Stacked, size: Any, dim: int = 0) -> Any:
    raw = leading(x)
    parts = func(raw, size, axis(dim, raw.dim() - 1))
    return tuple(viewed(x, one, lambda whole: whole.narrow(dim, 0, 1)) for one in parts)


for _func in named("split", "chunk", "tensor_split", "split_with_sizes", where=(torch, Tensor)):
    RULES[_func] = partial(_parts, _func)


@rule(torch.unbind, Tensor.unbind)
def _unbind(x: Stacked, dim: int = 0) -> tuple[Stacked, ...]:
    raw = leading(x)
    parts = raw.unbind(axis(dim, raw.dim() - 1))
    return tuple(viewed(x, one, lambda whole: whole.select(dim, 0)) for one in parts)


RULES[Tensor.__iter__] = lambda x: iter(_unbind(x))


@rule(torch.flip, Tensor.flip)
def _flip(x: Stacked, *dims: Any, **kwargs: Any) -> Stacked:
    raw = leading(x)
    return stacked(raw.flip([axis(one, raw.dim() - 1) for one in sizes((kwargs["dims"],) if kwargs else dims)]))


@rule(torch.stack)
def _stack(tensors: Sequence[Any], dim: int = 0) -> Stacked:
    raws = _whole(tensors)
    return stacked(torch.stack(raws, axis(dim, raws[0].dim())))


@rule(*named("cat", "concat", "concatenate", where=(torch,)))
def _cat(tensors: Sequence[Any], dim: int = 0, **kwargs: Any) -> Stacked:
    if "axis" in kwargs:
        dim = kwargs["axis"]
    if all(isinstance(one, Stacked) and one.images for one in tensors):
        axes, count = tensors[0].raw.dim(), tensors[0].count
        if dim % axes == 1:
            return stacked_images(joined([channels(one) for one in tensors], axes), count, tensors[0].order)
        if len({one.raw.shape[1] for one in tensors}) == 1:
            return stacked_images(torch.cat([one.raw for one in tensors], dim), count, tensors[0].order)
    raws = _whole(tensors)
    return stacked(torch.cat(raws, axis(dim, raws[0].dim() - 1)))


def channels(x: Stacked) -> Tensor:
    """Images [N, P·C, *spatial] as [N, *spatial, P, C]."""
    return apart(x.raw.movedim(1, -1), x.count, x.raw.dim() - 1)


def joined(parts: Sequence[Tensor], axes: int) -> Tensor:
    """Several [N, *spatial, P, C] as one [N, P·ΣC, *spatial]; on the GPU in the order it prefers."""
    whole = parts[0] if len(parts) == 1 else torch.cat(list(parts), -1)
    found = whole.flatten(-2).movedim(-1, 1)
    return found if whole.device.type == "cpu" and axes == 4 else found.contiguous()


def _whole(tensors: Sequence[Any]) -> list[Tensor]:
    """Raw tensors [P, …] of all, shared ones repeated."""
    count = count_of(tensors)
    return [leading(one) if isinstance(one, Stacked) else one.expand(count, *one.shape) for one in tensors]


@rule(F.pad, torch._C._nn.pad)
def _pad(x: Stacked, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Stacked:
    pad = list(pad)
    while len(pad) >= 2 and pad[-2:] == [0, 0]:
        pad = pad[:-2]
    if not pad:
        return x
    if x.images:
        spatial = 2 * (x.raw.dim() - 2)
        if len(pad) <= spatial:
            if len(pad) < spatial and mode != "constant":
                pad = pad + [0] * (spatial - len(pad))
            return stacked_images(F.pad(x.raw, pad, mode, value), x.count, x.order)
        if len(pad) == spatial + 2 and mode == "constant":
            # Channels are padded for each candidate, with the axes as [N, *spatial, P, C].
            around = [*pad[spatial:], 0, 0, *pad[:spatial]]
            wider = F.pad(channels(x), around, mode, value)
            return stacked_images(joined([wider], x.raw.dim()), x.count, x.order)
    if mode == "constant":
        return stacked(F.pad(leading(x), pad, mode, value))
    raw = leading(x)  # these modes take one axis before those they pad
    found = F.pad(raw.flatten(0, -1 - len(pad) // 2), pad, mode)
    return stacked(found.reshape(*raw.shape[: -len(pad) // 2], *found.shape[1:]))


@rule(Tensor.__getitem__)
def _getitem(x: Any, index: Any) -> Any:
    given = index if isinstance(index, tuple) else (index,)
    kinds = [type(one) for one in given]
    if not isinstance(x, Stacked) or any(issubclass(kind, Stacked) for kind in kinds):
        if isinstance(x, Stacked) and any(isinstance(i, Stacked) and i.raw.dtype == torch.bool for i in given):
            raise NotStackable("a mask that differs between candidates selects different numbers of elements.")
        return without_rule(Tensor.__getitem__, (x, index), {})
    if x.images and all(kind is slice for kind in kinds) and (len(given) < 2 or given[1] == slice(None)):
        return stacked_images(x.raw[given], x.count, x.order)
    if sum(not (kind in (slice, int, type(None)) or kind is type(Ellipsis)) for kind in kinds) > 1:
        return without_rule(Tensor.__getitem__, (x, index), {})  # where the result goes is torch's own matter
    return viewed(x, leading(x)[(slice(None), *given)], lambda one: one[_without_tensors(given)])


def _without_tensors(index: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(one if isinstance(one, slice | int | None | type(Ellipsis)) else slice(None) for one in index)


@rule(Tensor.__setitem__)
def _setitem(x: Any, index: Any, value: Any) -> None:
    if not isinstance(x, Stacked):
        raise NotStackable("the model writes numbers of each candidate into a tensor that all of them share.")
    given = index if isinstance(index, tuple) else (index,)
    allowed = slice | int | type(None) | type(Ellipsis) | Tensor
    if any(not isinstance(one, allowed) or isinstance(one, Stacked) for one in given):
        raise NotStackable("the model writes to places that differ between candidates.")
    if sum(isinstance(one, Tensor) for one in given) > 1:
        raise NotStackable("the model writes to places given by several tensors of indices.")
    if x.images:
        overwrite(x, leading(x).contiguous())
    whole = (slice(None), *given)
    if isinstance(value, Stacked):
        value = aligned([value, torch.empty([1] * (x.raw[whole].dim() - 1), device="meta")])[0]
    x.raw[whole] = value


@rule(Tensor.contiguous)
def _made_contiguous(x: Stacked, memory_format: Any = torch.contiguous_format) -> Stacked:
    order = tuple(range(len(leading_shape(x))))
    if memory_format is torch.channels_last:
        order = (0, 2, 3, 1)
    elif not x.images:
        return stacked(x.raw.contiguous(), order if x.order is not None else None)
    return stacked_images(x.raw, x.count, order) if x.images else stacked(x.raw, order)


@rule(Tensor.clone, torch.clone)
def _clone(x: Stacked, *, memory_format: Any = torch.preserve_format) -> Stacked:
    raw = x.raw.clone()
    kept = memory_order(x)
    if memory_format is torch.contiguous_format:
        kept = tuple(range(len(kept)))
    elif memory_format is torch.channels_last:
        kept = (0, 2, 3, 1)
    return stacked_images(raw, x.count, kept) if x.images else stacked(raw, kept)


def _new(func: Callable[..., Any], x: Stacked, *args: Any, **kwargs: Any) -> Stacked:
    if func is Tensor.new_full:
        size, *rest = args
    else:
        size, rest = sizes(args) if args else kwargs.pop("size"), []
    return stacked(func(x.raw, (x.count, *size), *rest, **kwargs))


for _func in (Tensor.new_zeros, Tensor.new_ones, Tensor.new_empty, Tensor.new_full):
    RULES[_func] = partial(_new, _func)
RULES[Tensor.new_tensor] = lambda x, *args, **kwargs: x.raw.new_tensor(*args, **kwargs)
for _func in named("tril", "triu", where=(torch, Tensor)):
    RULES[_func] = partial(lambda func, x, diagonal=0: stacked(func(leading(x), diagonal)), _func)
