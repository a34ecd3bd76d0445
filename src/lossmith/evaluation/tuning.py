"""Tune requests: the loss parameters of a chunk by unrolled training, then, if asked, the screens once more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from lossmith.evaluation.plan import Plan
from lossmith.evaluation.requested import grouped, on_device
from lossmith.evaluation.screens import Screened, screen
from lossmith.losses import Loss, LossSet, to_json
from lossmith.records import Evaluation, Request, Status, Tuning, canonical_json
from lossmith.tasks import AnyTask, Task
from lossmith.training import Tuned, tune

NEEDS_PARTS = (
    "tuning differentiates through training, which a training function does not allow: give the task by its parts, "
    "lm.Task(model=..., train=..., recipe=...)."
)


def tune_requests(task: AnyTask, requests: Sequence[Request], plan: Plan) -> list[Evaluation]:
    """The evaluations of tune requests, in order: requests that differ only in the loss are tuned at once.

    The product holds "loss", canonical JSON text of the tuned loss; "meta_loss", [meta-step, task loss] pairs;
    "meta_steps", how many were done; "road", how the gradients were computed; and what the screens afterwards found:
    "gradients", "before", "after". A loss that is screened away keeps its product.
    """
    if not isinstance(task, Task):
        return [Evaluation(request.key, Status("crashed", "", NEEDS_PARTS)) for request in requests]

    def alike(some: Sequence[Request], losses: Sequence[Loss | LossSet]) -> list[Evaluation]:
        seed, tuning = some[0].seed, Tuning.from_settings(some[0].settings)
        here = _scaled(on_device(task, plan.device), some[0].lr_scale)
        tuned = tune(here, losses, tuning, seed=seed, threads=plan.threads, dtype=plan.dtype)
        screened: dict[int, Screened] = {}
        if tuning.screen_after is not None:
            sound = [i for i, one in enumerate(tuned) if one.status.ok]
            again = [tuned[i].loss for i in sound]
            looks = screen(here, again, tuning.screen_after, seed=seed, threads=plan.threads)
            screened = dict(zip(sound, looks, strict=True))
        return [
            _evaluation(request, one, tuning, screened.get(i))
            for i, (request, one) in enumerate(zip(some, tuned, strict=True))
        ]

    return grouped(task, requests, alike, key=lambda r: (r.settings, r.seed, r.lr_scale))


def _evaluation(request: Request, tuned: Tuned, tuning: Tuning, screened: Screened | None) -> Evaluation:
    product = {
        "loss": to_json(tuned.loss),
        "meta_loss": [(step, float(f"{value:.6g}")) for step, value in tuned.history if math.isfinite(value)],
        "meta_steps": tuned.steps // tuning.unroll_length,
        "road": tuned.road,
    }
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
