"""Dropout masks drawn outside a captured forward pass, by the operations that draw them otherwise."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lossmith.training.population.stacked import Stacked

_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout, torch.feature_dropout)


@dataclass(frozen=True)
class Draw:
    """A dropout mask: what torch's function makes of ones in the shape and memory order of `like`."""

    function: Callable[..., Tensor]
    p: float
    like: Tensor

    def __call__(self) -> Tensor:
        return self.function(torch.ones_like(self.like), self.p, True)


class Masks(TorchFunctionMode):
    """Takes dropout masks from outside: hands out those given, or without any draws them and keeps how.

    A dropout of stacked tensors has its own rule, which calls torch's on a tensor of one candidate: that one is met.
    """

    def __init__(self, given: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self._given: Iterator[Tensor] | None = None if given is None else iter(given)
        self.draws: list[Draw] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        rules = torch._C._is_torch_function_enabled()  # not where a rule asks for what a wrapper itself says
        if rules and any(issubclass(one, Stacked) for one in types):
            with self:
                return Stacked.__torch_function__(func, types, args, kwargs)
        if func in _DROPOUTS:
            x, p, training, inplace = _arguments(func, args, kwargs)
            if training and p and not inplace:
                return x * self._mask(func, p, x)
        return func(*args, **kwargs)

    def _mask(self, func: Any, p: float, x: Tensor) -> Tensor:
        if self._given is not None:
            return next(self._given)
        draw = Draw(func, p, torch.empty_like(x.detach()))
        self.draws.append(draw)
        return draw()


def _arguments(func: Any, args: Any, kwargs: Any) -> tuple[Tensor, float, bool, bool]:
    """Input, p, training and inplace of a dropout."""
    if not hasattr(func, "__code__"):  # one of C: (input, p, train)
        values = [*args, *kwargs.values()]
        return values[0], values[1], values[2], False
    bound = inspect.signature(func).bind(*args, **kwargs)
    bound.apply_defaults()
    x, p, training, inplace = (bound.arguments[name] for name in ("input", "p", "training", "inplace"))
    return x, p, training, inplace
