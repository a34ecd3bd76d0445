"""Searches by gradient from their first block to their winner: blocks, ends, kills, and what they say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from searched import GRADIENT, InjectedFault, begin_or_resume
from small_tasks import small_task

import lossmith as lm
from lossmith.analysis import render_report
from lossmith.cli.summary import summarize
from lossmith.errors import LossError, TaskError, UsageError
from lossmith.evaluation import seed_block
from lossmith.experiment import GenerationFinished, Note
from lossmith.experiment.cost import estimate
from lossmith.experiment.preparation import Stages
from lossmith.experiment.reporting import report_data
from lossmith.experiment.search_run import generations_of
from lossmith.experiment.spec import SearchSection
from lossmith.losses import Loss, OnlineRule
from lossmith.records import OK, Candidate, Evaluation, Preparation, Status, Tuning, canonical_json
from lossmith.store import RunStore, comparable_rows, fault_injection
from lossmith.tasks import Adam
from lossmith.training import tune

PROGRAM = Path(__file__).with_name("searched.py")
PATIENCE = 240.0
QUICK: dict[str, Any] = {"partial": 0.2, "finalists": 1, "finalist_seeds": 1}


def committed(folder: Path) -> int:
    if not (folder / "lossmith.db").exists():
        return 0
    with RunStore.open(folder) as store:
        return len(store.evaluations())


def test_a_kill_leaves_no_trace(tmp_path: Path) -> None:
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "killed"
    begin_or_resume(undisturbed, 0, "ml3")
    rows = comparable_rows(undisturbed)
    command = [sys.executable, str(PROGRAM), str(folder), "0", "none", "ml3"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and committed(folder) < len(rows["evaluation"]) // 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL, said.decode()
    assert not lm.Run(folder).finished
    assert begin_or_resume(folder, 0, "ml3").finished
    assert comparable_rows(folder) == rows


@pytest.mark.parametrize("method", [name for name in GRADIENT if name != "ml3"])
def test_a_fault_after_any_chunk_leaves_no_trace(method: str, tmp_path: Path) -> None:
    def search(place: Path) -> lm.Run:
        if (place / "lossmith.db").exists():
            resumed = lm.resume(place, task=small_task())
            assert isinstance(resumed, lm.Run)
            return resumed
        return lm.search(method, small_task(), settings=GRADIENT[method], path=place, **QUICK)

    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "interrupted"
    search(undisturbed)
    faults = 0

    def fail(name: str, moment: str) -> None:
        nonlocal faults
        seen["count"] += name in ("record", "tell", "generation") and moment == seen["moment"]
        if seen["count"] == 2:  # one step further each time, so that every kind of step is gone on from
            faults += 1
            raise InjectedFault

    for moment in ("before", "after") * 20:
        seen: dict[str, Any] = {"count": 0, "moment": moment}
        with fault_injection(fail):
            try:
                search(folder)
                break
            except InjectedFault:
                continue
    assert faults > 6
    assert lm.Run(folder).finished
    assert comparable_rows(folder) == comparable_rows(undisturbed)


@pytest.fixture(scope="module")
def ml3(tmp_path_factory: pytest.TempPathFactory) -> lm.Run:
    events: list[Any] = []
    run = lm.search(
        lm.ML3(population=2, meta_steps=120, meta_lr=0.01), small_task(), path=tmp_path_factory.mktemp("runs") / "ml3",
        partial=0.5, finalists=2, finalist_seeds=1, listeners=[events.append],
    )  # fmt: skip
    finished = [event for event in events if isinstance(event, GenerationFinished)]
    assert [event.meta_steps for event in finished] == [(50, 120), (100, 120), (120, 120)]
    return run


def test_three_blocks_are_one_tuning(ml3: lm.Run) -> None:
    """Two roads to φ after 120 meta-steps: 50 + 50 + 20 through the store, and all at once."""
    begun = [lm.from_json(row.candidate.loss) for row in ml3.candidates if row.generation == 0]
    (seed,) = seed_block(0, "prepare", 1)
    at_once = tune(small_task(), begun, Tuning(120, meta_lr=0.01), seed=seed)
    last = [row for row in ml3.candidates if row.generation == 2]
    assert [row.loss for row in last] == [lm.to_json(one.loss) for one in at_once]
    lengths = [Tuning.from_settings(row.candidate.tuning).meta_steps for row in ml3.candidates]
    assert lengths == [50, 50, 50, 50, 20, 20]


def test_each_block_goes_on_from_the_one_before_and_is_trained(ml3: lm.Run) -> None:
    trained = {row.request.loss for row in ml3.evaluations if row.request.work == "train"}
    rows = {(row.generation, row.position): row for row in ml3.candidates}
    for (generation, position), row in rows.items():
        assert row.candidate.status.ok
        assert row.fitness is not None
        assert row.tuned in trained
        if generation:
            assert row.candidate.loss == rows[generation - 1, position].tuned
        else:
            assert row.candidate.loss not in trained
    assert ml3.winner is not None
    assert ml3.winner.loss in {row.tuned for row in rows.values()}
    assert ml3.training_steps == sum(row.evaluation.steps for row in ml3.evaluations if row.request.work != "screen")


def test_show_and_report_speak_of_meta_steps(ml3: lm.Run) -> None:
    assert ml3.meta_steps == (120, 120)
    summary = summarize(ml3)
    assert summary.meta_steps == (120, 120)
    assert summary.tuned == 6
    assert summary.best is not None
    assert summary.best.formula == "network(2-50-50-1, softplus)"
    data = report_data(ml3)
    assert [course.name for course in data.courses] == ["restart 0", "restart 1"]
    assert all(course.meta_steps[-1] == 120 and course.sound for course in data.courses)
    values = [
        value
        for row in ml3.evaluations
        if row.request.work == "tune"
        for _, value in json.loads(row.evaluation.product)["meta_loss"]
    ]
    lows, highs = ([getattr(course, name) for course in data.courses] for name in ("low", "high"))
    assert min(map(min, lows)) == min(values)
    assert max(map(max, highs)) == max(values)
    page = render_report(data)
    assert "meta-step" in page
    assert "120 of 120" in page
    assert "Block by block" in page
    assert "network(2-50-50-1, softplus)" in page
    assert "no loss to show" not in page


def test_the_meta_loss_falls(ml3: lm.Run) -> None:
    for course in report_data(ml3).courses:
        tenth = len(course.mean) // 10
        assert sum(course.mean[-tenth:]) < sum(course.mean[:tenth])


def test_an_adaptive_loss_is_found_with_its_rule(tmp_path: Path) -> None:
    run = lm.search(lm.AdaLFL(meta_steps=60, online_lr=1e-3), small_task(), path=tmp_path / "run", **QUICK)
    found = run.best.loss
    assert isinstance(found, Loss)
    assert found.online == OnlineRule(1e-3)
    products = [
        row.evaluation.product for row in run.evaluations if row.request.work == "train" and row.evaluation.status.ok
    ]
    assert sum("trajectory" in product for product in products) >= 3  # every training of a candidate adapts it
    assert lm.to_json(found) in {row.tuned for row in run.candidates}


def answers(diverging: set[str]) -> Any:
    """Stands for tuning: some losses diverge and keep what they had."""

    def answer(requests: Any, purpose: str) -> list[Evaluation]:
        made = []
        for request in requests:
            status = Status("diverged", "", "at meta-step 3") if request.loss in diverging else OK
            product = canonical_json({"loss": f"{request.loss}+", "state": "s"})
            made.append(Evaluation(request.key, status, steps=7, product=product))
        return made

    return answer


def test_a_candidate_is_tuned_with_its_own_settings() -> None:
    seen = []

    def answer(requests: Any, purpose: str) -> list[Evaluation]:
        seen.extend(requests)
        return answers({"b"})(requests, purpose)

    own = Tuning(50, state="so far").to_settings()
    asked = {
        (0, 0): Candidate("a", "a", tuning=own),
        (0, 1): Candidate("b", "b", tuning=own),
        (0, 2): Candidate("c", "c"),
    }
    stages = Stages(Preparation(tuning=Tuning(9)), 0)
    found = stages.run(asked, answer)
    assert [request.settings for request in seen] == [own, own, Tuning(9).to_settings()]
    assert [stages.first_request(candidate) for candidate in asked.values()] == seen
    assert [one.product != "" for one in found.values()] == [True, False, True]
    assert [one.candidate.loss for one in found.values()] == ["a+", "b+", "c+"]  # the last that was sound is kept
    bare = Stages(Preparation(), 0)
    assert bare.run({(0, 0): Candidate("a", "a")}, answer)[0, 0].candidate.loss == "a"
    assert bare.first_request(Candidate("a", "a")) is None
    assert bare.run(asked, answer)[0, 2].candidate.loss == "c"
    shared = Stages(Preparation(tuning=Tuning(9)), 0).run({(0, 0): Candidate("b", "b")}, answer)
    assert shared[0, 0].candidate.loss == "b"  # a method's own candidates: a failed tuning leaves the loss as it was


EVALUATING = sys.modules["lossmith.evaluation.evaluate"]  # the function of that name hides the module


def test_a_search_ends_when_no_restart_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = EVALUATING.AT_ONCE["tune"]

    def diverging(task: Any, requests: Any, plan: Any) -> list[Evaluation]:
        """The first restart diverges in its second block, the other one in its third."""
        found = []
        for done in really(task, requests, plan):
            steps = json.loads(json.loads(done.product)["state"])["meta_steps"]
            seen.append(steps)
            bad = (steps == 100 and seen.count(100) == 1) or steps == 150
            noted = canonical_json(json.loads(done.product) | {"notes": "meta-step 3: damping raised"})
            done = replace(done, product=noted)
            found.append(replace(done, status=Status("diverged", "", "it grew")) if bad else done)
        return found

    seen: list[int] = []
    monkeypatch.setitem(EVALUATING.AT_ONCE, "tune", diverging)
    said: list[str] = []
    run = lm.search(
        lm.TaylorUnroll(population=2, meta_steps=500), small_task(), path=tmp_path / "run", **QUICK,
        listeners=[lambda event: said.append(event.text) if isinstance(event, Note) else None],
    )  # fmt: skip
    assert run.finished
    assert run.meta_steps == (150, 500)
    assert [len([row for row in run.candidates if row.generation == g]) for g in range(4)] == [2, 2, 1, 0]
    assert [generation.counts for generation in run.generations] == [
        {"ok": 2},
        {"diverged": 1, "ok": 1},
        {"diverged": 1},
    ]
    assert said[1:] == ["block 3: no candidate gave a number, and none is left to go on with."]
    first, second = (next(r for r in run.candidates if (r.generation, r.position) == at) for at in ((1, 0), (2, 0)))
    for row in (first, second):
        assert row.candidate.status == Status("diverged", "", "it grew")
        assert row.fitness is None
        assert row.tuned not in (None, row.candidate.loss)  # the last finite φ is kept
        assert row.tuned not in {one.request.loss for one in run.evaluations if one.request.work == "train"}
    assert run.winner is not None  # of the blocks that were sound
    assert [course.sound for course in report_data(run).courses] == [False, False]
    (note,) = [text for text in summarize(run).notes if text.startswith("tuning, ")]
    assert note == "tuning, meta-step 3: damping raised (5 tunings have such notes)"
    rows = comparable_rows(run.path)
    assert lm.resume(run.path).path == run.path
    assert comparable_rows(run.path) == rows


def test_what_cannot_be_tuned_on_is_said_before_anything_is_written(formula_task: Any, tmp_path: Path) -> None:
    place = tmp_path / "run"
    for method in (lm.ML3(), lm.AdaLFL(), lm.TaylorUnroll(), lm.TaylorGLO(tune=5)):
        with pytest.raises(UsageError, match=r"by its parts, lm\.Task\(.*search with random, .*taylorglo.*gplfl"):
            lm.search(method, formula_task, path=place)
    with pytest.raises(TaskError, match=r"steps of lm\.SGD, and the recipe's optimizer is Adam"):
        lm.search(lm.ML3(), small_task(optimizer=Adam(lr=0.01)), path=place)
    with pytest.raises(TaskError, match=r"task_loss = 'error_rate' is a metric, which has no gradient.*cross_entropy"):
        lm.search(lm.ML3(task_loss="error_rate"), small_task(), path=place)
    with pytest.raises(UsageError, match=r"unknown loss .bakal.: did you mean .baikal"):
        lm.search(lm.ML3(task_loss="bakal"), small_task(), path=place)
    with pytest.raises(LossError, match="ml3 starts from drawn weights"):
        lm.search("ml3", small_task(), path=place, start_from="baikal")
    assert not place.exists()


def test_a_task_without_fitness_rows(tmp_path: Path) -> None:
    task = small_task()
    without = task.fresh()
    object.__setattr__(without, "data", {split: rows for split, rows in task.data.items() if split != "fitness"})
    with pytest.raises(
        TaskError, match=r"takes the task loss on fitness rows, and the task has none: give Task\(..., valid"
    ):
        lm.search(lm.ML3(), without, path=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_only_a_meta_step_finds_out_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(task: Any, requests: Any, plan: Any) -> list[Evaluation]:
        return [Evaluation(r.key, Status("crashed", "", "no second derivative of roll")) for r in requests]

    monkeypatch.setitem(EVALUATING.AT_ONCE, "tune", refuse)
    with pytest.raises(TaskError, match=r"ml3 cannot tune on .*: no second derivative of roll$"):
        lm.search(lm.ML3(), small_task(), path=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unroll_that_does_not_fit_is_refused_by_search_and_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lossmith.evaluation.unroll_room.available_memory", lambda: 2 << 20)
    method, task = lm.ML3(meta_steps=2, unroll_length=400), small_task()
    with pytest.raises(TaskError, match=r"ml3 cannot tune on .* needs up to .* and 2\.0 MiB are free"):
        lm.search(method, task, partial=1.0, path=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    section = SearchSection(method="ml3", settings=method.settings(), generations=1, budget=1.0)
    with pytest.raises(TaskError, match=r"and 2\.0 MiB are free"):
        estimate(task, method, section, shelf=False)


def test_generations_of_a_method_that_goes_by_meta_steps(tmp_path: Path) -> None:
    assert generations_of(lm.TaylorGLO(), None) == 20
    assert generations_of(lm.TaylorGLO(), 7) == 7
    assert generations_of(lm.ML3(meta_steps=250), None) == 5
    assert generations_of(lm.ML3(meta_steps=250), 5) == 5
    with pytest.raises(UsageError, match=r"generations = 20: ml3 goes by meta-steps.*lm\.ML3\(meta_steps=250\)"):
        lm.search(lm.ML3(), small_task(), generations=20, path=tmp_path / "run")


@pytest.mark.parametrize(
    ("method", "tunings", "steps"),
    [
        (lm.ML3(population=2, meta_steps=120, unroll_length=2), 6, 100),
        (lm.AdaLFL(meta_steps=100), 2, 50),
        (lm.TaylorGLO(population=4, tune=30), 12, 30),
    ],
)
def test_the_plan_counts_blocks(method: Any, tunings: int, steps: int) -> None:
    generations = method.rounds or 3
    section = SearchSection(
        method=method.name, generations=generations, budget=0.5, elites=1, finalists=1, finalist_seeds=1
    )
    found = estimate(small_task(), method, section, shelf=False)
    parts = {part.what: part for part in found.parts}
    assert (parts["tuning loss parameters"].trainings, parts["tuning loss parameters"].steps) == (tunings, steps)
    assert parts["candidates"].trainings == generations * (method.population + 1)
    assert all(part.seconds > 0 for part in found.parts)


def test_the_plan_times_adaptive_losses_as_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from lossmith.experiment import cost
    from lossmith.experiment.meta_testing import MetaTest
    from lossmith.experiment.training_cost import TrainingCost

    def fixed(task: Any, plan: Any, at_once: int, loss: str = "") -> TrainingCost:
        return TrainingCost(3.0 if "online" in loss else 1.0)

    monkeypatch.setattr(cost, "training_cost", fixed)
    section = SearchSection(method="adalfl", generations=2, budget=0.1, elites=0, finalists=2, finalist_seeds=1)
    found = estimate(small_task(steps=100), lm.AdaLFL(meta_steps=100), section, verdict=MetaTest(seeds=5, tune_seeds=1))
    parts = {part.what: part.seconds for part in found.parts}
    assert parts["candidates"] == pytest.approx(2 * 10 * 3)
    assert parts["finalists"] == pytest.approx(2 * 100 * 3)
    assert parts["tuned learning rates"] == pytest.approx(18 * 100 * 2)  # half of them the found loss
    assert parts["verdict on test"] == pytest.approx(5 * 100 * (2 * 3 + 3 * 1))
    assert found.seconds_per_step == 3
