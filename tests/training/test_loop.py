"""The tuned loop against a plain one written out by hand with torch.optim, and what it says when training fails."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_tasks import dropout_network, network, rows, small_task
from torch import Tensor, nn

from lossmith.losses import Loss, LossSet, Pairwise, Tree, loss
from lossmith.losses.parser import parse
from lossmith.rng import derive_seed
from lossmith.tasks import SGD, Adam, AdamW, Task, Terms, metrics, schedules
from lossmith.tasks.optimizers import OptimizerFactory
from lossmith.training import Trained, Training, train
from lossmith.training.batches import batch_indices

CE = loss("cross_entropy")


def parameters(model: nn.Module | None) -> Tensor:
    assert model is not None
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def by_hand(
    task: Task,
    make_optimizer: Callable[[Iterable[Tensor], float], torch.optim.Optimizer],
    steps: int,
    *,
    seed: int = 3,
    lr_of: Callable[[int], float],
    clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """θ before and after a plain PyTorch training with F.cross_entropy."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "theta"))
        model = task.model(seed)
        start = parameters(model)
        torch.manual_seed(derive_seed(seed, "dropout"))
        optimizer = make_optimizer(model.parameters(), lr_of(0))
        x, y = rows(90, 0)
        model.train()
        batches = batch_indices(torch.arange(90), task.recipe.batch_size, seed=seed)
        for step, index in zip(range(steps), batches, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = lr_of(step)
            optimizer.zero_grad()
            F.cross_entropy(model(x[index]), y[index]).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
    return start, parameters(model)


@pytest.mark.parametrize(
    ("optimizer", "plain"),
    [
        (SGD(lr=0.1), lambda p, lr: torch.optim.SGD(p, lr)),
        (
            SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
            lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, nesterov=True, weight_decay=1e-3),
        ),
        (Adam(lr=0.01), lambda p, lr: torch.optim.Adam(p, lr)),
        (AdamW(lr=0.01, weight_decay=0.1), lambda p, lr: torch.optim.AdamW(p, lr, weight_decay=0.1)),
    ],
    ids=["sgd", "nesterov", "adam", "adamw"],
)
@pytest.mark.parametrize("model", [network, dropout_network])
def test_it_trains_as_plain_torch_does(optimizer: OptimizerFactory, plain: Any, model: Any) -> None:
    task = small_task(steps=25, optimizer=optimizer, model=model)
    start, expected = by_hand(task, plain, 25, lr_of=lambda step: task.recipe.base_lr)
    trained = train(task, CE, Training(seed=3, steps=25))
    moved = (expected - start).norm()
    assert moved > 0.3  # a loop that changes nothing cannot pass
    assert (parameters(trained.model) - expected).norm() < 1e-5 * moved
    assert (trained.status.ok, trained.steps) == (True, 25)
    x, y = rows(30, 1)
    assert trained.model is not None
    wrong = (trained.model.eval()(x).argmax(1) != y).double().mean().item()
    assert trained.metrics == {"fitness": pytest.approx(wrong)}


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        (schedules.cosine(), lambda tau: 0.5 + 0.5 * math.cos(math.pi * tau)),
        (schedules.step((0.25, 0.5)), lambda tau: 0.1 ** ((tau >= 0.25) + (tau >= 0.5))),
        (schedules.warmup(0.2), lambda tau: min(tau / 0.2, 1.0)),  # begins with a learning rate of 0
    ],
)
def test_schedules_and_clipping_act_at_the_right_steps(schedule: Any, factor: Callable[[float], float]) -> None:
    task = small_task(steps=40, schedule=schedule, optimizer=SGD(lr=0.5), grad_clip=0.3)
    # a partial training walks through the beginning of the full schedule: τ = step / 40, not / 24
    lr_of = lambda step: 2.0 * 0.5 * factor(step / 40)  # noqa: E731
    start, expected = by_hand(task, lambda p, lr: torch.optim.SGD(p, lr), 24, lr_of=lr_of, clip=0.3)
    trained = train(task, CE, Training(seed=3, steps=24, lr_scale=2.0))
    assert (expected - start).norm() > 0.3
    torch.testing.assert_close(parameters(trained.model), expected, rtol=1e-5, atol=1e-6)


class Noting(torch.optim.SGD):
    """Notes the learning rate of every group at every step."""

    noted: list[list[float]]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.noted.append([group["lr"] for group in self.param_groups])
        super().step(closure)


