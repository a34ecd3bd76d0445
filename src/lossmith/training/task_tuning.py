"""One task of a tuning: what it draws, the road its meta-gradients take, and the mean over several tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lossmith.errors import TaskError, UsageError
from lossmith.losses import Loss, LossSet
from lossmith.records import Tuning
from lossmith.rng import derive_seed
from lossmith.tasks import SGD, AnyTask, Task
from lossmith.training.draws import drawn_once
from lossmith.training.functional_sgd import Descent
from lossmith.training.meta_adam import Vector
from lossmith.training.meta_gradient import MetaGradient, Unroll, draw
from lossmith.training.roads import choose_road, meta_gradients
from lossmith.training.tunable import Tunable
from lossmith.training.tuned_for import tuned_for
from lossmith.training.unroll_memory import UnrollMemory, fitting_chunk, unroll_memory

Found = Mapping[int, MetaGradient]


@dataclass(frozen=True)
class TaskTuning:
    """A task as the meta-steps of a tuning see it.

    Args:
        how: meta-gradients are computed. candidates: their losses as this task completes them.
        seed: names what is drawn. fresh: θ starts anew every so many meta-steps.
        measured: memory of the unroll, None where it does not grow with K.
    """

    how: Unroll
    candidates: tuple[Tunable, ...]
    seed: int
    fresh: int = 1
    measured: UnrollMemory | None = None

    @classmethod
    def of(
        cls,
        task: Task,
        losses: Sequence[Loss | LossSet],
        tuning: Tuning,
        *,
        seed: int,
        dtype: str = "float32",
        memory: int | None = None,
    ) -> TaskTuning:
        """With the road for these losses.

        Args:
            memory: bytes that are free, or None: the unroll is not compared with them.

        Raises:
            TaskError: the model has no second derivative, the task loss no gradient; the unroll does not fit.
        """
        how = Unroll(
            task,
            tuned_for(task, tuning.task_loss),
            descent_of(task),
            tuning.unroll_length,
            truncation=tuning.truncation,
            implicit=tuning.implicit,
            carried=None if tuning.reinitialise == 1 else {},
        )
        candidates = tuple(Tunable.of(loss, task) for loss in losses)
        trial = draw(task, seed, 0, 2)  # a road is tried, and memory measured, by no more steps
        how = replace(how, road=choose_road(how, trial, len(losses)))
        measured: UnrollMemory | None = None
        if tuning.grows:
            measured = unroll_memory(how, trial, max(candidates, key=lambda one: len(one.phi)))
            how = replace(how, road=replace(how.road, chunk=fitting_chunk(how, measured, memory)))
        how = replace(how, chunks=how.road.chunks(len(losses)), dtype=dtype)
        return cls(how, candidates, seed, tuning.reinitialise, measured)

    def meta_gradients(self, meta_step: int, phis: Sequence[Vector], left: Sequence[int]) -> Found:
        """Those of the candidates that are left, and of who shares a chunk with them.

        Args:
            meta_step: its number from the very beginning of the tuning on. phis: of all candidates.
        """
        if self.how.carried is not None and meta_step % self.fresh == 0:
            self.how.carried.clear()
        # A chunk stays as it is until none of its candidates is left: in another company the others would round
        # differently.
        chunks = tuple(chunk for chunk in self.how.chunks if any(i in left for i in chunk))
        # The road of explicit matrices writes to nothing; other networks may keep something in their buffers.
        drawing = drawn_once if self.how.road.kind == "layers" else draw
        drawn = drawing(self.how.task, self.seed, meta_step, self.how.length)
        return meta_gradients(replace(self.how, chunks=chunks), drawn, self.candidates, phis)

    @property
    def bytes(self) -> int:
        """That an unroll may take per candidate, 0 where they do not grow with K."""
        return self.measured.needed(self.how.length, self.how.truncation) if self.measured is not None else 0

    def describe(self) -> str:
        """By which road, for people."""
        how = self.how
        means = "implicit" if how.implicit is not None else "closed form" if how.closed else "unrolled"
        cut = f" through the last {how.truncation} of {how.length} steps" if how.truncation else ""
        halved = " in bfloat16" if how.dtype == "bfloat16" and how.road.kind == "layers" else ""
        return f"{means}{cut}, {how.road}{halved}"


def seed_of(seed: int, position: int) -> int:
    """The seed of a task by its place: the first draws what it would draw alone."""
    return derive_seed(seed, "task", position) if position else seed


def mean_over_tasks(found: Sequence[Found]) -> Found:
    """The mean of meta-gradients and task losses over tasks, of every candidate that all of them have."""
    if len(found) == 1:
        return found[0]
    shared = [i for i in found[0] if all(i in other for other in found)]
    return {i: _mean([one[i] for one in found]) for i in shared}


def _mean(parts: Sequence[MetaGradient]) -> MetaGradient:
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at
        gradient = np.mean([part.gradient for part in parts], axis=0)
        value, inner = (float(np.mean([getattr(part, name) for part in parts])) for name in ("value", "inner"))
    return MetaGradient(value, inner, gradient, "; ".join(dict.fromkeys(part.note for part in parts if part.note)))


def tunable_task(task: AnyTask) -> Task:
    """The task itself, if one can differentiate through its training.

    Raises:
        UsageError: a training function. TaskError: no fitness rows.
    """
    if not isinstance(task, Task):
        raise UsageError(
            f"tuning differentiates through training and so needs the parts of a task, but {task.name!r} is a training "
            "function: give lm.Task(model=..., train=..., recipe=...), or use a method that trains candidates as they "
            "are: taylorglo, random or gplfl."
        )
    if "fitness" not in task.data or not len(task.data["fitness"]):
        raise TaskError(
            "tuning takes the task loss on fitness rows, and the task has none: give Task(..., valid=...), whose rows "
            "become the fitness and selection splits."
        )
    return task


def descent_of(task: Task) -> Descent:
    """The base model's step.

    Raises:
        TaskError: not one of lm.SGD.
    """
    recipe = task.recipe
    if not isinstance(recipe.optimizer, SGD):
        raise TaskError(
            f"tuning differentiates through the steps of lm.SGD, and the recipe's optimizer is "
            f"{recipe.optimizer!r:.80}: give Recipe(optimizer=lm.SGD(lr=0.01)), or use a method that trains candidates "
            "as they are: taylorglo, random or gplfl."
        )
    return Descent(recipe.optimizer, recipe.base_lr * (recipe.schedule(0.0) or 1.0), recipe.grad_clip)
