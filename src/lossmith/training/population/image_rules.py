"""Rules for convolutions and pooling, on [N, P·C, *spatial]: candidates' channels side by side.

A convolution of shared images is one ordinary convolution with P times the outputs; one of candidates' own images is a
grouped convolution. In channels-last order both are fast on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossmith.training.population.stacked import (
    RULES,
    Stacked,
    apart,
    images,
    leading,
    leading_shape,
    memory_order,
    stacked,
    stacked_images,
)

_LAST = (0, 2, 3, 1)  # the memory order called channels-last


def _convolution(
    func: Callable[..., Any],
    space: int,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    if x.dim() == space + 1:  # no axis of rows
        return _convolution(func, space, x.unsqueeze(0), weight, bias, stride, padding, dilation, groups).squeeze(0)
    shared, count, w, b = _weights(x, weight, bias)
    raw, groups = _input(x, count, shared and groups == 1, groups)
    out = func(raw, w, b, stride, padding, dilation, groups)
    return stacked_images(out, count, _order(x, weight) if space == 2 else None)


def _transposed(
    func: Callable[..., Any],
    space: int,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    if x.dim() == space + 1:
        rows = x.unsqueeze(0)
        return _transposed(func, space, rows, weight, bias, stride, padding, output_padding, groups, dilation).squeeze(
            0
        )
    _, count, w, b = _weights(x, weight, bias)
    raw, groups = _input(x, count, False, groups)  # its weights are [P·I, O], so every candidate needs its own input
    out = func(raw, w, b, stride, padding, output_padding, groups, dilation)
    return stacked_images(out, count, _order(x, weight) if space == 2 else None)


def _weights(x: Any, weight: Any, bias: Any) -> tuple[bool, int, Tensor, Tensor | None]:
    """Whether the input is shared, P, and the weights and biases of all candidates one below the other."""
    count = next(one.count for one in (x, weight, bias) if isinstance(one, Stacked))
    w = leading(weight).flatten(0, 1) if isinstance(weight, Stacked) else torch.cat([weight] * count)
    b = leading(bias).flatten() if isinstance(bias, Stacked) else None if bias is None else bias.repeat(count)
    return not isinstance(x, Stacked), count, w, b


def _input(x: Any, count: int, once: bool, groups: int) -> tuple[Tensor, int]:
    """The images and the number of groups that the convolution of all candidates needs."""
    if isinstance(x, Stacked):
        return images(x), groups * count
    wide = x if once else torch.cat([x] * count, 1)
    if wide.device.type == "cpu" and wide.dim() == 4:
        wide = wide.contiguous(memory_format=torch.channels_last)
        if wide.shape[1] == 1:  # both orders are one, and torch would choose the other
            wide = wide.as_strided(wide.shape, (wide[0].numel(), 1, wide.shape[3], 1))
    return wide, groups if once else groups * count


def _order(x: Any, weight: Any) -> tuple[int, ...]:
    """The memory order of the result for one candidate: channels-last if input or weights have it."""
    return _LAST if _is_last(x) or _is_last(weight) else (0, 1, 2, 3)


def _is_last(x: Any) -> bool:
    if isinstance(x, Stacked):
        shape = leading_shape(x)
        return memory_order(x) == _LAST and shape[1] > 1 and len(shape) == 4
    return (
        x.dim() == 4
        and x.shape[1] > 1
        and x.is_contiguous(memory_format=torch.channels_last)
        and not (x.is_contiguous())
    )


def _by_channel(func: Callable[..., Any], x: Stacked, *args: Any, **kwargs: Any) -> Any:
    """A function of each channel by itself; candidates that are not images are so many more rows."""
    if x.images:
        return _each(func(x.raw, *args, **kwargs), lambda raw: stacked_images(raw, x.count, x.order))
    found = func(x.raw.flatten(0, 1), *args, **kwargs)
    return _each(found, lambda raw: stacked(apart(raw, x.count, 0)))


def _each(found: Any, wrap: Callable[[Tensor], Any]) -> Any:
    return wrap(found) if isinstance(found, Tensor) else tuple(wrap(one) for one in found)


for _space in (1, 2, 3):
    for _place in (torch, F):
        _func = getattr(_place, f"conv{_space}d")
        RULES[_func] = partial(_convolution, _func, _space)
        _func = getattr(_place, f"conv_transpose{_space}d")
        RULES[_func] = partial(_transposed, _func, _space)
    for _name in ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool", "lp_pool"):
        for _place in (torch, F, torch._C._nn):
            _found = getattr(_place, f"{_name}{_space}d", None)
            if _found is not None:
                RULES[_found] = partial(_by_channel, _found)
RULES[F.interpolate] = partial(_by_channel, F.interpolate)
RULES[F.upsample] = partial(_by_channel, F.upsample)
