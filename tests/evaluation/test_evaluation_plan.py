from __future__ import annotations

import json
import math
from typing import get_args

import pytest
import torch
from small_tasks import rows, small_task
from torch import nn

from lossmith.errors import SpecError
from lossmith.evaluation import Plan, check_device, make_plan
from lossmith.records import Work
from lossmith.tasks import Task


def test_the_plan_of_a_small_network() -> None:
    plan = make_plan(small_task())
    assert (plan.engine, plan.device, plan.dtype, plan.threads) == ("sequential", "cpu", "float32", 1)
    assert (plan.channels_last, plan.chunk, plan.chance_step, plan.deadline) == (False, 1, 0, 0.0)
    assert {work: plan.chunk_of(work) for work in get_args(Work)} == {"train": 1, "screen": 64, "tune": 8}
    assert plan.reason
    assert make_plan(small_task(), engine="sequential", deadline=2.5).deadline == 2.5


def test_convolutions_are_trained_in_channels_last_order() -> None:
    def model(seed: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 3))

    x, y = torch.zeros(30, 1, 3, 3), rows(30, 0)[1]
    task = small_task(model=model, train=(x, y), valid=(x, y), selection=(x, y), test=None)
    assert make_plan(task).channels_last


def test_a_training_function_keeps_the_threads_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    function = Task.from_function(lambda loss, trial: 0.5, outputs=3)
    assert make_plan(function).threads == 7
    assert make_plan(small_task()).threads == 1


def test_a_plan_goes_through_a_spec() -> None:
    plan = Plan(chance_step=7, chance_value=0.5, deadline=3.0, reason="because")
    assert Plan(**json.loads(json.dumps(plan.to_dict()))) == plan
    older = {name: value for name, value in plan.to_dict().items() if name not in ("screen_chunk", "tune_chunk")}
    assert Plan(**older) == plan  # of a run that knew only trainings


@pytest.mark.parametrize("deadline", [0, -1.0, math.nan])
def test_a_deadline_is_a_time(deadline: float) -> None:
    with pytest.raises(SpecError, match="seconds per candidate, a number above 0"):
        make_plan(small_task(), deadline=deadline)


def test_an_engine_that_does_not_exist() -> None:
    with pytest.raises(SpecError, match='engine \'population\': use "auto" or "sequential"'):
        make_plan(small_task(), engine="population")


@pytest.mark.parametrize("device", ["gpu", "meta", "cpu:x", "", "tpu"])
def test_a_device_that_does_not_exist(device: str) -> None:
    with pytest.raises(SpecError, match="use cpu, cuda, cuda:0 or mps"):
        check_device(device)


def test_a_device_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    check_device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SpecError, match="no CUDA device on this machine; use --device cpu"):
        check_device("cuda")
    with pytest.raises(SpecError, match="no CUDA device"):
        make_plan(small_task(), device="cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device("cuda:1")
    with pytest.raises(SpecError, match="this machine has cuda:0 to cuda:1"):
        check_device("cuda:2")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SpecError, match="no Apple GPU"):
        check_device("mps")
