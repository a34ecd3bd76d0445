"""Floor A: what a training function is told, what it may return, how it is stopped."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lossmith.errors import TaskError
from lossmith.losses import Setting
from lossmith.records import Status
from lossmith.tasks import FunctionTask, Task, Trial, TrialStopped


def returning(value: Any, **options: Any) -> FunctionTask:
    return Task.from_function(lambda loss, trial: value, **{"outputs": 3, **options})


def run(task: FunctionTask, **trial: Any) -> Any:
    return task.run(nn.Identity(), **{"seed": 0, **trial})


def test_the_trial_arrives() -> None:
    seen = []
    task = Task.from_function(lambda loss, trial: seen.append((loss, trial)) or 0.5, outputs=3, steps=1000)
    loss = nn.Identity()
    assert task.run(loss, seed=7, budget=0.25, split="test", lr_scale=3.0, device="cpu").value == 0.5
    [(got, trial)] = seen
    assert got is loss
    assert (trial.seed, trial.budget, trial.split, trial.lr_scale, trial.device) == (7, 0.25, "test", 3.0, "cpu")
    assert trial.steps == 250


@pytest.mark.parametrize(
    "value",
    [
        0.25,
        np.float32(0.25),
        torch.tensor(0.25),
        torch.tensor([0.25]),
        np.array([[0.25]]),
        {"error_rate": 0.25},
        {"error_rate": torch.tensor(0.25, requires_grad=True), "loss": None},
    ],
)
def test_forms_of_a_metric(value: Any) -> None:
    outcome = run(returning(value))
    assert outcome.status.ok
    assert outcome.value == 0.25
    assert type(outcome.value) is float


def test_a_whole_number_is_a_number() -> None:
    assert run(returning(1)).value == 1.0


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, ["returned nothing", "'error_rate'"]),
        ("0.3", ["'0.3'", "one real number"]),
        (0.3 + 1j, ["0.3+1j", "real"]),
        (True, ["True"]),
        ([0.1, 0.2], ["[0.1, 0.2]"]),
        (torch.zeros(2), ["Tensor", "[2]"]),
        ({"error": 0.3}, ["without 'error_rate'", "'error'"]),
        ({}, ["without 'error_rate'", "nothing"]),
        ({"error_rate": "low"}, ["'low'"]),
    ],
)
def test_what_is_no_metric_is_refused_in_a_sentence(value: Any, words: list[str]) -> None:
    with pytest.raises(TaskError) as caught:
        run(returning(value))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, torch.tensor(-math.inf)])
def test_a_metric_that_is_not_finite_is_a_diverged_training(value: Any) -> None:
    outcome = run(returning(value))
    assert outcome.status.kind == "diverged"
    assert outcome.value is None
    assert "error_rate" in outcome.status.sentence


def test_exceptions_of_the_function_pass() -> None:
    def train(loss: nn.Module, trial: Trial) -> float:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        run(Task.from_function(train, outputs=2))


def reporting(*reports: tuple[float, float], **options: Any) -> Any:
    reached = []

    def train(loss: nn.Module, trial: Trial) -> float:
        for step, value in reports:
            trial.report(step, value)
            reached.append(step)
        return 0.1

    return run(Task.from_function(train, **{"outputs": 2, **options}), budget=0.5), reached


def test_reports_are_kept() -> None:
    outcome, _ = reporting((1, 0.9), (2, 0.5))
    assert outcome.reports == ((1, 0.9), (2, 0.5))
    assert outcome.value == 0.1


def test_a_report_that_is_not_finite_stops_the_training() -> None:
    outcome, reached = reporting((1, 0.9), (37, math.nan), (38, 0.5))
    assert outcome.status.kind == "diverged"
    assert "step 37" in outcome.status.sentence
    assert reached == [1]
    assert outcome.reports == ((1, 0.9),)


def test_chance_counts_from_its_fraction_of_the_trial() -> None:
    # Half of 100 steps are 50; at chance from 30 % of them, step 15, on.
    options: dict[str, Any] = {"chance": (0.9, 0.3), "steps": 100}
    outcome, reached = reporting((14, 0.95), (15, 0.9), (16, 0.5), **options)
    assert outcome.status.kind == "at_chance"
    assert reached == [14]
    assert outcome.value is None
    assert reporting((15, 0.89), **options)[0].status.ok
    assert reporting((0.29, 0.95), (0.3, 0.89), chance=(0.9, 0.3))[0].status.ok  # fractions need no `steps`
    assert reporting((0.3, 0.95), chance=(0.9, 0.3))[0].status.kind == "at_chance"
    assert reporting((50, 0.95), chance=(0.9, 0.3))[0].status.ok  # cannot be placed, so it is not judged


def test_chance_respects_the_direction() -> None:
    assert reporting((1.0, 0.2), chance=0.1, metric="accuracy")[0].status.ok
    assert reporting((1.0, 0.1), chance=0.1, metric="accuracy")[0].status.kind == "at_chance"


def test_reporting_something_else_is_refused() -> None:
    with pytest.raises(TaskError, match=r"trial\.report got NoneType"):
        Trial(0).report(1, None)


def test_a_stop_survives_the_wire() -> None:
    stop = pickle.loads(pickle.dumps(TrialStopped(Status("at_chance", sentence="no better"))))
    assert stop.status == Status("at_chance", sentence="no better")
    assert str(stop) == "no better"


def test_the_functions_draws_follow_the_seed_and_leave_no_trace() -> None:
    task = Task.from_function(lambda loss, trial: torch.rand(()), outputs=2)
    assert run(task, seed=1).value == run(task, seed=1).value != run(task, seed=2).value


def training(target: torch.Tensor) -> Any:
    def train(loss: nn.Module, trial: Trial) -> float:
        for _ in range(10):
            try:
                loss(torch.zeros(4, 7, requires_grad=True), target).backward()
            except Exception:  # a loop that survives bad batches must not survive the probe
                continue
        raise AssertionError("the probe let the training go on")

    return train


def test_outputs_are_seen_at_the_first_use_of_the_loss() -> None:
    assert Task.from_function(training(torch.arange(4))).setting == Setting("softmax", 7, True)
    assert Task.from_function(training(torch.eye(7)[:4])).setting == Setting("softmax", 7, True)
    assert Task.from_function(training(torch.full((4, 7), 1 / 7))).setting == Setting("softmax", 7, False)
    assert Task.from_function(training(torch.zeros(4, 7)), head="identity").setting == Setting("identity", 7, False)
    assert returning(0.1, outputs=5, hard_targets=False).setting == Setting("softmax", 5, False)


def test_outputs_that_cannot_be_seen_are_asked_for() -> None:
    with pytest.raises(TaskError, match=r"never called the loss.*outputs=C"):
        returning(0.1, outputs=None).outputs  # noqa: B018

    def train(loss: nn.Module, trial: Trial) -> float:
        raise FileNotFoundError("images.zip")

    with pytest.raises(TaskError, match=r"before its first use.*FileNotFoundError: images\.zip"):
        Task.from_function(train).outputs  # noqa: B018


def test_metrics_by_name_direction_or_pair() -> None:
    assert returning(0.1, head="identity").metric.name == "mse"
    word_error = returning({"wer": 0.3}, metric=("wer", "min"))
    assert (word_error.metric.name, word_error.metric.direction) == ("wer", "min")
    assert run(word_error).value == 0.3
    assert returning(0.1, metric=("accuracy", "max")).metric.direction == "max"
    with pytest.raises(TaskError, match="direction"):
        returning(0.1, metric=("wer", "down"))


def named(loss: nn.Module, trial: Trial) -> float:
    return 0.5


def test_fingerprint_and_copies() -> None:
    task = Task.from_function(named, outputs=3, steps=100, partial=10)
    mark = task.fingerprint()
    assert mark["function"].endswith("test_function.named")
    assert task.name == "named"
    assert mark["digest"] == Task.from_function(named, outputs=3, steps=100, name="x").fingerprint()["digest"]
    assert mark["digest"] != Task.from_function(named, outputs=3, steps=100, metric="macro_f1").fingerprint()["digest"]
    assert mark["digest"] != Task.from_function(named, outputs=4, steps=100).fingerprint()["digest"]
    fresh = task.fresh(steps=50)
    assert (fresh.steps, fresh.partial, fresh.trial(seed=0, budget=0.5).steps) == (50, 5, 25)
    assert task.replace(reference="m:f").reference == "m:f"
    assert task.floor == "A"
    assert pickle.loads(pickle.dumps(task)).fingerprint() == mark


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train": 3}, ["train", "int"]),
        ({"outputs": 0}, ["outputs", "0"]),
        ({"chance": (0.9, 2)}, ["chance", "2", "[0, 1]"]),
        ({"chance": "low"}, ["chance", "'low'"]),
        ({"steps": 0}, ["steps", "0"]),
        ({"controls": 3}, ["controls", "3"]),
    ],
)
def test_bad_options(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(TaskError) as caught:
        Task.from_function(**{"train": named, **options})
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("parts", [{"seed": -1}, {"budget": 0}, {"budget": 1.5}, {"split": "train"}, {"lr_scale": 0}])
def test_bad_trials(parts: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match=f"Trial.{next(iter(parts))} is"):
        Trial(**{"seed": 0, **parts})
