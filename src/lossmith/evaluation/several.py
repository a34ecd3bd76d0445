"""Requests on several tasks: the same training or screening on each, joined into one evaluation.

A candidate that fails on one task has failed; the tasks after it are spared. Every task is worked on under its own part
of the plan, so that one whose models can be stacked is, whatever the others are. Tuning is no matter of this file: its
meta-gradients are averaged at every meta-step (`training.unroll`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from lossmith.errors import SpecError
from lossmith.evaluation.plan import Plan
from lossmith.records import OK, Evaluation, Request, Status, canonical_json, content_hash
from lossmith.tasks import AnyTask, SeveralTasks, members_of
from lossmith.tasks.several import mean

EvaluateChunk: TypeAlias = Callable[[int, AnyTask, Sequence[Request], Plan], list[Evaluation]]


def members_with_plans(task: AnyTask, plan: Plan) -> list[tuple[AnyTask, Plan]]:
    """The tasks of several, each with the plan it is worked on under; the one itself with the plan.

    Raises:
        SpecError: a plan made for another number of tasks.
    """
    tasks = members_of(task)
    plans = plan.members or (plan,) * len(tasks)
    if len(plans) != len(tasks):
        raise SpecError(f"the plan is for {len(plans)} tasks and there are {len(tasks)}: make it with make_plan(task).")
    return list(zip(tasks, plans, strict=True))


def evaluate_on_each(
    task: SeveralTasks, requests: Sequence[Request], plan: Plan, evaluate_chunk: EvaluateChunk
) -> list[Evaluation]:
    """The evaluations of train and screen requests, in order.

    Args:
        evaluate_chunk: evaluates requests on one task, given with its place.
    """
    done: dict[str, list[Evaluation]] = {request.key: [] for request in requests}
    for place, (member, its) in enumerate(members_with_plans(task, plan)):
        left = [request for request in requests if all(one.status.ok for one in done[request.key])]
        for one in evaluate_chunk(place, member, left, its) if left else ():
            done[one.request].append(one)
    return [joined(task, request, done[request.key]) for request in requests]


def joined(task: SeveralTasks, request: Request, done: Sequence[Evaluation]) -> Evaluation:
    """One evaluation of those on the tasks, in order; fewer where the last one failed.

    The product of a training holds "tasks": what each was measured to be, and what else it made. That of a screen holds
    "gradients" where every task gave a signature.
    """
    steps, seconds = sum(one.steps for one in done), sum(one.seconds for one in done)
    parts = [json.loads(one.product) if one.product else {} for one in done]
    failed = next(((place, one) for place, one in enumerate(done) if not one.status.ok), None)
    if request.work == "screen":
        product = _signature(parts) if failed is None else {}
        made = canonical_json(product) if product else ""
    else:
        made = canonical_json({"tasks": [_part(*row) for row in zip(task.tasks, done, parts, strict=False)]})
    if failed is not None:
        place, one = failed
        status = _said_on(task.tasks[place], one.status)
        return Evaluation(request.key, status, steps=steps, seconds=seconds, product=made)
    splits: Sequence[str] = request.splits if request.work == "train" else ()
    metrics = {split: mean([one.metrics[split] for one in done]) for split in splits}
    return Evaluation(request.key, OK, metrics, _curve(done), steps, seconds, product=made)


def _said_on(task: AnyTask, status: Status) -> Status:
    return replace(status, sentence=f"on {task.name}: {status.sentence}")


def _part(task: AnyTask, done: Evaluation, product: dict[str, Any]) -> dict[str, Any]:
    return {"task": task.name, "metrics": dict(done.metrics), "steps": done.steps, **product}


def _signature(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the screens of all tasks say together: equal only where it is equal on every task."""
    notes = [str(part["note"]) for part in parts if "note" in part]
    found: dict[str, Any] = {"note": notes[0]} if notes else {}
    signatures = [part["gradients"] for part in parts if "gradients" in part]
    return found | ({"gradients": content_hash(signatures)} if len(signatures) == len(parts) else {})


def _curve(done: Sequence[Evaluation]) -> tuple[tuple[int, float], ...]:
    """The mean curve over the steps of all, where the tasks were measured equally often."""
    curves = [one.curve for one in done]
    if len({len(curve) for curve in curves}) != 1:
        return ()
    points = zip(*curves, strict=True)
    return tuple((sum(step for step, _ in point), mean([value for _, value in point])) for point in points)


def joined_plan(tasks: Sequence[AnyTask], plans: Sequence[Plan]) -> Plan:
    """The plan for several tasks, of the plan for each.

    Its chunk is the smallest of the tasks that stack, for a chunk is worked on by all of them in turn.
    """
    stacked = [plan for plan in plans if plan.stacks]
    both = zip(tasks, plans, strict=True)
    return replace(
        plans[0],
        engine="population" if stacked else "sequential",
        reason="; ".join(f"{task.name}: {plan.engine}, {plan.reason}" for task, plan in both),
        threads=max(plan.threads for plan in plans),
        channels_last=any(plan.channels_last for plan in plans),
        chunk=min((plan.chunk for plan in stacked), default=1),
        screen_chunk=min(plan.screen_chunk for plan in plans),
        tune_chunk=min(plan.tune_chunk for plan in plans),
        compile=any(plan.compile for plan in plans),
        compile_reason=_shared([plan.compile_reason for plan in plans]),
        graph=any(plan.graph for plan in plans),
        graph_reason=_shared([plan.graph_reason for plan in plans]),
        members=tuple(plans),
    )


def _shared(reasons: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(reason for reason in reasons if reason))
