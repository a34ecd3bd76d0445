"""P training runs at once against the same runs one by one, and how each of them ends."""

from __future__ import annotations

import gc
import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from agreement import numbers, task_of
from small_tasks import dropout_network, network, rows, small_task
from torch import Tensor, nn

from lossmith.losses import Loss, LossSet, Pairwise, Tree, loss
from lossmith.losses.parser import parse
from lossmith.tasks import SGD, Adam, Task, Terms, metrics, schedules
from lossmith.training import Trained, Training, train
from lossmith.training.batches import batch_indices
from lossmith.training.population import training
from lossmith.training.population.company import same_bits
from lossmith.training.population.network import PopulationNetwork
from lossmith.training.population.stacked import NotStackable, Stacked
from lossmith.training.population.training import train_population

CE, BAIKAL, BRIER = loss("cross_entropy"), loss("baikal"), loss("brier")
WRONG = Loss(Tree(parse("t*log(p)")))  # learns to be wrong
SCALES = [1.0, 0.3, 1.0]
Losses = Sequence[Loss | LossSet]


def both(
    task: Task, losses: Losses, how: Training, scales: Sequence[float] | None = None
) -> list[tuple[Trained, Trained]]:
    """(as one of a stack, alone) for each candidate."""
    scales = [1.0] * len(losses) if scales is None else scales
    together = train_population(task, losses, how, scales)
    alone = [train(task, one, replace(how, lr_scale=scale)) for one, scale in zip(losses, scales, strict=True)]
    return list(zip(together, alone, strict=True))


def assert_alike(pairs: Sequence[tuple[Trained, Trained]], *, tolerance: float = 1e-5) -> None:
    """The same models but for rounding, and the same of everything that is told of them."""
    for got, wanted in pairs:
        assert got.status == wanted.status
        assert got.steps == wanted.steps
        assert got.metrics == pytest.approx(wanted.metrics, rel=tolerance)
        assert [step for step, _ in got.curve] == [step for step, _ in wanted.curve]
        assert [v for _, v in got.curve] == pytest.approx([v for _, v in wanted.curve], rel=tolerance)
        torch.testing.assert_close(numbers(got.model), numbers(wanted.model), rtol=tolerance, atol=tolerance)


def identical(one: Trained, other: Trained) -> bool:
    """To the last bit."""
    same = (one.status, one.steps, one.metrics, one.curve) == (other.status, other.steps, other.metrics, other.curve)
    return same and numbers(one.model).equal(numbers(other.model))


ADAM = {"optimizer": Adam(lr=0.02), "schedule": schedules.cosine(), "grad_clip": 0.5}
MOMENTUM = {"optimizer": SGD(0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)}


@pytest.mark.parametrize("recipe", [{}, ADAM, MOMENTUM, {"schedule": schedules.step((0.5,))}], ids=str)
def test_a_stack_ends_where_its_candidates_end_alone(recipe: dict[str, Any]) -> None:
    task = small_task(steps=40, model=dropout_network, metric="log_loss", **recipe)
    how = Training(seed=3, steps=30, splits=("fitness", "test"), curve=4)
    pairs = both(task, [CE, BAIKAL, BRIER], how, SCALES)
    assert_alike(pairs)
    assert len({got.metrics["test"] for got, _ in pairs}) == 3
    assert_alike(both(task, [CE, BAIKAL], replace(how, data_fraction=0.3, steps=9, curve=0)))
    assert_alike(both(task, [CE], how))  # a stack of one is a stack


def test_what_they_have_seen_and_where_they_began() -> None:
    masks: list[Tensor] = []
    inputs: list[Tensor] = []

    def forward(model: nn.Module, batch: Any) -> Terms:
        x, y = batch
        if model.training:
            inputs.append(x.clone())
            masks.append(torch.nn.functional.dropout(torch.ones(8)) == 0)  # a draw of the task's own
        return Terms(model(x), y)

    task = small_task(forward=forward, model=dropout_network)
    seen = []
    for run in (train_population, lambda t, losses, how, scales: train(t, losses[0], how)):
        for how in (Training(seed=5, steps=8), Training(seed=5, steps=8, curve=4, chance=(3, 2.0))):
            masks.clear()
            inputs.clear()
            run(task, [CE, BAIKAL], how, [1.0, 1.0])
            seen.append((torch.stack(masks), torch.stack(inputs)))
    for got in seen[1:]:
        assert got[0].equal(seen[0][0])
        assert got[1].equal(seen[0][1])
    start = numbers(task.build_model(5))
    for end in train_population(task, [CE, BAIKAL], Training(seed=5, steps=0), [1.0, 1.0]):
        assert numbers(end.model).equal(start)


