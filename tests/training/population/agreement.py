"""How far base models trained as one stack end from the same models trained one by one (DESIGN §4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from small_tasks import small_task
from stacked_models import MODELS, batch_of
from torch import Tensor, nn

from lossmith.losses import loss
from lossmith.tasks import SGD, Task
from lossmith.training import Training, steps, train
from lossmith.training.population.training import train_population

LOSSES = ("cross_entropy", "baikal")
LR_SCALES = (1.0, 0.3)
STEPS = 50


def task_of(name: str, dtype: torch.dtype, *, dropout: bool = True, **recipe: Any) -> Task:
    """A network of `stacked_models` on 24 rows of noise."""

    def model(seed: int) -> nn.Module:
        made = MODELS[name][0]().to(dtype)
        if not dropout:
            for module, attribute in dropouts(made):
                setattr(module, attribute, 0.0)
        return made

    rows = {"train": batch_of(name, 24, dtype), "valid": batch_of(name, 8, dtype), "selection": None, "test": None}
    usual = {"optimizer": SGD(0.01, momentum=0.9, weight_decay=1e-3), "steps": STEPS, "batch_size": 8}
    return small_task(model=model, **rows, **{**usual, **recipe})


def dropouts(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """(module, name of its attribute) of every share of dropout that is not 0."""
    places = [(module, name) for module in model.modules() for name in ("p", "dropout")]
    return [(module, name) for module, name in places if isinstance(share := getattr(module, name, 0), float) and share]


def how(count: int) -> Training:
    return Training(seed=0, steps=count, splits=("fitness",), channels_last=True)


def numbers(model: nn.Module | None) -> Tensor:
    """All parameters and buffers that are real numbers, as one vector."""
    assert model is not None
    return torch.cat([value.flatten() for value in model.state_dict().values() if value.is_floating_point()])


def distance(one: Tensor, other: Tensor, start: Tensor) -> float:
    """‖one − other‖ relative to the way from the start: where nothing moved it is no number, and above any bound."""
    return float((one - other).double().norm() / (other - start).double().norm())


@cache
def one_by_one(
    name: str, dtype: torch.dtype, count: int, *, turned: bool = False, dropout: bool = True
) -> list[Tensor]:
    """Where the sequential path ends; with the rows of every batch in the opposite order if `turned`."""

    def opposite(*args: Any, **kwargs: Any) -> Iterator[Tensor]:
        return (index.flip(0) for index in batches(*args, **kwargs))

    batches = steps.batch_indices
    task = task_of(name, dtype, dropout=dropout)
    with patch.object(steps, "batch_indices", opposite if turned else batches):
        ends = [
            train(task, loss(text), replace(how(count), lr_scale=scale))
            for text, scale in zip(LOSSES, LR_SCALES, strict=True)
        ]
    return [numbers(end.model) for end in ends]


def disagreement(name: str, dtype: torch.dtype, count: int) -> float:
    """The largest distance of a candidate of the stack from the same candidate alone, after `count` steps."""
    task = task_of(name, dtype)
    ends = train_population(task, [loss(text) for text in LOSSES], how(count), LR_SCALES)
    start = numbers(task.build_model(0))
    alone = one_by_one(name, dtype, count)
    return max(distance(numbers(e.model), other, start) for e, other in zip(ends, alone, strict=True))


def floor(name: str, count: int) -> float:
    """The largest distance in float32 of two sequential runs that differ in the order of the rows of a batch.

    Dropout is off in both: its masks would fall on other rows.
    """
    model = task_of(name, torch.float32).build_model(0)
    start, dropout = numbers(model), not dropouts(model)  # without any, the runs of `disagreement` serve
    ends = (one_by_one(name, torch.float32, count, turned=turned, dropout=dropout) for turned in (False, True))
    return max(distance(turned, straight, start) for straight, turned in zip(*ends, strict=True))
