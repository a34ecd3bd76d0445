"""Requests on several tasks: each number is the mean of what the tasks give alone."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from small_tasks import FEATURES, rows, small_task
from torch import nn

import lossmith as lm
from lossmith.errors import SpecError
from lossmith.evaluation import Plan, evaluate, evaluate_chunk, make_plan
from lossmith.evaluation.evaluate import steps_of
from lossmith.evaluation.model_work import model_work
from lossmith.evaluation.payload import Payload, digest, pack, run_chunk
from lossmith.evaluation.rolling import Rolling
from lossmith.evaluation.several import members_with_plans
from lossmith.evaluation.worker_memory import BASE, worker_bytes
from lossmith.losses import Loss, Tree, from_json, loss, to_json
from lossmith.losses.parser import parse
from lossmith.records import Request, Screening, Tuning
from lossmith.tasks import FunctionTask, SeveralTasks, Task
from lossmith.training import tune

CE = to_json(loss("cross_entropy"))


def text(expression: str) -> str:
    return to_json(loss(expression))


def binary(**parts: Any) -> Task:
    """Two classes of other rows, and another network."""

    def two(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = rows(count, seed)
        return x, (y == 0).long()

    data = {"train": two(60, 5), "valid": two(40, 6), "selection": two(30, 7), "test": two(30, 8)}
    model = {"model": lambda seed: nn.Sequential(nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, 2)), "name": "binary"}
    return small_task(**{**data, **model, "steps": 20, **parts})


THREE, TWO = small_task(steps=40, name="three"), binary()
BOTH = SeveralTasks([THREE, TWO])
STACKED = Plan(engine="population", chunk=8)


@pytest.mark.parametrize("plan", [Plan(), STACKED], ids=lambda plan: plan.engine)
def test_a_training_is_one_on_each(plan: Plan) -> None:
    asked = [
        Request(named, 3, 0.5, lr_scale=scale, splits=("fitness", "test"), curve=2)
        for named, scale in ((CE, 1.0), (text("baikal"), 0.1), (text("focal"), 2.0))
    ]
    found = evaluate_chunk(BOTH, asked, plan)
    alone = [evaluate_chunk(one, asked, plan) for one in (THREE, TWO)]
    for one, three, two in zip(found, *alone, strict=True):
        assert one.status.ok
        assert one.metrics == {s: (three.metrics[s] + two.metrics[s]) / 2 for s in ("fitness", "test")}
        assert one.steps == three.steps + two.steps == 30
        # Points at the same share of each training: 10 of 20 and 5 of 10 steps, then all.
        assert [step for step, _ in one.curve] == [15, 30]
        assert [value for _, value in one.curve] == [
            (a + b) / 2 for (_, a), (_, b) in zip(three.curve, two.curve, strict=True)
        ]
        parts = json.loads(one.product)["tasks"]
        assert [part["task"] for part in parts] == ["three", "binary"]
        assert [part["metrics"] for part in parts] == [three.metrics, two.metrics]
        assert one.seconds > 0
    assert len({one.metrics["fitness"] for one in found}) > 1
    assert alone[0][0].metrics != alone[1][0].metrics


def test_they_travel_to_workers_as_one() -> None:
    content = pack(BOTH)
    done = run_chunk(Payload(digest(content), None, content), [Request(CE, 3, 0.5)], Plan())
    assert done[0].metrics == evaluate(BOTH, Request(CE, 3, 0.5), Plan()).metrics


def test_steps_are_those_of_all() -> None:
    assert (BOTH.steps, steps_of(BOTH, 0.5), steps_of(BOTH, 1e-9)) == (60, 30, 2)
    mixed = SeveralTasks([THREE, lm.Task.from_function(lambda loss, trial: 0.5, outputs=3)])
    assert (mixed.steps, steps_of(mixed, 0.1)) == (None, 4 + 100)  # thousandths where a function does not say


@pytest.mark.parametrize("plan", [Plan(), STACKED], ids=lambda plan: plan.engine)
def test_one_that_fails_on_a_task_has_failed_by_its_name(plan: Plan) -> None:
    explodes = small_task(steps=40, lr=1e9, name="hot")
    asked = [Request(text("-t*log(p)*z^2*z^2"), 0), Request(text("mae"), 0)]
    bad, good = evaluate_chunk(SeveralTasks([TWO, explodes, THREE]), asked, plan)
    assert bad.status.kind == "diverged"
    assert bad.status.sentence.startswith("on hot: ")
    assert bad.metrics == {}
    assert 20 < bad.steps < 60  # the third is spared
    assert [part["task"] for part in json.loads(bad.product)["tasks"]] == ["binary", "hot"]
    assert good.status.ok
    assert len(json.loads(good.product)["tasks"]) == 3


def test_a_split_that_one_lacks() -> None:
    found = evaluate(SeveralTasks([THREE, binary(test=None)]), Request(CE, 0, splits=("test",)), Plan())
    assert (found.status.kind, found.status.sentence[:30]) == ("crashed", "on binary: the task has no tes")


def test_training_functions_take_part() -> None:
    function = lm.Task.from_function(lambda loss, trial: 0.25, metric="error_rate", outputs=3, steps=7, name="mine")
    assert isinstance(function, FunctionTask)
    found = evaluate(SeveralTasks([THREE, function]), Request(CE, 1), Plan())
    assert found.metrics == {"fitness": (evaluate(THREE, Request(CE, 1), Plan()).metrics["fitness"] + 0.25) / 2}
    assert found.steps == 47


SCREEN = Screening(rejection_steps=30, rows=12).to_settings()


def test_screens_are_those_of_each_task() -> None:
    asked = [Request(text(e), 0, work="screen", settings=SCREEN) for e in ("-t*log(p)", "t*log(p)", "-t*log(p)*2/2")]
    found = evaluate_chunk(BOTH, asked, Plan())
    alone = [evaluate_chunk(one, asked, Plan()) for one in (THREE, TWO)]
    assert [one.status.kind for one in found] == ["ok", "screened", "ok"]
    assert str(found[1].status) == "screened:rejection_protocol"
    assert found[1].status.sentence == f"on three: {alone[0][1].status.sentence}"
    signatures = [json.loads(one.product)["gradients"] for one in (found[0], found[2])]
    assert signatures[0] == signatures[1]
    assert signatures[0] not in [json.loads(done[0].product)["gradients"] for done in alone]


def test_gradients_are_equal_only_where_they_are_on_every_task() -> None:
    # Of two outputs under softmax p_N = 1 − p_T, so that these are one loss; of three they are not.
    pair = [Request(text(e), 0, work="screen", settings=SCREEN) for e in ("t*(1-p)^2", "(1-t)*p^2")]

    def signatures(task: Task | SeveralTasks) -> set[str]:
        return {json.loads(one.product)["gradients"] for one in evaluate_chunk(task, pair, Plan())}

    assert (len(signatures(TWO)), len(signatures(THREE)), len(signatures(BOTH))) == (1, 2, 2)


def test_a_tuning_is_of_all_tasks_at_once() -> None:
    start = Loss(Tree(parse("-t*log(p)"), weights=(1.0, 0.5, 1.0, 1.0)))
    how = Tuning(meta_steps=6, unroll_length=2, meta_lr=0.05)
    asked = Request(to_json(start), 5, lr_scale=2.0, work="tune", settings=how.to_settings())
    found = evaluate(BOTH, asked, Plan())
    assert found.status.ok, found.status
    assert found.steps == 6 * 2 * 2
    scaled = [one.fresh(recipe=replace(one.recipe, lr=2 * one.recipe.base_lr)) for one in (THREE, TWO)]
    (by_hand,) = tune(scaled, [start], how, seed=5)
    assert isinstance(by_hand.loss, Loss)
    phi = np.array(from_json(json.loads(found.product)["loss"]).kernel.phi)  # type: ignore[union-attr]
    moved = np.array(by_hand.loss.kernel.phi) - start.kernel.phi
    np.testing.assert_array_equal(phi - start.kernel.phi, moved)
    assert np.abs(moved).max() > 0.05
    (alone,) = tune(scaled[0], [start], how, seed=5)
    assert alone.loss.kernel.phi != by_hand.loss.kernel.phi  # type: ignore[union-attr]


def test_a_tuned_loss_is_screened_again_on_each() -> None:
    start = Loss(Tree(parse("t*log(p)"), weights=(1.0, 1.0, 1.0)))
    how = Tuning(meta_steps=1, screen_after=Screening(rejection_steps=30, rows=12))
    found = evaluate(BOTH, Request(to_json(start), 5, work="tune", settings=how.to_settings()), Plan())
    assert str(found.status) == "screened:rejection_protocol"
    assert found.status.sentence.startswith("after tuning: on three: ")
    assert json.loads(found.product)["loss"]


def test_tuning_needs_the_parts_of_all() -> None:
    mixed = SeveralTasks([THREE, lm.Task.from_function(lambda loss, trial: 0.5, outputs=3, name="mine")])
    found = evaluate(mixed, Request(CE, 0, work="tune", settings=Tuning(1).to_settings()), Plan())
    assert found.status.kind == "crashed"
    assert "a training function does not allow" in found.status.sentence


def large_convolution(seed: int) -> nn.Module:
    body = nn.Sequential(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 16, 5, padding=2), nn.Flatten())
    return nn.Sequential(nn.Unflatten(1, (1, 16, 16)), body, nn.Linear(16 * 256, 3))


def test_every_task_has_the_engine_that_suits_it() -> None:
    x = torch.linspace(0, 1, 30 * 256).reshape(30, 256)
    images = small_task(model=large_convolution, train=(x, torch.arange(30) % 3), valid=None, name="images")
    both = SeveralTasks([THREE, images])
    plan = make_plan(both)
    assert [one.engine for one in plan.members] == ["population", "sequential"]
    assert plan.members == tuple(make_plan(one) for one in both.tasks)
    assert (plan.engine, plan.chunk, plan.threads) == ("population", plan.members[0].chunk, 1)
    assert plan.channels_last
    assert "three: population, matrix products" in plan.describe()
    assert "images: sequential, convolutions as large as these" in plan.describe()
    assert make_plan(both, engine="sequential").engine == "sequential"
    bytes_ = [one.chunk * model_work(task).bytes for task, one in zip(both.tasks, plan.members, strict=True)]
    assert worker_bytes(both, plan, packed=0) == BASE + max(bytes_)


def test_a_plan_of_several_is_stored_and_read() -> None:
    plan = make_plan(BOTH, deadline=5)
    again = Plan.from_dict(tomllib.loads(tomli_w.dumps(plan.to_dict())))
    assert again == plan
    assert plan.members[0].deadline == plan.deadline == 5
    assert "members" not in Plan().to_dict()
    assert Plan.from_dict(Plan().to_dict()) == Plan()
    with pytest.raises(SpecError, match="unknown field 'engin'"):
        Plan.from_dict({"members": [{"engin": "sequential"}]})


def test_a_plan_for_other_tasks_is_refused() -> None:
    with pytest.raises(SpecError, match="the plan is for 2 tasks and there are 3"):
        members_with_plans(SeveralTasks([BOTH, small_task(steps=7)]), make_plan(BOTH))


def test_each_training_leaves_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    rolling, asked = Rolling(str(tmp_path / "training"), every=0.0), Request(CE, 0)
    found = evaluate_chunk(BOTH, [asked], Plan(), rolling)
    left = sorted(path.name for path in (tmp_path / "training").iterdir())
    assert left == [f"{asked.key}-{part}.safetensors" for part in (0, 1)]
    again = evaluate_chunk(BOTH, [asked], Plan(), rolling)
    assert again[0].metrics == found[0].metrics
    rolling.discard([asked.key])
    assert list((tmp_path / "training").iterdir()) == []
