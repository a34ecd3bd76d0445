"""How good a candidate is: one `Request` in, one `Evaluation` out, whatever happens in between."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby

from lossmith.errors import TaskError
from lossmith.evaluation.plan import Plan
from lossmith.evaluation.requested import isolated, on_device, requested_loss, with_prior
from lossmith.evaluation.screens import screen_requests
from lossmith.evaluation.tuning import tune_requests
from lossmith.losses import Loss, LossSet
from lossmith.records import Evaluation, Request, Status, Work
from lossmith.tasks import AnyTask, FunctionTask, Task
from lossmith.training import Training, compute_scope, train

CHANCE_BUDGET = (
    0.1  # nothing is judged to be at chance before this share of its training (DESIGN §4, "Racing on steps")
)

_one_at_a_time = threading.RLock()  # torch's global generator exists once, so threads of one process take turns


def evaluate(task: AnyTask, request: Request, plan: Plan) -> Evaluation:
    """Do what is requested; a failure is a status with a sentence, never an exception.

    `SystemExit` counts as a crash, because a training function that gives up says so by it; `KeyboardInterrupt` passes
    through: it is not the candidate's doing.
    """
    return evaluate_chunk(task, [request], plan)[0]


def evaluate_chunk(task: AnyTask, requests: Sequence[Request], plan: Plan) -> list[Evaluation]:
    """The evaluations of a chunk, in order: trainings one after the other, screens and tunings all at once.

    Requests done at once share their wall time evenly.
    """
    found: list[Evaluation] = []
    for work, group in groupby(requests, key=lambda request: request.work):
        some = list(group)
        size = 1 if work == "train" else len(some)
        for start in range(0, len(some), size):
            found += _timed(AT_ONCE[work], task, some[start : start + size], plan)
    return found


def steps_of(task: AnyTask, budget: float) -> int:
    """Training steps of a share of the full training; thousandths of it where a floor-A task does not say its steps."""
    return max(1, round(budget * (task.steps or 1000)))


_Work = Callable[[AnyTask, Sequence[Request], Plan], list[Evaluation]]


def _timed(work: _Work, task: AnyTask, requests: Sequence[Request], plan: Plan) -> list[Evaluation]:
    started = time.perf_counter()
    with _one_at_a_time:
        done = work(task, requests, plan)
    share = (time.perf_counter() - started) / len(requests)
    return [replace(evaluation, seconds=share) for evaluation in done]


def _train_requests(task: AnyTask, requests: Sequence[Request], plan: Plan) -> list[Evaluation]:
    def one(some: Sequence[Request]) -> list[Evaluation]:
        return [_train(task, request, plan) for request in some]

    return [isolated([r], one, lambda r, status: Evaluation(r.key, status))[0] for r in requests]


AT_ONCE: dict[Work, _Work] = {"train": _train_requests, "screen": screen_requests, "tune": tune_requests}


def _train(task: AnyTask, request: Request, plan: Plan) -> Evaluation:
    loss = with_prior(requested_loss(request.loss, task), task)
    if isinstance(task, FunctionTask):
        return _call(task, loss, request, plan)
    assert isinstance(task, Task)
    for split in request.splits:
        if split not in task.data:
            raise TaskError(f"the task has no {split} split: give Task(..., {split}=...).")
    task = on_device(task, plan.device)
    steps = steps_of(task, request.budget)
    chance = None
    if request.stop_at_chance and plan.chance_step:
        chance = (max(plan.chance_step, math.ceil(CHANCE_BUDGET * steps)), plan.chance_value)
    how = Training(
        seed=request.seed,
        steps=steps,
        lr_scale=request.lr_scale,
        data_fraction=request.data_fraction,
        splits=request.splits,
        curve=request.curve,
        chance=chance,
        threads=plan.threads,
        channels_last=plan.channels_last,
    )
    trained = train(task, loss, how)
    return Evaluation(request.key, trained.status, trained.metrics, trained.curve, trained.steps)


def _call(task: FunctionTask, loss: Loss | LossSet, request: Request, plan: Plan) -> Evaluation:
    """Floor A: the user's function, once per split, because it answers for one."""
    steps = steps_of(task, request.budget)
    metrics: dict[str, float] = {}
    curve: tuple[tuple[int, float], ...] = ()
    done = 0
    for split in request.splits:
        with compute_scope(plan.threads):
            result = task.run(
                loss,
                seed=request.seed,
                budget=request.budget,
                split=split,
                lr_scale=request.lr_scale,
                device=plan.device,
            )
        reports = tuple((_step(at, steps), value) for at, value in result.reports)
        if split == request.splits[0] and request.curve:
            curve = reports
        if result.value is None:  # stopped by a report, or finished with a value that is no number
            stopped_at = reports[-1][0] if reports and result.status.kind == "at_chance" else steps
            return Evaluation(request.key, result.status, {}, curve, done + stopped_at)
        metrics[split] = result.value
        done += steps
    return Evaluation(request.key, Status(), metrics, curve, done)


def _step(reported: float, steps: int) -> int:
    """A reported step: whole numbers are steps, floats in [0, 1] are shares of the training (see `Trial.report`)."""
    share = isinstance(reported, float) and 0 <= reported <= 1
    return round(reported * steps) if share else int(reported)
