"""Floor A: a task given as a function that trains, whatever trains inside it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lossmith.errors import TaskError
from lossmith.losses.inputs import Head, head_name
from lossmith.records import OK, Split, Status
from lossmith.rng import torch_global_scope
from lossmith.tasks import metrics
from lossmith.tasks.base import AnyTask, check_controls, default_metric
from lossmith.tasks.ranges import check_number
from lossmith.tasks.trial import Trial, TrialStopped, as_number

PROBE_BUDGET = 1e-6  # next to nothing: a training that never meets the loss in this process should end soon


@dataclass(frozen=True)
class Outcome:
    """What came of one call of a training function.

    Args:
        status: `OK`, diverged (not finite) or at_chance (`trial.report` stopped it).
        value: the metric in its own direction, None unless the status is ok.
        reports: (step, value) pairs from `trial.report`.
    """

    status: Status
    value: float | None
    reports: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, init=False, eq=False, repr=False)
class FunctionTask(AnyTask):
    """A task that trains itself: `train(loss, trial) -> metric`. Built with `Task.from_function`.

    Args:
        train: called as `train(loss, trial)`; trains a fresh model with `loss` as `trial` (a `Trial`) says, and
            returns the metric on `trial.split`: a number, a tensor with one element, or a dict that holds the metric
            under its name. It runs with torch's global generator set from the seed.
        head: what the model's outputs mean to a loss: "softmax", "sigmoid", "identity", or a callable.
        metric: a name with a known direction, a `Metric`, or a pair `(name, "min" | "max")`.
        controls: names of losses a verdict must beat; None is cross_entropy, or mse for regression.
        name: for people; None is the function's name.
        chance: metric value that is no better than guessing, or `(value, after)`: `trial.report` stops a training
            which is no better at `after` of its steps or later (0.5 unless given).
        outputs: number of outputs C; None finds it by calling `train` once and stopping it at its first use of the
            loss.
        hard_targets: whether targets are classes; None finds it likewise (True where `outputs` is given, under
            identity False).
        reference: text from which `resolve_task` builds this task again, or None.
        steps: steps of the full training; only then whole numbers reported can be compared with `after`.
        partial: steps of a partial training by default, or None.

    Raises:
        TaskError: an argument that cannot serve.

    Example:
        >>> import lossmith as lm
        >>> def train(loss, trial):
        ...     return 0.5
        >>> lm.Task.from_function(train, outputs=10).run(lm.loss("baikal"), seed=0).value
        0.5
    """

    floor: ClassVar[Literal["A", "B"]] = "A"

    train: Callable[..., Any]
    head: Head
    metric: metrics.Metric
    controls: tuple[str, ...]
    name: str
    chance: float | None
    chance_after: float
    given_outputs: int | None
    given_hard_targets: bool | None
    reference: str | None
    given_steps: int | None
    partial: int | None

    def __init__(
        self,
        train: Callable[..., Any],
        *,
        head: Head = "softmax",
        metric: Any = None,
        controls: Sequence[str] | None = None,
        name: str | None = None,
        chance: float | tuple[float, float] | None = None,
        outputs: int | None = None,
        hard_targets: bool | None = None,
        reference: str | None = None,
        steps: int | None = None,
        partial: int | None = None,
    ) -> None:
        if not callable(train):
            raise TaskError(
                f"train is {type(train).__name__}: give a function train(loss, trial) that returns the metric."
            )
        head_name(head)
        value, after = chance if isinstance(chance, tuple) else (chance, 0.5)
        if value is not None:
            check_number("chance", value)
            check_number("the second part of chance", after, least=0, most=1)
        for field, number in (("outputs", outputs), ("steps", steps), ("partial", partial)):
            if number is not None:
                check_number(field, number, least=1, whole=True)
        parts = {
            "train": train,
            "head": head,
            "metric": _judged(default_metric(head) if metric is None else metric),
            "controls": check_controls(controls, head, hard_targets),
            "name": name or getattr(train, "__name__", type(train).__name__),
            "chance": value,
            "chance_after": after,
            "given_outputs": outputs,
            "given_hard_targets": hard_targets,
            "reference": reference,
            "given_steps": steps,
            "partial": partial,
        }
        for key, part in parts.items():
            object.__setattr__(self, key, part)

    @property
    def steps(self) -> int | None:
        """Steps of the full training, as given."""
        return self.given_steps

    @property
    def outputs(self) -> int:
        """Number of outputs C: as given, or found by calling `train` up to its first use of the loss."""
        return self._seen[0] if self.given_outputs is None else self.given_outputs

    @property
    def hard_targets(self) -> bool:
        """Whether targets are classes: as given, or seen at the first use of the loss."""
        if self.given_hard_targets is not None:
            return self.given_hard_targets
        if self.head == "identity":
            return False
        return True if self.given_outputs is not None else self._seen[1]

    @cached_property
    def _seen(self) -> tuple[int, bool]:
        spy = _Spy()
        try:
            with torch_global_scope(0, "train"):
                self.train(spy, self.trial(seed=0, budget=PROBE_BUDGET))
        except _Seen:
            pass
        except Exception as error:
            if spy.seen is None:
                raise TaskError(
                    f"train failed before its first use of the loss ({type(error).__name__}: {error}): repair it, then "
                    "try lm.testing.check_task(task)."
                ) from error
        if spy.seen is None:
            raise TaskError(
                f"train never called the loss in this process (at trial.budget = {PROBE_BUDGET}), so the number of "
                "outputs is unknown: call loss(output, target) in it, at least once at any budget, or give "
                "Task.from_function(..., outputs=C)."
            )
        return spy.seen

    def trial(
        self, *, seed: int, budget: float = 1.0, split: Split = "fitness", lr_scale: float = 1.0, device: str = "cpu"
    ) -> Trial:
        """A trial of this task, knowing its metric's direction, its chance level and its steps."""
        steps = None if self.steps is None else max(1, round(self.steps * budget))
        judged = {"direction": self.metric.direction, "chance": self.chance, "chance_after": self.chance_after}
        return Trial(seed, budget, split, lr_scale, device, steps, **judged)  # type: ignore[arg-type]

    def run(
        self,
        loss: nn.Module,
        *,
        seed: int,
        budget: float = 1.0,
        split: Split = "fitness",
        lr_scale: float = 1.0,
        device: str = "cpu",
    ) -> Outcome:
        """Call the function once and read what it returns.

        Raises:
            TaskError: what it returned is no metric. Exceptions of the function itself pass through.
        """
        trial = self.trial(seed=seed, budget=budget, split=split, lr_scale=lr_scale, device=device)
        with torch_global_scope(seed, "train", device=torch.device(device)):
            try:
                returned = self.train(loss, trial)
            except TrialStopped as stopped:
                return Outcome(stopped.status, None, tuple(trial.reports))
        value = self.read(returned)
        if not math.isfinite(value):
            sentence = f"the training function returned {self.metric.name} = {value}"
            return Outcome(Status("diverged", sentence=sentence), None, tuple(trial.reports))
        return Outcome(OK, value, tuple(trial.reports))

    def read(self, returned: object) -> float:
        """The metric in what the function returned.

        Raises:
            TaskError: there is none.
        """
        name = self.metric.name
        if returned is None:
            raise TaskError(
                f"the train function returned nothing: return the metric {name!r} on trial.split as a number."
            )
        if isinstance(returned, Mapping):
            if name not in returned:
                keys = ", ".join(sorted(map(repr, returned))) or "nothing"
                raise TaskError(
                    f"the train function returned a dict without {name!r} (it holds {keys}): add {name!r} to it."
                )
            returned = returned[name]
        number = as_number(returned)
        if number is None:
            shape = getattr(returned, "shape", None)
            shown = f"{type(returned).__name__} of shape {list(shape)}" if shape is not None else f"{returned!r:.60}"
            raise TaskError(f"the train function returned {shown}: return the metric {name!r} as one real number.")
        return number

    def replace(self, **parts: Any) -> FunctionTask:
        """A copy with other parts (names as in `Task.from_function`)."""
        options: dict[str, Any] = {
            "train": self.train,
            "head": self.head,
            "metric": self.metric,
            "controls": self.controls,
            "name": self.name,
            "chance": None if self.chance is None else (self.chance, self.chance_after),
            "outputs": self.given_outputs,
            "hard_targets": self.given_hard_targets,
            "reference": self.reference,
            "steps": self.steps,
            "partial": self.partial,
        }
        return FunctionTask(**{**options, **parts})

    def fresh(self, steps: int | None = None) -> FunctionTask:
        """A copy with another number of full steps, which the function reads from `trial.steps`."""
        if steps is None:
            return copy.copy(self)
        scaled = (
            None if self.partial is None or self.steps is None else max(1, round(self.partial * steps / self.steps))
        )
        return self.replace(steps=steps, partial=scaled)

    def fingerprint(self) -> dict[str, Any]:
        from lossmith.tasks.fingerprint import function_fingerprint

        return function_fingerprint(self)

    def __repr__(self) -> str:
        return f"FunctionTask({self.name!r}: {head_name(self.head)} head, {self.metric.name})"


class _Seen(BaseException):
    """Ends a training once the loss was called; no Exception, because a training loop may catch those and go on."""


class _Spy(nn.Module):
    """Stands in for a loss: notes what it is called with, and stops the training."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: tuple[int, bool] | None = None

    def forward(self, output: Tensor, target: Tensor, **_: object) -> Tensor:
        whole = not target.is_floating_point()
        self.seen = (output.shape[-1], whole or bool(((target == 0) | (target == 1)).all()))
        raise _Seen


def _judged(metric: Any) -> metrics.Metric:
    if isinstance(metric, tuple) and len(metric) == 2 and isinstance(metric[0], str):
        name, direction = metric
        if name not in metrics.METRICS:  # measured by the function itself: only name and direction matter
            return metrics.Metric(name, direction, _not_ours)
        return metrics.resolve(name, direction)
    return metrics.resolve(metric)


def _not_ours(output: Tensor, target: Tensor, weight: Tensor | None = None) -> float:
    raise TaskError("this metric is measured by the train function itself; Lossmith knows only its name and direction.")
