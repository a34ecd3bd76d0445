"""Rules for random numbers: what one candidate draws when trained alone is drawn once, and serves all."""

from __future__ import annotations

from collections.abc import Callable
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
    apart,
    leading,
    leading_shape,
    memory_order,
    named,
    overwrite,
    stacked,
)

_IN_PLACE = "normal_ uniform_ exponential_ random_ cauchy_ log_normal_ geometric_ bernoulli_"
_LIKE = "rand_like randn_like randint_like"
_PER_CANDIDATE = "bernoulli multinomial poisson normal binomial"


def _one(x: Stacked, fill: float = 1.0) -> Tensor:
    """A tensor of one candidate: what torch draws for it depends on shape, type and memory order only."""
    order, shape = memory_order(x), leading_shape(x)
    inside = torch.full([shape[axis] for axis in order], fill, dtype=x.raw.dtype, device=x.raw.device)
    return inside.permute([order.index(axis) for axis in range(len(order))])


def _dropout(func: Callable[..., Any], x: Stacked, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """The factors that torch's own dropout gives for a tensor of ones."""
    if not training or p == 0:
        func(torch.ones(1, 1, 1, 1), p, False)  # a probability out of range is torch's error
        return x
    mask = func(_one(x), p, True)
    raw = (apart(x.raw, x.count) * mask.unsqueeze(1)).flatten(1, 2) if x.images else x.raw * mask
    found = alike(x, raw)
    if not inplace:
        return found
    x.raw.copy_(found.raw)
    return x


_func: Any
for _func in (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout, torch.feature_dropout):
    RULES[_func] = partial(_dropout, _func)
RULES[torch.dropout_] = partial(_dropout, torch.dropout, inplace=True)
RULES[torch.feature_dropout_] = partial(_dropout, torch.feature_dropout, inplace=True)


def _alpha_dropout(
    func: Callable[..., Any], x: Stacked, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Any:
    """x · a + b with a, b as torch draws them: its values at x = 1 and, drawn again, at x = 0."""
    if not training or p == 0:
        return x
    state = _state(x.raw.device)
    at_one = func(_one(x, 1.0), p, True)
    _restore(x.raw.device, state)
    at_zero = func(_one(x, 0.0), p, True)
    return x * (at_one - at_zero) + at_zero


for _func in (F.alpha_dropout, F.feature_alpha_dropout, torch.alpha_dropout, torch.feature_alpha_dropout):
    RULES[_func] = partial(_alpha_dropout, _func)


def _state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _restore(device: torch.device, state: Tensor) -> None:
    torch.cuda.set_rng_state(state, device) if device.type == "cuda" else torch.set_rng_state(state)


def _drawn_into(func: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(x, Stacked) or any(isinstance(one, Stacked) for one in (*args, *kwargs.values())):
        raise NotStackable(f"{func.__name__} draws with settings that differ between candidates.")
    drawn = func(_one(x), *args, **kwargs)
    if x.images:
        overwrite(x, leading(x).contiguous())
    x.raw.copy_(drawn.expand(x.count, *drawn.shape))
    return x


def _drawn_like(func: Callable[..., Any], x: Stacked, *args: Any, **kwargs: Any) -> Stacked:
    drawn = func(_one(x), *args, **kwargs)
    return stacked(drawn.expand(x.count, *drawn.shape))


def _refuse(name: str, *_: Any, **__: Any) -> Any:
    raise NotStackable(f"{name} draws random numbers that depend on each candidate's own.")


def _rrelu(x: Stacked, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, *_: Any, **__: Any) -> Any:
    if training:
        return _refuse("RReLU")
    return F.leaky_relu(x, (lower + upper) / 2)


for _name in _IN_PLACE.split():
    RULES[getattr(Tensor, _name)] = partial(_drawn_into, getattr(Tensor, _name))
for _name in _LIKE.split():
    RULES[getattr(torch, _name)] = partial(_drawn_like, getattr(torch, _name))
for _name in _PER_CANDIDATE.split():
    for _func in named(_name, where=(torch, Tensor)):
        RULES[_func] = partial(_refuse, _name)
for _func in (F.rrelu, torch.rrelu, F.rrelu_, torch.rrelu_):
    RULES[_func] = _rrelu
RULES[torch.empty_like] = lambda x, *args, **kwargs: alike(x, torch.empty_like(x.raw, *args, **kwargs))
