"""What one training costs under a plan: a chunk of sample trainings timed in this process."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lossmith.evaluation import Plan
from lossmith.evaluation.engine_measurement import chunk_seconds, sample_requests
from lossmith.evaluation.evaluate import steps_of
from lossmith.evaluation.several import members_with_plans
from lossmith.tasks import AnyTask, SeveralTasks, Task

PILOT_STEPS = 100
PILOT_SECONDS = 2.0  # of training in the pilot, where a step takes long; at least two steps are needed


@dataclass(frozen=True)
class TrainingCost:
    """Seconds of one worker per candidate: `per_step`, and `once` for building, measuring and the like."""

    per_step: float
    once: float = 0.0

    def of(self, steps: int) -> float:
        """A training of so many steps."""
        return self.once + steps * self.per_step


def training_cost(task: AnyTask, plan: Plan, at_once: int, loss: str = "") -> TrainingCost:
    """The cost of each of `at_once` trainings of one seed that make a chunk of the plan.

    Args:
        loss: canonical JSON of the loss that is timed; "" for sound published ones, which cost what most losses do.

    A training function of floor A is timed as it is: where its steps begin is not known. Of several tasks each is timed
    under its own plan; `of` then takes the steps of all.
    """
    full = steps_of(task, 1.0)
    if isinstance(task, SeveralTasks):
        pairs = members_with_plans(task, plan)
        costs = [training_cost(one, its, min(at_once, its.chunk), loss) for one, its in pairs]
        shares = [steps_of(one, 1.0) / full for one, _ in pairs]
        per_step = sum(share * cost.per_step for share, cost in zip(shares, costs, strict=True))
        return TrainingCost(per_step, sum(cost.once for cost in costs))

    def seconds(steps: int, *splits: str) -> float:
        requests = sample_requests(task, at_once, steps, splits=splits)
        if loss:
            requests = [replace(request, loss=loss) for request in requests]
        return chunk_seconds(task, plan, requests) / at_once

    if not isinstance(task, Task) or full < 2:
        steps = min(PILOT_STEPS, full)
        seconds(steps, "fitness")  # warming up
        return TrainingCost(seconds(steps, "fitness") / steps)
    seconds(2, "fitness")  # warming up
    once = seconds(1)
    rough = max(1e-9, seconds(2) - once)
    steps = max(2, min(full, PILOT_STEPS, round(PILOT_SECONDS / (rough * at_once))))
    per_step = max(0.0, seconds(steps) - once) / (steps - 1)
    return TrainingCost(per_step, max(0.0, seconds(1, "fitness") - per_step))
