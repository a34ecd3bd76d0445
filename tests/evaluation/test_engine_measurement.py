"""Measuring engines: what is timed and how it is judged; the clock itself is replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_tasks import rows, small_task
from torch import Tensor

from lossmith.evaluation import Plan, engine_measurement, evaluate_chunk, stacking_key
from lossmith.evaluation.engine_measurement import ROUNDS, Timed, fastest, measured, sample_requests, table
from lossmith.records import Request
from lossmith.tasks import Task

SEQUENTIAL = Plan()
STACKED = [Plan(engine="population", chunk=chunk) for chunk in (8, 16)]


def test_sample_trainings_can_be_done_at_once_and_are_sound() -> None:
    task = small_task(steps=40)
    requests = sample_requests(task, 7, 10)
    assert len({request.key for request in requests}) == 7
    assert len({stacking_key(request) for request in requests}) == 1
    done = evaluate_chunk(task, requests, SEQUENTIAL)
    assert [(e.status.kind, e.steps) for e in done] == [("ok", 10)] * 7
    (alone,) = evaluate_chunk(task, sample_requests(task, 1, 10, splits=()), SEQUENTIAL)
    assert alone.status.ok
    assert alone.metrics == {}  # training alone is timed


def own_head(output: Tensor) -> Tensor:
    return torch.softmax(output, -1)


def test_sample_trainings_of_every_head() -> None:
    x, y = torch.linspace(-1, 1, 30)[:, None], torch.linspace(-1, 1, 30)[:, None]
    regression = Task(
        model=lambda seed: torch.nn.Linear(1, 1), train=(x, y), head="identity", recipe=small_task().recipe
    )
    x, y = rows(30, 0)
    one_hot = torch.nn.functional.one_hot(y).float()
    parts = {"train": (x, one_hot), "valid": (x, one_hot), "selection": (x, one_hot), "test": None}
    own = small_task(head=own_head, controls=["mse"], metric="mse", **parts)
    for task in (regression, own):
        done = evaluate_chunk(task, sample_requests(task, 4, 5), SEQUENTIAL)
        assert all(e.status.ok for e in done), [e.status for e in done]


def test_interleaved_rounds_and_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that costs .01 s per chunk, and per candidate-step what is written here, ten times that now and then."""
    cost = {1: 1e-3, 8: 4e-4, 16: 3e-4}
    calls: list[tuple[int, int]] = []

    def seconds(task: Task, plan: Plan, requests: Sequence[Request]) -> float:
        assert len(requests) == plan.chunk
        steps = round(requests[0].budget * task.steps)
        calls.append((plan.chunk, steps))
        slow = 10 if len(calls) % 13 == 0 else 1
        return 0.01 + slow * steps * plan.chunk * cost[plan.chunk]

    monkeypatch.setattr(engine_measurement, "chunk_seconds", seconds)
    found = measured(small_task(steps=10_000), [SEQUENTIAL, *STACKED])
    assert [one.seconds for one in found] == pytest.approx([1e-3, 4e-4, 3e-4])
    order = [chunk for chunk, steps in calls if steps > 2]
    assert order == [1, 8, 16] * ROUNDS


def test_a_training_of_one_step_can_be_measured() -> None:
    (found,) = measured(small_task(steps=1), [SEQUENTIAL])
    assert found.seconds >= 0


def test_of_equals_the_smaller_chunk() -> None:
    found = [Timed(SEQUENTIAL, 2e-3), Timed(STACKED[0], 1.02e-3), Timed(STACKED[1], 1e-3)]
    assert fastest(found) is found[0 + 1]
    assert fastest([found[0], replace(found[1], seconds=1.1e-3), found[2]]).plan.chunk == 16
    lines: Any = table(found).splitlines()
    assert [line.split("  ")[1] for line in lines[1:]] == ["sequential", "population of 8", "population of 16"]
    assert [line.endswith("← fastest") for line in lines[1:]] == [False, True, False]
