from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, get_args

import pytest
import torch
from small_tasks import rows, small_task
from torch import nn

from lossmith.errors import SpecError
from lossmith.evaluation import Plan, engine_choice, make_plan
from lossmith.evaluation.engine_choice import chunk_by_rule, engine_by_rule
from lossmith.evaluation.engine_measurement import Timed
from lossmith.evaluation.model_work import ModelWork
from lossmith.records import Work
from lossmith.tasks import Task

MLP = ModelWork(parameters=19_210, flops=37_888, convolution_flops=0, state_bytes=153_680, activation_bytes=163_840)
LENET5 = ModelWork(61_706, 833_040, 715_200, 493_648, 6_154_240)
RESNET20 = ModelWork(270_000, 82e6, 81.9e6, 3_240_000, 200_000_000)
MNIST_CNN = ModelWork(3_270_000, 28e6, 21.3e6, 26_000_000, 40_000_000)
MIXED = ModelWork(100_000, 90e6, 40e6, 10**6, 10**6)  # most of the work outside convolutions


@pytest.fixture
def stackable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model passes the check of one step."""
    monkeypatch.setattr(engine_choice, "obstacle_to_stacking", lambda task, plan: "")


@pytest.mark.parametrize(
    ("work", "engine", "words"),
    [
        (MLP, "population", "matrix products are faster stacked; 0.038 million operations per row"),
        (LENET5, "population", "small convolutions are faster stacked; 0.83 million"),
        (MNIST_CNN, "sequential", "convolutions as large as these are no faster stacked; 28 million"),
        (RESNET20, "sequential", "no faster stacked; 82 million"),
        (MIXED, "population", "matrix products"),
        (ModelWork(10, 0, 0, 80, 80), "population", "matrix products"),  # nothing that is counted
    ],
)
def test_the_rule_on_the_cpu(work: ModelWork, engine: str, words: str) -> None:
    found, reason = engine_by_rule(work, "cpu")
    assert found == engine
    assert words in reason


def test_the_rule_elsewhere() -> None:
    for work in (MLP, RESNET20):
        assert engine_by_rule(work, "cuda:1")[0] == "population"
        found, reason = engine_by_rule(work, "mps")
        assert found == "sequential"
        assert "--engine auto" in reason


def test_the_chunk_is_smaller_for_larger_models() -> None:
    large = ModelWork(1_000_000, 2e6, 0, 8_000_000, 10**6)
    assert [chunk_by_rule(work, "cpu") for work in (MLP, LENET5, MIXED, large)] == [16, 8, 16, 8]
    assert [chunk_by_rule(work, "cuda") for work in (MLP, LENET5, MNIST_CNN)] == [128, 128, 32]


@pytest.mark.parametrize(("device", "bound"), [("cpu", 2**30), ("cuda", 6 * 2**30)])
def test_the_chunk_fits_into_the_bound(device: str, bound: int) -> None:
    for fit in (1, 3, 5):
        work = ModelWork(1000, 1, 0, state_bytes=bound // fit - 200, activation_bytes=100)
        assert work.bytes * fit <= bound < work.bytes * (fit + 1)
        assert chunk_by_rule(work, device) == fit
    assert chunk_by_rule(ModelWork(10**9, 1, 0, 2**40, 0), device) == 1  # not even one: it has to do


def test_the_plan_of_a_small_network() -> None:
    plan = make_plan(small_task())
    assert (plan.engine, plan.device, plan.dtype, plan.threads) == ("population", "cpu", "float32", 1)
    assert (plan.channels_last, plan.chunk, plan.chance_step, plan.deadline) == (False, 16, 0, 0.0)
    assert {work: plan.chunk_of(work) for work in get_args(Work)} == {"train": 16, "screen": 64, "tune": 16}
    assert plan == make_plan(small_task())  # no clock in it


def test_engines_can_be_forced(stackable: None) -> None:
    plan = make_plan(small_task(), engine="sequential", deadline=2.5)
    assert (plan.engine, plan.chunk, plan.reason, plan.deadline) == ("sequential", 1, "asked for", 2.5)
    plan = make_plan(small_task(), engine="population")
    assert (plan.engine, plan.chunk, plan.reason) == ("population", 16, "asked for")


def test_forcing_wins_over_the_rule(stackable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_choice, "model_work", lambda task, **keywords: RESNET20)
    assert make_plan(small_task()).engine == "sequential"
    assert make_plan(small_task(), engine="population").engine == "population"


def test_convolutions_are_trained_in_channels_last_order(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def obstacle(task: Task, plan: Plan) -> str:
        asked.append(plan.channels_last)
        return ""

    monkeypatch.setattr(engine_choice, "obstacle_to_stacking", obstacle)

    def model(seed: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 3))

    x, y = torch.zeros(30, 1, 3, 3), rows(30, 0)[1]
    task = small_task(model=model, train=(x, y), valid=(x, y), selection=(x, y), test=None)
    assert make_plan(task).channels_last
    assert asked == [True]  # the check stacks the model as it will be trained


def test_a_training_function_keeps_the_threads_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    function = Task.from_function(lambda loss, trial: 0.5, outputs=3)
    plan = make_plan(function)
    assert (plan.engine, plan.threads, plan.chunk) == ("sequential", 7, 1)
    assert plan.reason == "a training function trains one candidate at a time"
    assert make_plan(small_task(), engine="sequential").threads == 1


def raising(seed: int) -> nn.Module:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("no such thing")

    return Broken()


@pytest.mark.parametrize("engine", ["rule", "auto", "population"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Task.from_function(lambda loss, trial: 0.5, outputs=3), "a training function trains one"),
        (lambda: small_task(optimizer=lambda p, lr: torch.optim.RMSprop(p, lr), lr=0.1), "optimi"),
        (lambda: small_task(model=raising), "ValueError: no such thing"),
    ],
)
def test_what_cannot_be_stacked_is_sequential_and_says_why(make: Callable[[], Any], words: str, engine: str) -> None:
    plan = make_plan(make(), engine=engine)
    assert (plan.engine, plan.chunk) == ("sequential", 1)
    assert words in plan.reason
    assert plan.reason.startswith("population was asked for, but ") == (engine == "population")


class ReadsANumber(nn.Module):
    """Data-dependent control flow: what it does for one candidate it would do for all."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        return out if out.sum().item() > 0 else 2 * out


