"""One step of many candidates through a multi-layer perceptron, layer by layer with explicit matrices.

The same numbers as `functional_network` gives for any model, in a third of its time. For a layer a = hWᵀ + b of the
training batch with Δ = ∂M/∂a, and another batch with inputs h' and derivatives Δ' = ∂L/∂a' after the step:

    pull      Δ of the layer below is Δ_above W, times the slope of its activations
    step      W' = (1 − rλ)W − rΔᵀh, likewise b': r the rate, λ the weight decay
    back      the layer below gets Δ'W'
    tangent   what v = (Δ'ᵀh', Σ Δ') does to the outputs at θ0: ȧ = hvᵀ + ḣWᵀ

`moved_layer` has the products of step, back and tangent. Pull, and ḣWᵀ of a tangent, belong to θ0: where outputs are
few it is cheaper to compute the Jacobians ∂z_n/∂a_n of every row once for all candidates, and to take products with
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lossmith.training.kept import Kept
from lossmith.training.moved_layer import LayerAtStart, Moved, Step
from lossmith.training.perceptron import Layer, Slope
from lossmith.training.row_products import pulled, push

STACKED_NUMBERS = 1 << 22  # of a stack of candidates: they stay in a core's caches from one product to the next
USUAL_STACK = 8  # candidates who share a Jacobian when its cost is weighed; their real number must not change any bits
LOOSE = 3  # how much longer a multiplication takes in a product with a row's Jacobian


def stack_size(layers: Sequence[Layer], rows: int) -> int:
    """How many candidates are best taken through a perceptron together, on the CPU."""
    numbers = 0
    for layer in layers:
        inputs, outputs = layer.linear.in_features, layer.linear.out_features
        numbers += 3 * rows * outputs + inputs * outputs
    return max(1, STACKED_NUMBERS // numbers)


class Perceptron:
    """The forward passes at θ0 that all candidates share, and one step from there.

    Args:
        layers: of `layers_of`.
        x: inputs of the training batch, [N, ...]. after: those of another batch, [N', ...].
        rate: r, what a step moves against the gradient. decay: λ.
        kept: memory to work in.
        dtype: in which the products of candidates are taken; what comes and goes is of the model's own type.

    Attributes:
        output: z at θ0, [N, C].
    """

    @torch.no_grad()
    def __init__(
        self,
        layers: Sequence[Layer],
        x: Tensor,
        after: Tensor,
        *,
        rate: float,
        decay: float,
        kept: Kept,
        dtype: torch.dtype,
    ) -> None:
        self._layers, self._kept, self._dtype = layers, kept, dtype
        self._starts: list[LayerAtStart] = []
        self._slopes: list[Slope | None] = []
        h, after, step = x.flatten(1), after.flatten(1), Step(rate, 1 - rate * decay, kept)
        for index, layer in enumerate(layers):
            weight, bias = layer.linear.weight.detach(), layer.linear.bias
            own = weight.to(dtype), None if bias is None else bias.detach().to(dtype)
            seen, top = len(after) if index else after.to(dtype), index == len(layers) - 1
            self._starts.append(LayerAtStart(*own, h.to(dtype), seen, step, index, top=top))
            h, slope = layer.activated(nn.functional.linear(h, weight, bias))
            self._slopes.append(None if slope is None else slope.to(dtype))
        self.output = h
        self._jacobians = self._all_jacobians()

    @torch.no_grad()
    def step(self, delta: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Outputs on the other batch after one step, for P candidates.

        Args:
            delta: ∂M/∂z of the candidates, [P, N, C].

        Returns:
            z' [P, N', C], and a function from a derivative by z' to J·v, [P, N', C] → [P, N, C], where v is what that
            derivative is by the parameters after the step. Both hold until the next step is taken.
        """
        moved: list[Moved] = []
        slopes: list[Slope | None] = []
        h: Tensor | None = None
        for layer, start, own in zip(self._layers, self._starts, self._pulled(delta.to(self._dtype)), strict=True):
            moved.append(Moved(start, own, h))
            h, slope = layer.activated(moved[-1].output)
            slopes.append(slope)
        assert h is not None

        @torch.no_grad()
        def back(derivative: Tensor) -> Tensor:
            return self._tangent(moved, self._backs(moved, slopes, derivative.to(self._dtype)))

        return h.to(self.output.dtype), back

    def _all_jacobians(self) -> list[Tensor | None]:
        """∂z_n/∂a_n of the layers where it pays to have it, [N, C, outputs]."""
        found: list[Tensor | None] = [None] * len(self._layers)
        rows, outputs = self.output.shape
        if self._dtype != self.output.dtype:
            return found
        known: Tensor | None = None  # of the layer above
        for index in reversed(range(len(self._layers) - 2)):
            above, slope = self._starts[index + 1].weight, self._slopes[index]
            if not _pays(outputs, len(above)):
                break
            if known is None:
                known = self._top_jacobian(index + 1)
            jacobian = self._kept.empty(("jacobian", index), (rows, outputs, above.shape[1]), self.output)
            torch.mm(known.view(rows * outputs, -1), above, out=jacobian.view(rows * outputs, -1))
            known = found[index] = jacobian if slope is None else slope.unsqueeze(1).times(jacobian)
        return found

    def _top_jacobian(self, index: int) -> Tensor:
        """Of the last layer but one: the last layer's weights times the slopes before and after it."""
        weight, after, before = self._starts[-1].weight, self._slopes[-1], self._slopes[index]
        rows, (outputs, inputs) = len(self.output), weight.shape
        jacobian = self._kept.empty(("jacobian", index), (rows, outputs, inputs), self.output)
        jacobian.copy_(weight.expand(rows, outputs, inputs))
        if after is not None:
            Slope(after.values[:, :, None].expand_as(jacobian), after.rectified).times(jacobian)
        return jacobian if before is None else before.unsqueeze(1).times(jacobian)

    def _pulled(self, delta: Tensor) -> list[Tensor]:
        """Δ of each layer, [P, N, outputs]."""
        count, rows = delta.shape[:2]
        own = delta if self._slopes[-1] is None else self._slopes[-1].times(delta.clone())
        found = [own]
        for index in reversed(range(len(self._layers) - 1)):
            above, jacobian, slope = self._starts[index + 1].weight, self._jacobians[index], self._slopes[index]
            out = self._starts[index].empty("delta", count, rows, above.shape[1])
            if jacobian is not None:
                own = pulled(delta, jacobian, out)
            else:
                own = torch.bmm(own, above.expand(count, -1, -1), out=out)
                own = own if slope is None else slope.times(own)
            found.append(own)
        return found[::-1]

    def _backs(self, moved: Sequence[Moved], slopes: Sequence[Slope | None], back: Tensor) -> list[Tensor]:
        """Δ' of each layer, [P, N', outputs]."""
        found: list[Tensor] = []
        for index in reversed(range(len(moved))):
            slope = slopes[index]
            if slope is not None:
                back = slope.times(back if found else back.clone())
            found.append(back)
            if index:
                back = moved[index].input_gradient(back)
        return found[::-1]

    def _tangent(self, moved: Sequence[Moved], backs: Sequence[Tensor]) -> Tensor:
        """J·v, [P, N, C]."""
        below: Tensor | None = None
        by_rows: list[tuple[Tensor, Tensor]] = []
        for own, back, slope, jacobian in zip(moved, backs, self._slopes, self._jacobians, strict=True):
            tangent = own.tangent(back, below)
            if jacobian is not None:
                by_rows.append((tangent, jacobian))
                below = None
            else:
                below = tangent if slope is None else slope.times(tangent)
        assert below is not None
        found = self.output.new_empty(below.shape).copy_(below)
        for tangent, jacobian in by_rows:
            push(tangent, jacobian, found)
        return found


def _pays(outputs: int, width: int) -> bool:
    """Whether a layer's Jacobian costs less than two products per candidate with the weights above it."""
    return 2 * width > outputs * (width / USUAL_STACK + 2 * LOOSE)
