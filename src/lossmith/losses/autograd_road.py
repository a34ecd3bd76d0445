"""Value, ∂ℓ/∂output and the mixed derivative by autograd: the reference, for every loss on every device."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossmith.losses.expression import Node
from lossmith.losses.family import Kernel
from lossmith.losses.inputs import Inputs
from lossmith.losses.loss import Loss


@dataclass(frozen=True, eq=False)
class Bound(Kernel):
    """A kernel that computes with parameters through which a gradient flows."""

    family: ClassVar[str] = "bound"
    kernel: Kernel
    parameters: Tensor

    @property
    def reads(self) -> frozenset[str]:
        return self.kernel.reads

    @property
    def phi(self) -> tuple[float, ...]:
        return tuple(self.parameters.tolist())

    def value(self, x: Inputs, phi: Sequence[float] | Tensor | None = None) -> Tensor:
        return self.kernel.value(x, self.parameters if phi is None else phi)

    def expression(self) -> Node:
        return self.kernel.with_phi(self.phi).expression()

    def document(self) -> dict[str, Any]:
        return self.kernel.with_phi(self.phi).document()

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Kernel:
        raise NotImplementedError("a bound kernel is stored as the kernel it binds")


def with_parameters(loss: Loss, phi: Tensor | None, output: Tensor) -> Loss:
    """The loss computing with φ from a tensor [K], in the precision of `output`; itself where it has no parameters."""
    if phi is None or not phi.numel():
        return loss
    own = copy.copy(loss)
    own.kernel = Bound(loss.kernel, phi.to(output.device, _precision(output)))
    return own


def _precision(output: Tensor) -> torch.dtype:
    return torch.float64 if output.dtype == torch.float64 else torch.float32


def value_and_delta_by_autograd(
    loss: Loss,
    output: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    progress: float | Tensor | None = None,
    group: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss and ∂loss/∂output; zeros where the loss does not depend on the output."""
    with torch.enable_grad():
        z = output.detach().requires_grad_()
        value = loss(z, target, weight=weight, group=group, progress=progress)
    if not value.requires_grad:
        return value, torch.zeros_like(z)
    (slope,) = torch.autograd.grad(value, z, allow_unused=True)
    return value.detach(), torch.zeros_like(output) if slope is None else slope


def rows_by_autograd(
    loss: Loss, output: Tensor, target: Tensor, weight: Tensor | None = None, progress: float | Tensor | None = None
) -> Tensor:
    """Values per row, not weighted, [N]; 0 where the weight is 0."""
    own = copy.copy(loss)
    own.reduction = "none"
    with torch.no_grad():
        rows: Tensor = own(output, target, weight=weight, progress=progress)
    return rows if weight is None else torch.where(weight == 0, 0, rows / weight).to(rows.dtype)


def mixed_by_autograd(
    loss: Loss,
    output: Tensor,
    target: Tensor,
    direction: Tensor,
    weight: Tensor | None = None,
    progress: float | Tensor | None = None,
    phi: Tensor | None = None,
) -> Tensor:
    """∂/∂φ ⟨direction, ∂loss/∂output⟩, [K]; empty for a loss without parameters."""
    start = torch.tensor(loss.kernel.phi, dtype=torch.float64) if phi is None else phi.detach()
    parameters = start.to(output.device, _precision(output), copy=True)
    if not parameters.numel():
        return parameters
    with torch.enable_grad():
        parameters.requires_grad_()
        z = output.detach().requires_grad_()
        value = with_parameters(loss, parameters, z)(z, target, weight=weight, progress=progress)
        if not value.requires_grad:
            return torch.zeros_like(parameters)
        (slope,) = torch.autograd.grad(value, z, create_graph=True, allow_unused=True)
        if slope is None or not slope.requires_grad:
            return torch.zeros_like(parameters)
        (gradient,) = torch.autograd.grad((slope * direction).sum(), parameters, allow_unused=True)
    return torch.zeros_like(parameters) if gradient is None else gradient