@pytest.mark.parametrize("engine", ["rule", "auto", "population"])
def test_a_model_that_fails_the_check_of_one_step(engine: str) -> None:
    plan = make_plan(small_task(model=lambda seed: ReadsANumber()), engine=engine)
    assert plan.engine == "sequential"
    assert "item" in plan.reason
    assert not plan.reason.endswith(".")


def test_auto_takes_what_was_fastest_and_says_so(stackable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"sequential": 3e-3, 8: 1.5e-3, 16: 0.9e-3, 32: 1.1e-3}

    def measured(task: Task, plans: Sequence[Plan]) -> list[Timed]:
        names = [plan.chunk if plan.engine == "population" else "sequential" for plan in plans]
        return [Timed(plan, seconds[name]) for plan, name in zip(plans, names, strict=True)]

    monkeypatch.setattr(engine_choice, "measured", measured)
    said: list[str] = []
    plan = make_plan(small_task(), engine="auto", compile=False, say=said.append)
    assert (plan.engine, plan.chunk) == ("population", 16)
    numbers = "sequential 3, population of 8 1.5, population of 16 0.9, population of 32 1.1"
    assert plan.reason == f"measured, ms per training step of a candidate: {numbers}"
    (table,) = said
    assert "population of 16           0.9  ← fastest" in table
    seconds["sequential"] = 0.5e-3
    plan = make_plan(small_task(), engine="auto")
    assert (plan.engine, plan.chunk) == ("sequential", 1)


@pytest.mark.parametrize("deadline", [0, -1.0, math.nan])
def test_a_deadline_is_a_time(deadline: float) -> None:
    with pytest.raises(SpecError, match="seconds per candidate, a number above 0"):
        make_plan(small_task(), deadline=deadline)


def test_an_engine_that_does_not_exist() -> None:
    with pytest.raises(SpecError, match="engine 'warp': use rule, auto, sequential or population"):
        make_plan(small_task(), engine="warp")
