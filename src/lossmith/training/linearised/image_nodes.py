"""Nodes of layers over images: convolution, pooling, batch normalisation.

What candidates share is taken together: P weight gradients at one input are one ordinary convolution's with P times the
outputs, and so is the product of one input with P directions of the weight; only what the layer below differs in needs
one group per candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossmith.training.linearised.many import Many, Repeated, dense_images, images, leading
from lossmith.training.linearised.node import Map, Variable
from lossmith.training.linearised.simple_nodes import Pointwise

_backward = torch.ops.aten.convolution_backward


@dataclass(frozen=True)
class Window:
    """Where a convolution looks, one number for each axis of space."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        found: Tensor = torch.convolution(
            x, weight, bias, self.stride, self.padding, self.dilation, False, (0,) * len(self.stride), groups
        )
        return found

    def pulled(self, delta: Tensor, x: Tensor, weight: Tensor, groups: int, mask: Sequence[bool]) -> tuple[Any, ...]:
        """Derivatives by x, weight and bias, those that the mask names."""
        sizes = [len(weight)] if mask[2] else None
        zero = [0] * len(self.stride)
        found: tuple[Any, ...] = _backward(
            delta, x, weight, sizes, self.stride, self.padding, self.dilation, False, zero, groups, list(mask)
        )
        return found


class Convolution(Map):
    """y = x ∗ W + b.

    Args:
        x, weight, bias: variables where they depend on θ, plain tensors where not.
    """

    def __init__(
        self, x: Variable | Tensor, weight: Variable | Tensor, bias: Variable | Tensor | None, window: Window
    ) -> None:
        values = [part.tensor if isinstance(part, Variable) else part for part in (x, weight, bias)]
        assert values[0] is not None
        assert values[1] is not None
        self._window, self._moves = window, [isinstance(part, Variable) for part in (x, weight, bias)]
        self._x = dense_images(values[0].detach())
        self._weight = dense_images(values[1].detach())
        y = window.convolve(self._x, self._weight, values[2], 1)
        super().__init__([part for part in (x, weight, bias) if isinstance(part, Variable)], [y])

    def _stacked_weights(self, count: int) -> Tensor:
        """[P·O, I, *window]."""
        own = self._weight
        return own if count == 1 else dense_images(own.repeat(count, *[1] * (own.dim() - 1)))

    def pulled(self, delta: Many) -> list[Many | None]:
        count, own, (x, weight, bias) = delta.count, delta.images(), self._moves
        stacked = self._stacked_weights(count)
        found: list[Many | None] = []
        if x:
            below = _shaped_like(self._x, count)
            change, _, _ = self._window.pulled(own, below, stacked, count, (True, False, False))
            found.append(images(change, count))
        if weight or bias:
            _, by_weight, by_bias = self._window.pulled(own, self._x, stacked, 1, (False, weight, bias))
            if weight:
                found.append(leading(by_weight.unflatten(0, (count, -1))))
            if bias:
                found.append(leading(by_bias.unflatten(0, (count, -1))))
        return found

    def pushed(self, tangents: Sequence[Many]) -> Many:
        (count, parts), (x, weight, bias) = (tangents[0].count, iter(tangents)), self._moves
        below = next(parts).images() if x else None
        by_weight = dense_images(next(parts).leading().flatten(0, 1)) if weight else None
        by_bias = next(parts).leading().flatten() if bias else None
        change: Tensor | None = None
        if by_weight is not None:
            change = self._window.convolve(self._x, by_weight, by_bias, 1)
        if below is not None:
            own = self._window.convolve(below, self._stacked_weights(count), None, count)
            change = own if change is None else change.add_(own)
        if change is None:
            assert by_bias is not None
            change = _shaped_like(self.output, count).zero_()
        if by_weight is None and by_bias is not None:
            change = change + by_bias.reshape(1, -1, *[1] * (change.dim() - 2))
        return images(change, count)


