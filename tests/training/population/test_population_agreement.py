"""The two paths agree as DESIGN §4 promises, and an update that is wrong is found out by the same comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from agreement import STEPS, disagreement, floor
from torch import Tensor

from lossmith.tasks import Recipe
from lossmith.tasks.optimizers import SGD
from lossmith.training.population import training
from lossmith.training.population.optimizers import StackedOptimizer, stacked_optimizer

PROMISED = [
    "mlp", "lenet5", "preresnet20", "batch norm and dropout", "images with dropout", "tied", "lstm", "encoder",
    "encoder with dropout",
]  # fmt: skip
QUICK = [name for name in PROMISED if name not in ("preresnet20", "lenet5")]


def agrees_in_float64(name: str) -> bool:
    return disagreement(name, torch.float64, STEPS) <= 1e-9


def agrees_after_one_step(name: str) -> bool:
    return disagreement(name, torch.float32, 1) <= 1e-4


def agrees_in_float32(name: str) -> bool:
    return disagreement(name, torch.float32, STEPS) <= 10 * floor(name, STEPS)


@pytest.mark.parametrize("name", PROMISED)
def test_float64_after_50_steps(name: str) -> None:
    assert agrees_in_float64(name)


@pytest.mark.parametrize("name", PROMISED)
def test_float32_after_one_step(name: str) -> None:
    assert agrees_after_one_step(name)


@pytest.mark.parametrize("name", PROMISED)
def test_float32_after_50_steps(name: str) -> None:
    assert agrees_in_float32(name)


def without_momentum(recipe: Recipe, parameters: Sequence[Tensor], lr_scales: Sequence[float]) -> StackedOptimizer:
    assert isinstance(recipe.optimizer, SGD)
    dropped = replace(recipe, optimizer=replace(recipe.optimizer, momentum=0.0))
    return stacked_optimizer(dropped, parameters, lr_scales)


def with_one_learning_rate(
    recipe: Recipe, parameters: Sequence[Tensor], lr_scales: Sequence[float]
) -> StackedOptimizer:
    return stacked_optimizer(recipe, parameters, [1.0] * len(lr_scales))


@pytest.mark.parametrize("name", QUICK)
def test_an_update_without_momentum_is_found_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "stacked_optimizer", without_momentum)
    assert not agrees_in_float64(name)
    assert not agrees_in_float32(name)


@pytest.mark.parametrize("name", QUICK)
def test_another_learning_rate_is_found_out_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "stacked_optimizer", with_one_learning_rate)
    assert not agrees_after_one_step(name)