def test_a_seed_decides_everything() -> None:
    task, how = small_task(model=dropout_network), Training(seed=1, steps=20)
    first = train_population(task, [CE, BAIKAL], how, SCALES[:2])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)  # whatever the caller's generator has done
        before = torch.get_rng_state()
        again = train_population(task, [CE, BAIKAL], how, SCALES[:2])
        assert torch.equal(before, torch.get_rng_state())
    assert all(map(identical, first, again))
    other = train_population(task, [CE, BAIKAL], replace(how, seed=2), SCALES[:2])
    assert not any(map(identical, first, other))


def several(model: nn.Module, batch: Any) -> tuple[Terms, ...]:
    x, y = batch
    z = model(x)
    return Terms(z, y), Terms(2 * z, y, (y != 2).float()), Terms(torch.ones(len(y), 3), y), Terms(-z, y)


def test_several_terms_take_the_losses_of_each_set_in_turn() -> None:
    task = small_task(forward=several, steps=20)
    losses = [LossSet([BRIER, CE]), CE, LossSet([CE, CE, BRIER, BAIKAL, BRIER])]
    pairs = both(task, losses, Training(seed=0, steps=12, curve=3))
    assert_alike(pairs)
    assert not identical(pairs[0][0], pairs[1][0])


def test_rows_along_several_axes_weights_and_groups() -> None:
    def tokens(model: nn.Module, batch: Any) -> Terms:
        x, y = batch
        z = model(x.view(-1, 2, 6))
        return Terms(z, y.view(-1, 2), weight=(y.view(-1, 2) != 2).float())

    assert_alike(both(small_task(forward=tokens), [CE, BAIKAL], Training(seed=0, steps=10)))

    def grouped(model: nn.Module, batch: Any) -> Terms:
        x, y = batch
        return Terms(model(x)[:, :1], y.float(), group=torch.arange(len(x)) // 4)

    hinge, squared = (Loss(Tree(parse(text)), head="identity", aggregation=Pairwise()) for text in HINGES)
    task = small_task(forward=grouped, head="identity", metric="mse")
    pairs = both(task, [hinge, squared], Training(seed=0, steps=10))
    assert_alike(pairs)
    assert not numbers(pairs[0][0].model).equal(numbers(task.build_model(0)))


HINGES = ("max(1 - z, 0)", "(1 - z)^2")


def test_losses_that_only_autograd_knows() -> None:
    class Own(Loss):
        def forward(self, output: Tensor, target: Tensor, **arguments: Any) -> Tensor:
            return super().forward(output, target, **arguments) * 0.5

    task = small_task(steps=20)
    assert_alike(both(task, [Own(Tree(parse("-t*log(p)"))), CE, BRIER], Training(seed=0, steps=12)))


# How candidates end


@pytest.mark.parametrize("name", ["mlp", "lenet5", "batch norm and dropout", "preresnet20"])
@pytest.mark.parametrize("at_once", [True, False], ids=["left behind", "carried along"])
def test_one_candidate_that_diverges_costs_the_others_no_bit(
    name: str, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not at_once:
        monkeypatch.setattr(training, "WORTH", math.inf)
    steps = 4 if name == "preresnet20" else 12
    task = task_of(name, torch.float32)
    how = Training(seed=0, steps=steps, channels_last=True)
    losses, scales = [CE, BAIKAL, BAIKAL, BRIER], [1.0, 0.1, 1e30, 0.3]
    among = train_population(task, losses, how, scales)
    assert [end.status.kind for end in among] == ["ok", "ok", "diverged", "ok"]
    assert among[2].steps < steps
    assert numbers(among[2].model).isfinite().logical_not().any()
    without = train_population(task, [*losses[:2], losses[3]], how, [*scales[:2], scales[3]])
    assert all(map(identical, [*among[:2], among[3]], without))
    two = train_population(task, losses[:2], how, scales[:2])
    assert all(map(identical, among[:2], two))


@pytest.mark.parametrize("name", ["images with dropout", "dense", "option A", "conv1d", "lenet5"])
def test_whether_a_companion_ends_early_changes_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where kernels round by the number of channels there are: then nobody is left behind."""
    monkeypatch.setattr(training, "WORTH", 0.0)
    task, how = task_of(name, torch.float32), Training(seed=0, steps=12, channels_last=True)
    losses = [CE, BRIER, CE, BRIER, CE]
    healthy = train_population(task, losses, how, [0.1, 0.1, 0.2, 0.3, 0.05])
    among = train_population(task, losses, how, [0.1, 0.1, 1e30, 0.3, 0.05])
    assert [end.status.kind for end in healthy] == ["ok"] * 5
    assert among[2].status.kind == "diverged"
    assert among[2].steps < how.steps
    for place in (0, 1, 3, 4):
        assert identical(among[place], healthy[place])


def test_a_network_whose_bits_depend_on_the_stack_is_seen() -> None:
    how = Training(seed=0, steps=3, channels_last=True)
    for name in ("mlp", "lenet5"):
        assert same_bits(task_of(name, torch.float32), how, 5, [0, 2, 3])

    def leaning(model: nn.Module, batch: Any) -> Terms:
        x, y = batch
        z = model(x)
        return Terms(z * (1 + 1e-6 * z.count) if isinstance(z, Stacked) else z, y)

    assert not same_bits(small_task(forward=leaning), how, 5, [0, 2, 3])


def test_divergence_has_its_step() -> None:
    x, y = rows(90, 0)
    first = 5
    *_, fifth = itertools.islice(batch_indices(torch.arange(90), 8, seed=2), first)
    x[fifth[0]] = math.nan
    task = small_task(train=(x, y), batch_size=8)
    for end in train_population(task, [CE, BAIKAL], Training(seed=2, steps=30, curve=30), [1.0, 1.0]):
        assert str(end.status) == "diverged"
        assert end.status.sentence == f"training loss became non-finite at step {first}"
        assert end.steps == first
        assert end.metrics == {}
        assert [step for step, _ in end.curve] == list(range(1, first))
        assert end.model is not None


def test_each_candidate_ends_for_itself() -> None:
    task = small_task(steps=100, optimizer=SGD(lr=0.5))
    how = Training(seed=0, steps=40, chance=(10, 2 / 3), curve=4)
    blowing_up = loss("taylor_evolved_2")
    pairs = both(task, [WRONG, CE, blowing_up, WRONG, BRIER], how, [1.0, 1.0, 1e30, 1e39, 1.0])
    assert_alike([pairs[0], pairs[1], pairs[4]], tolerance=1e-4)
    for got, wanted in pairs:
        assert (got.status, got.steps) == (wanted.status, wanted.steps)
    kinds = [got.status.kind for got, _ in pairs]
    assert kinds == ["at_chance", "ok", "diverged", "diverged", "ok"]
    assert [got.steps for got, _ in pairs][:2] == [10, 40]
    assert pairs[3][0].steps <= 2


def test_divergence_in_the_last_step_shows_in_the_outputs() -> None:
    ends = train_population(small_task(), [CE, CE], Training(seed=0, steps=1), [1.0, 1e39])
    assert [end.status.kind for end in ends] == ["ok", "diverged"]
    assert ends[1].status.sentence == "the model's outputs on fitness are non-finite"


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many candidates each forward pass in training mode computes."""
    monkeypatch.setattr(training, "same_bits", lambda *_: True)  # it computes too
    counts: list[int] = []
    call = PopulationNetwork.__call__

    def noted(self: PopulationNetwork, batch: Any) -> tuple[Terms, ...]:
        if self._model.training:
            counts.append(self.count)
        return call(self, batch)

    monkeypatch.setattr(PopulationNetwork, "__call__", noted)
    return counts


def test_candidates_that_have_ended_stop_costing(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = counted(monkeypatch)
    task = small_task(steps=100, optimizer=SGD(lr=0.5))
    how = Training(seed=0, steps=30, chance=(10, 2 / 3))
    ends = train_population(task, [WRONG, CE, WRONG, WRONG, BRIER], how, [1.0] * 5)
    assert [end.steps for end in ends] == [10, 30, 10, 10, 30]
    assert counts == [5] * 10 + [2] * 20
    counts.clear()
    alone = train_population(task, [WRONG, WRONG, CE, WRONG], how, [1.0] * 4)
    assert counts == [4] * 10 + [2] * 20  # the last one keeps a companion: one place would be another arithmetic
    assert identical(alone[2], ends[1])
    counts.clear()
    assert [end.steps for end in train_population(task, [WRONG] * 3, how, [1.0] * 3)] == [10] * 3
    assert counts == [3] * 10
    counts.clear()
    late = train_population(task, [CE, BRIER, WRONG], replace(how, steps=11), [1.0] * 3)
    assert counts == [3] * 11  # for one step nobody is left behind
    assert [end.steps for end in late] == [11, 11, 10]


class Raising(Loss):
    """Raises in its third step."""

    problem: BaseException = ValueError("the third step is too much")

    def forward(self, output: Tensor, target: Tensor, **arguments: Any) -> Tensor:
        self.steps = getattr(self, "steps", set()) | {arguments["progress"]}
        if len(self.steps) >= 3:
            raise self.problem
        return super().forward(output, target, **arguments)


@pytest.mark.parametrize("forward", [None, several], ids=["one term", "several terms"])
def test_a_loss_that_raises_costs_its_candidate_only(forward: Callable[..., Any] | None) -> None:
    parts = {} if forward is None else {"forward": forward}
    task, how = small_task(**parts), Training(seed=0, steps=10, curve=5)
    raising = Raising(Tree(parse("-t*log(p)")))
    ends = train_population(task, [CE, raising, BAIKAL, BRIER], how, [1.0, 1.0, 0.1, 1.0])
    assert str(ends[1].status) == "crashed"
    assert ends[1].status.sentence == "ValueError: the third step is too much"
    assert (ends[1].steps, ends[1].metrics) == (2, {})
    others = train_population(task, [CE, BAIKAL, BRIER], how, [1.0, 0.1, 1.0])
    assert all(map(identical, [ends[0], *ends[2:]], others))


def test_losses_that_do_not_fit_say_so_each() -> None:
    task = small_task(model=lambda seed: nn.Linear(6, 2))  # three classes
    ends = train_population(task, [CE, BAIKAL], Training(seed=0, steps=10), [1.0, 1.0])
    assert [end.status.kind for end in ends] == ["crashed"] * 2
    assert all("outside the classes 0…1" in end.status.sentence for end in ends)
    assert all("Error" not in end.status.sentence for end in ends)  # our own sentences stand alone


def test_a_loss_that_exits_and_one_that_is_interrupted() -> None:
    raising = Raising(Tree(parse("-t*log(p)")))
    raising.problem = SystemExit(3)
    ends = train_population(small_task(), [CE, raising], Training(seed=0, steps=5), [1.0, 1.0])
    assert [end.status.sentence for end in ends] == ["", "SystemExit: 3"]
    raising = Raising(Tree(parse("-t*log(p)")))
    raising.problem = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        train_population(small_task(), [CE, raising], Training(seed=0, steps=5), [1.0, 1.0])


def test_a_metric_that_raises_costs_its_candidate_only() -> None:
    def picky(output: Tensor, target: Tensor) -> float:
        if output.abs().max() > 100:
            raise ArithmeticError("too large for my taste")
        return float(output.abs().max())

    task = small_task(metric=metrics.metric(picky, direction="min", name="picky"))
    ends = train_population(task, [CE, CE, CE], Training(seed=0, steps=10, curve=2), [1.0, 1e4, 0.5])
    assert [end.status.kind for end in ends] == ["ok", "crashed", "ok"]
    assert ends[1].status.sentence == "ArithmeticError: too large for my taste"
    assert identical(ends[0], train_population(task, [CE, CE], Training(seed=0, steps=10, curve=2), [1.0, 0.5])[0])


def test_a_model_that_raises_fails_the_stack() -> None:
    def forward(model: nn.Module, batch: Any) -> Terms:
        raise ZeroDivisionError("no stack")

    with pytest.raises(ZeroDivisionError, match="no stack"):
        train_population(small_task(forward=forward), [CE, CE], Training(seed=0, steps=5), [1.0, 1.0])


def test_what_cannot_be_stacked_is_refused() -> None:
    def looking(model: nn.Module, batch: Any) -> Terms:
        z = model(batch[0])
        return Terms(z if z.mean() > 0 else -z, batch[1])

    own = small_task(optimizer=lambda params, lr: torch.optim.SGD(params, lr), lr=0.1)
    for task in (small_task(forward=looking), own):
        with pytest.raises(NotStackable):
            train_population(task, [CE, CE], Training(seed=0, steps=5), [1.0, 1.0])


# What they are told, and what they leave


def test_progress_is_told_while_anyone_is_left() -> None:
    calls: list[int] = []
    task, how = small_task(), Training(seed=0, steps=6)
    train_population(task, [CE, CE], how, [1.0, 1e39], on_step=calls.append)
    assert calls == list(range(1, 7))
    calls.clear()
    ends = train_population(task, [CE, CE], how, [1e39, 1e39], on_step=calls.append, keep_models=False)
    assert calls == list(range(1, ends[0].steps))
    assert [end.model for end in ends] == [None, None]


def test_progress_of_the_training_reaches_the_losses() -> None:
    taus: list[float] = []

    class Tau(Loss):
        def forward(self, output: Tensor, target: Tensor, **arguments: Any) -> Tensor:
            taus.append(arguments["progress"])
            return super().forward(output, target, **arguments)

    task = small_task(steps=20)
    train_population(task, [CE, Tau(Tree(parse("-t*log(p)*(1 - tau)")))], Training(seed=0, steps=5), [1.0, 1.0])
    assert taus == [0.0, 0.05, 0.1, 0.15, 0.2]
    reading = loss("-t*log(p)*(1 - tau)")
    assert_alike(both(task, [reading, CE], Training(seed=0, steps=10, data_fraction=0.5)))


def test_nothing_is_kept_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Tensor]] = []
    call = PopulationNetwork.__call__

    def looking(self: PopulationNetwork, batch: Any) -> tuple[Terms, ...]:
        gc.collect()
        assert all(parameter.grad is None for parameter in self.parameters.values())
        assert [one() for one in alive] == [None] * len(alive)
        terms = call(self, batch)
        alive.append(weakref.ref(terms[0].output))
        return terms

    monkeypatch.setattr(PopulationNetwork, "__call__", looking)
    ends = train_population(small_task(), [CE, BAIKAL], Training(seed=0, steps=4), [1.0, 1.0])
    assert all(end.status.ok for end in ends)
    assert len(alive) == 4 + 1


# bfloat16


class Seeing(Loss):
    """Notes in which types it is called."""

    def forward(self, output: Tensor, target: Tensor, **arguments: Any) -> Tensor:
        self.seen = [*getattr(self, "seen", []), (output.dtype, torch.is_autocast_enabled("cpu"))]
        return super().forward(output, target, **arguments)


def test_bfloat16_is_for_the_forward_pass_only() -> None:
    inside: list[torch.dtype] = []

    class Looking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            inside.append(x.dtype)
            return x

    def model(seed: int) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Looking(), nn.Linear(8, 3))

    judged: list[torch.dtype] = []

    def metric(output: Tensor, target: Tensor) -> float:
        judged.append(output.dtype)
        return 0.5

    task = small_task(model=model, metric=metrics.metric(metric, direction="min"))
    how = Training(seed=0, steps=3, dtype="bfloat16", chance=(2, 1.0), curve=1)
    runs: list[Callable[[Loss], Trained]] = [
        lambda one: train(task, one, how),
        lambda one: train_population(task, [one, CE], how, [1.0, 1.0])[0],
    ]
    for run in runs:
        seeing = Seeing(Tree(parse("-t*log(p)")))
        end = run(seeing)
        assert seeing.seen == [(torch.float32, False)] * 3
        assert set(inside) == {torch.bfloat16}
        assert set(judged) == {torch.float32}
        assert {value.dtype for value in end.model.state_dict().values()} == {torch.float32}  # type: ignore[union-attr]
        inside.clear()
        judged.clear()


