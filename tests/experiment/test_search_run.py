"""A search from its first generation to its winner, on tasks that cost nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lossmith as lm
from lossmith.errors import RunError, SpecError, TaskError, UsageError
from lossmith.experiment import GenerationFinished, PhaseStarted, TrainingFinished
from lossmith.experiment.search_run import as_budget
from lossmith.store import RunStore, comparable_rows

SMALL: dict[str, Any] = {"generations": 3, "partial": 0.2, "finalists": 2, "finalist_seeds": 2, "elites": 2}


def searched(task: Any, path: Path, **options: Any) -> lm.Run:
    return lm.search(lm.TaylorGLO(population=6), task, path=path / "run", **{**SMALL, **options})


def test_the_winner_is_chosen_on_selection_data_with_fresh_seeds(formula_task: Any, tmp_path: Path) -> None:
    run = searched(formula_task, tmp_path)
    winner = run.winner
    assert winner is not None
    finals = [row for row in run.evaluations if row.purpose == "finalist" and row.request.budget == 1]
    assert len(finals) == 2 * 2
    assert all(row.request.splits == ("selection",) for row in finals)
    searched_seeds = {row.request.seed for row in run.evaluations if row.purpose in ("search", "elite")}
    assert not searched_seeds & {row.request.seed for row in finals}
    by_loss: dict[str, list[float]] = {}
    for row in finals:
        by_loss.setdefault(row.request.loss, []).append(row.evaluation.metrics["selection"])
    means = {loss: sum(values) / len(values) for loss, values in by_loss.items()}
    assert winner.loss == min(means, key=means.__getitem__)
    assert winner.selection_score == pytest.approx(min(means.values()))
    assert run.best.chosen_on == "selection"
    assert run.test_touches == 0


def test_selection_bias_compares_like_with_like(formula_task: Any, tmp_path: Path) -> None:
    run = searched(formula_task, tmp_path)
    bias = run.selection_bias
    assert bias is not None
    assert run.winner is not None
    fresh = [row for row in run.evaluations if row.purpose == "finalist" and row.request.budget == 0.2]
    own = [r.evaluation.metrics["selection"] for r in fresh if r.request.loss == run.winner.loss]
    task_loss = [r.evaluation.metrics for r in fresh if r.request.loss == lm.to_json(formula_task.task_loss())]
    assert len(own) == len(task_loss) == 2
    harder = sum(m["selection"] - m["fitness"] for m in task_loss) / 2  # how much harder the selection rows are
    assert harder == pytest.approx(0.01)  # SPLIT_OFFSET
    assert bias.fresh_score == pytest.approx(sum(own) / 2 - harder)
    assert bias.search_score == run.winner.search_score


def test_elites_gain_seeds_in_block_order(formula_task: Any, tmp_path: Path) -> None:
    run = searched(formula_task, tmp_path, generations=4, elites=1)
    elite = [row for row in run.evaluations if row.purpose == "elite"]
    first = {row.request.seed for row in run.evaluations if row.purpose == "search"}
    assert len(first) == 1  # every candidate begins with the same seed
    assert 1 <= len(elite) <= 4
    assert not first & {row.request.seed for row in elite}


def test_workers_change_nothing(tmp_path: Path) -> None:
    task = lm.task("digits/mlp", steps=60)
    rows = []
    for workers in (None, 1, 2):
        path = tmp_path / str(workers)
        lm.search("random", task, generations=2, partial=6, path=path, workers=workers, settings={"population": 3})
        rows.append(comparable_rows(path))
    assert rows[0] == rows[1] == rows[2]


def test_data_fidelity_trains_on_a_share_of_the_rows(tmp_path: Path) -> None:
    task = lm.task("digits/mlp", steps=40)
    run = lm.search(
        "random", task, generations=1, partial=0.25, fidelity="data", path=tmp_path / "run", settings={"population": 2}
    )
    asked = [row.request for row in run.evaluations if row.purpose == "search"]
    assert {(r.data_fraction, r.budget) for r in asked} == {(0.25, 0.25)}


def test_equal_rules_are_trained_once(task_of: Any, tmp_path: Path) -> None:
    calls: list[str] = []

    def train(loss: Any, trial: lm.Trial) -> float:
        calls.append(str(loss))
        return 0.5

    # Three equal starting losses: the second and third have the key of the first.
    run = lm.search(
        "random",
        task_of(train),
        generations=1,
        partial=0.1,
        path=tmp_path / "run",
        settings={"population": 4},
        start_from=["taylor_evolved_1", "taylor_evolved_1(outputs=sum)"],
        finalists=1,
        finalist_seeds=1,
        elites=0,
    )
    statuses = [row.candidate.status.kind for row in run.candidates]
    assert statuses.count("duplicate_of") == 1
    assert sum(row.purpose == "search" for row in run.evaluations) == statuses.count("ok")
    copy = next(row for row in run.candidates if row.candidate.status.kind == "duplicate_of")
    assert copy.fitness == 0.5  # it has its original's fitness


def test_a_generation_in_which_all_fail_goes_on_and_says_so(task_of: Any, tmp_path: Path) -> None:
    def train(loss: Any, trial: lm.Trial) -> float:
        if loss.name == "cross_entropy":  # the task itself is sound
            return 0.5
        raise RuntimeError("out of luck")

    heard: list[Any] = []
    run = searched(task_of(train), tmp_path, listeners=[heard.append])
    assert run.finished
    assert run.winner is None
    assert run.counts().get("crashed") == 18
    assert sum(event.kind == "empty_generation" for event in run.events) == 3
    sentence = next(row.candidate.status.sentence for row in run.candidates if row.candidate.status.kind == "crashed")
    assert sentence == "RuntimeError: out of luck"
    with pytest.raises(RunError, match="no successful candidate"):
        _ = run.best
    with pytest.raises(UsageError, match="found no loss"):
        lm.evaluate(run, task_of(train))


def test_listeners_hear_everything_in_order(formula_task: Any, tmp_path: Path) -> None:
    heard: list[Any] = []
    searched(formula_task, tmp_path, listeners=[heard.append])
    generations = [e.number for e in heard if isinstance(e, GenerationFinished)]
    assert generations == [0, 1, 2]
    phases = [e.phase for e in heard if isinstance(e, PhaseStarted)]
    assert phases[0] == "search"
    assert "finalist" in phases
    assert sum(isinstance(e, TrainingFinished) for e in heard) == len(lm.Run(tmp_path / "run").evaluations)


def test_a_listener_that_raises_loses_nothing(formula_task: Any, tmp_path: Path) -> None:
    def stubborn(event: Any) -> None:
        if isinstance(event, GenerationFinished) and event.number == 1:
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        searched(formula_task, tmp_path, listeners=[stubborn])
    resumed = lm.resume(tmp_path / "run", task=formula_task)
    assert isinstance(resumed, lm.Run)
    undisturbed = searched(formula_task, tmp_path / "other")
    assert comparable_rows(resumed.path) == comparable_rows(undisturbed.path)


def test_a_finished_run_is_returned_as_it_is(formula_task: Any, tmp_path: Path) -> None:
    run = searched(formula_task, tmp_path)
    before = (tmp_path / "run" / "lossmith.db").read_bytes()
    again = lm.resume(run.path, task=formula_task)
    assert isinstance(again, lm.Run)
    assert again.finished
    assert (tmp_path / "run" / "lossmith.db").read_bytes() == before


def test_a_folder_that_exists_is_left_alone_and_nothing_is_trained(task_of: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("mine")

    def train(loss: Any, trial: lm.Trial) -> float:
        raise AssertionError("nothing may be trained")

    with pytest.raises(RunError, match="exists already"):
        searched(task_of(train), tmp_path)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["precious.txt"]


def test_a_task_that_fails_with_its_own_loss_is_said_before_anything_is_written(task_of: Any, tmp_path: Path) -> None:
    def train(loss: Any, trial: lm.Trial) -> None:
        return None

    with pytest.raises(TaskError, match="returned nothing"):
        searched(task_of(train), tmp_path)
    assert not (tmp_path / "run").exists()


def test_another_task_cannot_continue_a_run(formula_task: Any, task_of: Any, tmp_path: Path) -> None:
    def stop(event: Any) -> None:
        if isinstance(event, GenerationFinished):
            raise KeyboardInterrupt

    with pytest.raises(lm.errors.Interrupted, match="resume"):
        searched(formula_task, tmp_path, listeners=[stop])
    with pytest.raises(RunError, match="built in Python"):
        lm.resume(tmp_path / "run")
    other = task_of(lambda loss, trial: 0.5, name="other")
    with pytest.raises(RunError, match="changed"):
        lm.resume(tmp_path / "run", task=other)


def test_start_from_a_shelf_takes_its_finalists_and_remembers_it(formula_task: Any, tmp_path: Path) -> None:
    shelf = lm.shelf(formula_task, training_steps=2500, partial=0.1, finalists=2, path=tmp_path / "shelf")
    run = searched(formula_task, tmp_path, start_from=shelf)
    assert run.spec.search is not None
    assert run.spec.search.shelf == str(tmp_path / "shelf")
    assert len(run.spec.search.start_from) == len(shelf.finalist_losses()) >= 1
    assert any(row.candidate.origin.startswith("start") for row in run.candidates)


def test_the_state_on_disk_is_json_and_the_spec_is_complete(formula_task: Any, tmp_path: Path) -> None:
    run = searched(formula_task, tmp_path, seed=7)
    with RunStore.open(run.path) as store:
        checkpoint = store.checkpoint("method")
    assert checkpoint is not None
    json.dumps(dict(checkpoint.document))
    spec = run.spec
    assert spec.seed == 7
    assert spec.search is not None
    assert spec.plan["engine"] == "sequential"
    assert {"lossmith", "torch", "cma", "numpy", "python"} <= spec.versions.keys()
    assert spec.search.settings["sigma"] == 1.2


@pytest.mark.parametrize(("partial", "budget"), [(0.25, 0.25), (1, 1.0), (25, 0.25), (100, 1.0)])
def test_partial_is_a_share_or_a_number_of_steps(formula_task: Any, partial: float, budget: float) -> None:
    assert as_budget(partial, formula_task) == budget


@pytest.mark.parametrize("partial", [0, -1, float("nan"), 1.5, 101, True])
def test_partial_out_of_range_names_field_value_and_range(formula_task: Any, partial: float) -> None:
    with pytest.raises(SpecError, match=r"partial = .*(share|whole number)"):
        as_budget(partial, formula_task)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generations": 0}, r"generations = 0"),
        ({"elites": -1}, r"elites = -1"),
        ({"fidelity": "rows"}, r"fidelity = 'rows'"),
        ({"finalists": 0}, r"finalists = 0"),
        ({"fidelity": "data"}, r"needs a task given by its parts"),
    ],
)
def test_options_out_of_range(formula_task: Any, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        searched(formula_task, tmp_path, **options)
    assert not (tmp_path / "run").exists()


def test_finalists_cost_no_more_than_the_search_by_default(task_of: Callable[..., Any], tmp_path: Path) -> None:
    task = task_of(lambda loss, trial: 0.5 + (trial.seed % 7) / 100)
    run = lm.search("random", task, generations=2, partial=0.1, path=tmp_path / "a", settings={"population": 10})
    assert run.spec.search is not None
    assert run.spec.search.finalists == 1  # 20 candidates of 10 steps buy one finalist of 2 × 100 steps
    run = lm.search("random", task, generations=9, partial=0.2, path=tmp_path / "b", settings={"population": 9})
    assert run.spec.search is not None
    assert run.spec.search.finalists == 5  # 81 × 20 steps buy eight, five are enough
