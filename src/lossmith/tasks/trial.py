"""What a training function of floor A is told, and how it talks back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from lossmith.errors import TaskError
from lossmith.records import Split, Status
from lossmith.tasks.ranges import check_number


class TrialStopped(Exception):
    """`trial.report` found a training hopeless. Let it pass: Lossmith records its status. It is no error."""

    def __init__(self, status: Status) -> None:
        self.status = status
        super().__init__(status)

    def __str__(self) -> str:
        return self.status.sentence


@dataclass(frozen=True)
class Trial:
    """One training that a function of floor A is asked for.

    Args:
        seed: of everything random: initial weights, batches, dropout. Equal seeds must mean equal starting conditions.
        budget: fraction of the full training to do, in (0, 1].
        split: where the returned metric is measured: "fitness", "selection" or "test".
        lr_scale: factor on your learning rate, 1 as a rule.
        device: where to train, e.g. "cpu" or "cuda:0".
        steps: optimiser steps to do, if the task was told its full number of steps; otherwise None.
        direction: of the metric, "min" or "max".
        chance: metric value that is no better than guessing, or None.
        chance_after: fraction of this trial's training before which `chance` is not looked at.
        reports: (step, value) pairs reported so far.
    """

    seed: int
    budget: float = 1.0
    split: Split = "fitness"
    lr_scale: float = 1.0
    device: str = "cpu"
    steps: int | None = None
    direction: Literal["min", "max"] = "min"
    chance: float | None = None
    chance_after: float = 0.5
    reports: list[tuple[float, float]] = field(default_factory=list, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_number("Trial.seed", self.seed, least=0, whole=True)
        check_number("Trial.budget", self.budget, above=0, most=1)
        check_number("Trial.lr_scale", self.lr_scale, above=0)
        if self.split not in ("fitness", "selection", "test"):
            raise TaskError(f"Trial.split is {self.split!r}: it must be 'fitness', 'selection' or 'test'.")

    def report(self, step: float, value: object) -> None:
        """Tell how the training goes; a hopeless one is stopped here.

        Args:
            step: optimiser steps done (whole numbers), or the fraction of this trial done (a float in [0, 1]). Whole
                numbers can be compared with `chance_after` only if the task knows its `steps`.
            value: the metric on some judging rows, or any number that is finite while training is healthy if the task
                has no `chance`.

        Raises:
            TrialStopped: value is not finite; or, at `chance_after` of the training or later, no better than chance.
        """
        number = as_number(value)
        if number is None:
            raise TaskError(f"trial.report got {type(value).__name__} as value: report a number, e.g. loss.item().")
        if not math.isfinite(number):
            raise TrialStopped(Status("diverged", sentence=f"the reported value became {number} at step {step}"))
        self.reports.append((step, number))
        done = self._done(step)
        if self.chance is None or done is None or done < self.chance_after:
            return
        better = number < self.chance if self.direction == "min" else number > self.chance
        if not better:
            sentence = f"{number:.4g} at step {step} is no better than chance ({self.chance:.4g})"
            raise TrialStopped(Status("at_chance", sentence=sentence))

    def _done(self, step: float) -> float | None:
        """Fraction of this trial done, None if it cannot be told."""
        if isinstance(step, float) and 0 <= step <= 1:
            return step
        return None if self.steps is None else step / self.steps


def as_number(value: object) -> float | None:
    """A real number given as a number, a numpy scalar, or a tensor or array with one element; otherwise None."""
    if isinstance(value, bool | str | bytes | complex) or value is None:
        return None
    if getattr(value, "ndim", 0) != 0 and getattr(value, "size", None) != 1:
        numel = getattr(value, "numel", None)
        if numel is None or numel() != 1:
            return None
    item = getattr(value, "item", None)
    scalar = item() if callable(item) else value
    if isinstance(scalar, bool | complex | str):
        return None
    try:
        return float(scalar)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
