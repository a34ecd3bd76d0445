"""How good a candidate is: one `Request` in, one `Evaluation` out, whatever happens in between."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence

import torch

from lossmith.errors import UsageError
from lossmith.evaluation.plan import Plan
from lossmith.losses import Loss, LossSet, from_json
from lossmith.records import Evaluation, Request, Status
from lossmith.tasks import AnyTask, FunctionTask, Task
from lossmith.training import Training, train

CHANCE_BUDGET = 0.1  # nothing is judged to be at chance before this share of its training (DESIGN §4, "Racing on steps")


def evaluate(task: AnyTask, request: Request, plan: Plan) -> Evaluation:
    """Train as requested and measure; a failure is a status with a sentence, never an exception.

    Only `KeyboardInterrupt` and the like pass through: they are not the candidate's doing.
    """
    started = time.perf_counter()
    try:
        status, metrics, curve, steps = _evaluate(task, request, plan)
    except Exception as error:
        where = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
        status, metrics, curve, steps = Status("crashed", "", f"{where}{error}".strip()[:500]), {}, (), 0
    return Evaluation(
        request.key,
        status,
        metrics,
        curve,
        steps,
        seconds=time.perf_counter() - started,
        worker=str(os.getpid()),
    )


def evaluate_chunk(task: AnyTask, requests: Sequence[Request], plan: Plan) -> list[Evaluation]:
    """The evaluations of a chunk, in order."""
    return [evaluate(task, request, plan) for request in requests]


def steps_of(task: AnyTask, budget: float) -> int:
    """Training steps of a share of the full training; thousandths of it where a floor-A task does not say its steps."""
    return max(1, round(budget * (task.steps or 1000)))


def _evaluate(
    task: AnyTask, request: Request, plan: Plan
) -> tuple[Status, dict[str, float], tuple[tuple[int, float], ...], int]:
    loss = from_json(request.loss, head=task.head if callable(task.head) else None)
    loss = _with_prior(loss, task)
    steps = steps_of(task, request.budget)
    if isinstance(task, FunctionTask):
        metrics: dict[str, float] = {}
        curve: tuple[tuple[int, float], ...] = ()
        for split in request.splits:
            result = task.run(
                loss,
                seed=request.seed,
                budget=request.budget,
                split=split,
                lr_scale=request.lr_scale,
                device=plan.device,
            )
            if result.value is None:
                return result.status, {}, (), steps
            metrics[split] = result.value
            if split == request.splits[0] and request.curve:
                curve = tuple((int(step), value) for step, value in result.reports)
        return Status(), metrics, curve, steps
    assert isinstance(task, Task)
    if task.device != torch.device(plan.device):
        task = task.to_device(plan.device)
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


def _with_prior(loss: Loss | LossSet, task: AnyTask) -> Loss | LossSet:
    """A loss that reads the class prior and carries none gets the task's."""
    if not isinstance(task, Task):
        return loss
    for member in loss if isinstance(loss, LossSet) else (loss,):
        if "prior" in member.kernel.reads and member.prior is None:
            prior = task.prior()
            member.prior = None if prior is None else tuple(prior.tolist())
    return loss