def noting(noted: list[list[float]], ratio: float = 1.0) -> Callable[..., torch.optim.Optimizer]:
    def make(params: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
        first, *rest = params
        optimizer = Noting([{"params": [first]}, {"params": rest, "lr": ratio * lr}], lr=lr)
        optimizer.noted = noted
        return optimizer

    return make


def test_the_schedule_of_a_fraction_of_the_data_is_run_to_its_end() -> None:
    noted: list[list[float]] = []
    task = small_task(steps=20, optimizer=noting(noted), lr=1e-3, schedule=schedules.linear())
    train(task, CE, Training(seed=0, steps=10, data_fraction=0.5))
    assert [first for first, _ in noted] == pytest.approx([1e-3 * (1 - step / 10) for step in range(10)])
    noted.clear()
    train(task, CE, Training(seed=0, steps=10))
    assert [first for first, _ in noted] == pytest.approx([1e-3 * (1 - step / 20) for step in range(10)])


def test_groups_keep_their_ratio_under_a_schedule() -> None:
    noted: list[list[float]] = []
    task = small_task(steps=8, optimizer=noting(noted, ratio=10.0), lr=1e-3, schedule=schedules.step((0.5,)))
    train(task, CE, Training(seed=0, steps=8))
    assert noted == [pytest.approx([1e-3, 1e-2])] * 4 + [pytest.approx([1e-4, 1e-3])] * 4


def same(one: Trained, other: Trained) -> bool:
    return parameters(one.model).equal(parameters(other.model)) and one.metrics == other.metrics


def test_a_seed_decides_everything() -> None:
    task = small_task(model=dropout_network)
    first = train(task, CE, Training(seed=1, steps=20))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)  # whatever the caller's generator has done
        before = torch.get_rng_state()
        again = train(task, CE, Training(seed=1, steps=20))
        assert torch.equal(before, torch.get_rng_state())
    assert same(first, again)
    assert not same(first, train(task, CE, Training(seed=2, steps=20)))


class Witness(nn.Module):
    """Keeps what the layer before it let through."""

    def __init__(self, seen: list[Tensor]) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append((x == 0).detach())
        return x


def test_candidates_see_the_same_batches_and_dropout_masks() -> None:
    masks: list[Tensor] = []
    inputs: list[Tensor] = []

    def model(seed: int) -> nn.Module:
        return nn.Sequential(nn.Identity(), nn.Dropout(0.5), Witness(masks), nn.Linear(6, 3))

    def forward(model: nn.Module, batch: Any) -> Terms:
        if model.training:
            inputs.append(batch[0].clone())
        return Terms(model(batch[0]), batch[1])

    task = small_task(model=model, forward=forward)
    seen = []
    for criterion, curve in ((CE, 0), (loss("baikal"), 0), (CE, 4)):  # looking at the metric changes nothing either
        masks.clear()
        inputs.clear()
        train(task, criterion, Training(seed=5, steps=8, curve=curve))
        seen.append((torch.stack(masks), torch.stack(inputs)))
    for got in seen[1:]:
        assert got[0].equal(seen[0][0])
        assert got[1].equal(seen[0][1])
    assert 0.4 < seen[0][0].double().mean() < 0.6


def test_looking_at_augmented_rows_does_not_change_the_training() -> None:
    def forward(model: nn.Module, batch: Any) -> Terms:
        x, y = batch
        return Terms(model(x + 0.1 * torch.randn(x.shape)), y)  # draws while measuring, too

    task = small_task(forward=forward)
    plain = train(task, CE, Training(seed=5, steps=12))
    looked_at = train(task, CE, Training(seed=5, steps=12, curve=6, chance=(5, 2.0)))
    assert len(looked_at.curve) == 6
    assert same(plain, looked_at)


def test_a_fraction_of_the_data_is_all_that_is_seen() -> None:
    seen: set[int] = set()

    def forward(model: nn.Module, batch: Any) -> Terms:
        x, y, number = batch
        if model.training:
            seen.update(number.tolist())
        return Terms(model(x), y)

    numbered = [(*rows(n, s), torch.arange(n)) for s, n in enumerate((90, 30, 30))]
    task = small_task(train=numbered[0], valid=numbered[1], selection=numbered[2], test=None, forward=forward)
    train(task, CE, Training(seed=4, steps=30, data_fraction=0.2))
    assert seen == set(task.train_rows(0.2, 4).tolist())
    assert len(seen) == 18


