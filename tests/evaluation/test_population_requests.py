"""A chunk of trainings by the population engine: what is done together, what is not, and what becomes of failures."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from small_tasks import rows, small_task
from torch import Tensor, nn

from lossmith.evaluation import Plan, evaluate, evaluate_chunk
from lossmith.losses import Loss, loss, to_json
from lossmith.records import Evaluation, Request, Tuning
from lossmith.tasks import Adam, Task, Terms, metrics
from lossmith.training import Trained, Training

module = sys.modules[evaluate.__module__]
PLAN = Plan(engine="population", chunk=16)
ONE_BY_ONE = Plan()


def text(expression: str) -> str:
    return to_json(loss(expression))


CE, BAIKAL, BRIER, WRONG = (text(name) for name in ("cross_entropy", "baikal", "brier", "t*log(p)"))


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The losses of every stack that is trained."""
    seen: list[list[str]] = []
    original = module.train_population

    def noted(task: Task, losses: Sequence[Loss], how: Training, scales: Sequence[float], **more: Any) -> list[Trained]:
        seen.append([str(loss) for loss in losses])
        found: list[Trained] = original(task, losses, how, scales, **more)
        return found

    monkeypatch.setattr(module, "train_population", noted)
    return seen


def alike(one: Evaluation, other: Evaluation) -> bool:
    same = (one.request, one.status, one.steps) == (other.request, other.status, other.steps)
    values = [*one.metrics.values(), *(value for _, value in one.curve)]
    return same and values == pytest.approx([*other.metrics.values(), *(value for _, value in other.curve)], rel=1e-4)


def test_a_chunk_is_answered_as_one_by_one(stacks: list[list[str]]) -> None:
    task = small_task(steps=40, metric="log_loss", optimizer=Adam(lr=0.01))
    common = {"budget": 0.5, "splits": ("fitness", "test"), "curve": 2, "stop_at_chance": True}
    requests = [
        Request(one, 3, lr_scale=scale, **common)  # type: ignore[arg-type]
        for one, scale in ((CE, 1.0), (BAIKAL, 1.0), (WRONG, 5.0), (BRIER, 1.0), (CE, 1e39))
    ]
    chance = {"chance_step": 4, "chance_value": 1.09}
    found = evaluate_chunk(task, requests, Plan(engine="population", chunk=16, **chance))  # type: ignore[arg-type]
    alone = evaluate_chunk(task, requests, Plan(**chance))  # type: ignore[arg-type]
    assert len(stacks) == 1
    assert all(map(alike, found, alone))
    assert [one.status.kind for one in found] == ["ok", "ok", "at_chance", "ok", "diverged"]
    assert [one.steps for one in found[:4]] == [20, 20, 4, 20]
    assert len({one.metrics.get("test") for one in found}) == 4


def test_only_what_belongs_together_is_done_together(stacks: list[list[str]]) -> None:
    base = Request(CE, 0, budget=0.2)
    others = [
        Request(BAIKAL, 1, budget=0.2),
        Request(BAIKAL, 0, budget=0.3),
        Request(BAIKAL, 0, budget=0.2, data_fraction=0.5),
        Request(BAIKAL, 0, budget=0.2, splits=("test",)),
        Request(BAIKAL, 0, budget=0.2, curve=1),
        Request(BAIKAL, 0, budget=0.2, stop_at_chance=True),
    ]
    task = small_task()
    companions = [Request(BRIER, 0, budget=0.2), Request(BAIKAL, 0, budget=0.2, lr_scale=0.5)]
    requests = [base, *others, *companions]
    found = evaluate_chunk(task, requests, PLAN)
    assert stacks == [["cross_entropy", "brier", "baikal"]]
    assert [one.request for one in found] == [request.key for request in requests]
    assert all(alike(one, evaluate(task, request, ONE_BY_ONE)) for one, request in zip(found, requests, strict=True))
    stacks.clear()
    evaluate_chunk(task, [base, companions[0]], ONE_BY_ONE)
    evaluate(task, base, PLAN)
    assert stacks == []  # the sequential engine, and what is alone


def test_other_work_is_done_as_ever(stacks: list[list[str]]) -> None:
    tuning = Tuning(meta_steps=2).to_settings()
    tree = to_json(loss("-t*log(p)"))
    requests = [
        Request(tree, 0, work="tune", settings=tuning),
        Request(CE, 0, budget=0.2),
        Request(tree, 0, work="tune", settings=tuning),
        Request(BRIER, 0, budget=0.2),
    ]
    found = evaluate_chunk(small_task(), requests, PLAN)
    assert stacks == [["cross_entropy", "brier"]]
    assert [bool(one.product) for one in found] == [True, False, True, False]
    assert [one.request for one in found] == [request.key for request in requests]


def test_a_training_function_is_called_one_by_one(stacks: list[list[str]]) -> None:
    task = Task.from_function(lambda loss, trial: 0.25, outputs=3, metric=("error", "min"), steps=10)
    found = evaluate_chunk(task, [Request(CE, 0), Request(BRIER, 0)], PLAN)
    assert [one.metrics for one in found] == [{"fitness": 0.25}] * 2
    assert stacks == []


