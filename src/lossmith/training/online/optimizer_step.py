"""One step of a real torch optimiser as a function of the gradient it is given, and that function's derivative.

    θ' = S(g),  g the gradient as it was before clipping;  w = (∂S/∂g)ᵀ v  for any v

so that ⟨w, dg⟩ = ⟨v, dθ'⟩ for every change dg of the gradient. Momentum and running means are what the steps before
have left; they are read where the optimiser keeps them, nothing of it is computed again.

    SGD          θ' = θ − lr·c·(s·g + λθ) − (what the buffer had),  c = 1, 1 − d, or with Nesterov 1 + μ(1 − d)
                 (d dampening; at a parameter's first step the buffer is the gradient itself, as if d were 0)
    Adam, AdamW  θ' = θ − lr/b₁ · m'/(√v'/√b₂ + ε), elementwise: m' and v' both move with g
    clipping     s(g) = c/(‖g‖ + 1e-6) where that is below 1 (`torch.nn.utils.clip_grad_norm_`)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, optim

from lossmith.errors import TaskError

SUPPORTED = (optim.SGD, optim.Adam, optim.AdamW)
_CLIP_EPS = 1e-6  # of torch.nn.utils.clip_grad_norm_


class OptimizerStep:
    """The steps of an optimiser, one after the other: `complete`, then clipping, `before`, its `step()`, `direction`.

    Args:
        optimizer: torch's SGD, Adam or AdamW, with any of their options but `differentiable`.
        clip: largest norm of the whole gradient, or None; whoever owns the training clips.

    Attributes:
        moved: the parameters the present step moves: those that have a gradient.
        start: θ, their values before it.

    Raises:
        TaskError: another optimiser.
    """

    def __init__(self, optimizer: optim.Optimizer, clip: float | None = None) -> None:
        if type(optimizer) not in SUPPORTED:
            raise TaskError(
                f"adapting a loss differentiates through the optimiser's step, and {type(optimizer).__name__} is not "
                "supported: use torch.optim.SGD, Adam or AdamW."
            )
        self._optimizer, self._clip = optimizer, clip
        self.moved: list[Tensor] = []
        self.start: list[Tensor] = []
        self._groups: list[tuple[dict[str, Any], list[int]]] = []  # which of `moved` are in which group
        self._first: list[bool] = []
        self._norm: Tensor | None = None

    @torch.no_grad()
    def complete(self) -> None:
        """The gradients are complete, and not clipped yet."""
        if self._clip is not None:
            self._norm = _norm([p.grad for group in self._optimizer.param_groups for p in _with_gradient(group)])

    @torch.no_grad()
    def before(self) -> None:
        """Nothing has moved yet."""
        moved: list[Tensor] = []
        self._groups = []
        for group in self._optimizer.param_groups:
            own = _with_gradient(group)
            self._groups.append((group, list(range(len(moved), len(moved) + len(own)))))
            moved += own
        if [p.shape for p in moved] == [p.shape for p in self.start] and self._same(moved):
            torch._foreach_copy_(self.start, moved)  # into the memory of the step before
        else:
            self.start = [p.detach().clone() for p in moved]
        self.moved = moved
        self._first = [self._state(p).get("momentum_buffer") is None for p in moved]

    @torch.no_grad()
    def direction(self, v: Sequence[Tensor]) -> list[Tensor]:
        """w of the step just taken.

        Args:
            v: for each of `moved`, at θ'.
        """
        found: list[Tensor] = []
        for group, at in self._groups:
            along = list(v[at[0] : at[-1] + 1]) if at else []
            if along:
                slopes = self._of_sgd if isinstance(self._optimizer, optim.SGD) else self._of_adam
                found += torch._foreach_mul(along, slopes(group, at))
        return self._before_clipping(found)

    def _same(self, moved: Sequence[Tensor]) -> bool:
        return all(p.dtype == q.dtype and p.device == q.device for p, q in zip(moved, self.start, strict=True))

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        found: dict[str, Any] = self._optimizer.state.get(parameter, {})
        return found

    def _of_sgd(self, group: dict[str, Any], at: Sequence[int]) -> list[float]:
        """∂θ'/∂g, one number per parameter."""
        momentum = group["momentum"]
        factors = []
        for i in at:
            into_buffer = 1.0 if self._first[i] or not momentum else 1 - group["dampening"]
            move = 1 + momentum * into_buffer if group["nesterov"] else into_buffer
            factors.append(-_sign(group) * float(group["lr"]) * move)
        return factors

    def _of_adam(self, group: dict[str, Any], at: Sequence[int]) -> list[Tensor]:
        """∂θ'/∂g = −lr/b₁ · [(1−β₁)/D − m'·(1−β₂)·d/(√v'·√b₂·D²)], D = √v'/√b₂ + ε, d the gradient as it entered."""
        states = [self._state(self.moved[i]) for i in at]
        beta1, beta2 = map(float, group["betas"])
        steps = [float(state["step"]) for state in states]
        one, root_two = [1 - beta1**n for n in steps], [(1 - beta2**n) ** 0.5 for n in steps]
        entered = _gradients([self.moved[i] for i in at])
        if group["maximize"]:
            entered = list(torch._foreach_neg(entered))
        # AdamW's decay is no part of the gradient; Adam's is.
        if group["weight_decay"] and not group.get("decoupled_weight_decay", type(self._optimizer) is optim.AdamW):
            entered = list(torch._foreach_add(entered, [self.start[i] for i in at], alpha=group["weight_decay"]))
        mean = [state["exp_avg"] for state in states]
        name = "max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"
        root = list(torch._foreach_sqrt([state[name] for state in states]))
        denominator = list(torch._foreach_div(root, root_two))
        torch._foreach_add_(denominator, float(group["eps"]))
        # |d| ≤ √v'/√(1−β₂), so only 0/0 can come out wrong: there m' is moved by d alone.
        slope = list(torch._foreach_div(entered, root))
        slope = [torch.nan_to_num(part, 0.0, 0.0, 0.0) for part in slope]
        if group["amsgrad"]:  # an older, larger v stands still
            slope = [torch.where(s["exp_avg_sq"] == s[name], part, 0.0) for part, s in zip(slope, states, strict=True)]
        torch._foreach_mul_(slope, mean)
        torch._foreach_div_(slope, denominator)
        torch._foreach_mul_(slope, [-(1 - beta2) / s for s in root_two])
        torch._foreach_add_(slope, 1 - beta1)
        torch._foreach_div_(slope, denominator)
        torch._foreach_mul_(slope, [-_sign(group) * float(group["lr"]) / b for b in one])
        return slope

    def _before_clipping(self, w: list[Tensor]) -> list[Tensor]:
        """d(s·g) = s·dg − g·s·⟨g, dg⟩/(‖g‖(‖g‖ + ε)); as `Descent.clipped_direction`, of the clipped gradient s·g."""
        if self._clip is None or self._norm is None or not w:
            return w
        clipped, norm = _gradients(self.moved), self._norm
        scale = (self._clip / (norm + _CLIP_EPS)).clamp(max=1.0)
        along = torch.stack([(g * part).sum() for g, part in zip(clipped, w, strict=True)]).sum()
        # A gradient within the limit moves as it is; where, not ·0, because its norm may be 0.
        shrink = torch.where(scale < 1, along / (scale * norm * (norm + _CLIP_EPS)), torch.zeros_like(scale))
        return [scale * part - shrink * g for part, g in zip(w, clipped, strict=True)]


def _with_gradient(group: dict[str, Any]) -> list[Tensor]:
    return [p for p in group["params"] if p.grad is not None]


def _sign(group: dict[str, Any]) -> float:
    return -1.0 if group["maximize"] else 1.0


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [p.grad.detach() for p in parameters if p.grad is not None]


def _norm(gradients: Sequence[Any]) -> Tensor:
    if not gradients:
        return torch.zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients))))
    return norm
