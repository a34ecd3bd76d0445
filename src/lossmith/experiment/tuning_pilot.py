"""Whether a task can be tuned on, found out before anything is on disk: by what it lacks, then by one meta-step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from lossmith.errors import TaskError
from lossmith.evaluation import Plan, evaluate
from lossmith.evaluation.requested import requested_loss
from lossmith.evaluation.unroll_room import unroll_room
from lossmith.records import Candidate, Request, Tuning
from lossmith.search import Method
from lossmith.tasks import AnyTask
from lossmith.training.task_tuning import descent_of, tunable_task
from lossmith.training.tuned_for import tuned_for


def check_tunable(tasks: Iterable[AnyTask], tuning: Tuning) -> None:
    """Whether every task has what differentiating through its training needs.

    Raises:
        UsageError: a training function. TaskError: no fitness rows; another optimiser than SGD; a task loss without
            gradient. LossError: a task loss that does not exist.
    """
    for task in tasks:
        parts = tunable_task(task)
        descent_of(parts)
        tuned_for(parts, tuning.task_loss)


def try_tuning(task: AnyTask, method: Method, asked: Sequence[Candidate], plan: Plan) -> None:
    """Whether the first candidates fit into memory, and one meta-step of the first; nothing where nothing is tuned.

    It finds out what no look at the task can: a model without a second derivative, an unroll that does not fit. Memory
    is asked here only: what is free in the middle of a search must not decide what comes of a candidate.

    Args:
        asked: the first generation.

    Raises:
        TaskError: what went wrong, in its own words.
    """
    worth = [one for one in asked if one.status.ok]
    common = method.preparation.tuning
    if not worth or (not worth[0].tuning and common is None):
        return
    first = worth[0]
    own = Tuning.from_settings(first.tuning) if first.tuning else common
    assert own is not None
    tuning = replace(own, meta_steps=1, screen_after=None)
    request = Request(first.loss, 0, lr_scale=first.lr_scale, work="tune", settings=tuning.to_settings())
    losses = [requested_loss(one.loss, task) for one in worth[: plan.tune_chunk]]
    try:
        unroll_room(task, losses, tuning, device=plan.device)
    except TaskError as error:
        raise TaskError(f"{method.name} cannot tune on {task.name!r}: {error}") from None
    status = evaluate(task, request, plan).status
    if status.kind in ("crashed", "timed_out"):
        raise TaskError(f"{method.name} cannot tune on {task.name!r}: {status.sentence}")
