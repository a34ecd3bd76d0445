"""What the plan says of compiled and recorded steps; the trials themselves are tested where the steps are."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from small_tasks import small_task

from lossmith.evaluation import Plan, step_choice
from lossmith.evaluation.engine_measurement import Timed
from lossmith.evaluation.step_choice import with_steps
from lossmith.tasks import Task
from lossmith.training import Training
from lossmith.training.population.trials import why_not_captured

STACK = Plan(engine="population", chunk=4)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the trials find, to be set by the test."""
    found = {"compiled": "", "captured": ""}
    monkeypatch.setattr(step_choice, "why_not_compiled", lambda task, how: found["compiled"])
    monkeypatch.setattr(step_choice, "why_not_captured", lambda task, how: found["captured"])
    monkeypatch.setattr(step_choice, "on_device", lambda task, device: task)
    return found


def test_compiling_is_asked_for(trials: dict[str, str]) -> None:
    task = small_task()
    assert with_steps(task, STACK, compile=None, measure=False) == STACK
    assert with_steps(task, STACK, compile=False, measure=True) == STACK
    plan = with_steps(task, STACK, compile=True, measure=False)
    assert (plan.compile, plan.compile_reason) == (True, "asked for")
    trials["compiled"] = "torch finds no C++ compiler."
    plan = with_steps(task, STACK, compile=True, measure=True)
    assert (plan.compile, plan.compile_reason) == (False, "torch finds no C++ compiler")
    assert plan.describe().endswith("; not compiled: torch finds no C++ compiler")


@pytest.mark.parametrize(
    ("compiled", "words"),
    [(1.5e-3, "of them: ask for it with --compile"), (2.5e-3, "never won back"), (2e-3, "never won back")],
)
def test_the_clock_tells_what_compiling_would_bring(
    trials: dict[str, str], monkeypatch: pytest.MonkeyPatch, compiled: float, words: str
) -> None:
    def measured(task: Task, plans: Sequence[Plan]) -> list[Timed]:
        assert [plan.compile for plan in plans] == [False, True]
        return [Timed(plan, compiled if plan.compile else 2e-3) for plan in plans]

    monkeypatch.setattr(step_choice, "measured", measured)
    said: list[str] = []
    plan = with_steps(small_task(), STACK, compile=None, measure=True, say=said.append)
    assert not plan.compile  # the length of the search is not known here
    assert plan.compile_reason.startswith(
        f"measured, ms per training step of a candidate: compiled {compiled * 1e3:.3g}"
    )
    assert words in plan.compile_reason
    assert "population of 4, compiled" in said[0]


def test_graphs_are_used_where_a_trial_agrees(trials: dict[str, str]) -> None:
    on_gpu = Plan(engine="population", chunk=4, device="cuda")
    plan = with_steps(small_task(), on_gpu, compile=None, measure=False)
    assert plan.graph
    assert ", as CUDA graphs" in plan.describe()
    trials["captured"] = "a trial of 6 steps gives other parameters, 0.1 of their size apart."
    plan = with_steps(small_task(), on_gpu, compile=True, measure=True)
    assert not plan.graph
    assert "no CUDA graphs: a trial of 6 steps gives other parameters" in plan.describe()
    assert plan.compile_reason == "steps are compiled on the CPU only"


def test_a_trial_where_there_is_no_gpu() -> None:
    assert why_not_captured(small_task(), Training(seed=0, steps=1)) == "steps are recorded on a CUDA device only."
