"""Memory of an unroll: counted by two short ones, right for long ones, and said where it does not fit."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from small_tasks import rows, small_task
from torch import nn
from unrolled_by_hand import NAMES, PLAIN, how, losses, network

from lossmith.errors import TaskError
from lossmith.losses import Loss
from lossmith.records import Implicit, Tuning
from lossmith.tasks import SGD
from lossmith.training import tune, unroll_memory
from lossmith.training.meta_gradient import Road, draw
from lossmith.training.task_tuning import TaskTuning
from lossmith.training.tunable import Tunable
from lossmith.training.unroll_memory import MARGIN, MIB, UnrollMemory, _saved, fitting_chunk

TASK = small_task(
    model=lambda seed: nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 3)), optimizer=SGD(0.1, momentum=0.5)
)


def memory_of(task: Any, one: Loss, length: int = 2) -> tuple[UnrollMemory, int]:
    """As it is told by two short unrolls, and counted for a long one."""
    candidate = Tunable.of(one, task)
    unroll = how_of(task, length)
    told = unroll_memory.unroll_memory(unroll, draw(task, 0, 0, 2), candidate)
    return told, _saved(unroll, draw(task, 0, 0, length), candidate, length)


def how_of(task: Any, length: int) -> Any:
    side = TaskTuning.of(task, losses("tanh"), Tuning(unroll_length=length), seed=0)
    return side.how


@pytest.mark.parametrize("name", [*NAMES, "a large network"])
def test_it_grows_by_the_same_amount_with_every_step(name: str) -> None:
    one = Loss(network(0, 50, 50)) if name == "a large network" else losses(name)[0]
    told, counted = memory_of(TASK, one, 12)
    assert counted == pytest.approx(told.fixed + 12 * told.step, rel=0.02)
    parameters = 4 * (6 * 32 + 32 + 32 * 3 + 3)
    activations = 4 * 16 * (32 + 3)
    assert told.step > parameters + activations
    assert told.batch == 16 * 6 * 4 + 16 * 8


def test_a_larger_batch_or_model_takes_more() -> None:
    small, _ = memory_of(TASK, losses("tanh")[0])
    more_rows, _ = memory_of(small_task(batch_size=64, model=TASK.model), losses("tanh")[0])
    wider, _ = memory_of(
        small_task(model=lambda seed: nn.Sequential(nn.Linear(6, 640), nn.Linear(640, 3))), losses("tanh")[0]
    )
    assert more_rows.step > 2 * small.step
    assert wider.step > 5 * small.step


def test_truncation_and_candidates_count() -> None:
    memory = UnrollMemory(fixed=10, step=100, batch=7)
    assert memory.needed(5) == MARGIN * 510 + 35
    assert memory.needed(5, 2) == MARGIN * 210 + 35
    assert memory.needed(5, 2, chunk=3) == MARGIN * 3 * 210 + 35
    assert "through 2 steps takes up to 0.1 MiB per candidate" in memory.describe(5, 2)


def test_stacks_shrink_before_anything_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    company, tuning = losses(*NAMES), Tuning(unroll_length=6)
    usual = TaskTuning.of(TASK, company, tuning, seed=0)
    assert usual.how.chunks == (tuple(range(len(NAMES))),)
    monkeypatch.setitem(unroll_memory.STACK_BYTES, "cpu", int(2.5 * usual.bytes))
    assert [len(chunk) for chunk in TaskTuning.of(TASK, company, tuning, seed=0).how.chunks] == [1, 2, 2]
    monkeypatch.setitem(unroll_memory.STACK_BYTES, "cpu", 1)
    assert {len(chunk) for chunk in TaskTuning.of(TASK, company, tuning, seed=0).how.chunks} == {1}


def test_what_is_free_changes_no_chunk() -> None:
    company, tuning = losses(*NAMES), Tuning(unroll_length=6)
    sides = [TaskTuning.of(TASK, company, tuning, seed=0, memory=free) for free in (None, 512 * MIB, 4096 * MIB)]
    assert len({side.how.chunks for side in sides}) == 1


def test_an_unroll_that_does_not_fit_says_what_it_needs_and_what_fits() -> None:
    tuning, free = Tuning(unroll_length=2_000), 16 * MIB
    with pytest.raises(TaskError) as error:
        tune(TASK, losses("tanh"), tuning, seed=0, memory=free)
    said = str(error.value)
    assert re.search(r"unroll_length = 2000: a meta-step needs up to [\d.]+ MiB \([\d.]+ MiB for each step", said)
    assert "and 16.0 MiB are free" in said
    found = re.search(r"truncation = (\d+) or unroll_length = (\d+) fits", said)
    assert found is not None
    cut, short = (int(number) for number in found.groups())
    side = TaskTuning.of(TASK, losses("tanh"), replace(tuning, truncation=cut), seed=0, memory=free)
    assert side.bytes <= free
    for changed in ({"truncation": cut + 1}, {"unroll_length": short + 1}):
        with pytest.raises(TaskError, match="are free"):
            TaskTuning.of(TASK, losses("tanh"), replace(tuning, **changed), seed=0, memory=free)
    assert TaskTuning.of(TASK, losses("tanh"), replace(tuning, unroll_length=short), seed=0, memory=free).bytes <= free


def test_where_not_even_a_step_fits() -> None:
    with pytest.raises(TaskError, match="not even one step fits; take a smaller batch or model"):
        tune(TASK, losses("tanh"), Tuning(unroll_length=2), seed=0, memory=100)


def test_what_does_not_grow_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("measured")

    monkeypatch.setattr("lossmith.training.task_tuning.unroll_memory", never)
    for options in ({}, {"unroll_length": 500, "implicit": Implicit()}):
        side = TaskTuning.of(TASK, losses("tanh"), Tuning(**options), seed=0, memory=100)
        assert side.bytes == 0


def test_measuring_changes_nothing() -> None:
    x, y = rows(90, 0)
    task = small_task(train=(x, y))
    free, bound = (tune(task, losses("tanh"), Tuning(3, 2), seed=0, memory=size)[0] for size in (None, 1024 * MIB))
    assert free.loss.kernel == bound.loss.kernel
    assert free.memory == bound.memory > 0
    assert fitting_chunk(how(task, PLAIN, 2, 1, Road("stacked", 8)), UnrollMemory(1, 1, 1), 1 << 20) == 8
