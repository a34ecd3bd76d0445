"""P tensors of P candidates, looking like the tensor of one.

A model runs on `Stacked` tensors as it is written: shapes, axes and types are those of one candidate, and every torch
function it calls is replaced by a rule that computes all candidates at once on the raw tensor, an ordinary one.
Derivatives of any kind therefore go through the raw tensors; the wrapper itself carries none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lossmith.errors import UsageError

Rule = Callable[..., Any]
RULES: dict[Any, Rule] = {}
"""torch function → what to do when one of its arguments is `Stacked`, called with the same arguments."""

_wrapped = Tensor._make_wrapper_subclass
without_rules = torch._C.DisableTorchFunctionSubclass  # a torch function called inside sees the wrapper itself


class NotStackable(UsageError):
    """A model does something that the candidates of a population cannot do together; it can be trained one by one."""


class Stacked(Tensor):
    """One tensor for each of `count` candidates, with the shape, type and device of one.

    Attributes:
        raw: all of them: [P, *shape], or where `images` is set [N, P·C, *spatial] for a shape [N, C, *spatial]: what
            grouped convolutions take.
        count: P.
        images: the layout of `raw`.
        order: the axes of one candidate's tensor from the slowest to the fastest in memory, where candidates are
            trained one by one, if that is not as in `raw`. Only draws of random numbers depend on it.
    """

    raw: Tensor
    count: int
    images: bool
    order: tuple[int, ...] | None

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = RULES.get(func)
        if rule is None:
            return _without_rule(func, args, kwargs or {})
        if not kwargs:
            return rule(*args)
        if kwargs.get("out") is not None:
            raise NotStackable(f"{func.__name__}(out=…) writes into a tensor: candidates have one each.")
        if not args and "input" in kwargs:
            kwargs = dict(kwargs)
            return rule(kwargs.pop("input"), **kwargs)
        return rule(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise NotStackable(f"{func} reaches past the rules for stacked tensors: train this model one by one.")

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        layout = "images" if self.images else "leading"
        return f"Stacked({self.count} × {list(leading_shape(self))}, {self.raw.dtype}, {layout})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise NotStackable("a stacked tensor cannot be copied or stored: use PopulationNetwork.candidate(place).")

    def __deepcopy__(self, memo: Any) -> Any:
        raise NotStackable("a stacked tensor cannot be copied or stored: use PopulationNetwork.candidate(place).")


def rule(*functions: Any) -> Callable[[Rule], Rule]:
    """Register a rule for these torch functions; None among them is passed over (absent in this torch)."""

    def register(function: Rule) -> Rule:
        for one in functions:
            if one is not None:
                RULES[one] = function
        return function

    return register


def named(*names: str, where: Iterable[Any] = (torch, Tensor, torch.nn.functional)) -> list[Any]:
    """Every torch function with one of these names, in `where`."""
    found = [getattr(place, name, None) for name in names for place in where]
    return [function for function in found if callable(function)]


def stacked(raw: Tensor, order: tuple[int, ...] | None = None) -> Stacked:
    """[P, *shape] as a tensor of P candidates."""
    shape = raw.shape
    made: Stacked = _wrapped(Stacked, shape[1:], dtype=raw.dtype, device=raw.device)
    made.raw, made.count, made.images, made.order = raw, shape[0], False, order
    return made


def stacked_images(raw: Tensor, count: int, order: tuple[int, ...] | None = None) -> Stacked:
    """[N, P·C, *spatial] as a tensor of P candidates."""
    rows, channels, *spatial = raw.shape
    made: Stacked = _wrapped(Stacked, (rows, channels // count, *spatial), dtype=raw.dtype, device=raw.device)
    made.raw, made.count, made.images, made.order = raw, count, True, order
    return made


def alike(x: Stacked, raw: Tensor) -> Stacked:
    """A new raw tensor of the same shape and layout."""
    if raw is x.raw:
        return x
    return stacked_images(raw, x.count, x.order) if x.images else stacked(raw, x.order)


def leading(x: Stacked) -> Tensor:
    """The raw tensor as [P, *shape]."""
    if not x.images:
        return x.raw
    raw = x.raw
    if raw.requires_grad and raw.dim() == 4 and raw.device.type == "cpu":
        # The derivative comes back in another order, and all layers below would follow it.
        raw.register_hook(_in_images_order)  # type: ignore[no-untyped-call]
    return apart(raw, x.count).transpose(0, 1)


def _in_images_order(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)


def apart(raw: Tensor, count: int, at: int = 1) -> Tensor:
    """A view with the axis of P·C channels as two, [P, C]."""
    shape = raw.shape
    return raw.reshape(*shape[:at], count, shape[at] // count, *shape[at + 1 :])


def leading_shape(x: Stacked) -> torch.Size:
    """The shape of one candidate."""
    shape = x.raw.shape
    return torch.Size((shape[0], shape[1] // x.count, *shape[2:])) if x.images else shape[1:]


def images(x: Stacked) -> Tensor:
    """The raw tensor of a shape [N, C, *spatial] as [N, P·C, *spatial], in channels-last order on the CPU."""
    if x.images:
        return x.raw
    return to_images(x.raw)


def to_images(raw: Tensor) -> Tensor:
    """[P, N, C, *spatial] → [N, P·C, *spatial], in channels-last order on the CPU."""
    if raw.device.type == "cpu" and raw.dim() == 5:
        return raw.permute(1, 3, 4, 0, 2).flatten(3).permute(0, 3, 1, 2)
    return raw.transpose(0, 1).flatten(1, 2)


def memory_order(x: Stacked) -> tuple[int, ...]:
    """The axes of one candidate's tensor from the slowest to the fastest in memory."""
    if x.order is not None:
        return x.order
    return order_of(x.raw.stride() if x.images else x.raw.stride()[1:])


def order_of(strides: Sequence[int]) -> tuple[int, ...]:
    """Axes from the slowest to the fastest in memory."""
    return tuple(sorted(range(len(strides)), key=lambda axis: -strides[axis]))


def viewed(x: Stacked, raw: Tensor, view: Callable[[Tensor], Tensor]) -> Stacked:
    """A view (or reshaped copy) of a stacked tensor.

    Args:
        raw: [P, *shape] of it.
        view: makes it of one candidate's tensor; asked only about the memory order, without numbers.
    """
    if x.order is None:
        return stacked(raw)
    shape = leading_shape(x)
    inside = torch.empty([shape[axis] for axis in x.order], device="meta")
    return stacked(raw, order_of(view(inside.permute([x.order.index(axis) for axis in range(len(shape))])).stride()))


def overwrite(x: Stacked, raw: Tensor) -> Stacked:
    """The same tensor with another raw one [P, *shape] in its place."""
    x.raw, x.count, x.images = raw, raw.shape[0], False
    return x


def raw_of(value: Any) -> Any:
    """[P, *shape] of a stacked tensor, anything else as it is."""
    return leading(value) if isinstance(value, Stacked) else value


def count_of(values: Iterable[Any]) -> int:
    """P, of arguments one of which is stacked."""
    return next(value.count for value in values if isinstance(value, Stacked))


def _without_rule(func: Any, args: Any, kwargs: Any) -> Any:
    from lossmith.training.population.fallback import without_rule  # it needs the rules, which need this file

    return without_rule(func, args, kwargs)
