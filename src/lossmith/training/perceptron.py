"""One step of many candidates through a multi-layer perceptron, layer by layer with explicit matrices.

The same numbers as `functional_network` gives for any model, at about half its time, which goes into bookkeeping where
layers are small and into the memory behind the caches where they are not. For a layer a = hWᵀ + b with Δ = ∂M/∂a:

    pull      gradient of W: Δᵀh, of b: Σ Δ; the layer below gets ΔW
    step      W' = (1 − rλ)W − rΔᵀh, likewise b': r the rate, λ the weight decay
    back      of another batch with inputs h' and derivatives Δ': v = Δ'ᵀh', Σ Δ'; the layer below gets Δ'W'
    tangent   what v does to the outputs at θ0: ȧ = hvᵀ + Σ Δ' + ḣWᵀ
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lossmith.tasks import Task, supervised

_ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.ELU, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Identity)
BLOCK = 1 << 16  # numbers of one layer taken on at a time: they stay in a core's cache from one product to the next


@dataclass(frozen=True)
class Layer:
    """A linear layer and what is applied to each of its outputs."""

    linear: nn.Linear
    activations: tuple[nn.Module, ...]

    @torch.no_grad()
    def activated(self, a: Tensor) -> tuple[Tensor, Tensor | None]:
        """The layer's value at a and its slope there; None stands for a slope of 1."""
        slope: Tensor | None = None
        for activation in self.activations:
            y, own = _value_and_slope(activation, a)
            a, slope = y, own if slope is None else slope * own
        return a, slope


def layers_of(task: Task, model: nn.Module) -> tuple[Layer, ...]:
    """The layers of a plain perceptron that all learn; none for any other model."""
    if task.forward is not supervised or type(model) is not nn.Sequential or not _plain(model):
        return ()
    modules = list(model)
    if modules and type(modules[0]) is nn.Flatten and (modules[0].start_dim, modules[0].end_dim) == (1, -1):
        modules = modules[1:]
    found: list[Layer] = []
    for module in modules:
        if type(module) is nn.Linear and all(p.requires_grad for p in module.parameters()):
            found.append(Layer(module, ()))
        elif found and type(module) in _ELEMENTWISE:
            found[-1] = Layer(found[-1].linear, (*found[-1].activations, module))
        else:
            return ()
    weights = [layer.linear.weight for layer in found]
    return tuple(found) if len({id(w) for w in weights}) == len(weights) else ()


