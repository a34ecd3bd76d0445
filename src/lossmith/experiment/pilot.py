"""The pilot: the task loss, once, before anything is created on disk.

It finds out three things: that the task works, how long a step takes, and from which step on a candidate can be said to
be at chance (no earlier than the task loss itself has left it, DESIGN §5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lossmith.errors import TaskError
from lossmith.evaluation import Plan, evaluate, seed_block
from lossmith.evaluation.evaluate import CHANCE_BUDGET
from lossmith.evaluation.several import members_with_plans
from lossmith.losses import to_json
from lossmith.records import Request
from lossmith.tasks import AnyTask, SeveralTasks, Task, supervised
from lossmith.tasks.metrics import best_constant
from lossmith.tasks.several import mean
from lossmith.testing import check_task
from lossmith.training import predict

POINTS = 20
MARGIN = 2


@dataclass(frozen=True)
class Pilot:
    """What the pilot found.

    Args:
        value: metric of the task loss on the fitness split after the pilot's training.
        steps, seconds: how much was trained and how long it took on one worker.
        chance_step: see `Plan`. chance_value: metric of the best constant predictor.
        members: the pilot of each task, where there are several; steps and seconds are then the sum of theirs, the
            value their mean.
    """

    value: float
    steps: int
    seconds: float
    chance_step: int
    chance_value: float
    members: tuple[Pilot, ...] = ()

    def into(self, plan: Plan) -> Plan:
        """The plan with the pilot's rule for stopping at chance; on several tasks each has its own."""
        if self.members:
            each = zip(self.members, plan.members, strict=True)
            return replace(plan, members=tuple(pilot.into(its) for pilot, its in each))
        return replace(plan, chance_step=self.chance_step, chance_value=self.chance_value)


def run_pilot(task: AnyTask, plan: Plan, *, budget: float, data_fraction: float = 1.0, seed: int = 0) -> Pilot:
    """Train the task loss with the effort of one candidate.

    Raises:
        TaskError: the task is not sound, or its own loss fails on it.
    """
    if isinstance(task, SeveralTasks):
        how = {"budget": budget, "data_fraction": data_fraction}
        pilots = [run_pilot(one, its, **how, seed=seed) for one, its in members_with_plans(task, plan)]
        steps, seconds = sum(one.steps for one in pilots), sum(one.seconds for one in pilots)
        return Pilot(mean([one.value for one in pilots]), steps, seconds, 0, 0.0, tuple(pilots))
    check_task(task)
    (first,) = seed_block(seed, "pilot", 1)
    loss = to_json(task.task_loss())
    points = POINTS if isinstance(task, Task) else 0
    done = evaluate(task, Request(loss, first, budget, data_fraction=data_fraction, curve=points), plan)
    if not done.status.ok:
        raise TaskError(
            f"the task loss {task.controls[0]} fails on task {task.name!r} "
            f"({done.status.kind}: {done.status.sentence}): "
            f"correct the recipe (learning rate, steps) or the data before searching for another loss."
        )
    value = done.metrics["fitness"]
    if not isinstance(task, Task) or not task.stop_at_chance:
        return Pilot(value, done.steps, done.seconds, 0, 0.0)
    constant, error = _constant(task)
    bar = task.metric.fitness(constant) - 2 * error
    at_chance = [step for step, seen in done.curve if task.metric.fitness(seen) >= bar]
    later = [step for step, _ in done.curve if step > max(at_chance, default=0)]
    # Twice the step from which the task loss has left chance for good: other seeds, and sound losses that take smaller
    # steps, are slower than this one training.
    step = max(math.ceil(CHANCE_BUDGET * done.steps), MARGIN * later[0]) if later else 0
    return Pilot(value, done.steps, done.seconds, step if step < done.steps else 0, constant)


def _constant(task: Task) -> tuple[float, float]:
    """Metric and standard error of the best constant predictor on the fitness split."""
    model = task.build_model(0).to(task.device)
    seen = predict(task, model, "fitness")
    train = task.data["train"].targets if task.forward is supervised else None
    if train is None:  # only the forward knows the targets, and which of them are padding
        known = predict(task, model, "train")
        train = known.target if known.weight is None else known.target[known.weight > 0]
    return best_constant(
        task.metric,
        head=task.head,
        train_target=train,
        target=seen.target,
        outputs=task.outputs,
        weight=seen.weight,
    )
