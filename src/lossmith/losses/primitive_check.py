"""Whether a function means what a primitive of the expression language must mean: tried, not believed.

At 0, ±1, ±1e-7, ±1e3 (of two arguments: every pair) value, first and second derivative are finite in float32. With a
declared `domain` they must be so at one of these points at least, and the value must nowhere be NaN: outside its domain
a primitive may overflow, but it must be protected, as log and div are.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from lossmith.errors import ExpressionError
from lossmith.losses.primitives import Primitive

POINTS = (0.0, 1.0, -1.0, 1e-7, -1e-7, 1e3, -1e3)
"""Where every primitive is tried; of two arguments, every pair."""
_BETWEEN = (-0.7, 0.3, 1.9)  # away from kinks: where a value that moves must carry a gradient


def check_primitive(primitive: Primitive) -> None:
    """Whether the function means what a primitive must mean (see `register_primitive`).

    Raises:
        ExpressionError: one sentence with the point and what was found there.
    """
    name = primitive.name
    columns = [torch.tensor(column) for column in zip(*itertools.product(POINTS, repeat=primitive.arity), strict=True)]
    together = _called(primitive, columns)
    if together.shape != columns[0].shape:
        raise ExpressionError(
            f"{name} turned tensors of shape {tuple(columns[0].shape)} into {tuple(together.shape)}: "
            f"a primitive is elementwise and keeps the shape."
        )
    failures: list[str] = []
    for place, point in enumerate(itertools.product(POINTS, repeat=primitive.arity)):
        value, found = _derivatives(primitive, point)
        if not torch.allclose(value, together[place].detach(), rtol=1e-4, atol=1e-6, equal_nan=True):
            raise ExpressionError(
                f"{_call(name, point)} is {value.item():g} alone and {together[place].item():g} inside a tensor: "
                f"a primitive is elementwise."
            )
        if value.isnan():
            raise ExpressionError(
                f"{_call(name, point)} is nan: protect it (a clamp), as the built-in log and div are."
            )
        if primitive.commutative and not torch.equal(value, _called(primitive, _scalars(point[::-1])).detach()):
            raise ExpressionError(
                f"{_call(name, point)} changes with the order of its arguments: it is not commutative."
            )
        bad = next((what for what, x in (("value", [value]), *found) if not all(map(torch.isfinite, x))), None)
        failures += [f"the {bad} of {_call(name, point)} is not finite in float32"] if bad else []
    if failures and not primitive.domain:
        raise ExpressionError(f"{failures[0]}: protect it, or declare the domain it is meant for.")
    if len(failures) == len(POINTS) ** primitive.arity:
        raise ExpressionError(f"{failures[0]}, and so at every other point tried: its domain holds none of them.")
    _check_types(primitive)


def _check_types(primitive: Primitive) -> None:
    """float64 in, float64 out; broadcasting; and a value that moves carries a gradient."""
    name, arity = primitive.name, primitive.arity
    grid = [torch.tensor(_BETWEEN, dtype=torch.float64).reshape([-1] + [1] * place) for place in range(arity)]
    for x in grid:
        x.requires_grad_()
    value = _called(primitive, grid)
    if value.dtype != torch.float64 or value.shape != (grid[0] + grid[-1]).shape:
        raise ExpressionError(
            f"{name} of float64 tensors of shapes {', '.join(str(tuple(x.shape)) for x in grid)} is {value.dtype} of "
            f"shape {tuple(value.shape)}: a primitive keeps the type and broadcasts."
        )
    if not value.requires_grad:
        moved = _called(primitive, [x.detach() + 1e-4 for x in grid])
        if ((moved - value).abs() > 1e-6).any():
            raise ExpressionError(f"{name} has a value that moves and no gradient: use differentiable torch functions.")


def _called(primitive: Primitive, args: Sequence[Tensor]) -> Tensor:
    try:
        value = primitive.function(*args)
    except Exception as error:
        shapes = ", ".join(str(tuple(arg.shape)) for arg in args)
        raise ExpressionError(
            f"{primitive.name} cannot be called with tensors of shape {shapes}: {type(error).__name__}: {error}."
        ) from error
    if not isinstance(value, Tensor):
        raise ExpressionError(f"{primitive.name} of tensors is a {type(value).__name__}: a tensor was expected.")
    return value


def _derivatives(primitive: Primitive, point: Sequence[float]) -> tuple[Tensor, list[tuple[str, list[Tensor]]]]:
    """Value at a point in float32, then (in words, numbers) of the first and the second derivative."""
    args = [x.requires_grad_() for x in _scalars(point)]
    value = _called(primitive, args)
    first: list[Tensor] = []
    second: list[Tensor] = []
    if value.requires_grad:
        first = list(torch.autograd.grad(value, args, create_graph=True, materialize_grads=True))
    for slope in first:
        if slope.requires_grad:
            second += torch.autograd.grad(slope, args, retain_graph=True, materialize_grads=True)
    return value.detach(), [("first derivative", first), ("second derivative", second)]


def _scalars(point: Sequence[float]) -> list[Tensor]:
    return [torch.tensor(x) for x in point]


def _call(name: str, point: Sequence[float]) -> str:
    return f"{name}({', '.join(f'{x:g}' for x in point)})"
