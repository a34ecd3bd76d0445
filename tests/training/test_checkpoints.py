"""A training that is interrupted and taken up again ends with the bits of one that was not disturbed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_tasks import CLASSES, FEATURES, dropout_network, network, small_task
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lossmith.losses import Loss, LossSet, loss
from lossmith.losses.network import Network
from lossmith.losses.online_rule import OnlineRule
from lossmith.rng import stream
from lossmith.tasks import SGD, Adam, AdamW, Task, Terms, schedules
from lossmith.training import Trained, Training, keeping, loop, train
from lossmith.training.checkpoint_file import read_checkpoint
from lossmith.training.keeping import Place
from lossmith.training.steps import FiniteWatch

CE = loss("cross_entropy")
STEPS = 24


class Killed(BaseException):
    """In the place of SIGKILL."""


def normed_network(seed: int) -> nn.Module:
    head = [nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, CLASSES)]
    return nn.Sequential(nn.Linear(FEATURES, 8), spectral_norm(nn.Linear(8, 8)), *head)


class Tied(nn.Module):
    """Two layers that are one, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.out, self.fixed = nn.Linear(6, 6), nn.Linear(6, CLASSES), nn.Linear(6, 6)
        self.two = self.one
        self.fixed.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.two(torch.tanh(self.one(self.fixed(x))))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x[..., None])[0][:, -1])


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.norm(self.conv(x.reshape(-1, 2, 1, 3).repeat(1, 1, 2, 1)))).flatten(1))


def two_terms(model: nn.Module, batch: Any) -> tuple[Terms, ...]:
    x, y = batch
    return Terms(model(x), y), Terms(model(x + 0.1), y)


def made(model: type[nn.Module]) -> Callable[[int], nn.Module]:
    return lambda seed: model()


def by_schedule() -> Task:
    return small_task(steps=40, schedule=schedules.cosine(), optimizer=SGD(0.1, momentum=0.9), grad_clip=0.5)


TASKS: dict[str, Callable[[], Task]] = {
    "sgd": small_task,
    "dropout, momentum": lambda: small_task(model=dropout_network, optimizer=SGD(0.1, momentum=0.9, nesterov=True)),
    "batch norm, adam": lambda: small_task(model=normed_network, optimizer=Adam(0.01)),
    "dropout, adamw": lambda: small_task(model=dropout_network, optimizer=AdamW(0.01), batch_size=25),
    "amsgrad": lambda: small_task(optimizer=lambda p, lr: torch.optim.Adam(p, lr, amsgrad=True), lr=0.01),
    "adagrad": lambda: small_task(optimizer=torch.optim.Adagrad, lr=0.1),
    "averaged": lambda: small_task(optimizer=torch.optim.ASGD, lr=0.1),
    "tied and frozen": lambda: small_task(model=made(Tied), optimizer=SGD(0.1, momentum=0.5)),
    "recurrent": lambda: small_task(model=made(Recurrent), optimizer=Adam(0.01)),
    "schedule, clipping": by_schedule,
    "two terms": lambda: small_task(forward=two_terms, model=dropout_network),
}


def bits(trained: Trained) -> tuple[Any, ...]:
    assert trained.model is not None
    state = {k: v.clone() for k, v in trained.model.state_dict().items()}
    return trained.status, trained.steps, trained.metrics, trained.curve, [(k, v.tolist()) for k, v in state.items()]


def interrupted(task: Task, how: Training, place: Place, deaths: list[int], losses: Any = CE) -> tuple[Trained, int]:
    """A training that dies in each of these steps once, and how many steps were done in all."""
    done = 0
    for death in [*deaths, 0]:

        def on_step(step: int, death: int = death) -> None:
            nonlocal done
            done += 1
            if step == death:
                raise Killed

        try:
            return train(task, losses, how, on_step=on_step, place=place), done
        except Killed:
            continue
    raise AssertionError


@pytest.mark.parametrize("name", TASKS)
def test_deaths_leave_no_trace(tmp_path: Path, name: str) -> None:
    task = TASKS[name]()
    how = Training(seed=5, steps=STEPS, splits=("fitness", "test"), curve=4)
    losses = LossSet([CE, loss("brier")]) if name == "two terms" else CE
    place = Place(tmp_path / "training" / "x.safetensors", {"request": name}, every=0)
    undisturbed = bits(train(task, losses, how))
    assert undisturbed[1] == STEPS
    deaths = sorted(int(step) for step in stream(0, "deaths", name).choice(range(2, STEPS + 1), 4, replace=False))
    trained, done = interrupted(task, how, place, deaths, losses)
    assert bits(trained) == undisturbed
    assert done == STEPS + len(deaths)  # only the step they died in was done again
    again, done = interrupted(task, how, place, [], losses)  # its last step was stored, too
    assert (bits(again), done) == (undisturbed, 0)


def test_what_other_plans_ask_for(tmp_path: Path) -> None:
    task = small_task(model=made(Images), optimizer=SGD(0.1, momentum=0.9))
    for dtype in ("float32", "bfloat16"):
        how = Training(seed=1, steps=12, channels_last=True, dtype=dtype, data_fraction=0.5, lr_scale=2.0)
        place = Place(tmp_path / dtype, {}, every=0)
        trained, done = interrupted(task, how, place, [3, 9])
        assert bits(trained) == bits(train(task, CE, how))
        assert done == 14