def _plain(model: nn.Sequential) -> bool:
    """Whether calling the modules is all that a forward pass does."""
    for module in (model, *model):
        if any(getattr(module, name) for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")):
            return False
        if getattr(module, "inplace", False) and type(module) is not nn.ReLU:
            return False
        if nn.utils.parametrize.is_parametrized(module) or "forward" in vars(module):
            return False
    return True


class Perceptron:
    """The forward pass at θ0 that all candidates share, and one step from there.

    Args:
        layers: of `layers_of`.
        x: inputs of the training batch, [N, ...].
        rate: r, what a step moves against the gradient. decay: λ.
    """

    @torch.no_grad()
    def __init__(self, layers: Sequence[Layer], x: Tensor, *, rate: float, decay: float) -> None:
        self._layers, self._rate, self._keep = layers, rate, 1 - rate * decay
        widest = max(max(layer.linear.in_features, layer.linear.out_features) for layer in layers)
        self._block = max(1, BLOCK // (widest * len(x))) if x.device.type == "cpu" else sys.maxsize
        self._inputs: list[Tensor] = []
        self._slopes: list[Tensor | None] = []
        h = x.flatten(1)
        for layer in layers:
            self._inputs.append(h)
            h, slope = layer.activated(_affine(layer.linear, h))
            self._slopes.append(slope)
        self.output = h

    @torch.no_grad()
    def step(self, delta: Tensor, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Outputs after one step.

        Args:
            delta: ∂M/∂z of the candidates, [P, N, C].
            x: inputs the outputs are wanted of, [N', ...].

        Returns:
            z' [P, N', C], and a function from a derivative by z' to J·v, [P, N', C] → [P, N, C], where v is what that
            derivative is by the parameters after the step.
        """
        cuts = [slice(at, at + self._block) for at in range(0, len(delta), self._block)]
        blocks = [self._step(delta[cut], x) for cut in cuts]

        def returned(back: Tensor) -> Tensor:
            parts = zip(blocks, cuts, strict=True)
            return torch.cat([self._returned(moved, slopes, back[cut]) for (_, moved, slopes), cut in parts])

        return torch.cat([output for output, _, _ in blocks]), returned

    def _step(self, delta: Tensor, x: Tensor) -> tuple[Tensor, list[_Moved], list[Tensor | None]]:
        pulled = self._pulled(delta)
        h = x.flatten(1)
        moved: list[_Moved] = []
        slopes: list[Tensor | None] = []
        for layer, before, own in zip(self._layers, self._inputs, pulled, strict=True):
            moved.append(_Moved(layer.linear, before, own, h, self._rate, self._keep))
            h, slope = layer.activated(moved[-1].output)
            slopes.append(slope)
        return h, moved, slopes

    def _pulled(self, delta: Tensor) -> list[Tensor]:
        """Δ of each layer, [P, N, outputs]."""
        found: list[Tensor] = []
        for layer, slope in zip(reversed(self._layers), reversed(self._slopes), strict=True):
            delta = delta if slope is None else (delta.mul_(slope) if found else delta * slope)
            found.append(delta)
            if len(found) < len(self._layers):
                delta = delta @ layer.linear.weight
        return found[::-1]

    @torch.no_grad()
    def _returned(self, moved: list[_Moved], slopes: list[Tensor | None], back: Tensor) -> Tensor:
        backs: list[Tensor] = []
        for index in reversed(range(len(moved))):
            slope = slopes[index]
            back = back if slope is None else (back * slope if not backs else back.mul_(slope))
            backs.append(back)
            if index:
                back = moved[index].input_gradient(back)
        tangent: Tensor | None = None
        for layer, own, back, slope in zip(self._layers, moved, reversed(backs), self._slopes, strict=True):
            change = own.tangent(back)
            tangent = change if tangent is None else change.add_(tangent @ layer.linear.weight.T)
            tangent = tangent if slope is None else tangent.mul_(slope)
        assert tangent is not None
        return tangent


class _Moved:
    """A layer after the step, as seen by the inputs h' of another batch.

    Args:
        linear: at θ0. before: its inputs h, [N, inputs]. delta: Δ, [P, N, outputs].
        after: h', [N', inputs] where candidates share it, or [P, N', inputs].
        rate: r. keep: 1 − rλ.

    Attributes:
        output: a', [P, N', outputs].
    """

    def __init__(
        self, linear: nn.Linear, before: Tensor, delta: Tensor, after: Tensor, rate: float, keep: float
    ) -> None:
        # Products first and sums into their result: a product that starts from something copies it before.
        count = len(delta)
        self._before, self._after = _spread(before, count), _spread(after, count)
        self._weight = torch.bmm(delta.transpose(1, 2), self._before)  # [P, outputs, inputs]
        torch.add(linear.weight if keep == 1 else keep * linear.weight, self._weight, alpha=-rate, out=self._weight)
        self.output = torch.bmm(self._after, self._weight.transpose(1, 2))
        self._has_bias = linear.bias is not None
        if linear.bias is not None:
            self.output += torch.add(keep * linear.bias, delta.sum(1), alpha=-rate)[:, None]

    def input_gradient(self, back: Tensor) -> Tensor:
        """Δ'W', [P, N', inputs]."""
        return torch.bmm(back, self._weight)

    def tangent(self, back: Tensor) -> Tensor:
        """h·(Δ'ᵀh')ᵀ + Σ Δ', [P, N, outputs]: what the direction v does to the outputs at θ0."""
        direction = torch.bmm(self._after.transpose(1, 2), back)  # [P, inputs, outputs]
        change = torch.bmm(self._before, direction)
        return change.add_(back.sum(1, keepdim=True)) if self._has_bias else change


def _affine(linear: nn.Linear, h: Tensor) -> Tensor:
    return nn.functional.linear(h, linear.weight, linear.bias)


def _spread(part: Tensor, count: int) -> Tensor:
    return part if part.dim() == 3 else part.expand(count, *part.shape)


def _value_and_slope(activation: nn.Module, a: Tensor) -> tuple[Tensor, Tensor]:
    if type(activation) is nn.ReLU:
        y = a.relu()
        return y, y.sign()  # several times faster than a comparison
    if type(activation) is nn.Tanh:
        y = a.tanh()
        return y, 1 - y * y
    with torch.enable_grad():
        own = a.detach().requires_grad_()
        y = activation(own)
        (slope,) = torch.autograd.grad(y.sum(), own)
    return y.detach(), slope
