"""Tasks that train in milliseconds, for the tests of several rooms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lossmith.tasks import SGD, Recipe, Task
from lossmith.tasks.schedules import Schedule, constant

FEATURES, CLASSES = 6, 3


def rows(count: int, seed: int, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    """x [count, 6], y [count] of three classes, told apart by one direction each, with about 10 % errors."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % CLASSES
    centres = 2 * torch.eye(CLASSES, FEATURES)
    return centres[y] + 2 * noise * torch.randn(count, FEATURES, generator=generator), y


def network(seed: int) -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES))


def dropout_network(seed: int) -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, CLASSES))


def small_task(
    *,
    steps: int = 30,
    batch_size: int = 16,
    optimizer: Any = None,
    lr: float | None = None,
    schedule: Schedule | None = None,
    grad_clip: float | None = None,
    **parts: Any,
) -> Task:
    """90 training rows, 30 rows in each judging split, a network of 75 parameters."""
    recipe = Recipe(
        steps=steps,
        batch_size=batch_size,
        optimizer=SGD(lr=0.1) if optimizer is None else optimizer,
        lr=lr,
        schedule=constant() if schedule is None else schedule,
        grad_clip=grad_clip,
    )
    usual = {
        "model": network,
        "train": rows(90, 0),
        "valid": rows(30, 1),
        "selection": rows(30, 2),
        "test": rows(30, 3),
        "recipe": recipe,
    }
    return Task(**{**usual, **parts})
