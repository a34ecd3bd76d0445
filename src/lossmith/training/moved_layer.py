"""A linear layer of several candidates after the step, by the products that cost least.

For a layer a = hWᵀ + b of a training batch, Δ = ∂M/∂a of a candidate and W' = κW − rΔᵀh, with the inputs h' of another
batch and derivatives Δ' by its outputs there are two ways through each of

    forward   h'W'ᵀ + b'                 or  κ(h'Wᵀ + b) − rSΔ      S = h'hᵀ, + 1 where there is a bias
    back      Δ'W'                       or  κΔ'W − r(Δ'Δᵀ)h
    tangent   h(Δ'ᵀh')ᵀ + Σ Δ'           or  SᵀΔ'

(r the rate of the step, κ = 1 − rλ with the weight decay λ). Which is cheaper depends on rows and widths. Candidates
share S where they share h', in the first layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lossmith.training.kept import Kept


@dataclass(frozen=True)
class Form:
    """Which products are taken.

    Args:
        weights: W' is computed, for forward and back; otherwise they go by S.
        gram: S is computed, for the tangent; otherwise it goes by Δ'ᵀh'.
    """

    weights: bool
    gram: bool

    @classmethod
    def cheapest(cls, rows: int, after: int, inputs: int, outputs: int, *, first: bool) -> Form:
        """By the number of multiplications per candidate; how many candidates there are must not change any bits.

        Args:
            rows: N of the training batch. after: N' of the other batch. inputs, outputs: of the layer.
            first: whether candidates share h'; then nothing goes back from there.
        """
        layer, gram = inputs * outputs, rows * after
        if first:
            return cls(True, False) if layer * (rows + after) < gram * outputs else cls(False, True)
        costs = {
            cls(True, False): layer * (2 * rows + 3 * after),
            cls(True, True): layer * (rows + 2 * after) + gram * (inputs + outputs),
            cls(False, True): layer * 2 * after + gram * (2 * inputs + 3 * outputs),
        }
        return min(costs, key=lambda form: costs[form])


@dataclass(frozen=True)
class Step:
    """How far a step goes, and how it is computed.

    Args:
        rate: r. keep: κ. kept: memory to work in.
    """

    rate: float
    keep: float
    kept: Kept


class LayerAtStart:
    """What candidates share of a layer.

    Args:
        weight, bias: at θ0. before: h, [N, inputs].
        after: h' where candidates share it, [N', inputs], else its number of rows N'.
        step: from θ0. name: of its memory. top: whether it is the last one, whose few outputs are best computed
            the other way round.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        before: Tensor,
        after: Tensor | int,
        step: Step,
        name: int,
        *,
        top: bool,
    ) -> None:
        outputs, inputs = weight.shape
        self.weight, self.bias, self.before, self.step, self.top = weight, bias, before, step, top
        self._name = name
        rows, first = (after, False) if isinstance(after, int) else (len(after), True)
        self.form = Form.cheapest(len(before), rows, inputs, outputs, first=first)
        self.after = None if isinstance(after, int) else after
        self.gram: Tensor | None = None  # S, [N', N]
        self.base: Tensor | None = None  # h'Wᵀ + b, [N', outputs]
        if self.after is not None and self.form.gram:
            self.gram = self.after @ before.T
            self.gram = self.gram if bias is None else self.gram.add_(1)
            self.base = nn.functional.linear(self.after, weight, bias)

    def empty(self, name: str, *shape: int) -> Tensor:
        """Memory of this layer."""
        return self.step.kept.empty((self._name, name), shape, self.before)


