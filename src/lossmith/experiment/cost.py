"""What a search will cost, before it starts: counted from the spec, timed by a short pilot on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from lossmith.evaluation import evaluate, evaluate_chunk
from lossmith.evaluation.evaluate import steps_of
from lossmith.evaluation.plan import Plan, make_plan
from lossmith.experiment.meta_testing import MetaTest
from lossmith.experiment.spec import SearchSection
from lossmith.losses import to_json
from lossmith.records import Request, Work
from lossmith.search import Method, Problem
from lossmith.tasks import AnyTask, Task
from lossmith.testing import check_task

PILOT_STEPS = 100
PILOT_META_STEPS = (2, 12)
GRID_POINTS = 9


@dataclass(frozen=True)
class Part:
    """One line of the estimate: `trainings` of `steps` steps each, `seconds` of one worker in all."""

    what: str
    trainings: int
    steps: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """Cost of a search and its verdict.

    Args:
        parts: what is to be done. seconds_per_step: measured by the pilot on one worker.
        workers: among which the work is divided. pilot_seconds: what the pilot took.
    """

    parts: tuple[Part, ...]
    seconds_per_step: float
    workers: int
    pilot_seconds: float

    @property
    def core_seconds(self) -> float:
        return sum(part.seconds for part in self.parts)

    @property
    def wall_seconds(self) -> float:
        """If the workers share the work evenly."""
        return self.core_seconds / self.workers

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "parts": [vars(part) for part in self.parts],
            "seconds_per_step": self.seconds_per_step,
            "workers": self.workers,
            "pilot_seconds": self.pilot_seconds,
            "core_seconds": self.core_seconds,
            "wall_seconds": self.wall_seconds,
        }


def estimate(
    task: AnyTask,
    method: Method,
    section: SearchSection,
    *,
    workers: int = 1,
    verdict: MetaTest | None = None,
    shelf: bool = True,
    device: str = "cpu",
) -> Estimate:
    """Estimate a search, its finalists, the shelf and the verdict.

    The pilot trains the task loss twice for a few steps and takes the second, so that warming up is not counted.

    Raises:
        TaskError: the task is not sound.
    """
    check_task(task)
    plan = make_plan(task, device=device)
    full = steps_of(task, 1.0)
    partial = steps_of(task, section.budget)
    share = min(1.0, PILOT_STEPS / full)
    first, second = (_timed(task, plan, share) for _ in range(2))
    per_step = second / steps_of(task, share)
    population = int(method.settings().get("population", 20))
    searched = section.generations * population * section.seeds_per_candidate + section.generations * section.elites
    final = section.finalists * section.finalist_seeds
    parts = list(_preparing(task, method, plan, section))
    parts.append(_part("candidates", searched, partial, per_step))
    parts.append(_part("finalists", final, full, per_step))
    parts.append(_part("fresh score", section.finalist_seeds, partial, per_step))
    if shelf:
        spent = searched * partial + final * full
        parts.append(_part("shelf (as many steps)", max(1, spent // partial), partial, per_step))
    if verdict is not None:
        if "tuned" in verdict.controls:
            parts.append(_part("tuned learning rates", 2 * GRID_POINTS * verdict.tune_seeds, full, per_step))
        arms = 2 + 2 * ("tuned" in verdict.controls) + ("shelf" in verdict.controls)
        parts.append(_part("verdict on test", arms * verdict.seeds, full, per_step))
    return Estimate(tuple(parts), per_step, max(1, workers), first + second)


def _part(what: str, count: int, steps: int, per_step: float) -> Part:
    return Part(what, count, steps, count * steps * per_step)


def _preparing(task: AnyTask, method: Method, plan: Plan, section: SearchSection) -> Iterator[Part]:
    """Screening and tuning, each timed on a chunk of the first generation, as if every candidate were tuned."""
    wanted = method.preparation
    if not isinstance(task, Task) or (wanted.screening is None and wanted.tuning is None):
        return
    asked, _ = method.ask(method.init(Problem(task.setting, generations=section.generations)))
    losses = [candidate.loss for candidate in asked if candidate.status.ok][: plan.tune_chunk]
    count = section.generations * int(method.settings().get("population", 20))

    def seconds(work: Work, settings: str) -> float:
        """Of one candidate among those of a chunk."""
        requests = [Request(loss, 0, work=work, settings=settings) for loss in losses]
        started = time.perf_counter()
        evaluate_chunk(task, requests, plan)
        return (time.perf_counter() - started) / len(losses)

    if wanted.screening is not None:
        settings = wanted.screening.to_settings()
        seconds("screen", settings)  # warming up, compiling the interpreter above all, is not counted
        yield Part("screening", count, 0, count * seconds("screen", settings))
    if wanted.tuning is not None:
        short, long = (replace(wanted.tuning, meta_steps=m, screen_after=None) for m in PILOT_META_STEPS)
        seconds("tune", short.to_settings())
        once, more = seconds("tune", short.to_settings()), seconds("tune", long.to_settings())
        per_step = max(0.0, more - once) / (long.meta_steps - short.meta_steps)  # without what a tuning costs once
        each = once + per_step * (wanted.tuning.meta_steps - short.meta_steps)
        steps = wanted.tuning.meta_steps * wanted.tuning.unroll_length
        yield Part("tuning loss parameters", count, steps, count * each)


def _timed(task: AnyTask, plan: Plan, share: float) -> float:
    return evaluate(task, Request(to_json(task.task_loss()), 0, share), plan).seconds
