"""Compiled steps are the steps, for any number of candidates; what cannot be compiled runs as it is and says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_tasks import CLASSES, FEATURES, small_task
from torch import Tensor, nn

from lossmith.evaluation import make_plan
from lossmith.losses import loss
from lossmith.tasks import SGD, Task, schedules
from lossmith.training import Trained, Training
from lossmith.training.population import inductor
from lossmith.training.population.inductor import why_no_compiler
from lossmith.training.population.training import train_population

needs_compiler = pytest.mark.skipif(bool(why_no_compiler()), reason="torch finds no C++ compiler here")
NAMES = ("cross_entropy", "mse", "focal", "mae", "baikal")


class Everything(nn.Module):
    """Products, masks, statistics per candidate, a buffer written in place, one assigned and one that is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(FEATURES, 8, bias=False), nn.BatchNorm1d(8), nn.Dropout(0.3)
        self.last = nn.Linear(8, CLASSES)
        self.register_buffer("size", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(torch.relu(self.norm(self.first(x))))
        if self.training:
            self.size = 0.9 * self.size + 0.1 * h.detach().abs().mean()
        return self.last(h / self.size)  # type: ignore[no-any-return]


class Between(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.between, self.calls = nn.Linear(FEATURES, CLASSES), between, 0

    def forward(self, x: Tensor) -> Tensor:
        return self.between(self.layer(x))


class Counting(Between):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x) / self.calls  # type: ignore[no-any-return]


def everything(seed: int) -> nn.Module:
    return Everything()


def noisy(seed: int) -> nn.Module:
    return Between(lambda h: h + torch.rand(h.shape))


def counting(seed: int) -> nn.Module:
    return Counting(torch.relu)


def images(seed: int) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), nn.MaxPool2d((1, 2)), nn.Flatten(), nn.Linear(4, CLASSES)
    )


@pytest.fixture(scope="module")
def task() -> Task:
    """One for all tests, so that it is compiled once."""
    recipe = {"optimizer": SGD(lr=0.05, momentum=0.9), "schedule": schedules.cosine(), "grad_clip": 5.0}
    return small_task(model=everything, steps=12, **recipe)


def trained(task: Task, count: int, *, compile: bool, scale: float = 1.0) -> tuple[list[Trained], list[str]]:
    said: list[str] = []
    how = Training(seed=0, steps=12, compile=compile, curve=2)
    scales = [scale / (1 + i) for i in range(count)]
    found = train_population(task, [loss(name) for name in NAMES[:count]], how, scales, say=said.append)
    return found, said


def state(one: Trained) -> dict[str, Tensor]:
    assert one.model is not None
    return dict(one.model.state_dict())


def same(a: list[Trained], b: list[Trained]) -> bool:
    plain = [replace(x, model=None) == replace(y, model=None) for x, y in zip(a, b, strict=True)]
    tensors = [torch.equal(v, state(y)[k]) for x, y in zip(a, b, strict=True) for k, v in state(x).items()]
    return all(plain) and all(tensors)


@needs_compiler
def test_compiled_steps_are_the_steps(task: Task) -> None:
    expected, _ = trained(task, 3, compile=False)
    found, said = trained(task, 3, compile=True)
    assert not said
    start = {k: v.clone() for k, v in task.build_model(0).state_dict().items()}
    for one, other in zip(expected, found, strict=True):
        assert other.status.ok
        for name, value in state(one).items():
            torch.testing.assert_close(state(other)[name], value, rtol=1e-4, atol=1e-5)
            moved = (value - start[name]).abs().max()
            assert moved > 1e-4, name  # parameters and every buffer


@needs_compiler
def test_one_code_serves_every_stack_and_no_candidate_notices(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    few, _ = trained(task, 3, compile=True)

    def again(*_: Any) -> Any:
        raise AssertionError("compiled a second time")

    monkeypatch.setattr(inductor, "_inductor", again)
    many, said = trained(task, 5, compile=True)
    assert not said
    assert same(few, many[:3])


@needs_compiler
def test_a_candidate_that_ends_changes_no_other(task: Task) -> None:
    how = Training(seed=0, steps=12, compile=True)
    losses = [loss(name) for name in NAMES[:4]]
    calm = train_population(task, losses, how, [1.0, 0.5, 0.2, 0.1])
    said: list[str] = []
    wild = train_population(task, losses, how, [1.0, 0.5, 1e38, 0.1], say=said.append)
    assert wild[2].status.kind == "diverged"
    assert not said
    assert same([calm[i] for i in (0, 1, 3)], [wild[i] for i in (0, 1, 3)])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (noisy, "draws random numbers with aten.rand"),
        (counting, "changes calls of the model"),
        (images, "maxima over windows"),
    ],
)
@needs_compiler
def test_what_cannot_be_compiled_runs_as_it_is(model: Any, words: str) -> None:
    task = small_task(model=model, steps=12)
    found, said = trained(task, 2, compile=True)
    assert len(said) == 1
    assert words in said[0]
    assert same(trained(task, 2, compile=False)[0], found)


@needs_compiler
def test_code_that_gives_other_numbers_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = inductor.product_and_sum
    monkeypatch.setattr(inductor, "product_and_sum", lambda *args, **kwargs: right(*args, **kwargs) * 1.01)
    task = small_task(steps=12)
    found, said = trained(task, 2, compile=True)
    assert said[0].startswith("the compiled step gives other numbers")
    assert same(trained(task, 2, compile=False)[0], found)


def test_without_a_compiler() -> None:
    import torch._inductor.config as settings

    task = small_task(steps=12)
    with settings.patch({"cpp.cxx": (None, "no-such-compiler")}):
        plan = make_plan(task, engine="population", compile=True)
        found, said = trained(task, 2, compile=True)
    assert (plan.engine, plan.compile) == ("population", False)
    assert plan.compile_reason.startswith("torch finds no C++ compiler: install g++")
    assert "not compiled: torch finds no C++ compiler" in plan.describe()
    assert said[0].startswith("torch finds no C++ compiler")
    assert same(trained(task, 2, compile=False)[0], found)


@needs_compiler
def test_the_plan_says_what_becomes_of_the_wish(task: Task) -> None:
    plan = make_plan(task, engine="population", compile=True)
    assert (plan.compile, plan.compile_reason) == (True, "asked for")
    assert ", compiled" in plan.describe()
    assert not make_plan(task, engine="population").compile
    alone = make_plan(task, engine="sequential", compile=True)
    assert (alone.compile, alone.compile_reason) == (False, "only stacked training is compiled")