class MaxPool(Map):
    """The largest number of each window of [N, C, H, W], after a pointwise function where there was one.

    Args:
        x: a variable. settings: kernel size, stride, padding, dilation, ceil mode.
    """

    def __init__(self, x: Variable, settings: Sequence[Any]) -> None:
        slope: Tensor | None = None
        own = dense_images(x.tensor.detach())
        y, self._where = torch.nn.functional.max_pool2d(own, *settings, return_indices=True)
        self._settings = list(settings)
        if isinstance(x.maker, Pointwise):  # where the window is larger than its step there are fewer numbers after it
            slope = x.maker.slope.flatten(2).gather(2, self._where.flatten(2)).reshape(y.shape)
            x = x.maker.inputs[0]
        super().__init__([x], [y])
        self._slope = None if slope is None else Repeated(slope)
        self._indices = Repeated(self._where)
        self._places: tuple[int, Tensor] = (0, torch.empty(0))

    def pulled(self, delta: Many) -> list[Many | None]:
        own, below = delta.images(), _shaped_like(self.inputs[0].tensor, delta.count)
        if self._slope is not None:
            own = own * self._slope(delta.count)
        change = torch.ops.aten.max_pool2d_with_indices_backward(
            own, below, *self._settings, self._indices(delta.count)
        )
        return [images(change, delta.count)]

    def pushed(self, tangents: Sequence[Many]) -> Many:
        count, below = tangents[0].count, tangents[0].images()
        if self._places[0] != count:
            self._places = count, self._flat(count)
        n, _, h, w = self.output.shape
        chosen = below.permute(0, 2, 3, 1).reshape(-1).index_select(0, self._places[1])
        change = chosen.reshape(n, h, w, -1).permute(0, 3, 1, 2)
        return images(change if self._slope is None else change * self._slope(count), count)

    def _flat(self, count: int) -> Tensor:
        """Where the chosen numbers are in the memory of images in channels-last order."""
        n, c, h, w = self.inputs[0].tensor.shape
        within = self._indices(count).permute(0, 2, 3, 1) * (count * c)  # [N, H', W', P·C]
        rows = torch.arange(n, device=within.device).reshape(-1, 1, 1, 1) * (h * w * count * c)
        return (within + rows + torch.arange(count * c, device=within.device)).reshape(-1)


class ChannelWise(Map):
    """A linear function of each channel of [N, C, *spatial] by itself: averages over windows."""

    def __init__(self, x: Variable, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__([x], [function(dense_images(x.tensor.detach()))])
        self._function = function

    def pulled(self, delta: Many) -> list[Many | None]:
        with torch.enable_grad():
            below = _shaped_like(self.inputs[0].tensor, delta.count).requires_grad_()
            (change,) = torch.autograd.grad(self._function(below), below, delta.images())
        return [images(change, delta.count)]

    def pushed(self, tangents: Sequence[Many]) -> Many:
        return images(self._function(tangents[0].images()), tangents[0].count)


class BatchNorm(Map):
    """y = γ(x − mean)/√(variance + ε) + β with the statistics of the batch, which change with x.

    Its derivative by x is a symmetric matrix, so one function serves both directions.

    Args:
        x: a variable. weight, bias: γ and β; variables, or plain tensors, or None.
        running: running mean and variance, which the pass moves. momentum, eps: of torch's function.
    """

    def __init__(
        self,
        x: Variable,
        weight: Variable | Tensor | None,
        bias: Variable | Tensor | None,
        running: tuple[Tensor | None, Tensor | None],
        momentum: float,
        eps: float,
    ) -> None:
        own, (gamma, beta) = dense_images(x.tensor.detach()), map(_value, (weight, bias))
        y, mean, invstd = torch.native_batch_norm(own, gamma, beta, *running, True, momentum, eps)
        parts: list[Variable | Tensor | None] = [x, weight, bias]
        super().__init__([part for part in parts if isinstance(part, Variable)], [y])
        self._moves = [isinstance(part, Variable) for part in parts]
        self._gamma, self._eps = gamma, eps
        self._x, self._mean, self._invstd = Repeated(own), mean, invstd
        axes = (1, -1, *[1] * (own.dim() - 2))
        self._normal = Repeated((own - mean.reshape(axes)) * invstd.reshape(axes))

    def _through(self, change: Tensor, count: int) -> tuple[Any, ...]:
        gamma = None if self._gamma is None else self._gamma.repeat(count)
        found: tuple[Any, ...] = torch.ops.aten.native_batch_norm_backward(
            change, self._x(count), gamma, None, None, self._mean.repeat(count), self._invstd.repeat(count), True,
            self._eps, [True, gamma is not None, self._moves[2]],
        )  # fmt: skip
        return found

    def pulled(self, delta: Many) -> list[Many | None]:
        below, *by_parts = self._through(delta.images(), delta.count)
        found: list[Many | None] = [images(below, delta.count)]
        for part, moves in zip(by_parts, self._moves[1:], strict=True):
            if moves:
                found.append(leading(part.unflatten(0, (delta.count, -1))))
        return found

    def pushed(self, tangents: Sequence[Many]) -> Many:
        count, parts = tangents[0].count, iter(tangents)
        change = self._through(next(parts).images(), count)[0]
        axes = (1, -1, *[1] * (change.dim() - 2))
        if self._moves[1]:
            change.addcmul_(self._normal(count), next(parts).leading().reshape(axes))
        if self._moves[2]:
            change.add_(next(parts).leading().reshape(axes))
        return images(change, count)


def _shaped_like(tensor: Tensor, count: int) -> Tensor:
    """[N, P·C, *spatial], of any numbers."""
    n, c, *space = tensor.shape
    if len(space) == 2 and tensor.device.type == "cpu":
        return torch.empty(n, count * c, *space, dtype=tensor.dtype, memory_format=torch.channels_last)
    return tensor.new_empty(n, count * c, *space)


def _value(part: Variable | Tensor | None) -> Tensor | None:
    return part.tensor.detach() if isinstance(part, Variable) else part
