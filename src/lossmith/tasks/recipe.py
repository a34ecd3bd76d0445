"""How a base model is trained: steps, batch, optimiser, learning rate, schedule, clipping."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, is_dataclass
from typing import Any

import torch
from torch import Tensor

from lossmith.errors import TaskError
from lossmith.tasks.optimizers import SGD, OptimizerFactory
from lossmith.tasks.ranges import check_number
from lossmith.tasks.schedules import Schedule, constant


@dataclass(frozen=True)
class Recipe:
    """The full training of a task.

    Args:
        steps: optimiser steps of the *full* training, ≥ 1; partial trainings are fractions of it.
        batch_size: rows per step, ≥ 1.
        optimizer: `SGD`, `Adam`, `AdamW`, or any callable `(params, lr) -> torch.optim.Optimizer`.
        lr: base learning rate, > 0; None takes `optimizer.lr`. Required when the optimiser has no `lr`.
        schedule: progress τ ∈ [0, 1] → factor on the learning rate (`lm.schedules`).
        grad_clip: largest norm of the whole gradient, > 0, or None.

    Raises:
        TaskError: an argument out of its range; a callable optimiser without `lr`; a schedule that gives no factor.

    Example:
        >>> recipe = Recipe(steps=20_000, batch_size=100, optimizer=SGD(lr=0.01))
        >>> recipe.lr_at(0, lr_scale=10.0)
        0.1
    """

    steps: int
    batch_size: int = 128
    optimizer: OptimizerFactory = field(default_factory=lambda: SGD(lr=0.01))
    lr: float | None = None
    schedule: Schedule = field(default_factory=constant)
    grad_clip: float | None = None

    def __post_init__(self) -> None:
        check_number("Recipe.steps", self.steps, least=1, whole=True)
        check_number("Recipe.batch_size", self.batch_size, least=1, whole=True)
        if self.grad_clip is not None:
            check_number("Recipe.grad_clip", self.grad_clip, above=0)
        if not callable(self.optimizer):
            raise TaskError(
                f"Recipe.optimizer is {self.optimizer!r}: give lm.SGD(lr=0.01), lm.Adam(), lm.AdamW() or a function "
                "(params, lr) -> torch optimizer."
            )
        if self.lr is None and getattr(self.optimizer, "lr", None) is None:
            raise TaskError("Recipe.lr is None and the optimizer has no lr of its own: give Recipe(lr=...), e.g. 0.01.")
        check_number("Recipe.lr", self.base_lr, above=0)
        if not callable(self.schedule):
            raise TaskError(f"Recipe.schedule is {self.schedule!r}: give a schedule, e.g. lm.schedules.cosine().")
        for progress in (0.0, 0.5, 1.0):
            factor = self.schedule(progress)
            if not isinstance(factor, int | float) or not math.isfinite(factor) or factor < 0:
                raise TaskError(
                    f"Recipe.schedule gives {factor!r} at progress {progress:g}: it must return a factor in [0, inf)."
                )

    @property
    def base_lr(self) -> float:
        """The learning rate before schedule and scale."""
        return self.lr if self.lr is not None else float(self.optimizer.lr)  # type: ignore[attr-defined]

    def lr_at(self, step: int, lr_scale: float = 1.0) -> float:
        """The learning rate of step number `step` (from 0): base · scale · schedule(step / steps)."""
        return self.base_lr * lr_scale * self.schedule(step / self.steps)

    def make_optimizer(self, params: Iterable[Tensor], lr_scale: float = 1.0) -> torch.optim.Optimizer:
        """A fresh torch optimiser at the learning rate of step 0.

        Raises:
            TaskError: the factory returned something else.
        """
        optimizer = self.optimizer(params, self.lr_at(0, lr_scale))
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TaskError(
                f"Recipe.optimizer returned {type(optimizer).__name__}: it must return a torch.optim.Optimizer."
            )
        return optimizer

    def describe(self) -> dict[str, Any]:
        """JSON-able description, equal for equal recipes on any machine."""
        return {
            "steps": self.steps,
            "batch_size": self.batch_size,
            "optimizer": describe_callable(self.optimizer),
            "lr": self.base_lr,
            "schedule": describe_callable(self.schedule),
            "grad_clip": self.grad_clip,
        }


def describe_callable(function: object) -> str:
    """A stable text for a callable: a record's repr, otherwise `module.qualified_name`; never an address."""
    if is_dataclass(function) and not isinstance(function, type):
        return repr(function)
    if isinstance(function, functools.partial):
        bound = [*map(repr, function.args), *(f"{k}={v!r}" for k, v in sorted(function.keywords.items()))]
        return f"partial({', '.join([describe_callable(function.func), *bound])})"
    name = getattr(function, "__qualname__", None)
    if name is None:
        kind = type(function)
        return f"{kind.__module__}.{kind.__qualname__}"
    return f"{getattr(function, '__module__', '?')}.{name}"
