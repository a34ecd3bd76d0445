"""Whole runs on several tasks: search, resume, shelf, verdicts, comparison, and what they cost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from searched import InjectedFault
from small_tasks import rows, small_task

import lossmith as lm
from lossmith.errors import RunError, SpecError, TaskError, UsageError
from lossmith.evaluation import evaluate, make_plan
from lossmith.experiment.api import as_task, default_partial
from lossmith.experiment.cost import estimate
from lossmith.experiment.opening import LONGEST_NAME, Resources, default_path, open_session
from lossmith.experiment.pilot import run_pilot
from lossmith.experiment.reporting import report_data
from lossmith.experiment.search_run import as_budget
from lossmith.experiment.spec import SearchSection, make
from lossmith.losses import to_json
from lossmith.records import Request
from lossmith.store import fault_injection
from lossmith.tasks import FunctionTask, SeveralTasks, members_of, resolve_task

WAVES = "sine/mlp,sine/mlp@wave=1"
HOW = {"generations": 2, "finalists": 2, "finalist_seeds": 1, "partial": 0.3, "start_from": ["mse"]}


def begin(path: Path, task: object = WAVES, method: str = "taylorglo", **options: object) -> lm.Run:
    settings = {"settings": {"population": 3}, **HOW, **options}
    return lm.search(method, task, path=path, **settings)  # type: ignore[arg-type]


def told(run: lm.Run) -> list[tuple[str, float | None, str]]:
    return [(row.loss, row.fitness, str(row.candidate.status)) for row in run.candidates]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("several") / "run"
    begin(path)
    return path


def test_a_search_scores_by_the_mean_over_the_tasks(searched: Path) -> None:
    run = lm.Run(searched)
    assert run.finished
    assert run.spec.task.reference == WAVES
    trained = [row.evaluation for row in run.evaluations if row.purpose == "search" and row.evaluation.status.ok]
    assert trained
    for one in trained:
        parts = json.loads(one.product)["tasks"]
        assert [part["task"] for part in parts] == ["sine/mlp", "sine/mlp@wave=1"]
        each = [part["metrics"]["fitness"] for part in parts]
        assert one.metrics["fitness"] == pytest.approx(sum(each) / 2, rel=1e-15)
        assert one.steps == 2 * 30
    assert run.winner is not None
    assert [plan["engine"] for plan in run.spec.plan["members"]] == ["population", "population"]
    assert report_data(run).task == "sine/mlp + sine/mlp@wave=1"


def test_tasks_may_be_given_in_a_list() -> None:
    listed = as_task(["sine/mlp", lm.task("sine/mlp@wave=1")])
    assert listed.fingerprint() == resolve_task(WAVES).fingerprint()
    assert as_task(["sine/mlp"]).name == "sine/mlp"
    assert as_task("sine/mlp").name == "sine/mlp"


def test_a_broken_search_goes_on_to_the_same_end(searched: Path, tmp_path: Path) -> None:
    seen = {"tells": 0}

    def fail(name: str, moment: str) -> None:
        if (name, moment) == ("tell", "before"):
            seen["tells"] += 1
            if seen["tells"] == 2:
                raise InjectedFault

    with fault_injection(fail), pytest.raises(InjectedFault):
        begin(tmp_path / "run")
    resumed = lm.resume(tmp_path / "run")  # the tasks are found again by their reference
    assert isinstance(resumed, lm.Run)
    assert told(resumed) == told(lm.Run(searched))
    assert resumed.winner == lm.Run(searched).winner


def test_steps_of_each_are_remembered(tmp_path: Path) -> None:
    tasks = resolve_task(WAVES, steps=[40, 20])
    run = begin(tmp_path / "run", tasks, generations=1)
    assert (run.spec.task.steps, run.spec.task.each) == (60, (40, 20))
    assert lm.resume(tmp_path / "run").finished  # type: ignore[union-attr]
    assert "each = [" in (tmp_path / "run" / "spec.toml").read_text()
    with pytest.raises(RunError, match=r"is not the one .*: reference, tasks changed|: tasks changed"):
        open_session(tmp_path / "run", resolve_task(WAVES), Resources())


def test_a_verdict_on_several_tasks(searched: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(searched, path)
    verdict = lm.evaluate(lm.Run(path), seeds=2, tune_seeds=1, controls=("task",))
    arm = {one.name: one for one in verdict.arms}["mse"]
    alone = []
    for name in WAVES.split(","):
        found = lm.compare(["mse", "mae"], name, seeds=2, path=tmp_path / f"c{len(alone)}")
        alone.append({one.name: one for one in found.arms}["mse"].samples)
    for both, first, second in zip(arm.samples, *alone, strict=True):
        assert both == pytest.approx((first + second) / 2, rel=1e-5)
    transfer = lm.evaluate(lm.Run(path), "sine/mlp@wave=2-3", seeds=2, controls=("task",), path=tmp_path / "t")
    assert len(transfer.arms) == 2


def test_comparing_and_shelf(tmp_path: Path) -> None:
    verdict = lm.compare(["mse", "mae"], WAVES, seeds=2, path=tmp_path / "compare")
    assert {one.name for one in verdict.arms} == {"mse", "mae"}
    shelf = lm.shelf(WAVES, training_steps=3000, partial=0.3, finalists=1, finalist_seeds=1, path=tmp_path / "shelf")
    assert shelf.winner is not None
    assert shelf.training_steps <= 3000
    evaluated = [row.evaluation for row in shelf.evaluations if row.purpose == "finalist" and row.evaluation.curve]
    assert all(step % 2 == 0 for one in evaluated for step, _ in one.curve)  # both tasks have equally many steps
    assert evaluated


@pytest.mark.parametrize("method", ["evomal", "gplfl", "random", "glo"])
def test_other_methods(method: str, tmp_path: Path) -> None:
    settings: dict[str, object] = {"population": 3}
    settings |= {"rejection_steps": 10} if method in ("evomal", "gplfl") else {}
    settings |= {"meta_steps": 3} if method == "evomal" else {}
    settings |= {"elite_count": 1, "tree_generations": 1} if method == "glo" else {}
    run = begin(tmp_path / "run", method=method, settings=settings, generations=2)
    assert run.finished
    tunings = [row.evaluation for row in run.evaluations if row.purpose == "tune"]
    assert all(one.steps in (0, 3 * 2) for one in tunings)
    assert bool(tunings) == (method == "evomal")


def test_the_pilot_is_of_each_task() -> None:
    tasks = resolve_task(WAVES)
    plan = make_plan(tasks)
    assert isinstance(tasks, SeveralTasks)
    pilot = run_pilot(tasks, plan, budget=1.0)
    alone = [run_pilot(one, its, budget=1.0) for one, its in zip(tasks.tasks, plan.members, strict=True)]
    assert pilot.value == pytest.approx(sum(one.value for one in alone) / 2)
    assert pilot.steps == 200
    into = pilot.into(plan)
    assert [(one.chance_step, one.chance_value) for one in into.members] == [
        (one.chance_step, one.chance_value) for one in alone
    ]
    assert [one.chance_step for one in into.members] == [0, 0]  # on waves nothing is stopped
    assert into.chance_step == 0


def test_what_it_costs() -> None:
    method = lm.EvoMAL(population=4, meta_steps=20, rejection_steps=10)
    section = make(SearchSection, method="evomal", settings=method.settings(), generations=3, budget=0.5)
    found = {part.what: part for part in estimate(resolve_task(WAVES), method, section, shelf=False).parts}
    assert found["candidates"].steps == 2 * 50
    assert found["finalists"].steps == 2 * 100
    assert found["tuning loss parameters"].seconds > 0


def test_training_functions_are_searched_with_others(tmp_path: Path, formula_task: FunctionTask) -> None:
    other = formula_task.replace(name="again").fresh(steps=50)
    run = begin(tmp_path / "run", [formula_task, other], partial=0.5)
    assert run.finished
    with pytest.raises(UsageError, match="differentiates through training"):
        begin(tmp_path / "tuned", [formula_task, other], method="evomal")
    with pytest.raises(RunError, match="built in Python"):
        lm.evaluate(run, seeds=2, controls=("task",))


def test_tasks_that_do_not_go_together_are_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="heads are identity and softmax"):
        begin(tmp_path / "run", "sine/mlp,digits/mlp")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="'bare' has no test split"):
        lm.compare(["mse", "mae"], [small_task(), small_task(test=None, name="bare")], path=tmp_path / "c")


def test_a_folder_is_named_after_many_tasks() -> None:
    several = resolve_task("sine/mlp,sine/mlp@wave=0-99")
    name = Path(default_path("search", SeveralTasks(several.tasks, name="x" * 400), "ml3", 0)).name  # type: ignore[attr-defined]
    assert len(name) <= LONGEST_NAME + len("ml3--seed0")
    assert (
        Path(default_path("search", resolve_task("sine/mlp@wave=0-9"), "ml3", 0)).name == "ml3-sine-mlp@wave=0-9-seed0"
    )


def test_each_task_has_its_own_chance() -> None:
    easy = small_task(steps=200, name="easy")
    tasks = SeveralTasks([easy, small_task(steps=300, valid=rows(30, 5), name="other")])
    plan = make_plan(tasks)
    into = run_pilot(tasks, plan, budget=0.5).into(plan)
    assert [one.chance_step for one in into.members] == [
        run_pilot(one, its, budget=0.5).chance_step for one, its in zip(tasks.tasks, plan.members, strict=True)
    ]
    assert len({one.chance_step for one in into.members}) > 1
    assert all(one.chance_value > 0.5 for one in into.members)
    asked = Request(to_json(lm.loss("t*p")), 0, 0.5, stop_at_chance=True)
    stopped = evaluate(tasks, asked, into)
    assert stopped.status.kind == "at_chance"
    assert stopped.status.sentence.startswith("on easy: ")


def test_effort_in_steps_is_that_of_each() -> None:
    alike, unlike = (resolve_task(WAVES, steps=steps) for steps in ([40, 40], [40, 20]))
    function = lm.Task.from_function(lambda loss, trial: 0.5, metric="mse", head="identity", outputs=1)
    assert as_budget(10, alike) == 0.25
    assert as_budget(0.3, unlike) == 0.3
    assert default_partial(resolve_task("digits/mlp,digits/mlp2")) == 500 / 3000
    with pytest.raises(SpecError, match="different lengths; give a share"):
        as_budget(10, unlike)
    with pytest.raises(SpecError, match="does not say how many steps"):
        as_budget(10, SeveralTasks([*members_of(alike), function]))
    with pytest.raises(SpecError, match="up to the 40"):
        as_budget(50, alike)
