"""The recipe's optimiser on stacked parameters: one update of P base models, each with a learning rate of its own.

The updates are torch's own fused ones (`torch.optim`, fused=True), so a candidate moves by the bits by which it would
move alone. A fused update works through a tensor a vector of elements at a time and rounds the few elements left at the
end differently. Which elements these are must not depend on how many candidates there are: only parameters of whole
vectors per candidate are updated as one stack, all others candidate by candidate, in the same call. Plain SGD is one
rounding per element wherever it is, and takes the learning rates of all candidates at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from lossmith.tasks import SGD, Adam, AdamW, Recipe
from lossmith.tasks.optimizers import can_fuse
from lossmith.tasks.recipe import describe_callable
from lossmith.training.population.stacked import NotStackable

VECTOR = 64  # elements: a multiple of what a vector register holds of any floating-point type

Rule: TypeAlias = SGD | Adam | AdamW


def why_no_stacked_optimizer(recipe: Recipe) -> str:
    """Why the recipe's optimiser cannot update several base models at once, as one sentence; "" where it can."""
    if type(recipe.optimizer) in (SGD, Adam, AdamW):
        return ""
    return (
        f"the optimizer {describe_callable(recipe.optimizer)} is known to update one base model only: lm.SGD, lm.Adam "
        "and lm.AdamW update many at once."
    )


def stacked_optimizer(recipe: Recipe, parameters: Sequence[Tensor], lr_scales: Sequence[float]) -> StackedOptimizer:
    """The recipe's optimiser for P candidates, before its first step.

    Args:
        parameters: leaves [P, *shape], contiguous.
        lr_scales: factor of each candidate on the learning rate, [P].

    Raises:
        NotStackable: an optimiser that updates one base model only; parameters of several types or devices.
    """
    if reason := why_no_stacked_optimizer(recipe):
        raise NotStackable(reason)
    kinds = {f"{p.dtype} on {p.device}" for p in parameters}
    if len(kinds) > 1:
        raise NotStackable(f"the model has parameters in {' and '.join(sorted(kinds))}: one optimizer call takes one.")
    rule = recipe.optimizer
    assert isinstance(rule, SGD | Adam | AdamW)
    return StackedOptimizer(rule, parameters, lr_scales)


