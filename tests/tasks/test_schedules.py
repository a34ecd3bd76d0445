"""Schedules against their formulas, torch's own schedulers and the pickle."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lossmith.errors import TaskError
from lossmith.tasks import schedules

ALL = [
    schedules.constant(),
    schedules.step((0.5, 0.75), 0.1),
    schedules.linear(0.1),
    schedules.cosine(0.01),
    schedules.warmup(0.1, schedules.cosine()),
]


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_a_schedule_is_a_value(schedule: schedules.Schedule) -> None:
    again = pickle.loads(pickle.dumps(schedule))
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert [again(i / 7) for i in range(8)] == [schedule(i / 7) for i in range(8)]


def test_schedules_print_as_they_are_written() -> None:
    assert repr(schedules.step((0.5, 0.75))) == "step(milestones=(0.5, 0.75), factor=0.1)"
    assert repr(schedules.warmup(0.1)) == "warmup(fraction=0.1, then=constant(), start=0.0)"


def test_step_multiplies_from_the_milestone_on() -> None:
    schedule = schedules.step((0.5, 0.75), 0.1)
    assert [schedule(tau) for tau in (0.0, 0.4999, 0.5, 0.7499, 0.75, 1.0)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )


@given(st.integers(1, 10_000), st.integers(1, 99))
def test_a_milestone_falls_on_the_exact_step(hundreds: int, percent: int) -> None:
    steps = 100 * hundreds  # percent % of it is a whole number of steps
    schedule = schedules.step((percent / 100,), 0.5)
    milestone = percent * hundreds
    assert schedule((milestone - 1) / steps) == 1
    assert schedule(milestone / steps) == 0.5


def test_cosine_is_torchs() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.1)
    for step in range(20):
        assert schedules.cosine(0.1)(step / 20) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_linear_and_warmup() -> None:
    assert schedules.linear(0.2)(0.25) == pytest.approx(0.8)  # 1 − 0.8/4
    warm = schedules.warmup(0.2, schedules.linear(), start=0.5)
    assert [warm(tau) for tau in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0.5, 0.75, 1.0, 0.5, 0.0])
    assert math.isclose(schedules.warmup(0.5)(0.25), 0.5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: schedules.step((0.5, 1.5)), ["milestone", "1.5", "(0, 1)"]),
        (lambda: schedules.step((0.7, 0.5)), ["milestones", "(0.7, 0.5)", "increase"]),
        (lambda: schedules.step(3), ["milestones", "3", "sequence"]),
        (lambda: schedules.step((0.5,), 0), ["factor", "0", "(0, inf)"]),
        (lambda: schedules.linear(-1), ["linear.final", "-1", "[0, inf)"]),
        (lambda: schedules.cosine(math.nan), ["cosine.final", "nan"]),
        (lambda: schedules.warmup(1.0), ["warmup.fraction", "1.0", "(0, 1)"]),
        (lambda: schedules.warmup(0.1, start=2), ["warmup.start", "2", "[0, 1]"]),
        (lambda: schedules.warmup(0.1, then=0.5), ["warmup.then", "0.5"]),
        (lambda: schedules.linear("high"), ["linear.final", "'high'"]),
    ],
)
def test_bad_arguments_name_field_value_and_range(make, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TaskError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)