@pytest.mark.parametrize("name", ["mlp", "lenet5", "batch norm and dropout"])
def test_the_paths_agree_in_bfloat16_as_far_as_it_reaches(name: str) -> None:
    task = task_of(name, torch.float32)
    how = Training(seed=0, steps=10, dtype="bfloat16", channels_last=True)
    start = numbers(task.build_model(0))
    for got, wanted in both(task, [CE, BAIKAL], how, [1.0, 0.3]):
        exact = train(task, CE, replace(how, dtype="float32"))
        way = (numbers(wanted.model) - start).norm()
        assert (numbers(got.model) - numbers(wanted.model)).norm() < 0.02 * way
        assert not numbers(wanted.model).equal(numbers(exact.model))


def test_models_in_float64_are_left_alone_by_bfloat16() -> None:
    x, y = rows(90, 0)
    task = small_task(model=lambda seed: network(seed).double(), train=(x.double(), y), valid=(x.double()[:9], y[:9]))
    task = task.replace(data={"selection": (x.double()[:9], y[:9]), "test": (x.double()[:9], y[:9])})
    half, full = (Training(seed=0, steps=5, dtype=dtype) for dtype in ("bfloat16", "float32"))
    assert identical(train(task, CE, half), train(task, CE, full))
    got, wanted = (train_population(task, [CE, BRIER], how, [1.0, 1.0]) for how in (half, full))
    assert all(map(identical, got, wanted))