class StackedOptimizer:
    """SGD, Adam or AdamW on stacked parameters, from their `.grad`.

    Args:
        rule: as the recipe has it, but for its `lr`, which does not count.
        parameters: leaves [P, *shape], contiguous, of one type and device.
        lr_scales: factor of each candidate on the learning rate, [P].
    """

    def __init__(self, rule: Rule, parameters: Sequence[Tensor], lr_scales: Sequence[float]) -> None:
        self._rule, self._fused = rule, can_fuse(parameters)
        adaptive = not isinstance(rule, SGD)
        # Momentum begins at zero, which is the same as beginning with the first gradient.
        means = int(rule.momentum != 0) if isinstance(rule, SGD) else 2
        self._means = [[torch.zeros_like(p.detach()) for p in parameters] for _ in range(means)]
        self._counts = [torch.zeros((), device=p.device if self._fused else "cpu") for p in parameters if adaptive]
        self._plain = self._fused and not adaptive and not means
        self._bind(parameters, lr_scales)

    def _bind(self, parameters: Sequence[Tensor], lr_scales: Sequence[float]) -> None:
        self._parameters, self._lr_scales = list(parameters), list(lr_scales)
        self._places: dict[float, list[int]] = {}  # of candidates with one learning rate: they are updated in one call
        for place, scale in enumerate(lr_scales):
            self._places.setdefault(scale, []).append(place)
        alike, count = len(self._places) == 1, len(lr_scales)
        self._whole = [alike and p.numel() // count % VECTOR == 0 for p in parameters]
        self._parameter_pieces = [self._pieces(i, p.detach()) for i, p in enumerate(parameters)]
        self._mean_pieces = [[self._pieces(i, m) for i, m in enumerate(mean)] for mean in self._means]
        if self._plain:
            self._scales = torch.tensor(self._lr_scales, dtype=torch.float64, device=self._parameters[0].device)
        self._factors: list[Tensor] = []  # of plain SGD: −(learning rate) of each candidate, [P, 1, …] per parameter
        self._factors_lr = math.nan

    def _pieces(self, index: int, tensor: Tensor) -> Sequence[Tensor]:
        return (tensor,) if self._whole[index] else tensor.unbind(0)

    def step(self, lr: float | Tensor) -> None:
        """One update. Parameters without a gradient stay as they are.

        Args:
            lr: base learning rate times schedule; each candidate's own scale comes on top. A float64 tensor [] beside
                the parameters is read on their device, so that the update can be recorded in a CUDA graph.
        """
        moving = [i for i, p in enumerate(self._parameters) if p.grad is not None]
        if not moving:
            return
        with torch.no_grad():
            if self._plain:
                self._descend(moving, lr)
                return
            if self._counts:
                torch._foreach_add_([self._counts[i] for i in moving], 1)
            gradients = {i: self._pieces(i, self._parameters[i].grad) for i in moving}  # type: ignore[arg-type]
            alone = len(self._places) == 1
            for scale, places in self._places.items():

                def own(pieces: Sequence[Tensor], places: list[int] = places) -> Iterable[Tensor]:
                    return pieces if alone else [pieces[place] for place in places]

                self._update(
                    [piece for i in moving for piece in own(self._parameter_pieces[i])],
                    [piece for i in moving for piece in own(gradients[i])],
                    [[piece for i in moving for piece in own(mean[i])] for mean in self._mean_pieces],
                    [self._counts[i] for i in moving for _ in own(gradients[i])] if self._counts else [],
                    scale * lr,
                )

    def _descend(self, moving: list[int], lr: float | Tensor) -> None:
        """θ ← θ − lr · (g + decay · θ)."""
        parameters = [self._parameters[i] for i in moving]
        gradients: list[Tensor] = [self._parameters[i].grad for i in moving]  # type: ignore[misc]
        if decay := self._rule.weight_decay:
            gradients = [torch.add(g, p, alpha=decay) for g, p in zip(gradients, parameters, strict=True)]
        if isinstance(lr, Tensor):
            torch._foreach_addcmul_(parameters, gradients, [_per_candidate(p, self._scales, -lr) for p in parameters])
            return
        if len(self._places) == 1:
            torch._foreach_add_(parameters, gradients, alpha=-self._lr_scales[0] * lr)
            return
        if lr != self._factors_lr:
            self._factors_lr, self._factors = lr, [_per_candidate(p, self._scales, -lr) for p in self._parameters]
        torch._foreach_addcmul_(parameters, gradients, [self._factors[i] for i in moving])

    def _update(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        means: list[list[Tensor]],
        counts: list[Tensor],
        lr: float | Tensor,
    ) -> None:
        rule = self._rule
        if isinstance(lr, Tensor):
            if parameters[0].dtype != torch.float32:
                _update_by_parts(rule, parameters, gradients, means, counts, lr)
                return
            lr = lr.float()  # what the fused updates read
        if isinstance(rule, SGD):
            how: dict[str, Any] = {"momentum": rule.momentum, "nesterov": rule.nesterov, "dampening": 0.0}
            how |= {"lr": lr, "weight_decay": rule.weight_decay, "maximize": False}
            if self._fused:
                torch._fused_sgd_(parameters, gradients, *(means or [[]]), **how, is_first_step=False)
            else:
                buffers: list[Tensor | None] = [*means[0]] if means else [None] * len(parameters)
                sgd(parameters, gradients, buffers, foreach=False, **how)
            return
        beta1, beta2 = rule.betas
        how = {"beta1": beta1, "beta2": beta2, "eps": rule.eps, "amsgrad": False}
        how |= {"lr": lr, "weight_decay": rule.weight_decay, "maximize": False}
        if self._fused:
            fused = torch._fused_adam_ if isinstance(rule, Adam) else torch._fused_adamw_
            fused(parameters, gradients, means[0], means[1], [], counts, **how)
        else:
            before = [count - 1 for count in counts]  # this one counts itself
            update = adam if isinstance(rule, Adam) else adamw
            update(parameters, gradients, means[0], means[1], [], before, foreach=False, **how)

    def clip(self, most: float) -> None:
        """Scale the gradient of each candidate to a norm of at most `most`, as `torch.nn.utils.clip_grad_norm_`."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if not gradients:
            return
        # Sums run along the last axis: along the first they would be rounded by how many candidates there are.
        norms = torch.stack([torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1) for g in gradients], dim=1)
        factor = (most / (torch.linalg.vector_norm(norms, dim=1) + 1e-6)).clamp(max=1.0)  # [P]
        for gradient in gradients:
            gradient.mul_(_first_axis(factor, gradient))

    def keep(self, places: Tensor, parameters: Sequence[Tensor]) -> None:
        """Go on with the candidates at these places only, int64 [P'], whose parameters are now these leaves."""
        for mean in self._means:
            mean[:] = [m.index_select(0, places.to(m.device)) for m in mean]
        self._bind(parameters, [self._lr_scales[place] for place in places.tolist()])


def _update_by_parts(
    rule: Rule,
    parameters: list[Tensor],
    gradients: list[Tensor],
    means: list[list[Tensor]],
    counts: list[Tensor],
    lr: Tensor,
) -> None:
    """The update with a learning rate in float64 on the device, which torch's fused updates do not take."""
    for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
        if isinstance(rule, AdamW):
            p.mul_(1 - lr * rule.weight_decay)
        elif rule.weight_decay:
            g = g.add(p, alpha=rule.weight_decay)
        if isinstance(rule, SGD):
            if means:
                moved = means[0][i].mul_(rule.momentum).add_(g)
                g = g.add(moved, alpha=rule.momentum) if rule.nesterov else moved
            p.sub_(lr * g)
            continue
        (beta1, beta2), count = rule.betas, counts[i].double()
        mean = means[0][i].lerp_(g, 1 - beta1)
        square = means[1][i].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        root = (square.sqrt() / (1 - beta2**count).sqrt()).add_(rule.eps)
        p.sub_(lr / (1 - beta1**count) * mean / root)


def _per_candidate(like: Tensor, scales: Tensor, lr: float | Tensor) -> Tensor:
    """scales · lr, [P, 1, …]: in double precision first, as the learning rate of a single optimiser is computed."""
    return _first_axis((scales * lr).to(like.dtype), like)


def _first_axis(values: Tensor, like: Tensor) -> Tensor:
    """[P] in a shape that broadcasts against [P, …]."""
    return values.view(-1, *[1] * (like.dim() - 1))
