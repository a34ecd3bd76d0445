from __future__ import annotations

import functools
import json
import pickle

import pytest
import torch
from torch import nn

from lossmith.errors import TaskError
from lossmith.tasks import SGD, Recipe, schedules
from lossmith.tasks.recipe import describe_callable


def rprop(params, lr):  # type: ignore[no-untyped-def]
    return torch.optim.Rprop(params, lr=lr)


def test_learning_rate_of_a_step() -> None:
    recipe = Recipe(100, optimizer=SGD(0.2), schedule=schedules.step((0.5,), 0.1))
    assert recipe.lr_at(49, lr_scale=10) == pytest.approx(2.0)
    assert recipe.lr_at(50) == pytest.approx(0.02)
    assert Recipe(100, optimizer=SGD(0.2), lr=0.5).lr_at(0) == 0.5  # lr= wins over the optimiser's own


def test_any_factory_with_a_learning_rate() -> None:
    recipe = Recipe(10, optimizer=rprop, lr=0.25)
    optimizer = recipe.make_optimizer([nn.Parameter(torch.zeros(2))], lr_scale=2)
    assert isinstance(optimizer, torch.optim.Rprop)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_description_is_stable_text() -> None:
    recipe = Recipe(10, optimizer=functools.partial(rprop), lr=0.1, schedule=schedules.cosine())
    text = json.dumps(recipe.describe())
    assert "0x" not in text  # no address
    assert "rprop" in text
    assert "cosine(final=0.0)" in text
    assert Recipe(10).describe() == Recipe(10).describe() != Recipe(11).describe()
    assert describe_callable(rprop).endswith("test_recipe.rprop")


def test_pickles() -> None:
    recipe = Recipe(10, 32, SGD(0.1, 0.9), schedule=schedules.warmup(0.1), grad_clip=1.0)
    assert pickle.loads(pickle.dumps(recipe)) == recipe


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Recipe(0), ["Recipe.steps", "0", "[1, inf)"]),
        (lambda: Recipe(1.5), ["Recipe.steps", "1.5", "whole"]),
        (lambda: Recipe(True), ["Recipe.steps", "True"]),
        (lambda: Recipe(1, batch_size=0), ["Recipe.batch_size", "0"]),
        (lambda: Recipe(1, optimizer="sgd"), ["Recipe.optimizer", "'sgd'", "lm.SGD"]),
        (lambda: Recipe(1, optimizer=rprop), ["Recipe.lr", "Recipe(lr=...)"]),
        (lambda: Recipe(1, lr=-1), ["Recipe.lr", "-1"]),
        (lambda: Recipe(1, grad_clip=0), ["Recipe.grad_clip", "0"]),
        (lambda: Recipe(1, schedule=lambda tau: None), ["Recipe.schedule", "None", "factor"]),
        (lambda: Recipe(1, schedule=lambda tau: -tau), ["Recipe.schedule", "-0.5"]),
        (lambda: Recipe(1, schedule=0.1), ["Recipe.schedule", "0.1"]),
        (
            lambda: Recipe(1, optimizer=lambda p, lr: None, lr=1.0).make_optimizer([]),
            ["Recipe.optimizer", "NoneType", "torch.optim.Optimizer"],
        ),
    ],
)
def test_bad_arguments_name_field_value_and_range(make, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TaskError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)
