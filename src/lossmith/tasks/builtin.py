"""The built-in tasks (DESIGN §6): small real problems whose numbers can be compared with the published ones.

Splits are stratified, seeded (seed 0) and share no row:

| data | train | fitness | selection | test |
|---|---|---|---|---|
| digits (1,797 rows) | 50 % | 15 % | 15 % | 20 % |
| diabetes (442 rows) | 50 % | 15 % | 15 % | 20 % |
| California housing (20,640 rows) | 60 % | 10 % | 10 % | 20 % |
| MNIST, Fashion-MNIST | 55,000 | 2,500 | 2,500 | the official 10,000 |
| CIFAR-10 | 45,000 | 2,500 | 2,500 | the official 10,000 |

Inputs: digits, MNIST and Fashion-MNIST pixels in [0, 1] (digits upsampled to 28×28, bilinear, for LeNet-5); CIFAR-10
standardised per channel, no augmentation; tables and their target standardised; all statistics are those of train.

`sine/mlp` is made here, not read (`tasks.sine`): 100 points of train, which are those of fitness, too, and 100 others
each of selection and test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

from torch import nn

from lossmith.errors import TaskError, UnknownNameError
from lossmith.tasks import datasets
from lossmith.tasks.modifiers import parse_modifiers
from lossmith.tasks.optimizers import SGD
from lossmith.tasks.prepare import (
    Scale,
    Shares,
    Splits,
    colour_images,
    divide,
    flat_digits,
    grey_images,
    in_memory,
    standardised,
    upsampled_digits,
)
from lossmith.tasks.recipe import Recipe
from lossmith.tasks.references import split_references, take_wave
from lossmith.tasks.schedules import step
from lossmith.tasks.sine import POINTS, sine_splits
from lossmith.tasks.task import Task
from lossmith.tasks.zoo import lenet5, mlp, mnist_cnn, preresnet20


@dataclass(frozen=True)
class Network:
    """A network of the zoo as a function of a seed; plain data, so it pickles and prints."""

    build: Callable[..., nn.Module]
    arguments: tuple[Any, ...] = ()

    def __call__(self, seed: int) -> nn.Module:
        return self.build(*self.arguments)


@dataclass(frozen=True)
class BuiltIn:
    """One row of the catalogue.

    Args:
        name: "data/network".
        data: name of the data set (`tasks.datasets`), or of what is made.
        network: for people.
        model: what builds it.
        recipe: the full training.
        partial: steps of a partial training.
        shares: rows of each split.
        scale: what is done to inputs and targets.
        kind: classes or values.
        made: makes the splits, of the task itself (None) or of a member of its family; shares and scale do not count.
            Fitness then has the rows of train, and no training is stopped at chance. None: they are read.
    """

    name: str
    data: str
    network: str
    model: Network
    recipe: Recipe
    partial: int
    shares: Shares | None = None
    scale: Scale | None = None
    kind: Literal["classes", "values"] = "classes"
    made: Callable[[int | None], Splits] | None = None

    @property
    def optimizer(self) -> str:
        """Optimiser, schedule and batch, for people."""
        schedule = "" if self.recipe.schedule == Recipe(1).schedule else f", {self.recipe.schedule!r}"
        return f"{self.recipe.optimizer!r}{schedule}, batch {self.recipe.batch_size}"

    def build(self, data_dir: str | PathLike[str] | None = None, *, wave: int | None = None) -> Task:
        """Load or make the data, of a member of the task's family where `wave` names one, and make the task."""
        if self.made is None:
            assert self.scale is not None
            assert self.shares is not None
            data = in_memory(self.scale(divide(datasets.load(self.data, data_dir=data_dir), self.shares)))
        else:
            data = in_memory(self.made(wave))
        name = self.name if wave is None else f"{self.name}@wave={wave}"
        return Task(
            model=self.model,
            train=data["train"],
            valid=data["fitness"],
            selection=data["selection"],
            test=data.get("test"),
            head="softmax" if self.kind == "classes" else "identity",
            metric="error_rate" if self.kind == "classes" else "mse",
            recipe=self.recipe,
            name=name,
            reference=name,
            partial=self.partial,
            same_rows=self.made is not None,
            stop_at_chance=self.made is None,
        )


