"""Tune requests: the loss parameters of a chunk by unrolled training, then, if asked, the screens once more."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

from lossmith.evaluation.chunks import tuned_together
from lossmith.evaluation.plan import Plan
from lossmith.evaluation.requested import grouped, on_device
from lossmith.evaluation.screens import Screened, screen
from lossmith.evaluation.several import joined
from lossmith.losses import Loss, LossSet, to_json
from lossmith.records import Evaluation, Request, Screening, Status, Tuning, canonical_json
from lossmith.tasks import AnyTask, SeveralTasks, Task, all_parts, members_of
from lossmith.training import Tuned, tune
from lossmith.training.task_tuning import tunable_task

NEEDS_PARTS = (
    "tuning differentiates through training, which a training function does not allow: give the task by its parts, "
    "lm.Task(model=..., train=..., recipe=...)."
)


def tune_requests(task: AnyTask, requests: Sequence[Request], plan: Plan) -> list[Evaluation]:
    """The evaluations of tune requests, in order: requests that differ only in the loss are tuned at once, and likewise
    those that go on from states of equally many meta-steps. On several tasks φ is tuned for the mean.

    The product holds "loss", canonical JSON text of the tuned loss, with the last finite φ whatever the status;
    "meta_loss", [meta-step, task loss] pairs; "meta_steps", how many were done; "road", how the gradients were
    computed; "memory", bytes per candidate that an unroll of several steps may take; "notes", where there are some; and
    what the screens afterwards found: "gradients", "before", "after". A loss that is screened away keeps its product.
    "state", with which the tuning can go on, is there unless the loss is screened afterwards: that is the end of a
    tuning, and the state as large as two losses.
    """
    if not all_parts(task):
        return [Evaluation(request.key, Status("crashed", "", NEEDS_PARTS)) for request in requests]

    def alike(some: Sequence[Request], losses: Sequence[Loss | LossSet]) -> list[Evaluation]:
        seed, tunings = some[0].seed, [Tuning.from_settings(request.settings) for request in some]
        tuning = tunings[0]
        here = [_scaled(on_device(tunable_task(one), plan.device), some[0].lr_scale) for one in members_of(task)]
        tuned = tune(
            here if isinstance(task, SeveralTasks) else here[0],
            losses,
            tuning,
            seed=seed,
            threads=plan.threads,
            dtype=plan.dtype,
            states=[one.state for one in tunings],
        )
        screened: dict[int, Screened] = {}
        if tuning.screen_after is not None:
            sound = [i for i, one in enumerate(tuned) if one.status.ok]
            again = [tuned[i].loss for i in sound]
            looks = _screened(task, here, again, tuning.screen_after, seed=seed, threads=plan.threads)
            screened = dict(zip(sound, looks, strict=True))
        return [
            _evaluation(request, one, tuning, screened.get(i))
            for i, (request, one) in enumerate(zip(some, tuned, strict=True))
        ]

    return grouped(task, requests, alike, key=lambda r: (tuned_together(r.settings), r.seed, r.lr_scale))


def _screened(
    task: AnyTask,
    here: Sequence[Task],
    losses: Sequence[Loss | LossSet],
    screening: Screening,
    *,
    seed: int,
    threads: int,
) -> list[Screened]:
    """The screens of tuned losses on every task; rejected by one is rejected."""
    on_each = [screen(one, losses, screening, seed=seed, threads=threads) for one in here]
    if not isinstance(task, SeveralTasks):
        return on_each[0]
    asked = Request("", seed, work="screen")
    found = []
    for looks in zip(*on_each, strict=True):
        done = [Evaluation("", look.status, product=canonical_json(look.product)) for look in looks]
        one = joined(task, asked, done)
        found.append(Screened(one.status, json.loads(one.product) if one.product else {}))
    return found


def _evaluation(request: Request, tuned: Tuned, tuning: Tuning, screened: Screened | None) -> Evaluation:
    product = {
        "loss": to_json(tuned.loss),
        "meta_loss": [(step, float(f"{value:.6g}")) for step, value in tuned.history if math.isfinite(value)],
        "meta_steps": tuned.meta_steps,
        "road": tuned.road,
    }
    if tuned.memory:
        product["memory"] = tuned.memory
    if tuned.notes:
        product["notes"] = tuned.notes
    if tuning.screen_after is None and tuned.state:
        product["state"] = tuned.state
    status = tuned.status
    if screened is not None:
        product |= screened.product
        if not screened.status.ok:
            status = replace(screened.status, sentence=f"after tuning: {screened.status.sentence}")
    return Evaluation(request.key, status, steps=tuned.steps, product=canonical_json(product))


def _scaled(task: Task, lr_scale: float) -> Task:
    """The task with the learning rate that goes with a candidate."""
    if lr_scale == 1:
        return task
    return task.fresh(recipe=replace(task.recipe, lr=task.recipe.base_lr * lr_scale))