def test_endings_are_the_same(tmp_path: Path) -> None:
    wild = small_task(schedule=lambda tau: 1.0 if tau < 0.4 else 1e30, optimizer=SGD(0.1, momentum=0.9))
    for task, losses, chance in ((wild, CE, None), (small_task(), loss("0*p"), (9, 0.67))):
        how = Training(seed=2, steps=STEPS, chance=chance)
        undisturbed = train(task, losses, how)
        assert undisturbed.status.kind == ("at_chance" if chance else "diverged")
        assert 8 < undisturbed.steps < STEPS
        place = Place(tmp_path / str(chance), {}, every=0)
        trained, done = interrupted(task, how, place, [3, 7], losses)
        assert bits(trained)[:4] == bits(undisturbed)[:4]
        assert done < undisturbed.steps + 2


class Counting(nn.Module):
    """Keeps what it has seen where no checkpoint can look for it."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.calls = network(0), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return self.net(x) * (1 + self.calls / 10)


class Restless(torch.optim.SGD):
    """Keeps the number of its steps in an attribute."""

    steps = 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.steps += 1
        self.param_groups[0]["lr"] = 0.1 / self.steps
        super().step()


@pytest.mark.parametrize(
    "task",
    [small_task(model=made(Counting)), small_task(optimizer=Restless, lr=0.1, schedule=schedules.constant())],
    ids=["model", "optimizer"],
)
def test_what_cannot_be_stored_has_no_checkpoints(tmp_path: Path, task: Task) -> None:
    how = Training(seed=0, steps=STEPS)
    place = Place(tmp_path / "x.safetensors", {}, every=0)
    trained, done = interrupted(task, how, place, [10])
    assert done == STEPS + 10
    assert bits(trained) == bits(train(task, CE, how))
    assert not place.path.exists()


def test_a_file_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    how = Training(seed=0, steps=STEPS)
    place = Place(tmp_path / "x.safetensors", {}, every=0)
    undisturbed = bits(train(small_task(), CE, how))
    for other in (small_task(model=normed_network), small_task(optimizer=Adam(0.01)), small_task(model=made(Tied))):
        place.path.unlink(missing_ok=True)
        interrupted(other, how, place, [])
        found = read_checkpoint(place.path, {})
        assert found is not None
        if other.recipe.optimizer != Adam(0.01):  # the model tells them apart; marks tell the rest
            trained, done = interrupted(small_task(), how, place, [])
            assert (bits(trained), done) == (undisturbed, STEPS)
    place.path.write_bytes(b"nonsense")
    trained, done = interrupted(small_task(), how, place, [])
    assert (bits(trained), done) == (undisturbed, STEPS)
    other_marks = Place(place.path, {"request": "another"}, every=0)
    trained, done = interrupted(small_task(), how, other_marks, [])
    assert (bits(trained), done) == (undisturbed, STEPS)


def test_a_loss_that_adapts_goes_on_adapting(tmp_path: Path) -> None:
    task = small_task(model=normed_network, optimizer=Adam(0.01))
    adaptive = Loss(Network.adalfl(stream(0, "phi")), online=OnlineRule(lr=1e-3))
    how = Training(seed=1, steps=STEPS)
    undisturbed = train(task, adaptive, how)
    trained, done = interrupted(task, how, Place(tmp_path / "x", {}, every=0), [5, 12, 13], adaptive)
    assert bits(trained) == bits(undisturbed)
    assert trained.product == undisturbed.product != ""
    assert done == STEPS + 3


def test_a_bad_loss_that_nobody_looked_at_yet_is_remembered() -> None:
    watch = FiniteWatch(torch.zeros(()), 100)
    watch._every = 64  # as on a GPU
    assert watch.non_finite(torch.tensor(torch.nan), 3) == []
    later = FiniteWatch(torch.zeros(()), 100)
    later._every = 64
    later.load(watch.state())
    assert later.non_finite(torch.tensor(1.0), 64) == [True]
    assert later.status(64).sentence == "training loss became non-finite by step 64"


def test_a_failing_disk_costs_nothing_but_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = Training(seed=0, steps=STEPS)
    undisturbed = bits(train(small_task(), CE, how))
    nowhere = Place(tmp_path / "gone" / "training" / "x.safetensors", {}, every=0)
    assert bits(train(small_task(), CE, how, place=nowhere)) == undisturbed
    assert not (tmp_path / "gone").exists()
    tries: list[Path] = []

    def full(path: Path, *_: object) -> None:
        tries.append(path)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keeping, "write_checkpoint", full)
    assert bits(train(small_task(), CE, how, place=Place(tmp_path / "x", {}, every=0))) == undisturbed
    assert len(tries) == STEPS  # there may be room the next time


def test_short_trainings_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[float] = []
    now = iter(range(0, 1000, 7))
    monkeypatch.setattr(keeping.time, "monotonic", lambda: looked.append(1.0) or float(next(now)))
    written: list[int] = []
    monkeypatch.setattr(keeping, "write_checkpoint", lambda path, contents, marks: written.append(run_done(contents)))
    train(small_task(), CE, Training(seed=0, steps=8), place=Place(tmp_path / "x"))
    assert not written
    train(small_task(), CE, Training(seed=0, steps=20), place=Place(tmp_path / "x"))
    assert written == [9, 18]  # 7 seconds between two looks at the clock, of which a checkpoint takes one


def run_done(contents: Any) -> int:
    pairs = dict((key[1], value) for key, value in contents.document["run"][1])
    json.dumps(contents.document)
    return int(pairs["done"][1])


def test_the_global_generator_is_left_as_it_was(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    how = Training(seed=0, steps=5)
    interrupted(small_task(model=dropout_network), how, Place(tmp_path / "x", {}, every=0), [3])
    assert torch.get_rng_state().equal(before)
    assert loop.train is train
