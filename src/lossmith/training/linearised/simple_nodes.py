"""Nodes of pointwise functions, reshapes, sums, linear layers, and of whatever has no node of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lossmith.training.linearised.many import Many, Repeated, leading
from lossmith.training.linearised.node import Map, Node, Variable


class Pointwise(Map):
    """y_i = f_i(x_i): activations, dropout.

    Args:
        slope: f_i' at θ0.
    """

    def __init__(self, x: Variable, y: Tensor, slope: Tensor) -> None:
        super().__init__([x], [y])
        self.slope = slope
        self._repeated: Repeated | None = None

    def _scaled(self, many: Many) -> Many:
        if not many.is_images:
            return many.like(many.raw * self.slope)
        if self._repeated is None:
            self._repeated = Repeated(self.slope)
        return many.like(many.raw * self._repeated(many.count))

    def pulled(self, delta: Many) -> list[Many | None]:
        return [self._scaled(delta)]

    def pushed(self, tangents: Sequence[Many]) -> Many:
        return self._scaled(tangents[0])


class Reshape(Map):
    """The same numbers in another shape."""

    def __init__(self, x: Variable, y: Tensor) -> None:
        super().__init__([x], [y])

    def pulled(self, delta: Many) -> list[Many | None]:
        return [leading(delta.leading().reshape(delta.count, *self.inputs[0].tensor.shape))]

    def pushed(self, tangents: Sequence[Many]) -> Many:
        return leading(tangents[0].leading().reshape(tangents[0].count, *self.output.shape))


class Sum(Map):
    """y = ±x1 ± x2, all of one shape.

    Args:
        signs: of the variables.
    """

    def __init__(self, terms: Sequence[Variable], signs: Sequence[int], y: Tensor) -> None:
        super().__init__(terms, [y])
        self._signs = signs

    def pulled(self, delta: Many) -> list[Many | None]:
        return [delta if sign > 0 else delta.like(-delta.raw) for sign in self._signs]

    def pushed(self, tangents: Sequence[Many]) -> Many:
        signed = [t if sign > 0 else t.like(-t.raw) for t, sign in zip(tangents, self._signs, strict=True)]
        return signed[0] if len(signed) == 1 else signed[0] + signed[1]


class Linear(Map):
    """y = xWᵀ + b, of any number of rows.

    Args:
        x, weight, bias: variables where they depend on θ, plain tensors where not.
    """

    def __init__(self, x: Variable | Tensor, weight: Variable | Tensor, bias: Variable | Tensor | None, y: Tensor):
        super().__init__([part for part in (x, weight, bias) if isinstance(part, Variable)], [y])
        self._moves = [isinstance(part, Variable) for part in (x, weight, bias)]
        self._x = (x.tensor if isinstance(x, Variable) else x).flatten(0, -2)  # [R, I]
        self._weight = weight.tensor if isinstance(weight, Variable) else weight

    def pulled(self, delta: Many) -> list[Many | None]:
        own = delta.leading()
        rows = own.flatten(1, -2)  # [P, R, O]
        x, weight, bias = self._moves
        found: list[Many | None] = []
        if x:
            # Not one product of all rows: how it is rounded could depend on how many there are.
            below = torch.bmm(rows, self._weight.expand(delta.count, *self._weight.shape))
            found.append(leading(below.reshape(*own.shape[:-1], -1)))
        if weight:
            found.append(leading(torch.bmm(rows.transpose(1, 2), self._x.expand(delta.count, *self._x.shape))))
        if bias:
            found.append(leading(rows.sum(1)))
        return found

    def pushed(self, tangents: Sequence[Many]) -> Many:
        (count, parts), (x, weight, bias) = (tangents[0].count, iter(tangents)), self._moves
        change: Tensor | None = None
        if x:
            below = next(parts).leading().flatten(1, -2)
            change = torch.bmm(below, self._weight.T.expand(count, *self._weight.T.shape))
            change = change.reshape(count, *self.output.shape)
        if weight:
            v = next(parts).leading()  # [P, O, I]
            own = torch.bmm(self._x.expand(count, *self._x.shape), v.transpose(1, 2)).reshape(count, *self.output.shape)
            change = own if change is None else change.add_(own)
        if bias:
            v = next(parts).leading()
            v = v.reshape(count, *[1] * (self.output.dim() - 1), -1).expand(count, *self.output.shape)
            change = v if change is None else change.add_(v)
        assert change is not None
        return leading(change)


class Opaque(Node):
    """Any function, one candidate at a time by automatic differentiation.

    Args:
        inputs: variables whose tensors are leaves of the graph of `outputs`.
        outputs: with that graph.
    """

    def __init__(self, inputs: Sequence[Variable], outputs: Sequence[Tensor]) -> None:
        super().__init__(inputs, outputs)
        self._graph = list(outputs)
        self._zeros: list[Tensor] = []
        self._pulled: list[Tensor | None] = []

    def pull(self, deltas: Sequence[Many | None], count: int) -> list[Many | None]:
        given = [(out, delta.leading()) for out, delta in zip(self._graph, deltas, strict=True) if delta is not None]
        leaves, outputs = [variable.tensor for variable in self.inputs], [out for out, _ in given]
        rows = []
        for place in range(count):
            own = [delta[place] for _, delta in given]
            rows.append(torch.autograd.grad(outputs, leaves, own, retain_graph=True, allow_unused=True))
        return [None if part[0] is None else leading(torch.stack(part)) for part in zip(*rows, strict=True)]

    def push(self, tangents: Sequence[Many], count: int) -> list[Many]:
        if not self._zeros:
            # Jᵀu is linear in u: differentiating it once more gives J, whatever u is.
            self._zeros = [torch.zeros_like(out).requires_grad_() for out in self._graph]
            leaves = [variable.tensor for variable in self.inputs]
            found = torch.autograd.grad(
                self._graph, leaves, self._zeros, create_graph=True, retain_graph=True, allow_unused=True
            )
            self._pulled = list(found)
        moving = [(g, t.leading()) for g, t in zip(self._pulled, tangents, strict=True) if g is not None]
        rows = []
        for place in range(count):
            own = [tangent[place] for _, tangent in moving]
            rows.append(
                torch.autograd.grad(
                    [g for g, _ in moving], self._zeros, own, retain_graph=True, allow_unused=True,
                    materialize_grads=True,
                )
            )  # fmt: skip
        return [leading(torch.stack(part)) for part in zip(*rows, strict=True)]