_SMALL = Shares(0.15, 0.15, 0.2)
_OFFICIAL = Shares(2500, 2500)
_NESTEROV = SGD(0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
_LENET = Network(lenet5, (1, 10))
_CONV = "conv 5×5×32, pool, conv 5×5×64, pool, 1024, dropout 0.4, 10"

TASKS: dict[str, BuiltIn] = {
    built.name: built
    for built in (
        BuiltIn(
            "digits/mlp",
            "digits",
            "64-256-10",
            Network(mlp, ((64, 256, 10),)),
            Recipe(3_000),
            500,
            _SMALL,
            flat_digits,
        ),
        BuiltIn(
            "digits/mlp2",
            "digits",
            "64-256-256-10",
            Network(mlp, ((64, 256, 256, 10),)),
            Recipe(3_000),
            500,
            _SMALL,
            flat_digits,
        ),
        BuiltIn("digits/lenet5", "digits", "LeNet-5, 28×28", _LENET, Recipe(3_000), 500, _SMALL, upsampled_digits),
        BuiltIn(
            "diabetes/mlp",
            "diabetes",
            "10-64-64-1",
            Network(mlp, ((10, 64, 64, 1),)),
            Recipe(3_000, optimizer=_NESTEROV),
            500,
            _SMALL,
            standardised,
            "values",
        ),
        BuiltIn(
            "california/mlp",
            "california",
            "8-128-128-1",
            Network(mlp, ((8, 128, 128, 1),)),
            Recipe(10_000, optimizer=_NESTEROV),
            500,
            Shares(0.1, 0.1, 0.2),
            standardised,
            "values",
        ),
        BuiltIn(
            "sine/mlp",
            "sine",
            "1-100-10-1",
            Network(mlp, ((1, 100, 10, 1),)),
            Recipe(100, POINTS, SGD(1e-3)),
            100,
            kind="values",
            made=sine_splits,
        ),
        BuiltIn("mnist/cnn", "mnist", _CONV, Network(mnist_cnn), Recipe(20_000, 100), 2_000, _OFFICIAL, grey_images),
        BuiltIn("mnist/lenet5", "mnist", "LeNet-5", _LENET, Recipe(10_000), 500, _OFFICIAL, grey_images),
        BuiltIn(
            "fashion_mnist/lenet5", "fashion_mnist", "LeNet-5", _LENET, Recipe(10_000), 500, _OFFICIAL, grey_images
        ),
        BuiltIn(
            "cifar10/preresnet20",
            "cifar10",
            "PreResNet-20",
            Network(preresnet20, (10,)),
            Recipe(78_000, optimizer=SGD(0.1, momentum=0.9, weight_decay=1e-4), schedule=step((0.5, 0.75), 0.1)),
            7_800,
            _OFFICIAL,
            colour_images,
        ),
    )
}


def task(reference: str, *, data_dir: str | PathLike[str] | None = None, steps: int | None = None) -> Task:
    """A built-in task, e.g. "digits/mlp" or "digits/mlp@noise=0.4".

    Args:
        reference: a name of `TASKS`, followed by data modifiers if you like (`tasks.modifiers`); `sine/mlp@wave=3` is
            a member of a family (`tasks.sine`).
        data_dir: where data files are; None is the environment's LOSSMITH_DATA, then the download cache.
        steps: steps of the full training instead of the task's own; the default partial training changes in proportion.

    Raises:
        UnknownNameError: no such task or modifier.
        SpecError: a modifier's value is malformed or out of range.
        DataMissingError: its data is not on this machine.
        TaskError: steps is no positive whole number; the text names several tasks.
    """
    names = split_references(reference)
    if len(names) > 1:
        raise TaskError(
            f"{reference!r} names {len(names)} tasks: give this text where a task is expected, e.g. lm.search(method, "
            f"{reference!r}), or lm.SeveralTasks([lm.task({names[0]!r}), …])."
        )
    name, at, modifiers = reference.strip().partition("@")
    if name not in TASKS:
        raise UnknownNameError("task", name, TASKS, listing="lossmith tasks")
    wave = None
    if at:
        wave, modifiers = take_wave(name, modifiers, waves=TASKS[name].made is not None)
        if modifiers or wave is None:
            parse_modifiers(modifiers)  # before loading data, so that a slip is told at once
    built = TASKS[name].build(data_dir, wave=wave)
    built = built.modified(modifiers) if modifiers else built
    return built if steps is None else built.fresh(steps=steps)
