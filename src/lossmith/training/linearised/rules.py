"""Which torch function makes which node: a rule takes the function's arguments, parameters and all, and gives a node,
or None where the arguments are not what it knows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossmith.training.linearised.image_nodes import BatchNorm, ChannelWise, Convolution, MaxPool, Window
from lossmith.training.linearised.node import Node, Variable
from lossmith.training.linearised.simple_nodes import Linear, Pointwise, Reshape, Sum

Rule = Callable[..., "Node | None"]
RULES: dict[Any, Rule] = {}
"""torch function → rule, called with the arguments of the function, each tensor that depends on θ a `Variable`."""

_POINTWISE = """relu relu_ relu6 tanh sigmoid gelu silu elu selu celu leaky_relu softplus mish hardswish hardsigmoid
hardtanh logsigmoid softsign abs exp log sqrt square neg"""
_DROPOUT = "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout"
_RESHAPES = "flatten view reshape squeeze unsqueeze unflatten contiguous"
_SUMS = {(1, 1): "add add_ __add__ __radd__ __iadd__", (1, -1): "sub sub_ __sub__ __isub__", (-1, 1): "rsub __rsub__"}


def _register(names: str, made: Callable[[Any], Rule]) -> None:
    for name in names.split():
        for where in (F, torch, Tensor, torch._C._nn):
            if callable(function := getattr(where, name, None)):
                RULES[function] = made(function)


def _pointwise(function: Any, x: Any, *settings: Any, **named: Any) -> Node | None:
    if not isinstance(x, Variable) or _any_variable(settings, named):
        return None
    if function in (F.relu, torch.relu, Tensor.relu, F.relu_, torch.relu_, Tensor.relu_):
        y = x.tensor.detach().relu()
        return Pointwise(x, y, y.sign())  # several times faster than a comparison
    # In place it would overwrite what the derivative is taken at.
    if "inplace" in named:
        named = {**named, "inplace": False}
    elif settings and isinstance(settings[-1], bool) and _last_is_inplace(function, len(settings)):
        settings = (*settings[:-1], False)
    with torch.enable_grad():
        # Dropout draws in the order of memory, and elsewhere images are in the usual one.
        own = x.tensor.detach().contiguous().requires_grad_()
        y = function(own, *settings, **named)
        (slope,) = torch.autograd.grad(y, own, torch.ones_like(y))
    return Pointwise(x, y, slope)


def _last_is_inplace(function: Any, given: int) -> bool:
    try:
        names = list(inspect.signature(function).parameters)
    except ValueError:
        return False
    return names[given : given + 1] == ["inplace"]


def _reshape(function: Any, x: Any, *settings: Any, **named: Any) -> Node | None:
    if not isinstance(x, Variable) or (settings and isinstance(settings[0], torch.dtype)) or "dtype" in named:
        return None
    own = x.tensor.detach()
    # Images are kept in an order in which some views are none.
    return Reshape(x, (Tensor.reshape if function is Tensor.view else function)(own, *settings, **named))


def _sum(signs: tuple[int, int], a: Any, b: Any, *, alpha: Any = 1) -> Node | None:
    if alpha != 1:
        return None
    first, second = _value(a), _value(b)
    y = first + second if signs == (1, 1) else first - second if signs == (1, -1) else second - first
    moving = [(part, sign) for part, sign in zip((a, b), signs, strict=True) if isinstance(part, Variable)]
    if any(part.tensor.shape != y.shape for part, _ in moving):
        return None
    return Sum([part for part, _ in moving], [sign for _, sign in moving], y)


def _linear(input: Any, weight: Any, bias: Any = None) -> Node | None:
    x, w, b = _value(input), _value(weight), _value(bias)
    if x.dim() < 2 or w.dim() != 2:
        return None
    return Linear(input, weight, bias, F.linear(x, w, b))


def _convolution(
    space: int, input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Node | None:  # fmt: skip
    window = _value(weight).shape[2:]
    if groups != 1 or _value(input).dim() != space + 2:
        return None
    dilation = _each(dilation, space)
    if padding == "valid":
        padding = 0
    elif padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, window, strict=True)]
        if any(one % 2 for one in total):
            return None
        padding = tuple(one // 2 for one in total)
    return Convolution(input, weight, bias, Window(_each(stride, space), _each(padding, space), dilation))


def _max_pool(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Node | None:  # fmt: skip
    if not isinstance(input, Variable) or input.tensor.dim() != 4 or return_indices:
        return None
    pairs = [_each(part, 2) for part in (kernel_size, stride or kernel_size, padding, dilation)]
    return MaxPool(input, [*pairs, ceil_mode])


def _channel_wise(function: Any, space: int, x: Any, *settings: Any, **named: Any) -> Node | None:
    if not isinstance(x, Variable) or x.tensor.dim() != space + 2:
        return None
    return ChannelWise(x, lambda own: function(own, *settings, **named))


def _batch_norm(
    input: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Node | None:  # fmt: skip
    if not training or not isinstance(input, Variable) or input.tensor.numel() == input.tensor.shape[1]:
        return None
    return BatchNorm(input, weight, bias, (running_mean, running_var), momentum, eps)


def _value(part: Any) -> Any:
    return part.tensor.detach() if isinstance(part, Variable) else part


def _each(part: Any, space: int) -> tuple[int, ...]:
    found = (part,) if isinstance(part, int) else tuple(part)
    return found * space if len(found) == 1 else found


def _any_variable(settings: tuple[Any, ...], named: Mapping[str, Any]) -> bool:
    return any(isinstance(part, Variable) for part in (*settings, *named.values()))


_register(f"{_POINTWISE} {_DROPOUT}", lambda function: partial(_pointwise, function))
_register(_RESHAPES, lambda function: partial(_reshape, function))
for _signs, _names in _SUMS.items():
    _register(_names, lambda _, signs=_signs: partial(_sum, signs))  # type: ignore[misc]
_register("linear", lambda _: _linear)
_register("max_pool2d", lambda _: _max_pool)
_register("batch_norm", lambda _: _batch_norm)
for _space in (1, 2, 3):
    _register(f"conv{_space}d", lambda _, space=_space: partial(_convolution, space))  # type: ignore[misc]
    _pools = f"avg_pool{_space}d adaptive_avg_pool{_space}d"
    _register(_pools, lambda function, space=_space: partial(_channel_wise, function, space))  # type: ignore[misc]
