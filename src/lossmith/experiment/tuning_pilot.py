"""Whether a task can be tuned on, found out before anything is on disk: by what it lacks, then by one meta-step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lossmith.errors import TaskError
from lossmith.evaluation import Plan, evaluate
from lossmith.evaluation.requested import requested_loss
from lossmith.evaluation.unroll_room import unroll_room
from lossmith.records import Request, Tuning
from lossmith.search import Method, Problem
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


def try_tuning(task: AnyTask, method: Method, problem: Problem, plan: Plan) -> None:
    """Whether the first candidates fit into memory, and one meta-step of the first; nothing where nothing is tuned.

    It finds out what no look at the task can: a model without a second derivative, an unroll that does not fit. Memory
    is asked here only: what is free in the middle of a search must not decide what comes of a candidate.

    Raises:
        TaskError: what went wrong, in its own words.
    """
    request = first_tuning(method, problem, meta_steps=1)
    if request is None:
        return
    asked, _ = method.ask(method.init(problem))
    losses = [requested_loss(one.loss, task) for one in asked if one.status.ok][: plan.tune_chunk]
    try:
        unroll_room(task, losses, Tuning.from_settings(request.settings), device=plan.device)
    except TaskError as error:
        raise TaskError(f"{method.name} cannot tune on {task.name!r}: {error}") from None
    status = evaluate(task, request, plan).status
    if status.kind in ("crashed", "timed_out"):
        raise TaskError(f"{method.name} cannot tune on {task.name!r}: {status.sentence}")


def first_tuning(method: Method, problem: Problem, *, meta_steps: int) -> Request | None:
    """The tuning of the first candidate, shortened and without the screen after it; None where nothing is tuned."""
    asked, _ = method.ask(method.init(problem))
    common = method.preparation.tuning
    for candidate in asked:
        tuning = Tuning.from_settings(candidate.tuning) if candidate.tuning else common
        if candidate.status.ok and tuning is not None:
            short = replace(tuning, meta_steps=meta_steps, screen_after=None).to_settings()
            return Request(candidate.loss, 0, lr_scale=candidate.lr_scale, work="tune", settings=short)
    return None
