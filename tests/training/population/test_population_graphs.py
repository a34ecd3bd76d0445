"""Recorded steps: what is replayed and when, with a stand-in for CUDA graphs that does the step again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_tasks import CLASSES, FEATURES, dropout_network, small_task
from stacked_models import Remembering
from torch import Tensor, nn

from lossmith.losses import Loss, Tree, loss
from lossmith.losses.parser import parse
from lossmith.rng import torch_global_scope
from lossmith.tasks import SGD, Adam, AdamW, Task, schedules
from lossmith.tasks.terms import supervised
from lossmith.training import Trained, Training
from lossmith.training.population import PopulationNetwork, graphs, training
from lossmith.training.population.graphs import WARM_UP, buffers_in_place
from lossmith.training.population.optimizers import StackedOptimizer
from lossmith.training.population.training import train_population

STEPS = 30


class Recorder:
    """A stand-in for CUDA graphs: a replay is the same step again, with nothing handed to it."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        self.log.append("as it is")
        return work()

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.log.append("record")

        def replay() -> Tensor:
            self.log.append("replay")
            return work()

        return replay


class Unable(Recorder):
    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing. More text")


class Counting(nn.Module):
    """Computes from a number that no tensor holds."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(FEATURES, CLASSES), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x) * (1 + self.calls / 10)  # type: ignore[no-any-return]


class Noted(nn.Module):
    """Buffers written in place and by assignment, in the shape of the small tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.inside = nn.Linear(FEATURES, 3), Remembering()
        self.last = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inside(self.before(x)))  # type: ignore[no-any-return]


def _built(make: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    def build(seed: int) -> nn.Module:
        return make()

    return build


def losses() -> list[Any]:
    with_progress = Loss(Tree(parse("-log(p) * t * (1 + tau)")))
    return [loss("cross_entropy"), with_progress, loss("mse"), loss("focal")]


def trained(task: Task, recorder: Recorder | None, scales: tuple[float, ...] = (1.0, 0.5, 2.0, 1.0), **how: Any) -> Any:
    said: list[str] = []
    run = Training(seed=0, steps=STEPS, **{"curve": 3, **how})
    return train_population(task, losses(), run, scales, capture=recorder, say=said.append), said


def same(a: list[Trained], b: list[Trained]) -> bool:
    for x, y in zip(a, b, strict=True):
        assert x.model is not None
        assert y.model is not None
        if replace(x, model=None) != replace(y, model=None):
            return False
        for one, other in zip(x.model.state_dict().values(), y.model.state_dict().values(), strict=True):
            if not torch.allclose(one, other, rtol=0, atol=0, equal_nan=True):
                return False
    return True


TASKS: dict[str, Callable[[], Task]] = {
    "plain": lambda: small_task(steps=STEPS),
    "schedule, momentum, clipping": lambda: small_task(
        steps=STEPS, optimizer=SGD(lr=0.1, momentum=0.9), schedule=schedules.cosine(), grad_clip=0.5
    ),
    "adam": lambda: small_task(steps=STEPS, optimizer=AdamW(lr=0.01), schedule=schedules.warmup(0.2)),
    "dropout": lambda: small_task(steps=STEPS, model=dropout_network),
    "buffers": lambda: small_task(steps=STEPS, model=_built(Noted)),
}


@pytest.mark.parametrize("name", TASKS)
def test_replayed_steps_are_the_steps(name: str) -> None:
    task, recorder = TASKS[name](), Recorder()
    expected, _ = trained(task, None)
    found, said = trained(task, recorder)
    assert same(expected, found)
    assert not said
    assert recorder.log == ["as it is"] * WARM_UP + ["record"] + ["replay"] * (STEPS - WARM_UP)
    assert not same(expected, trained(small_task(steps=STEPS, lr=0.07), recorder)[0])  # `same` can say no


def test_inputs_of_the_steps_come_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS["schedule, momentum, clipping"]()
    expected, _ = trained(task, None)
    monkeypatch.setattr(graphs, "BLOCK", 7)
    found, _ = trained(task, Recorder())
    assert same(expected, found)


def test_a_stack_that_shrinks_before_it_is_recorded() -> None:
    task, recorder = small_task(steps=STEPS), Recorder()
    scales = (1.0, 0.5, 1e30, 1.0)
    found, _ = trained(task, recorder, scales)
    assert [one.status.kind for one in found] == ["ok", "ok", "diverged", "ok"]
    assert found[2].steps < WARM_UP
    assert same(trained(task, None, scales)[0], found)
    assert recorder.log.count("record") == 1


def test_a_stack_that_shrinks_while_it_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "WORTH", 0.0)
    task, recorder = small_task(steps=STEPS, schedule=_jump), Recorder()
    scales = (1.0, 0.5, 1e30, 1.0)
    found, _ = trained(task, recorder, scales, curve=0)
    assert found[2].status.kind == "diverged"
    assert found[2].steps > WARM_UP + 1
    assert same(trained(task, None, scales, curve=0)[0], found)
    after = recorder.log[recorder.log.index("record") + 1 :]
    assert after.count("record") == 1
    assert after.count("as it is") == 1  # one step as it is before it is recorded again


