"""The estimate: counted by hand, every training timed in the company it will have."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from small_tasks import small_task

import lossmith as lm
from lossmith.evaluation import Plan
from lossmith.experiment import cost, training_cost
from lossmith.experiment.cost import Part, estimate
from lossmith.experiment.meta_testing import MetaTest
from lossmith.experiment.opening import Resources
from lossmith.experiment.spec import SearchSection
from lossmith.experiment.training_cost import TrainingCost
from lossmith.records import Request
from lossmith.tasks import AnyTask, Task

SECTION = SearchSection(
    method="taylorglo", generations=4, budget=0.1, elites=1, finalists=3, finalist_seeds=2, seeds_per_candidate=2
)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the chunks that were timed; a training costs 2 s once, and 1 s per step divided by the chunk's size."""
    asked: list[int] = []

    def fixed(task: AnyTask, plan: Plan, at_once: int) -> TrainingCost:
        asked.append(at_once)
        return TrainingCost(1 / at_once, once=2.0)

    monkeypatch.setattr(cost, "training_cost", fixed)
    return asked


def test_every_kind_of_training_in_its_company(timed: list[int]) -> None:
    method = lm.TaylorGLO(population=25)
    found = estimate(small_task(steps=100), method, SECTION, verdict=MetaTest(seeds=7, tune_seeds=2))
    assert (found.plan.engine, found.plan.chunk) == ("population", 16)
    parts = {part.what: part for part in found.parts}
    # 25 candidates of one seed are chunks of 13 and 12, on two seeds four of them; the elite of a generation is alone
    assert parts["candidates"].trainings == 4 * 25 * 2 + 4
    assert parts["candidates"].seconds == pytest.approx(200 * (2 + 10 / 13) + 4 * (2 + 10))
    assert parts["candidates"].pieces == 4
    assert parts["finalists"].seconds == pytest.approx(6 * (2 + 100 / 3))
    assert parts["finalists"].pieces == 2
    assert parts["shelf (as many steps)"].seconds == pytest.approx((204 * 10 + 600) // 10 * (2 + 10 / 10))
    assert parts["tuned learning rates"].seconds == pytest.approx(36 * (2 + 100 / 9))  # 18 rates as 9 and 9
    assert parts["verdict on test"].seconds == pytest.approx(35 * (2 + 100 / 5))
    assert sorted(timed) == [1, 3, 5, 9, 10, 13]  # each once
    assert found.seconds_per_step == 1 / 13


def test_the_sequential_engine_has_no_company(timed: list[int]) -> None:
    resources = Resources(engine="sequential", workers=2)
    found = estimate(small_task(steps=100), lm.TaylorGLO(population=25), SECTION, resources=resources)
    parts = {part.what: part for part in found.parts}
    assert timed == [1]
    assert parts["candidates"].seconds == 204 * 12
    assert (parts["candidates"].pieces, parts["finalists"].pieces) == (50, 6)
    assert found.workers == 2
    assert found.to_dict()["plan"]["engine"] == "sequential"


def test_workers_cannot_share_a_chunk() -> None:
    part = Part("candidates", 25, 100, 60.0, pieces=2)
    assert [part.wall_seconds(workers) for workers in (1, 2, 16)] == [60.0, 30.0, 30.0]
    assert Part("odd", 3, 1, 60.0, pieces=3).wall_seconds(2) == 40.0


def test_what_a_training_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that says .5 s per chunk, .01 s per step and candidate, and .2 s per measured candidate."""
    steps_seen: list[int] = []

    def seconds(task: Task, plan: Plan, requests: Sequence[Request]) -> float:
        steps = round(requests[0].budget * task.steps)
        steps_seen.append(steps)
        measured = 0.2 if requests[0].splits else 0.0
        return 0.5 + len(requests) * (0.01 * steps + measured)

    monkeypatch.setattr(training_cost, "chunk_seconds", seconds)
    found = training_cost.training_cost(small_task(steps=1000), Plan(engine="population", chunk=5), 5)
    assert found.per_step == pytest.approx(0.01)
    assert found.once == pytest.approx(0.1 + 0.2)
    assert found.of(50) == pytest.approx(0.8)
    assert max(steps_seen) == 40  # no more than two seconds of 5 candidates


def test_a_training_function_is_timed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_cost, "chunk_seconds", lambda task, plan, requests: 3.0)
    function = Task.from_function(lambda loss, trial: 0.5, outputs=3, steps=1000)
    assert training_cost.training_cost(function, Plan(), 1) == TrainingCost(3.0 / 100)
    assert training_cost.training_cost(small_task(steps=1), Plan(), 1) == TrainingCost(3.0)


def test_the_estimate_is_measured_when_nothing_is_replaced() -> None:
    found = estimate(small_task(), lm.TaylorGLO(population=4), SECTION, shelf=False)
    assert found.plan.engine == "population"
    assert all(part.seconds > 0 for part in found.parts)
    assert 0 < found.seconds_per_step < 1
