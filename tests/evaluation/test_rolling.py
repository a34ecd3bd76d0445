"""Where trainings leave checkpoints: which of them do, under which names, and what is tidied away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_tasks import rows, small_task

from lossmith.evaluation import Plan, Rolling, evaluate_chunk, make_executor, run_requests
from lossmith.losses import loss, to_json
from lossmith.records import Evaluation, Request, Screening
from lossmith.tasks import SeveralTasks
from lossmith.training import keeping, loop
from lossmith.training.checkpoint_file import Contents, write_checkpoint

CE, BRIER = to_json(loss("cross_entropy")), to_json(loss("brier"))
PLAN = Plan()
REQUESTS = [Request(CE, 0, 0.5), Request(BRIER, 1, 0.5)]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of files, each as often as it was written."""
    names: list[str] = []

    def noted(path: Path, contents: Contents, marks: Any) -> None:
        names.append(path.name)
        write_checkpoint(path, contents, marks)

    monkeypatch.setattr(keeping, "write_checkpoint", noted)
    return names


@pytest.fixture
def rolling(tmp_path: Path) -> Rolling:
    return Rolling(str(tmp_path / "training"), (("task", "t"),), every=0)


def results(done: list[Evaluation]) -> list[tuple[object, ...]]:
    return [(e.request, e.status, e.metrics, e.steps) for e in done]


def test_trainings_done_alone_have_one_each(rolling: Rolling, written: list[str]) -> None:
    task = small_task()
    plain = evaluate_chunk(task, REQUESTS, PLAN)
    assert results(evaluate_chunk(task, REQUESTS, PLAN, rolling)) == results(plain)
    names = [f"{request.key}.safetensors" for request in REQUESTS]
    assert written == [name for name in names for _ in range(15)]
    assert sorted(os.listdir(rolling.folder)) == sorted(names)
    rolling.discard([REQUESTS[0].key, "0123456789abcdef"])
    assert os.listdir(rolling.folder) == names[1:]


def test_stacks_and_screens_have_none(rolling: Rolling, written: list[str]) -> None:
    stacked = [Request(CE, 0, 0.5), Request(BRIER, 0, 0.5)]
    screen = Request(CE, 0, work="screen", settings=Screening(rejection_steps=3).to_settings())
    done = evaluate_chunk(small_task(), [*stacked, screen], Plan(engine="population", chunk=8), rolling)
    assert [e.status.kind for e in done] == ["ok"] * 3
    assert not written


def test_each_of_several_tasks_has_its_own(rolling: Rolling, written: list[str]) -> None:
    several = SeveralTasks([small_task(name="a"), small_task(name="b", train=rows(60, 5))])
    plain = evaluate_chunk(several, REQUESTS[:1], PLAN)
    done = evaluate_chunk(several, REQUESTS[:1], PLAN, rolling)
    key = REQUESTS[0].key
    assert set(written) == {f"{key}-0.safetensors", f"{key}-1.safetensors"}
    again = evaluate_chunk(several, REQUESTS[:1], PLAN, rolling)  # both from their last step
    assert results(plain) == results(done) == results(again)
    assert rolling.tidy(lambda key: False, finished=False) == []
    rolling.discard([key])
    assert not os.listdir(rolling.folder)


def test_every_executor_hands_the_place_on(rolling: Rolling, written: list[str]) -> None:
    task = small_task()
    plain = results(evaluate_chunk(task, REQUESTS, PLAN))
    with ThreadPoolExecutor(1) as pool:
        for executor in (make_executor(task, rolling=rolling), make_executor(task, executor=pool, rolling=rolling)):
            done = [e for chunk in run_requests(REQUESTS, executor, PLAN) for e in chunk]
            assert sorted(results(done), key=str) == sorted(plain, key=str)
            assert len(written) == 30
            rolling.discard([request.key for request in REQUESTS])
            written.clear()
        elsewhere = replace(rolling, folder=rolling.folder + "/not/here")  # as on a machine that lacks the run
        executor = make_executor(task, executor=pool, rolling=elsewhere)
        done = [e for chunk in run_requests(REQUESTS, executor, PLAN) for e in chunk]
        assert sorted(results(done), key=str) == sorted(plain, key=str)
        assert not written


@pytest.fixture
def from_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    steps: list[int] = []
    original = loop.restore

    def restore(run: Any, contents: Any) -> None:
        original(run, contents)
        steps.append(run.done)

    monkeypatch.setattr(loop, "restore", restore)
    yield steps
    steps.clear()


@pytest.mark.parametrize("changed", ["task", "plan", "torch", None])
def test_what_bits_depend_on_must_agree(
    tmp_path: Path, changed: str | None, from_step: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "EVERY", 0.0)
    evaluate_chunk(small_task(), REQUESTS[:1], PLAN, Rolling.of_run(str(tmp_path), "digest", PLAN))
    other = Rolling.of_run(
        str(tmp_path), "other" if changed == "task" else "digest", Plan(threads=2) if changed == "plan" else PLAN
    )
    if changed == "torch":
        other = replace(other, marks=tuple((k, "0.4" if k == "torch" else v) for k, v in other.marks))
    notes = other.tidy(lambda key: False, finished=False)
    assert [f"belongs to another training ({changed} differ)" in note for note in notes] == [True] * bool(changed)
    evaluate_chunk(small_task(), REQUESTS[:1], PLAN, other)
    assert from_step == ([] if changed else [15])


def test_the_empty_folder_goes(tmp_path: Path) -> None:
    rolling = Rolling.of_run(str(tmp_path), "digest", PLAN)
    assert rolling.tidy(lambda key: True, finished=False) == []  # there is none
    os.mkdir(rolling.folder)
    assert rolling.tidy(lambda key: True, finished=False) == []
    assert os.listdir(tmp_path) == []
