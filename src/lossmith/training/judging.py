"""What predictions say of the candidate whose model made them: a metric value, or a status with a reason."""

from __future__ import annotations

import math

from lossmith.errors import UsageError
from lossmith.records import OK, Split, Status
from lossmith.tasks import Task
from lossmith.training.prediction import Predictions


def measured(task: Task, seen: Predictions, split: Split) -> tuple[float, Status]:
    """The metric on a split, or NaN and why there is none."""
    if not seen.finite:
        return math.nan, Status("diverged", "", f"the model's outputs on {split} are non-finite")
    value = task.metric.value(seen.output, seen.target, seen.weight, head=task.head)
    if not math.isfinite(value):
        return math.nan, Status("diverged", "", f"{task.metric.name} on {split} is {value}")
    return value, OK


def judged_against_chance(task: Task, seen: Predictions, chance: float, step: int) -> Status:
    """`OK` where predictions on the fitness split are better than the metric value `chance` by two standard errors."""
    if not seen.finite:
        return Status("diverged", "", f"the model's outputs became non-finite by step {step}")
    value, error = task.metric.value_and_error(seen.output, seen.target, seen.weight, head=task.head)
    metric = task.metric
    if not math.isfinite(value):
        return Status("diverged", "", f"{metric.name} on fitness is {value} at step {step}")
    # Without a standard error (one row, say) nothing can be said: the training goes on.
    if not math.isfinite(error) or metric.fitness(value) < metric.fitness(chance) - 2 * error:
        return OK
    return Status(
        "at_chance",
        "",
        f"{metric.name} {value:.4g} at step {step} is no better than {chance:.4g} of a constant predictor",
    )


def crashed(error: BaseException) -> Status:
    """What an exception is to a candidate; Lossmith's own sentences stand alone."""
    where = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
    return Status("crashed", "", f"{where}{error}".strip()[:500])
