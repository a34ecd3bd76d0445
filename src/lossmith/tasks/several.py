"""Several tasks as one: a loss is judged by how it does on all of them.

A training on several tasks is one training on each; its metric on a split is the mean of theirs, its steps are their
sum, and it has failed where one has. Meta-gradients are averaged likewise (`training.unroll`).

Losses are elementwise, so the number of outputs may differ from task to task; head, kind of targets, metric and task
loss may not, because one loss and one mean have to make sense everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lossmith.errors import TaskError
from lossmith.losses.inputs import Head
from lossmith.tasks.base import AnyTask
from lossmith.tasks.fingerprint import describe_head, several_fingerprint
from lossmith.tasks.function import FunctionTask
from lossmith.tasks.metrics import Metric
from lossmith.tasks.task import Task

NAMES = 4  # of tasks in a name; more are counted


@dataclass(frozen=True, init=False, eq=False, repr=False)
class SeveralTasks(AnyTask):
    """Tasks that one loss is searched, tuned or judged on together, each counting the same.

    Where the number of outputs differs, `outputs` is the largest: what decides whether two losses are the same one
    (ALGORITHMS §2) is finest there, and a rule that depends on C (the invariant) is applied there only.

    Args:
        tasks: two or more, of either floor; the tasks of a member that is itself several take its place.
        name: for people; None is their names: "a + b".
        reference: text from which `resolve_task` builds them again; None is their references: "a,b".

    Raises:
        TaskError: fewer than two, one given twice, or some that do not go together.

    Example:
        >>> import lossmith as lm
        >>> both = lm.SeveralTasks([lm.task("digits/mlp"), lm.task("digits/mlp2")])
        >>> both.name, both.steps, both.reference
        ('digits/mlp + digits/mlp2', 6000, 'digits/mlp,digits/mlp2')
    """

    floor: ClassVar[Literal["A", "B"]] = "B"

    tasks: tuple[AnyTask, ...]
    name: str
    head: Head
    metric: Metric
    controls: tuple[str, ...]
    reference: str | None
    partial: int | None

    def __init__(self, tasks: Sequence[AnyTask], *, name: str | None = None, reference: str | None = None) -> None:
        parts = tuple(one for task in _checked(tasks) for one in members_of(task))
        first = parts[0]
        for other in parts[1:]:
            _check_alike(first, other)
        controls = _common_controls(parts)
        digests = [one.fingerprint()["digest"] for one in parts]
        for place, digest in enumerate(digests):
            if digest in digests[:place]:
                raise TaskError(f"the task {parts[place].name!r} is given twice: each counts the same, give it once.")
        references = [one.reference for one in parts]
        if reference is None and all(references):
            reference = ",".join(str(one) for one in references)
        partials = [one.partial for one in parts]
        values = {
            "tasks": parts,
            "name": _joined([one.name for one in parts]) if name is None else name,
            "head": first.head,
            "metric": first.metric,
            "controls": controls,
            "reference": reference,
            "partial": None if None in partials else sum(partial or 0 for partial in partials),
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)

    @property
    def steps(self) -> int | None:
        """Steps of the full training on all of them; None where one keeps them to itself."""
        each = [one.steps for one in self.tasks]
        return None if None in each else sum(steps or 0 for steps in each)

    @property
    def outputs(self) -> int:
        """The largest number of outputs C."""
        return max(one.outputs for one in self.tasks)

    @property
    def hard_targets(self) -> bool:
        """Whether every target is a class."""
        return self.tasks[0].hard_targets

    def fresh(self, steps: int | Sequence[int] | None = None) -> SeveralTasks:
        """A copy in which every task has another number of full steps.

        Args:
            steps: for each of them, in order, or one number for all; None leaves them as they are.

        Raises:
            TaskError: not as many numbers as tasks.
        """
        each = [steps] * len(self.tasks) if steps is None or isinstance(steps, int) else list(steps)
        if len(each) != len(self.tasks):
            raise TaskError(f"{len(each)} numbers of steps for {len(self.tasks)} tasks: give one for each, or one.")
        tasks = [one.fresh(steps=count) for one, count in zip(self.tasks, each, strict=True)]
        return SeveralTasks(tasks, name=self.name, reference=self.reference)

    def fingerprint(self) -> dict[str, Any]:
        return several_fingerprint(self)

    def __repr__(self) -> str:
        return f"SeveralTasks({', '.join(map(repr, self.tasks))})"


def members_of(task: AnyTask) -> tuple[AnyTask, ...]:
    """The tasks of several, or the one itself."""
    return task.tasks if isinstance(task, SeveralTasks) else (task,)


def all_parts(task: AnyTask) -> bool:
    """Whether a task, or each of several, is given by its parts, so that Lossmith trains it."""
    return all(isinstance(one, Task) for one in members_of(task))


def _checked(tasks: object) -> Sequence[AnyTask]:
    if isinstance(tasks, AnyTask | str) or not isinstance(tasks, Sequence):
        raise TaskError(f"tasks is {type(tasks).__name__}: give several in a list, lm.SeveralTasks([task1, task2]).")
    for one in tasks:
        if not isinstance(one, Task | FunctionTask | SeveralTasks):
            raise TaskError(f"{one!r:.60} is no task: give lm.task('digits/mlp'), lm.Task(...) or Task.from_function.")
    if len(tasks) < 2 and not (tasks and isinstance(tasks[0], SeveralTasks)):
        raise TaskError(f"several tasks are two or more, not {len(tasks)}: give a single one as it is.")
    return tasks


def _check_alike(first: AnyTask, other: AnyTask) -> None:
    """TaskError unless one loss, one metric and one mean make sense on both."""

    def refuse(what: str, of: list[str], why: str) -> None:
        if of[0] != of[1]:
            raise TaskError(
                f"{first.name} and {other.name} do not go together: their {what} are {of[0]} and {of[1]}; {why}, so "
                "search on each alone."
            )

    both = (first, other)
    refuse("heads", [describe_head(one.head) for one in both], "a loss has one head")
    kinds = ["classes" if one.hard_targets else "soft or real values" for one in both]
    refuse("targets", kinds, "which parameters of a loss can matter depends on them")
    refuse("metrics", [f"{one.metric.name} ({one.metric.direction})" for one in both], "a mean needs one metric")


def _common_controls(tasks: Sequence[AnyTask]) -> tuple[str, ...]:
    """The controls that all have, in the order of the first; the first of each must be the same."""
    first = tasks[0]
    for other in tasks[1:]:
        if other.controls[0] != first.controls[0]:
            raise TaskError(
                f"{first.name} and {other.name} do not go together: their task losses (the first of their controls) "
                f"are {first.controls[0]} and {other.controls[0]}; give them the same first control."
            )
    return tuple(name for name in first.controls if all(name in other.controls for other in tasks))


def _joined(names: Sequence[str]) -> str:
    shown = " + ".join(names[:NAMES])
    return shown if len(names) <= NAMES else f"{shown} + {len(names) - NAMES} more"


def mean(values: Sequence[float]) -> float:
    """The mean, exactly rounded, so that it does not depend on the order of the tasks."""
    return math.fsum(values) / len(values)
