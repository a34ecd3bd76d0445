"""What both floors of tasks have in common: all that search, store and verdict need to know of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from lossmith.errors import TaskError
from lossmith.losses import Loss, Setting
from lossmith.losses.inputs import Head, head_name
from lossmith.tasks.metrics import Metric


class AnyTask(ABC):
    """A task: something to be learned, by which losses are judged.

    Attributes:
        floor: "A" (a training function) or "B" (the parts; Lossmith trains).
        name: for people.
        head: "softmax", "sigmoid", "identity" or a callable from output to prediction.
        metric: what is judged, with its direction.
        controls: names of the losses a verdict must beat; the first is the task loss.
        reference: text from which `resolve_task` builds the task again, or None.
        partial: steps of a partial training by default, or None.
    """

    floor: ClassVar[Literal["A", "B"]]
    name: str
    head: Head
    metric: Metric
    controls: tuple[str, ...]
    reference: str | None
    partial: int | None

    @property
    @abstractmethod
    def steps(self) -> int | None:
        """Steps of the full training; None where a training function keeps them to itself."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Number of outputs C of the base model."""

    @property
    @abstractmethod
    def hard_targets(self) -> bool:
        """Whether every target is a class (one-hot), not a soft or real value."""

    @abstractmethod
    def fresh(self, steps: int | None = None) -> AnyTask:
        """A copy with another number of full steps; the default partial training changes in proportion."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """JSON-able identity of the task; `["digest"]` is the hash of the rest. A run resumes only on an equal one."""

    @property
    def setting(self) -> Setting:
        """What decides which loss parameters can matter here."""
        return Setting(head_name(self.head), self.outputs, self.hard_targets)

    def task_loss(self) -> Loss:
        """The loss one would use without Lossmith: the first control, under the task's head."""
        from lossmith.losses.published import loss

        found = loss(self.controls[0], head=self.head)
        if not isinstance(found, Loss):
            raise TaskError(f"the control {self.controls[0]!r} is no single loss: name one, e.g. 'cross_entropy'.")
        return found


def check_controls(controls: object, head: Head, hard_targets: bool | None = None) -> tuple[str, ...]:
    """Names of control losses; None means the usual loss of the head.

    Raises:
        TaskError: no sequence of names, or an empty one.
    """
    if controls is None:
        regression = head == "identity" or (not isinstance(head, str) and hard_targets is False)
        return ("mse",) if regression else ("cross_entropy",)
    names = (controls,) if isinstance(controls, str) else controls
    if not isinstance(names, tuple | list) or not names or not all(isinstance(name, str) for name in names):
        raise TaskError(f'controls is {controls!r}: give the names of losses to beat, e.g. controls=["cross_entropy"].')
    return tuple(names)


def default_metric(head: Head) -> str:
    """The metric where none is given."""
    return "mse" if head == "identity" else "error_rate"
