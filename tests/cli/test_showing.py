"""`show`: how a run stands while it goes on, after an interruption, and at its end, read from the folder alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Command, snapshot

import lossmith as lm
from lossmith.cli.summary import summarize
from lossmith.experiment import Event, GenerationFinished, Run
from lossmith.store import RunStore


@pytest.fixture
def interrupted(lossmith: Command) -> str:
    """A search stopped by Ctrl-C after its second generation of three."""

    def stop(event: Event) -> None:
        if isinstance(event, GenerationFinished) and event.number == 1:
            raise KeyboardInterrupt

    with pytest.raises(lm.errors.Interrupted):
        lm.search(
            "random",
            lm.task("digits/mlp", steps=20),
            partial=5,
            generations=3,
            settings={"population": 2},
            finalists=2,
            finalist_seeds=1,
            path="runs/cut",
            listeners=[stop],
        )
    return "runs/cut"


def test_an_interrupted_run_says_so_and_goes_on(lossmith: Command, interrupted: str) -> None:
    shown = lossmith("show", interrupted)
    assert "interrupted" in shown.out
    assert "2 of 3 generations" in shown.out
    assert "no finalists yet" in shown.out
    assert f"lossmith resume {interrupted}" in shown.out
    resumed = lossmith("resume", interrupted, "--workers", "0")
    assert resumed.code == 0, resumed.err
    assert "generation 3/3" in resumed.err
    assert "generation 2/3" not in resumed.err
    assert "finished" in resumed.out
    assert Run(interrupted).finished


def test_showing_changes_nothing(lossmith: Command, interrupted: str, here: Path) -> None:
    before = snapshot(here)
    for options in ([], ["--json"]):
        assert lossmith("show", interrupted, *options).code == 0
    assert snapshot(here) == before


def test_a_run_that_goes_on_is_shown_with_the_time_left(lossmith: Command, interrupted: str) -> None:
    with RunStore.open(interrupted, write=True) as store:
        store.begin_session()
        found = json.loads(lossmith("show", interrupted, "--json").out)
        shown = lossmith("show", interrupted).out
    assert found["state"] == "running"
    assert "process" in found["holder"]
    assert found["seconds_left"] >= 0
    assert " left" in shown
    assert "resume" not in shown


def test_a_killed_run_is_told_from_a_running_one(lossmith: Command, interrupted: str) -> None:
    with RunStore.open(interrupted, write=True) as store:
        store.begin_session()  # and no end
    assert json.loads(lossmith("show", interrupted, "--json").out)["state"] == "killed"


def test_the_summary_agrees_with_the_run(a_run: str) -> None:
    run = Run(a_run)
    summary = summarize(run)
    assert summary.best is not None
    assert summary.best.id == run.best.position
    assert summary.best.value == run.best.value
    assert summary.counts == run.counts()
    assert summary.steps == sum(row.evaluation.steps for row in run.evaluations)
    records = [line.best_so_far for line in summary.history if line.best_so_far is not None]
    assert records == sorted(records, reverse=True)  # error rate: lower is better


def test_a_run_that_found_nothing_says_so(lossmith: Command) -> None:
    def train(loss: lm.Loss, trial: lm.Trial) -> float:
        return 0.5 if loss.name == "cross_entropy" else float("nan")

    task = lm.Task.from_function(train, metric="error_rate", outputs=3, name="hopeless")
    lm.search("random", task, generations=1, settings={"population": 2}, path="runs/none")
    shown = lossmith("show", "runs/none")
    assert shown.code == 0
    assert "none yet" in shown.out
    assert lossmith("export", "runs/none").code == 2
    assert lossmith("report", "runs/none").code == 0
