"""Tasks that cost nothing: what they return is a formula of the loss, not a training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import lossmith as lm
from lossmith.tasks import FunctionTask

SPLIT_OFFSET = {"fitness": 0.0, "selection": 0.01, "test": 0.02}


def distance_to_focal(loss: torch.nn.Module, trial: lm.Trial) -> float:
    """An "error": small where the gradient of `loss` points like that of the focal loss, jittered by the seed."""
    output = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(4, 3).requires_grad_()
    target = torch.tensor([0, 1, 2, 1])
    (given,) = torch.autograd.grad(loss(output, target), output)
    (wanted,) = torch.autograd.grad(lm.loss("focal")(output, target), output)
    angle = torch.nn.functional.cosine_similarity(given.flatten(), wanted.flatten(), dim=0)
    jitter = (trial.seed * (1 + len(str(loss))) % 997) / 1e5  # luck differs between losses, too
    value = float(1 - angle) / (1 + trial.budget) + jitter + SPLIT_OFFSET[trial.split] + abs(trial.lr_scale - 1) * 1e-3
    trial.report(1.0, value)
    return value


@pytest.fixture
def formula_task() -> FunctionTask:
    return lm.Task.from_function(distance_to_focal, name="formula", metric=("distance", "min"), outputs=3, steps=100)


@pytest.fixture
def task_of() -> Callable[..., FunctionTask]:
    def make(train: Callable[..., object], **options: object) -> FunctionTask:
        settings: dict[str, object] = {"name": "made", "metric": ("distance", "min"), "outputs": 3, "steps": 100}
        return lm.Task.from_function(train, **{**settings, **options})  # type: ignore[arg-type]

    return make
