"""The course of a training run, the same for one base model and for many: its start, its steps, when to look."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lossmith.records import Status
from lossmith.tasks import Task, Terms
from lossmith.training.batches import batch_indices
from lossmith.training.run_record import Training

FINITE_EVERY_ON_GPU = 64  # a look at the loss waits for the device; on the CPU it is free, so every step is looked at


class Step(NamedTuple):
    """One training step.

    Attributes:
        done: steps that are finished after it.
        rows: indices of the batch, [B].
        tau: training progress τ in [0, 1).
        factor: of the schedule on the learning rate.
    """

    done: int
    rows: Tensor
    tau: float
    factor: float


def initial_model(task: Task, how: Training) -> nn.Module:
    """θ0 on the task's device, in the plan's memory order."""
    model = task.build_model(how.seed)
    model.to(task.device)
    if how.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def steps_of(task: Task, how: Training, *, after: int = 0) -> Iterator[Step]:
    """The steps of a training run, without the first `after` of them."""
    recipe = task.recipe
    indices = batch_indices(task.train_rows(how.data_fraction, how.seed), recipe.batch_size, seed=how.seed)
    # A fraction of the data is a small copy of the whole training: its schedule is run to the end (DESIGN §4).
    horizon = task.steps if how.data_fraction == 1 else how.steps
    for step, rows in zip(range(how.steps), indices, strict=False):
        if step < after:
            continue
        tau = step / horizon
        yield Step(step + 1, rows, tau, recipe.schedule(tau))


def curve_points(how: Training) -> frozenset[int]:
    """After which steps the metric is measured."""
    return frozenset(round(how.steps * (i + 1) / how.curve) for i in range(how.curve))


class FiniteWatch:
    """Looks at training losses for values that are no number: at every step, or on a GPU now and then.

    Args:
        like: zeros in the shape of the losses, on their device. steps: of the training, the last of which is looked at.
    """

    def __init__(self, like: Tensor, steps: int) -> None:
        self._every = 1 if like.device.type == "cpu" else FINITE_EVERY_ON_GPU
        self._steps = steps
        self._suspect = like

    def non_finite(self, values: Tensor, done: int) -> list[bool]:
        """Which of the losses of step number `done` or, where it was not looked at them, of those before are bad."""
        if self._every > 1:
            self._suspect = self._suspect + values * 0  # NaN sticks to a sum, so one look covers many steps
            if done % self._every and done != self._steps:
                return []
            values = self._suspect
        found = values.tolist()
        return [not math.isfinite(value) for value in (found if isinstance(found, list) else [found])]

    def status(self, done: int) -> Status:
        """What a candidate is whose loss at step number `done` was found bad."""
        when = f"{'at' if self._every == 1 else 'by'} step {done}"
        return Status("diverged", "", f"training loss became non-finite {when}")

    def state(self) -> Tensor:
        """What a checkpoint needs of it, in the shape of the losses."""
        return self._suspect

    def load(self, state: Tensor) -> None:
        """Go on from what `state` returned."""
        self._suspect = state

    def keep(self, places: Tensor) -> None:
        """Go on with the losses at these places only."""
        self._suspect = self._suspect[places]


def through_deltas(terms: Sequence[Terms], value_and_delta: Callable[[int, Terms], tuple[Tensor, Tensor]]) -> Tensor:
    """The sum of the losses of all Terms; the network is back-propagated from their own derivatives.

    Args:
        terms: of a forward pass, with its graph.
        value_and_delta: (position, Terms) → loss, and ∂loss/∂output in the shape of the output.
    """
    outputs: list[Tensor] = []
    deltas: list[Tensor] = []
    total: Tensor | None = None
    for position, term in enumerate(terms):
        value, delta = value_and_delta(position, term)
        total = value if total is None else total + value
        if term.output.requires_grad:  # a term that no parameter reaches counts in the sum only
            outputs.append(term.output)
            deltas.append(delta)
    assert total is not None
    torch.autograd.backward(outputs, deltas)
    return total
