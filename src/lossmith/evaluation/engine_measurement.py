"""`--engine auto`: the engines timed against each other on real training steps of a task, before a run is created.

What is found is written into the plan and never measured again: a clock may decide how a run is carried out once, not
twice.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from lossmith.evaluation.evaluate import evaluate_chunk, steps_of
from lossmith.evaluation.plan import Plan
from lossmith.losses import PUBLISHED, loss, to_json
from lossmith.records import Request
from lossmith.tasks import AnyTask, Task

ROUNDS = 5  # interleaved, so that a slow moment of the machine falls on all alike
ROUND_SECONDS = 0.3  # of each engine in each round
LONGEST = 12.0  # seconds of one plan in one round from which two rounds must do
CLOSE = 0.03  # of the best time: what is closer is as good, and the smaller chunk serves more workers
SAMPLES = ("cross_entropy", "focal", "mse", "mae", "huber")


@dataclass(frozen=True)
class Timed:
    """A plan and its seconds per training step of one candidate."""

    plan: Plan
    seconds: float

    @property
    def name(self) -> str:
        """For people."""
        if self.plan.engine == "sequential":
            return "sequential"
        return f"population of {self.plan.chunk}{', compiled' if self.plan.compile else ''}"


def measured(task: Task, plans: Sequence[Plan]) -> list[Timed]:
    """Each plan's median time, in interleaved rounds after one round that warms up."""
    steps, longest = [], 0.0
    for plan in plans:
        _seconds(task, plan, 2)  # compiles, fills caches
        once = max(1e-6, _seconds(task, plan, 2) / 2)
        steps.append(max(2, min(task.steps, round(ROUND_SECONDS / once))))
        longest = max(longest, once * steps[-1])
    rounds = 2 if longest > LONGEST else ROUNDS
    times: list[list[float]] = [[] for _ in plans]
    for _ in range(rounds):
        for plan, count, found in zip(plans, steps, times, strict=True):
            found.append(_per_step(task, plan, count))
    return [Timed(plan, statistics.median(found)) for plan, found in zip(plans, times, strict=True)]


def fastest(found: Sequence[Timed]) -> Timed:
    """The fastest; of those that are as good, the one with the smallest chunk."""
    bar = min(one.seconds for one in found) * (1 + CLOSE)
    return min((one for one in found if one.seconds <= bar), key=lambda one: one.plan.chunk)


def table(found: Sequence[Timed]) -> str:
    """What was measured, for people."""
    best, width = fastest(found), max(20, *(len(one.name) for one in found))
    lines = ["engines measured on this task, ms per training step of a candidate:"]
    for one in found:
        mark = "  ← fastest" if one is best else ""
        lines.append(f"  {one.name:<{width}}{one.seconds * 1000:>10.3g}{mark}")
    return "\n".join(lines)


def sample_requests(task: AnyTask, count: int, steps: int, *, splits: tuple[str, ...] = ("fitness",)) -> list[Request]:
    """`count` different trainings of sound losses over `steps` steps, all of one seed: what a chunk is timed on."""
    head = task.setting.head
    names = [name for name in SAMPLES if name in PUBLISHED and head in PUBLISHED[name].heads]
    texts = [to_json(loss(name, head=task.head)) for name in names] or [to_json(task.task_loss())]
    budget = min(1.0, steps / steps_of(task, 1.0))
    return [
        Request(texts[i % len(texts)], 0, budget, lr_scale=1 - 0.001 * i, splits=splits)  # type: ignore[arg-type]
        for i in range(count)
    ]


def chunk_seconds(task: AnyTask, plan: Plan, requests: Sequence[Request]) -> float:
    """Wall-clock seconds of a chunk done in this process."""
    started = time.perf_counter()
    evaluate_chunk(task, requests, plan)
    return time.perf_counter() - started


def _seconds(task: Task, plan: Plan, steps: int) -> float:
    """Of a full chunk of this plan that trains and measures nothing."""
    return chunk_seconds(task, plan, sample_requests(task, plan.chunk, steps, splits=()))


def _per_step(task: Task, plan: Plan, steps: int) -> float:
    """Per step and candidate, without what a training costs once (building the model, stacking it)."""
    start = _seconds(task, plan, 1)
    return max(0.0, _seconds(task, plan, steps) - start) / ((steps - 1) * plan.chunk)