class Moved:
    """The layer of P candidates after the step.

    Args:
        start: what they share. delta: Δ, [P, N, outputs].
        after: h', [P, N', inputs]; None in the first layer.

    Attributes:
        output: a', [P, N', outputs].
    """

    def __init__(self, start: LayerAtStart, delta: Tensor, after: Tensor | None) -> None:
        self._start, self._delta, self._count = start, delta, len(delta)
        if after is None:
            assert start.after is not None
            after = self._spread(start.after)
        self._after, self._before = after, self._spread(start.before)
        self._weight: Tensor | None = None  # W', [P, outputs, inputs]
        self._gram = None if start.gram is None else self._spread(start.gram)
        self.output = self._by_weights() if start.form.weights else self._by_gram()

    def input_gradient(self, back: Tensor) -> Tensor:
        """Δ'W', [P, N', inputs]."""
        start, step = self._start, self._start.step
        out = start.empty("back", *self._after.shape)
        if self._weight is not None:
            return torch.bmm(back, self._weight, out=out)
        pairs = start.empty("pairs", self._count, self._after.shape[1], len(start.before))
        torch.bmm(back, self._delta.transpose(1, 2), out=pairs)
        torch.bmm(back, self._spread(start.weight), out=out)
        return out.baddbmm_(pairs, self._before, beta=step.keep, alpha=-step.rate)

    def tangent(self, back: Tensor, below: Tensor | None) -> Tensor:
        """What the direction v = (Δ'ᵀh', Σ Δ') of the layer's parameters does to the layer's outputs at θ0.

        Args:
            back: Δ', [P, N', outputs]. below: ḣ, what the layers below do to its inputs, [P, N, inputs].

        Returns:
            ȧ, [P, N, outputs].
        """
        start = self._start
        if start.form.gram:
            found = start.empty("tangent", self._count, len(start.before), len(start.weight))
            torch.bmm(self._similarity().transpose(1, 2), back, out=found)
        else:
            direction = start.empty("direction", self._count, *start.weight.shape)
            torch.bmm(back.transpose(1, 2), self._after, out=direction)
            found = self._affine("tangent", self._before, direction, None if start.bias is None else back.sum(1))
        if below is None:
            return found
        if not found.is_contiguous():
            return found.transpose(1, 2).baddbmm_(self._spread(start.weight), below.transpose(1, 2)).transpose(1, 2)
        return found.baddbmm_(below, self._spread(start.weight.T))

    def _by_weights(self) -> Tensor:
        start, delta, step = self._start, self._delta, self._start.step
        out = start.empty("weight", self._count, *start.weight.shape)
        change = delta.transpose(1, 2), self._before
        self._weight = torch.baddbmm(self._spread(start.weight), *change, beta=step.keep, alpha=-step.rate, out=out)
        bias = None if start.bias is None else torch.add(step.keep * start.bias, delta.sum(1), alpha=-step.rate)
        return self._affine("output", self._after, self._weight, bias)

    def _by_gram(self) -> Tensor:
        start, step, rows = self._start, self._start.step, self._after.shape[1]
        if start.base is not None:
            out, base = start.empty("output", self._count, rows, len(start.weight)), self._spread(start.base)
            change = self._similarity(), self._delta
            return torch.baddbmm(base, *change, beta=step.keep, alpha=-step.rate, out=out)
        bias = None if start.bias is None else self._spread(start.bias)
        found = self._affine("output", self._after, self._spread(start.weight), bias)
        return found.baddbmm_(self._similarity(), self._delta, beta=step.keep, alpha=-step.rate)

    def _similarity(self) -> Tensor:
        """S, [P, N', N]."""
        if self._gram is None:
            start = self._start
            out = start.empty("gram", self._count, self._after.shape[1], len(start.before))
            found = torch.bmm(self._after, self._before.transpose(1, 2), out=out)
            self._gram = found if start.bias is None else found.add_(1)
        return self._gram

    def _affine(self, name: str, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Inputs [P, N, I] times weight [P, O, I], plus bias [P, O]; at the top, where O is small, the other way round,
        which takes half the time, as is the result in memory."""
        (count, rows), outputs = inputs.shape[:2], weight.shape[1]
        if self._start.top and self._start.form == Form(True, False):
            out = self._start.empty(name, count, outputs, rows)
            return _product(weight, inputs.transpose(1, 2), bias, 2, out).transpose(1, 2)
        return _product(inputs, weight.transpose(1, 2), bias, 1, self._start.empty(name, count, rows, outputs))

    def _spread(self, shared: Tensor) -> Tensor:
        return shared.expand(self._count, *shared.shape)


def _product(a: Tensor, b: Tensor, plus: Tensor | None, axis: int, out: Tensor) -> Tensor:
    """Products of stacks of matrices, plus vectors [P, …] along an axis."""
    if plus is None:
        return torch.bmm(a, b, out=out)
    return torch.baddbmm(plus.unsqueeze(axis).expand_as(out), a, b, out=out)
