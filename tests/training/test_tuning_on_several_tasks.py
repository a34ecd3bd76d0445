"""Tuning on several tasks: the mean of their meta-gradients, each task with its own draws and road."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import rows, small_task
from torch import nn
from unrolled_by_hand import KERNELS, NAMES, STEPS, double_task, how, losses, phi, tree

from lossmith.errors import TaskError, UsageError
from lossmith.losses import Loss, to_json
from lossmith.records import Tuning
from lossmith.rng import derive_seed
from lossmith.tasks import Adam, FunctionTask, Terms
from lossmith.training import tune
from lossmith.training.meta_gradient import MetaGradient, Road, draw
from lossmith.training.task_tuning import mean_over_tasks, seed_of
from lossmith.training.tunable import Tunable
from lossmith.training.unrolled import unrolled

STEP = STEPS["nesterov"]


def wider(seed: int) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.Sigmoid(), nn.Linear(9, 3)).double()


@pytest.mark.parametrize("length", [1, 2])
def test_phi_follows_the_mean_of_the_gradients(length: int) -> None:
    tasks = [double_task(STEP), double_task(STEP, model=wider)]
    tuned = tune(tasks, losses(*NAMES), Tuning(3, length, 0.05, meta_optimizer="sgd"), seed=4)
    for name, one in zip(NAMES, tuned, strict=True):
        kernel = KERNELS[name][0]
        numbers, values = np.array(kernel.phi), []
        for meta_step in range(3):
            found = []
            for position, task in enumerate(tasks):
                own = Tunable.of(Loss(kernel.with_phi(tuple(numbers))), task)
                drawn = draw(task, seed_of(4, position), meta_step, length)
                found.append(unrolled(how(task, STEP, length, 1, Road()), drawn, [own], [own.phi])[0])
            numbers = numbers - 0.05 * (found[0].gradient + found[1].gradient) / 2
            values.append((found[0].value + found[1].value) / 2)
        assert np.abs(phi(one) - numbers).max() < 1e-12
        assert np.abs(phi(one) - kernel.phi).max() > 1e-4
        assert np.allclose([value for _, value in one.history], values, rtol=1e-12)
        assert (one.meta_steps, one.steps) == (3, 3 * length * 2)


def test_each_task_has_its_own_draws_and_the_first_those_of_one_alone() -> None:
    assert seed_of(7, 0) == 7
    assert seed_of(7, 1) == derive_seed(7, "task", 1) != seed_of(7, 2)


def test_one_task_in_a_list_is_the_task() -> None:
    task, tuning = small_task(), Tuning(4, meta_lr=0.05)
    (alone,), (listed,) = tune(task, losses("tanh"), tuning, seed=0), tune([task], losses("tanh"), tuning, seed=0)
    assert (to_json(alone.loss), alone.history, alone.road) == (to_json(listed.loss), listed.history, listed.road)


def test_tasks_may_take_different_roads_and_have_different_outputs() -> None:
    x, y = rows(90, 0)
    binary = small_task(
        model=lambda seed: nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)),
        train=(x, y % 2), valid=(x[:30], y[:30] % 2), selection=(x[:30], y[:30] % 2), test=None,
    )  # fmt: skip
    both = tune([small_task(), binary], losses("tanh", "taylor"), Tuning(3, meta_lr=0.05), seed=0)
    assert {one.road for one in both} == {"closed form, layer by layer; closed form, recorded"}
    assert all(one.status.ok for one in both)


def heavy(model: nn.Module, batch: Any) -> Terms:
    x, y = batch
    return Terms(model(x), y, weight=torch.full(y.shape, 1e6, dtype=x.dtype))


@pytest.mark.parametrize("order", [1, -1], ids=["on the second", "on the first"])
def test_what_diverges_on_one_task_has_diverged(order: int) -> None:
    wild = Loss(tree("exp(w)*square(p)", *[1.0] * 4))  # exp(1) where rows weigh 1, infinite where they weigh a million
    tasks = [double_task(STEP), double_task(STEP, forward=heavy)]
    assert tune(tasks[0], [wild], Tuning(3), seed=0)[0].status.ok
    one, other = tune(tasks[::order], [wild, *losses("tanh")], Tuning(3), seed=0)
    assert (one.status.kind, one.meta_steps, one.loss.kernel) == ("diverged", 1, wild.kernel)
    assert (other.status.ok, other.meta_steps) == (True, 3)


def test_the_mean_keeps_the_notes_and_the_candidates_that_all_have() -> None:
    a = {0: MetaGradient(1.0, 2.0, np.array([1.0, 3.0]), "raised"), 1: MetaGradient(0.0, 0.0, np.zeros(1))}
    b = {0: MetaGradient(3.0, 4.0, np.array([3.0, -3.0]), "raised")}
    found = mean_over_tasks([a, b])
    assert list(found) == [0]
    assert (found[0].value, found[0].inner, found[0].gradient.tolist(), found[0].note) == (
        2.0,
        3.0,
        [2.0, 0.0],
        "raised",
    )
    assert mean_over_tasks([a]) is a


def test_every_task_must_be_one_that_can_be_tuned_on() -> None:
    function = FunctionTask(lambda loss, trial: 0.5, outputs=3, name="mine")
    with pytest.raises(UsageError, match="'mine' is a training function"):
        tune([small_task(), function], losses("tanh"), Tuning(2), seed=0)
    with pytest.raises(TaskError, match=r"differentiates through the steps of lm\.SGD"):
        tune([small_task(), small_task(optimizer=Adam(0.01))], losses("tanh"), Tuning(2), seed=0)
    with pytest.raises(UsageError, match="tuning without a task"):
        tune([], losses("tanh"), Tuning(2), seed=0)
