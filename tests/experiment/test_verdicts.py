"""Shelf, comparisons and verdicts: the protocol of DESIGN §5, on tasks that cost nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lossmith as lm
from lossmith.errors import SpecError, UsageError
from lossmith.experiment.run import Run

SMALL: dict[str, Any] = {"generations": 5, "partial": 0.2, "finalists": 2, "finalist_seeds": 2}


def searched(task: Any, path: Path, **options: Any) -> Run:
    return lm.search(lm.TaylorGLO(population=6), task, path=path / "run", **{**SMALL, **options})


def test_the_verdict_names_every_control_and_is_stored(formula_task: Any, tmp_path: Path) -> None:
    run = searched(formula_task, tmp_path)
    verdict = lm.evaluate(run, formula_task, seeds=4)
    names = {arm.name: arm.kind for arm in verdict.arms}
    assert names == {
        "found": "subject",
        "found, tuned lr": "subject",
        "cross_entropy": "control",
        "cross_entropy, tuned lr": "control",
        "shelf's best": "control",
    }
    pairs = {(c.subject, c.control) for c in verdict.comparisons}
    assert pairs == {
        ("found, tuned lr", "cross_entropy"),
        ("found, tuned lr", "cross_entropy, tuned lr"),
        ("found, tuned lr", "shelf's best"),
    }
    for control in ("cross_entropy", "cross_entropy, tuned lr", "shelf's best"):
        assert control in verdict.sentence
    assert verdict.selection_bias is not None
    stored = Run(run.path).verdict
    assert stored is not None
    assert stored.to_dict() == verdict.to_dict()


def test_evaluating_again_trains_nothing_and_touches_the_test_split_no_more(formula_task: Any, tmp_path: Path) -> None:
    run = searched(formula_task, tmp_path)
    first = lm.evaluate(run, formula_task, seeds=3)
    count = len(Run(run.path).evaluations)
    again = lm.evaluate(run.path, formula_task, seeds=3)
    assert len(Run(run.path).evaluations) == count
    assert again.to_dict() == first.to_dict()
    more = lm.evaluate(run.path, formula_task, seeds=5)
    assert len(more.seeds) == 5
    assert set(first.seeds) < set(more.seeds)
    assert more.test_touches is not None
    assert first.test_touches is not None
    assert more.test_touches > first.test_touches


def test_every_touch_of_the_test_split_is_an_event(formula_task: Any, tmp_path: Path) -> None:
    run = searched(formula_task, tmp_path)
    lm.evaluate(run, formula_task, seeds=3)
    read = Run(run.path)
    touched = [row for row in read.evaluations if "test" in row.request.splits]
    assert read.test_touches == len(touched) > 0
    assert {row.purpose for row in touched} == {"test"}


def test_the_shelf_beside_a_run_uses_no_more_steps_than_the_search(formula_task: Any, tmp_path: Path) -> None:
    run = searched(formula_task, tmp_path, generations=10)
    lm.evaluate(run, formula_task, seeds=3)
    shelf = Run(Path(run.path) / "shelf")
    assert shelf.kind == "shelf"
    assert shelf.finished
    assert 0 < shelf.training_steps <= run.training_steps


def test_a_search_too_small_for_a_shelf_says_what_to_do(formula_task: Any, tmp_path: Path) -> None:
    run = searched(formula_task, tmp_path, generations=1, finalists=1, finalist_seeds=1)
    with pytest.raises(UsageError, match=r"too small for a shelf.*--shelf RUN.*--controls task,tuned"):
        lm.evaluate(run, formula_task, seeds=2)
    verdict = lm.evaluate(run, formula_task, seeds=2, controls=["task", "tuned"])
    assert "shelf's best" not in {arm.name for arm in verdict.arms}


def test_tuning_is_the_same_for_both_sides(formula_task: Any, tmp_path: Path) -> None:
    run = searched(formula_task, tmp_path)
    lm.evaluate(run, formula_task, seeds=2, tune_seeds=2)
    tables = {e.subject: e.data for e in Run(run.path).events if e.kind == "tuned_learning_rate"}
    assert set(tables) == {"found, 2 seeds", "cross_entropy, 2 seeds"}
    grids = [[row[0] for row in data["table"]] for data in tables.values()]
    assert grids[0] == grids[1]
    assert grids[0][0] == 0.01
    assert grids[0][-1] == 100.0
    # The formula's distance grows with |lr_scale − 1|, so 1 is the best factor on both sides.
    assert {data["scale"] for data in tables.values()} == {1.0}


def test_the_grid_of_the_shelf_covers_losses_learning_rates_and_smoothing(formula_task: Any, tmp_path: Path) -> None:
    shelf = lm.shelf(formula_task, partial=0.1, finalists=2, finalist_seeds=1, path=tmp_path / "shelf")
    losses = {row.candidate.loss for row in shelf.candidates}
    assert {'"smoothing":0.0' in text for text in losses} == {True, False}
    assert {row.candidate.lr_scale for row in shelf.candidates} >= {1.0, 3.16228, 0.316228, 10.0, 0.1}
    assert any('"name":"baikal"' in text for text in losses)
    assert shelf.winner is not None


def test_early_stopping_competes_on_the_shelf(task_of: Any, tmp_path: Path) -> None:
    def train(loss: Any, trial: lm.Trial) -> float:
        for point in range(1, 21):  # overfits: best at half of the full training
            share = point / 20 * trial.budget
            trial.report(round(100 * share), abs(share - 0.5) + 0.1)
        return abs(trial.budget - 0.5) + 0.1

    shelf = lm.shelf(task_of(train), training_steps=2000, partial=0.1, finalists=1, path=tmp_path / "shelf")
    assert shelf.winner is not None
    assert shelf.winner.budget == 0.5
    assert shelf.winner.selection_score == pytest.approx(0.1)


def test_a_shelf_that_cannot_be_paid_says_what_it_needs(formula_task: Any, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="needs at least"):
        lm.shelf(formula_task, training_steps=10, partial=0.1, path=tmp_path / "shelf")
    assert not (tmp_path / "shelf").exists()


def test_compare_judges_everything_against_the_first(formula_task: Any, tmp_path: Path) -> None:
    verdict = lm.compare(
        ["cross_entropy", "focal", "baikal(outputs=mean)"], formula_task, seeds=5, path=tmp_path / "c", tune_lr=[0]
    )
    assert [(a.name, a.kind) for a in verdict.arms] == [
        ("focal", "subject"),
        ("baikal(outputs=mean)", "subject"),
        ("cross_entropy", "control"),
        ("cross_entropy, tuned lr", "control"),
    ]
    outcomes = {(c.subject, c.control): c.outcome for c in verdict.comparisons}
    assert outcomes["focal", "cross_entropy"] == "better"  # the formula measures the distance to focal
    resumed = lm.resume(tmp_path / "c", task=formula_task)
    assert isinstance(resumed, lm.Verdict)
    assert resumed.to_dict() == verdict.to_dict()


@pytest.mark.parametrize(
    ("losses", "message"),
    [(["cross_entropy"], "needs two losses"), (["mse", "focal", "mse"], "name each once")],
)
def test_comparisons_that_make_no_sense(formula_task: Any, tmp_path: Path, losses: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        lm.compare(losses, formula_task, path=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_transfer_evaluates_the_found_loss_on_another_task(formula_task: Any, task_of: Any, tmp_path: Path) -> None:
    run = searched(formula_task, tmp_path)
    other = task_of(lambda loss, trial: 0.3 + (trial.seed % 100) / 1000, name="other")
    verdict = lm.evaluate(run, other, seeds=3, path=tmp_path / "transfer")
    assert any(arm.name == "found on formula" for arm in verdict.arms)
    assert Run(tmp_path / "transfer").row.task == "other"


@pytest.mark.parametrize("options", [{"controls": ["tuned", "luck"]}, {"controls": []}, {"seeds": 1}])
def test_verdicts_that_cannot_be_made(formula_task: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        lm.evaluate("focal", formula_task, path=tmp_path / "v", **options)
    assert not (tmp_path / "v").exists()