class Tau(Loss):
    """Notes the progress it is called with."""

    def forward(self, output: Tensor, target: Tensor, **arguments: Any) -> Tensor:
        self.noted = [*getattr(self, "noted", []), arguments["progress"]]
        return super().forward(output, target, **arguments)


def test_progress_runs_over_the_full_training() -> None:
    criterion = Tau(Tree(parse("-t*log(p)*(1 - tau)")))
    task = small_task(steps=20)
    train(task, criterion, Training(seed=0, steps=5))
    assert criterion.noted == [0.0, 0.05, 0.1, 0.15, 0.2]


def test_several_terms_take_the_losses_of_a_set_in_turn() -> None:
    def forward(model: nn.Module, batch: Any) -> tuple[Terms, ...]:
        x, y = batch
        z = model(x)
        weight = (y != 2).float()
        return Terms(z, y), Terms(2 * z, y, weight), Terms(-z, y)

    task = small_task(forward=forward)
    both = LossSet([loss("brier"), CE])

    def total(z: Tensor, y: Tensor) -> Tensor:
        squared = (torch.softmax(z, -1) - F.one_hot(y, 3)).square().sum(1).mean()
        kept = F.cross_entropy(2 * z, y, reduction="none") * (y != 2)
        return squared + kept.sum() / (y != 2).sum() + F.cross_entropy(-z, y)  # the last loss serves all further terms

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(0, "theta"))
        model = network(0)
    x, y = rows(90, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _, index in zip(range(10), batch_indices(torch.arange(90), 16, seed=0), strict=False):
        optimizer.zero_grad()
        total(model(x[index]), y[index]).backward()
        optimizer.step()
    trained = train(task, both, Training(seed=0, steps=10))
    torch.testing.assert_close(parameters(trained.model), parameters(model), rtol=1e-5, atol=1e-6)
    one = train(task, CE, Training(seed=0, steps=10))
    assert (parameters(one.model) - parameters(model)).norm() > 1e-2


def test_groups_reach_pairwise_losses() -> None:
    hinge = Loss(Tree(parse("max(1 - z, 0)")), head="identity", aggregation=Pairwise())

    def forward(model: nn.Module, batch: Any) -> Terms:
        x, y = batch
        return Terms(model(x)[:, :1], y.float(), group=torch.arange(len(x)))  # every row in a group of its own

    task = small_task(forward=forward, head="identity", metric="mse")
    start = parameters(task.build_model(0))
    assert parameters(train(task, hinge, Training(seed=0, steps=5)).model).equal(start)  # no pairs, no gradient


def test_the_curve() -> None:
    task = small_task(steps=20)
    calls: list[int] = []
    trained = train(task, CE, Training(seed=0, steps=20, curve=4, splits=("selection", "test")), on_step=calls.append)
    assert [step for step, _ in trained.curve] == [5, 10, 15, 20]
    assert trained.curve[-1][1] == trained.metrics["selection"]
    assert set(trained.metrics) == {"selection", "test"}
    assert calls == list(range(1, 21))
    for step, value in trained.curve[:2]:
        alone = train(task, CE, Training(seed=0, steps=step, splits=("selection",)))
        assert alone.metrics == {"selection": value}
    assert len(train(task, CE, Training(seed=0, steps=2, curve=5)).curve) == 2  # no more points than steps


def test_a_measured_end_is_not_measured_twice() -> None:
    counted: list[int] = []

    def count(output: Tensor, target: Tensor) -> float:
        counted.append(len(output))
        return 0.5

    task = small_task(metric=metrics.metric(count, direction="min"))
    train(task, CE, Training(seed=0, steps=6, curve=3))
    assert counted == [30] * 3


def test_divergence_has_its_step() -> None:
    x, y = rows(90, 0)
    first = 5
    *_, fifth = itertools.islice(batch_indices(torch.arange(90), 8, seed=2), first)
    x[fifth[0]] = math.nan
    task = small_task(train=(x, y), batch_size=8)
    trained = train(task, CE, Training(seed=2, steps=30, curve=30))
    assert str(trained.status) == "diverged"
    assert trained.status.sentence == f"training loss became non-finite at step {first}"
    assert trained.steps == first
    assert trained.metrics == {}
    assert [step for step, _ in trained.curve] == list(range(1, first))
    assert trained.model is not None


def test_a_loss_that_blows_up_diverges() -> None:
    trained = train(small_task(), loss("taylor_evolved_2"), Training(seed=0, steps=30, lr_scale=1e30))
    assert trained.status.kind == "diverged"
    assert trained.steps < 30


def test_divergence_in_the_last_step_shows_in_the_outputs() -> None:
    trained = train(small_task(), CE, Training(seed=0, steps=1, lr_scale=1e39))  # a finite loss, then one giant step
    assert trained.status.kind == "diverged"
    assert trained.status.sentence == "the model's outputs on fitness are non-finite"
    assert trained.steps == 1


def test_a_metric_without_a_value_is_no_value() -> None:
    nothing = metrics.metric(lambda output, target: math.nan, direction="min", name="nothing")
    trained = train(small_task(metric=nothing), CE, Training(seed=0, steps=3))
    assert trained.status.sentence == "nothing on fitness is nan"
    assert trained.status.kind == "diverged"
    stopped = train(small_task(metric=nothing), CE, Training(seed=0, steps=3, chance=(2, 0.5)))
    assert (stopped.status.kind, stopped.steps) == ("diverged", 2)


def test_at_chance_is_stopped_and_better_is_not() -> None:
    task = small_task(steps=100, optimizer=SGD(lr=0.5))
    how = Training(seed=0, steps=40, chance=(10, 2 / 3))  # the best constant errs on 2 of 3 classes
    learned = train(task, CE, how)
    assert (learned.status.ok, learned.steps) == (True, 40)
    assert learned.metrics["fitness"] < 0.3
    against = train(task, Loss(Tree(parse("t*log(p)"))), how)  # learns to be wrong
    assert str(against.status) == "at_chance"
    assert against.steps == 10
    assert against.metrics == {}
    assert "at step 10 is no better than 0.6667 of a constant predictor" in against.status.sentence
    assert train(task, Loss(Tree(parse("t*log(p)"))), Training(seed=0, steps=9, chance=(10, 2 / 3))).status.ok


def test_at_chance_needs_two_standard_errors() -> None:
    def forward(model: nn.Module, batch: Any) -> Terms:
        x, y = batch
        z = model(x)
        if not model.training:  # right on 13 of 30 rows: a third by luck, and a bit more
            right = (torch.arange(len(y)) < 13)[:, None]
            z = torch.where(right, F.one_hot(y, 3), F.one_hot((y + 1) % 3, 3)).float()
        return Terms(z, y)

    task = small_task(forward=forward)
    # the error rate 17/30 has a standard error of √(p(1 − p)/29) = 0.0920
    for chance, kind in ((17 / 30 + 2 * 0.0921, "ok"), (17 / 30 + 2 * 0.0919, "at_chance")):
        assert train(task, CE, Training(seed=0, steps=5, chance=(3, chance))).status.kind == kind
    reverse = small_task(forward=forward, metric="accuracy")
    for chance, kind in ((13 / 30 - 2 * 0.0921, "ok"), (13 / 30 - 2 * 0.0919, "at_chance")):
        assert train(reverse, CE, Training(seed=0, steps=5, chance=(3, chance))).status.kind == kind


def test_one_row_to_judge_by_stops_nobody() -> None:
    task = small_task(valid=rows(1, 1))
    assert train(task, CE, Training(seed=0, steps=5, chance=(3, 0.0))).status.ok


def test_regression() -> None:
    x, _ = rows(90, 0)
    target = x[:, 0] - 2 * x[:, 1]
    task = small_task(
        model=lambda seed: nn.Linear(6, 1), train=(x, target), valid=(x[:30], target[:30]), selection=None, test=None,
        head="identity", optimizer=SGD(lr=0.02), steps=200,
    )  # fmt: skip
    trained = train(task, loss("mse", head="identity"), Training(seed=0, steps=200))
    assert trained.metrics["fitness"] < 1e-3


def test_images_in_channels_last_order_train_alike() -> None:
    def model(seed: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))

    def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, 2, 4, 4, generator=generator), torch.arange(count) % 3

    task = small_task(model=model, train=images(40, 0), valid=images(20, 1), selection=images(20, 2), test=None)
    start = parameters(task.build_model(0))
    plain, last = (train(task, CE, Training(seed=0, steps=10, channels_last=order)) for order in (False, True))
    assert last.model is not None
    assert last.model[0].weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[index]
    assert (parameters(plain.model) - start).norm() > 0.05
    torch.testing.assert_close(parameters(last.model), parameters(plain.model), rtol=1e-4, atol=1e-5)