def _jump(progress: float) -> float:
    return 1e-31 if progress < 0.4 else 1.0  # so small that 1e30 times it is harmless


def test_a_stack_of_which_all_end() -> None:
    task, chance = small_task(steps=STEPS), (10, -1.0)  # an error rate that nothing is better than
    found, _ = trained(task, Recorder(), chance=chance, curve=0)
    assert same(trained(task, None, chance=chance, curve=0)[0], found)
    assert {one.status.kind for one in found} == {"at_chance"}


def test_what_cannot_be_recorded_is_done_as_ever_and_says_so() -> None:
    task = small_task(steps=STEPS)
    found, said = trained(task, Unable())
    assert same(trained(task, None)[0], found)
    assert said == ["the step cannot be recorded (RuntimeError: operation not permitted when stream is capturing)."]


def test_a_model_that_counts_is_not_recorded() -> None:
    task, recorder = small_task(steps=STEPS, model=_built(Counting)), Recorder()
    found, said = trained(task, recorder)
    assert same(trained(task, None)[0], found)
    assert "record" not in recorder.log
    assert said[0].startswith("the forward pass changes calls of the model")


def test_graphs_are_for_cuda_only() -> None:
    task = small_task(steps=STEPS)
    found, said = trained(task, None, graph=True)
    assert same(trained(task, None)[0], found)
    assert said == ["steps are recorded on a CUDA device only."]


def test_a_loss_that_raises_costs_its_own_candidate() -> None:
    class Raising(Loss):
        def forward(self, *args: Any, **kwargs: Any) -> Tensor:
            raise ValueError("no")

    task, recorder = small_task(steps=STEPS), Recorder()
    run = Training(seed=0, steps=STEPS)
    many = [loss("cross_entropy"), Raising(loss("mse").kernel), loss("mse")]
    found = train_population(task, many, run, [1.0] * 3, capture=recorder)
    expected = train_population(task, many, run, [1.0] * 3)
    assert [one.status.kind for one in found] == ["ok", "crashed", "ok"]
    assert same(expected, found)


def test_assigned_buffers_stay_where_they_are() -> None:
    with torch_global_scope(0, "theta"):
        stack = PopulationNetwork(Remembering(), supervised, 3)
    batch = (torch.linspace(-1, 1, 12).reshape(4, 3), torch.zeros(4, dtype=torch.long))
    places = {name: raw.data_ptr() for name, raw in stack.buffers.items()}
    before = {name: raw.clone() for name, raw in stack.buffers.items()}
    with buffers_in_place(stack):
        stack(batch)
    assert {name: raw.data_ptr() for name, raw in stack.buffers.items()} == places
    moved = {name: raw.clone() for name, raw in stack.buffers.items()}
    assert all(not torch.equal(before[name], moved[name]) for name in before)

    def broken_off() -> None:
        with buffers_in_place(stack):
            stack(batch)
            raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        broken_off()
    assert torch.equal(stack.buffers["size"], moved["size"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "rule",
    [
        SGD(lr=1.0),
        SGD(lr=1.0, weight_decay=0.1),
        SGD(lr=1.0, momentum=0.9, weight_decay=0.1),
        SGD(lr=1.0, momentum=0.9, nesterov=True),
        Adam(weight_decay=0.1),
        AdamW(weight_decay=0.1),
    ],
    ids=str,
)
@pytest.mark.parametrize("scales", [(1.0, 1.0, 1.0), (1.0, 0.5, 3.0)])
def test_a_learning_rate_on_the_device_is_the_number(rule: Any, scales: tuple[float, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [
        torch.randn(3, 5, 4, generator=generator, dtype=dtype),
        torch.randn(3, 2, generator=generator, dtype=dtype),
    ]
    slopes = [[torch.randn(p.shape, generator=generator, dtype=dtype) for p in start] for _ in range(4)]
    ends = []
    for tensor in (False, True):
        parameters = [p.clone().requires_grad_() for p in start]
        optimizer = StackedOptimizer(rule, parameters, scales)
        for step, gradients in enumerate(slopes):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
            lr = 0.1 / (step + 1)
            optimizer.step(torch.tensor(lr, dtype=torch.float64) if tensor else lr)
        ends.append([p.detach() for p in parameters])
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for one, other, begin in zip(*ends, start, strict=True):
        torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance)
        assert not torch.allclose(one, begin, rtol=1e-3)
