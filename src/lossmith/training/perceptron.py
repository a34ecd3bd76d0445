"""Plain multi-layer perceptrons: which models are one, and what their activations do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lossmith.tasks import Task, supervised

_ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.ELU, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Identity)
_threshold_backward: Any = torch.ops.aten.threshold_backward.grad_input


@dataclass(frozen=True)
class Slope:
    """The slope of a layer's activations, [..., N, outputs].

    Args:
        values: the slope; of a lone ReLU its output, whose sign is the slope. rectified: whether it is that.
    """

    values: Tensor
    rectified: bool = False

    def times(self, part: Tensor) -> Tensor:
        """Multiplies in place what has the slope's last axes."""
        if self.rectified:
            found: Tensor = _threshold_backward(part, self.values, 0, grad_input=part)
            return found
        return part.mul_(self.values)

    def to(self, dtype: torch.dtype) -> Slope:
        return self if self.values.dtype == dtype else Slope(self.values.to(dtype), self.rectified)

    def unsqueeze(self, axis: int) -> Slope:
        return Slope(self.values.unsqueeze(axis), self.rectified)


@dataclass(frozen=True)
class Layer:
    """A linear layer and what is applied to each of its outputs."""

    linear: nn.Linear
    activations: tuple[nn.Module, ...]

    @torch.no_grad()
    def activated(self, a: Tensor) -> tuple[Tensor, Slope | None]:
        """The layer's value at a, whose memory it may take, and its slope there; None stands for a slope of 1."""
        if [type(activation) for activation in self.activations] == [nn.ReLU]:
            h = a.relu_()
            return h, Slope(h, rectified=True)
        slope: Tensor | None = None
        for activation in self.activations:
            y, own = _value_and_slope(activation, a)
            a, slope = y, own if slope is None else slope * own
        return a, None if slope is None else Slope(slope)


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
