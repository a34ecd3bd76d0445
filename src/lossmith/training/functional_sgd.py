"""The step of `torch.optim.SGD` as a function of tensors, so that one can differentiate through it.

Parameters are stacked: the first axis of every tensor is the candidate, [P, ...]. Order of a step, as in the training
loop: clip the norm of the whole gradient, add weight decay, momentum, move.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lossmith.tasks import SGD

Parameters = Mapping[str, Tensor]
Gradients = Mapping[str, Tensor | None]

_CLIP_EPS = 1e-6  # of torch.nn.utils.clip_grad_norm_


@dataclass(frozen=True)
class Descent:
    """How the base model steps.

    Args:
        sgd: momentum, Nesterov and weight decay; its learning rate is not used.
        lr: learning rate of every step.
        clip: largest norm of a candidate's whole gradient, or None.
    """

    sgd: SGD
    lr: float
    clip: float | None = None

    @property
    def first_lr(self) -> float:
        """By what the first step from an empty state moves against the gradient: lr, under Nesterov lr·(1 + μ)."""
        return self.lr * (1 + self.sgd.momentum) if self.sgd.nesterov else self.lr

    def first_step(self, parameters: Parameters, gradients: Gradients) -> dict[str, Tensor]:
        """`step` from an empty state in fewer passes over the numbers, for gradients nobody differentiates again."""
        scale, _ = self.clipping(gradients)
        moved = dict(parameters)
        for name, gradient in gradients.items():
            if gradient is not None:
                change = gradient if scale is None else _over(scale, gradient) * gradient
                if self.sgd.weight_decay:
                    change = torch.add(change, parameters[name], alpha=self.sgd.weight_decay)
                moved[name] = torch.add(parameters[name], change, alpha=-self.first_lr)
        return moved

    def step(self, parameters: Parameters, gradients: Gradients, momentum: Parameters) -> tuple[Parameters, Parameters]:
        """One step.

        Args:
            parameters: [P, ...] each.
            gradients: likewise; None for a parameter the loss does not depend on, which stays as it is, as in torch.
            momentum: the buffers after the step before, empty at the first.

        Returns:
            Parameters and buffers after the step, differentiable in all arguments.
        """
        sgd = self.sgd
        scale, _ = self.clipping(gradients)
        moved, buffers = dict(parameters), dict(momentum)
        for name, gradient in gradients.items():
            if gradient is None:
                continue
            theta = parameters[name]
            change = gradient if scale is None else _over(scale, gradient) * gradient
            if sgd.weight_decay:
                change = change + sgd.weight_decay * theta
            if sgd.momentum:
                buffers[name] = change if name not in momentum else sgd.momentum * momentum[name] + change
                change = change + sgd.momentum * buffers[name] if sgd.nesterov else buffers[name]
            moved[name] = theta - self.lr * change
        return moved, buffers

    def clipping(self, gradients: Gradients) -> tuple[Tensor | None, Tensor | None]:
        """Factor on each candidate's gradient and the norm before, [P]; (None, None) where nothing is clipped."""
        if self.clip is None:
            return None, None
        norms = [torch.linalg.vector_norm(_rows(g), dim=1) for g in gradients.values() if g is not None]
        norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        return (self.clip / (norm + _CLIP_EPS)).clamp(max=1.0), norm

    def clipped_direction(self, gradients: Parameters, direction: Parameters) -> dict[str, Tensor]:
        """The direction w with ⟨w, dg⟩ = ⟨v, d(clipped g)⟩ for every change dg of the gradient g.

        With s(g) = c/(‖g‖ + ε) where that is below 1:  d(s·g) = s·dg − g·s·⟨g, dg⟩/(‖g‖(‖g‖ + ε)).

        Args:
            gradients: g, [P, ...] each. direction: v, likewise, for at least the same parameters.
        """
        turned = dict(direction)
        scale, norm = self.clipping(gradients)
        if scale is None or norm is None:
            return turned
        along = torch.stack([_rows(g * direction[name]).sum(1) for name, g in gradients.items()]).sum(0)
        # A candidate within the limit moves by its gradient itself; where, not ·0, because its norm may be 0.
        shrink = torch.where(scale < 1, scale * along / (norm * (norm + _CLIP_EPS)), torch.zeros_like(scale))
        for name, gradient in gradients.items():
            turned[name] = _over(scale, gradient) * direction[name] - _over(shrink, gradient) * gradient
        return turned


def _rows(stack: Tensor) -> Tensor:
    return stack.reshape(len(stack), -1)  # [P, ...] → [P, n]


def _over(factor: Tensor, like: Tensor) -> Tensor:
    return factor.reshape(-1, *[1] * (like.dim() - 1))  # [P, 1, ...]
