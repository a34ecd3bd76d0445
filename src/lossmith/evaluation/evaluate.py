"""How good a candidate is: one `Request` in, one `Evaluation` out, whatever happens in between."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from lossmith.errors import TaskError
from lossmith.evaluation.chunks import stacking_key
from lossmith.evaluation.plan import Plan
from lossmith.evaluation.requested import grouped, members, on_device, with_prior
from lossmith.evaluation.rolling import Rolling
from lossmith.evaluation.screens import screen_requests
from lossmith.evaluation.several import evaluate_on_each
from lossmith.evaluation.tuning import tune_requests
from lossmith.losses import Loss, LossSet
from lossmith.records import Evaluation, Request, Status, Work
from lossmith.tasks import AnyTask, FunctionTask, SeveralTasks, Task, members_of
from lossmith.training import Trained, Training, compute_scope, train
from lossmith.training.population.training import train_population

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


def evaluate_chunk(
    task: AnyTask, requests: Sequence[Request], plan: Plan, rolling: Rolling | None = None, *, part: int | None = None
) -> list[Evaluation]:
    """The evaluations of a chunk, in order: what can be done together at once, trainings only by the population engine.

    On several tasks it is trained and screened on each in turn, and tuned on all at once.

    Requests done at once share their wall time evenly.

    Args:
        rolling: where trainings that are done alone leave checkpoints, and go on from those of an earlier attempt.
        part: which of several tasks this is.
    """
    at_once: dict[Work, _Work] = {**AT_ONCE, "train": partial(_train_requests, rolling=rolling, part=part)}
    found: dict[str, Evaluation] = {}
    if isinstance(task, SeveralTasks):
        on_each = [request for request in requests if request.work != "tune"]
        done = evaluate_on_each(
            task, on_each, plan, lambda at, one, some, its: evaluate_chunk(one, some, its, rolling, part=at)
        )
        found = {one.request: one for one in done}
    for some in _pieces(task, [request for request in requests if request.key not in found], plan):
        found |= {one.request: one for one in _timed(at_once[some[0].work], task, some, plan)}
    return [found[request.key] for request in requests]


def _pieces(task: AnyTask, requests: Sequence[Request], plan: Plan) -> Iterable[list[Request]]:
    """The requests of a chunk, those together that are done at once."""
    together = plan.engine == "population" and isinstance(task, Task)
    pieces: dict[Hashable, list[Request]] = {}
    for number, request in enumerate(requests):
        alone = request.work == "train" and not together
        pieces.setdefault(number if alone else stacking_key(request), []).append(request)
    return pieces.values()


def steps_of(task: AnyTask, budget: float) -> int:
    """Training steps of a share of the full training; thousandths of it where a floor-A task does not say its steps."""
    return sum(max(1, round(budget * (one.steps or 1000))) for one in members_of(task))


_Work = Callable[[AnyTask, Sequence[Request], Plan], list[Evaluation]]


def _timed(work: _Work, task: AnyTask, requests: Sequence[Request], plan: Plan) -> list[Evaluation]:
    started = time.perf_counter()
    with _one_at_a_time:
        done = work(task, requests, plan)
    share = (time.perf_counter() - started) / len(requests)
    return [replace(evaluation, seconds=share) for evaluation in done]


def _train_requests(
    task: AnyTask,
    requests: Sequence[Request],
    plan: Plan,
    rolling: Rolling | None = None,
    part: int | None = None,
) -> list[Evaluation]:
    """Trainings as one stack; one alone, and each where the stack fails, on the sequential path."""

    def alike(some: Sequence[Request], losses: Sequence[Loss | LossSet]) -> list[Evaluation]:
        losses = [with_prior(loss, task) for loss in losses]
        if isinstance(task, FunctionTask):
            return [_call(task, loss, request, plan) for loss, request in zip(losses, some, strict=True)]
        assert isinstance(task, Task)
        here, how = on_device(task, plan.device), _training(task, some[0], plan)
        if len(some) == 1:
            place = None if rolling is None else rolling.place(some[0].key, part)
            trained = [train(here, losses[0], how, place=place)]
        else:
            scales = [request.lr_scale for request in some]
            trained = train_population(here, losses, how, scales, keep_models=False)
        return [_evaluation(request, one) for request, one in zip(some, trained, strict=True)]

    return grouped(task, requests, alike, key=stacking_key)


AT_ONCE: dict[Work, _Work] = {"train": _train_requests, "screen": screen_requests, "tune": tune_requests}


def _training(task: Task, request: Request, plan: Plan) -> Training:
    """What is asked for, as the training loop takes it."""
    for split in request.splits:
        if split not in task.data:
            raise TaskError(f"the task has no {split} split: give Task(..., {split}=...).")
    steps = steps_of(task, request.budget)
    chance = None
    if request.stop_at_chance and plan.chance_step:
        chance = (max(plan.chance_step, math.ceil(CHANCE_BUDGET * steps)), plan.chance_value)
    return Training(
        seed=request.seed,
        steps=steps,
        lr_scale=request.lr_scale,
        data_fraction=request.data_fraction,
        splits=request.splits,
        curve=request.curve,
        chance=chance,
        threads=plan.threads,
        channels_last=plan.channels_last,
        dtype=plan.dtype,
        compile=plan.compile,
        graph=plan.graph,
    )


def _evaluation(request: Request, trained: Trained) -> Evaluation:
    if trained.status.kind == "crashed":  # as one that crashes alone: where it was is in no record
        return Evaluation(request.key, trained.status)
    return Evaluation(
        request.key, trained.status, trained.metrics, trained.curve, trained.steps, product=trained.product
    )


def _call(task: FunctionTask, loss: Loss | LossSet, request: Request, plan: Plan) -> Evaluation:
    """Floor A: the user's function, once per split, because it answers for one."""
    if any(member.online is not None for member in members(loss)):
        raise TaskError(
            "this loss adapts while it trains, which needs the parts of the task: give lm.Task(model=..., train=..., "
            "recipe=...), or adapt it inside the training function with lm.online.AdaptiveLoss."
        )
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