def looking(model: nn.Module, batch: Any) -> Terms:
    z = model(batch[0])
    return Terms(z if float(z.mean().detach()) > -1e9 else -z, batch[1])


def odd(model: nn.Module, batch: Any) -> Terms:
    z = model(batch[0])
    if type(z) is not Tensor:
        raise ZeroDivisionError("I dislike company")
    return Terms(z, batch[1])


@pytest.mark.parametrize("forward", [looking, odd])
def test_a_model_that_fails_in_company_is_trained_alone(forward: Callable[..., Any], stacks: list[list[str]]) -> None:
    task = small_task(forward=forward)
    requests = [Request(CE, 0, budget=0.2), Request(BRIER, 0, budget=0.2)]
    found = evaluate_chunk(task, requests, PLAN)
    assert len(stacks) == 1
    wanted = [evaluate(small_task(), request, ONE_BY_ONE) for request in requests]
    assert [one.metrics for one in found] == [one.metrics for one in wanted]
    assert [one.steps for one in found] == [6, 6]


def test_an_optimizer_of_the_users_own_is_trained_alone() -> None:
    task = small_task(optimizer=lambda params, lr: torch.optim.Rprop(params, lr), lr=0.01)
    found = evaluate_chunk(task, [Request(CE, 0), Request(BRIER, 0)], PLAN)
    assert [one.metrics for one in found] == [
        evaluate(task, Request(one, 0), ONE_BY_ONE).metrics for one in (CE, BRIER)
    ]


def test_failures_are_their_own_requests(stacks: list[list[str]]) -> None:
    def picky(output: Tensor, target: Tensor) -> float:
        if output.abs().max() > 100:
            raise ArithmeticError("too large for my taste")
        return float(output.abs().max())

    head = to_json(loss("mse", head="softmax")).replace("softmax", "custom")
    large = Request(CE, 0, budget=0.1, lr_scale=1e4)
    requests = [*(Request(one, 0, budget=0.1) for one in (CE, "{", BRIER)), large, Request(head, 0, budget=0.1)]
    task = small_task(metric=metrics.metric(picky, direction="min"))
    found = evaluate_chunk(task, requests, PLAN)
    assert [one.status.kind for one in found] == ["ok", "crashed", "ok", "crashed", "crashed"]
    assert len(stacks) == 1
    assert [len(stack) for stack in stacks] == [3]
    alone = [evaluate(task, request, ONE_BY_ONE) for request in requests]
    assert [(one.status, one.steps, one.curve) for one in found] == [(a.status, a.steps, a.curve) for a in alone]
    assert found[3].status.sentence == "ArithmeticError: too large for my taste"


def test_a_task_that_breaks_is_said_of_every_request() -> None:
    few = [Request(CE, 0, splits=("fitness", "future")), Request(BRIER, 0, splits=("fitness", "future"))]  # type: ignore[arg-type]
    for found in evaluate_chunk(small_task(), few, PLAN):
        assert str(found.status) == "crashed"
        assert "the task has no future split" in found.status.sentence


def test_an_interruption_is_nobodys_failure() -> None:
    def forward(model: nn.Module, batch: Any) -> Terms:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_chunk(small_task(forward=forward), [Request(CE, 0), Request(BRIER, 0)], PLAN)


def test_the_prior_of_the_task_reaches_every_loss() -> None:
    x, y = rows(90, 0)
    few = (y != 2) | (torch.arange(90) % 6 == 2)
    task = small_task(train=(x[few], y[few]))
    requests = [Request(text("-t*log(p)/prior"), 0), Request(CE, 0)]
    found = evaluate_chunk(task, requests, PLAN)
    assert [one.metrics for one in found] == [evaluate(task, request, ONE_BY_ONE).metrics for request in requests]


def test_time_is_shared_by_those_who_took_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 3.0, 10.0, 15.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    requests = [Request(CE, 0), Request(CE, 1), Request(BRIER, 0), Request(BAIKAL, 0)]
    found = evaluate_chunk(small_task(), requests, PLAN)
    assert [one.seconds for one in found] == [1.0, 5.0, 1.0, 1.0]
    monkeypatch.undo()
    started = time.perf_counter()
    found = evaluate_chunk(small_task(), requests, PLAN)
    assert 0 < sum(one.seconds for one in found) <= time.perf_counter() - started


def test_the_number_format_of_the_plan() -> None:
    seen: list[torch.dtype] = []

    def forward(model: nn.Module, batch: Any) -> Terms:
        z = model(batch[0])
        seen.append(z.dtype)
        return Terms(z, batch[1])

    task = small_task(forward=forward)
    requests = [Request(CE, 0, budget=0.1), Request(BRIER, 0, budget=0.1)]
    for engine in ("population", "sequential"):
        for dtype, expected in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
            seen.clear()
            found = evaluate_chunk(task, requests, Plan(engine=engine, dtype=dtype, chunk=2))
            assert all(one.status.ok for one in found)
            assert set(seen) == {expected}
