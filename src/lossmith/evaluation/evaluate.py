"""How good a candidate is: one `Request` in, one `Evaluation` out, whatever happens in between."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch

from lossmith.errors import TaskError, UsageError
from lossmith.evaluation.plan import Plan
from lossmith.losses import Loss, LossSet, Ratio, from_json
from lossmith.records import Evaluation, Request, Status
from lossmith.tasks import AnyTask, FunctionTask, Task
from lossmith.training import Training, compute_scope, train

CHANCE_BUDGET = (
    0.1  # nothing is judged to be at chance before this share of its training (DESIGN §4, "Racing on steps")
)

_Result = tuple[Status, dict[str, float], tuple[tuple[int, float], ...], int]  # status, metrics, curve, steps
_one_at_a_time = threading.RLock()  # torch's global generator exists once, so threads of one process take turns
_moved: WeakKeyDictionary[Task, Task] = WeakKeyDictionary()  # to the plan's device, so that data is copied there once


def evaluate(task: AnyTask, request: Request, plan: Plan) -> Evaluation:
    """Train as requested and measure; a failure is a status with a sentence, never an exception.

    `SystemExit` counts as a crash, because a training function that gives up says so by it; `KeyboardInterrupt` passes
    through: it is not the candidate's doing.
    """
    started = time.perf_counter()
    try:
        with _one_at_a_time:
            status, metrics, curve, steps = _evaluate(task, request, plan)
    except (Exception, SystemExit) as error:
        where = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
        status, metrics, curve, steps = Status("crashed", "", f"{where}{error}".strip()[:500]), {}, (), 0
    return Evaluation(request.key, status, metrics, curve, steps, seconds=time.perf_counter() - started)


def evaluate_chunk(task: AnyTask, requests: Sequence[Request], plan: Plan) -> list[Evaluation]:
    """The evaluations of a chunk, in order."""
    return [evaluate(task, request, plan) for request in requests]


def steps_of(task: AnyTask, budget: float) -> int:
    """Training steps of a share of the full training; thousandths of it where a floor-A task does not say its steps."""
    return max(1, round(budget * (task.steps or 1000)))


def _evaluate(task: AnyTask, request: Request, plan: Plan) -> _Result:
    loss = from_json(request.loss, head=task.head if callable(task.head) else None)
    loss = _with_prior(loss, task)
    if isinstance(task, FunctionTask):
        return _call(task, loss, request, plan)
    assert isinstance(task, Task)
    for split in request.splits:
        if split not in task.data:
            raise TaskError(f"the task has no {split} split: give Task(..., {split}=...).")
    task = _on_device(task, plan.device)
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
    return trained.status, trained.metrics, trained.curve, trained.steps


def _call(task: FunctionTask, loss: Loss | LossSet, request: Request, plan: Plan) -> _Result:
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
            return result.status, {}, curve, done + stopped_at
        metrics[split] = result.value
        done += steps
    return Status(), metrics, curve, done


def _step(reported: float, steps: int) -> int:
    """A reported step: whole numbers are steps, floats in [0, 1] are shares of the training (see `Trial.report`)."""
    share = isinstance(reported, float) and 0 <= reported <= 1
    return round(reported * steps) if share else int(reported)


def _on_device(task: Task, device: str) -> Task:
    if _serves(task, device):
        return task
    moved = _moved.get(task)
    if moved is None or not _serves(moved, device):
        moved = _moved[task] = task.to_device(device)
    return moved


def _serves(task: Task, device: str) -> bool:
    wanted, here = torch.device(device), task.device
    return wanted.type == here.type and (wanted.type == "cpu" or wanted.index in (None, here.index))


def _with_prior(loss: Loss | LossSet, task: AnyTask) -> Loss | LossSet:
    """A loss that reads the class prior and carries none gets the task's."""
    if not isinstance(task, Task):
        return loss
    for member in loss if isinstance(loss, LossSet) else (loss,):
        reads = member.kernel.reads
        if isinstance(member.aggregation, Ratio):
            reads = reads | member.aggregation.denominator.reads
        if "prior" in reads and member.prior is None:
            prior = task.prior()
            member.prior = None if prior is None else tuple(prior.tolist())
    return loss
