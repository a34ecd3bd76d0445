"""How a run comes to its plan, says it, keeps it, and goes on under it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from small_tasks import small_task
from torch import Tensor, nn

import lossmith as lm
from lossmith.errors import SpecError
from lossmith.evaluation import Plan, engine_choice
from lossmith.evaluation.engine_measurement import Timed
from lossmith.experiment.events import Event, Note
from lossmith.experiment.opening import plan_of
from lossmith.experiment.spec import Spec

SMALL: dict[str, Any] = {"settings": {"population": 5}, "generations": 2, "finalists": 1, "partial": 10}


class ReadsANumber(nn.Module):
    """Data-dependent control flow, which no stack can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out if out.sum().item() > 0 else 2 * out


class Stop(Exception):
    """Raised by a listener to end a run early."""


def notes(events: Sequence[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note)]


def test_the_rule_is_the_default_and_is_said(tmp_path: Path) -> None:
    heard: list[Event] = []
    run = lm.search("taylorglo", small_task(), path=tmp_path / "run", listeners=[heard.append], **SMALL)
    plan = plan_of(run.spec)
    assert (plan.engine, plan.chunk, plan.dtype, plan.compile) == ("population", 16, "float32", False)
    assert plan.describe() in notes(heard)
    assert "up to 16 candidates at once" in plan.describe()


def test_population_asked_for_a_model_that_cannot_be_stacked(tmp_path: Path) -> None:
    heard: list[Event] = []
    task = small_task(model=lambda seed: ReadsANumber())
    found = {}
    for engine in ("population", "sequential"):
        path = tmp_path / engine
        run = lm.search("taylorglo", task, path=path, engine=engine, listeners=[heard.append], **SMALL)
        found[engine] = [(row.candidate.loss, row.fitness) for row in run.candidates]
    assert found["population"] == found["sequential"]  # never a wrong number
    said = notes(heard)
    assert any("engine sequential" in text and "population was asked for, but" in text for text in said)
    assert any("engine sequential" in text and "(asked for)" in text for text in said)


def test_what_was_measured_is_kept_and_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def measured(task: Any, plans: Sequence[Plan]) -> list[Timed]:
        calls.append(len(plans))
        return [Timed(plan, 1.0 / plan.chunk) for plan in plans]

    monkeypatch.setattr(engine_choice, "measured", measured)
    heard: list[Event] = []

    def stop_in_the_middle(event: Event) -> None:
        heard.append(event)
        if isinstance(event, lm.experiment.events.GenerationFinished):
            raise Stop

    path, task = tmp_path / "run", small_task()
    with pytest.raises(Stop):
        lm.search("taylorglo", task, path=path, engine="auto", listeners=[stop_in_the_middle], **SMALL)
    assert any("← fastest" in text for text in notes(heard))
    run = lm.resume(path, task=task, listeners=[heard.append])
    assert isinstance(run, lm.Run)
    plan = plan_of(run.spec)
    assert (plan.engine, plan.chunk) == ("population", 32)
    assert plan.reason.startswith("measured, ms per training step of a candidate: sequential 1e+03, population of 8")
    assert notes(heard).count(plan.describe()) == 2  # when it was made, and when it was resumed
    assert calls == [4]


def test_workers_and_interruptions_do_not_change_a_stacked_search(tmp_path: Path) -> None:
    def rows(run: lm.Run) -> list[tuple[str, float | None]]:
        return [(row.candidate.loss, row.fitness) for row in run.candidates]

    task, settings = small_task(), {**SMALL, "settings": {"population": 20}}
    alone = lm.search("taylorglo", task, path=tmp_path / "alone", **settings)
    assert plan_of(alone.spec).engine == "population"
    assert rows(lm.search("taylorglo", task, path=tmp_path / "two", workers=2, **settings)) == rows(alone)

    trained = 0

    def stop_early(event: Event) -> None:
        nonlocal trained
        trained += isinstance(event, lm.experiment.events.TrainingFinished) and event.phase == "search"
        if trained == 11:  # after the first chunk of 10 and 10 of the first generation
            raise Stop

    with pytest.raises(Stop):
        lm.search("taylorglo", task, path=tmp_path / "again", listeners=[stop_early], **settings)
    resumed = lm.resume(tmp_path / "again", task=task)
    assert isinstance(resumed, lm.Run)
    assert rows(resumed) == rows(alone)


def test_bfloat16_is_part_of_the_plan(tmp_path: Path) -> None:
    run = lm.search("random", small_task(), path=tmp_path / "run", dtype="bfloat16", **SMALL)
    assert plan_of(run.spec).dtype == "bfloat16"
    exact = lm.search("random", small_task(), path=tmp_path / "exact", **SMALL)
    assert [row.candidate.loss for row in run.candidates] == [row.candidate.loss for row in exact.candidates]


def test_plans_that_cannot_be_read() -> None:
    def spec(**plan: Any) -> Spec:
        task: Any = {"name": "made"}
        return Spec(kind="search", task=task, plan=plan)

    assert plan_of(spec()) == Plan()
    with pytest.raises(SpecError, match="unknown field 'warp' in the plan"):
        plan_of(spec(warp=1))
    with pytest.raises(SpecError, match=r"plan\.engine = 'warp'"):
        plan_of(spec(engine="warp"))
