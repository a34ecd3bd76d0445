"""What a search will cost, before it starts: counted from the spec, timed by a short pilot on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lossmith.evaluation import Plan, count_workers, evaluate_chunk
from lossmith.evaluation.evaluate import steps_of
from lossmith.evaluation.payload import pack
from lossmith.evaluation.requested import requested_loss
from lossmith.experiment.meta_testing import MetaTest
from lossmith.experiment.opening import Resources, planned
from lossmith.experiment.search_run import check_parts, problem_of
from lossmith.experiment.spec import SearchSection
from lossmith.experiment.training_cost import TrainingCost, training_cost
from lossmith.experiment.tuning_pilot import try_tuning
from lossmith.losses import LossSet
from lossmith.records import Candidate, Request, Work
from lossmith.search import Method
from lossmith.search.shelf import POPULATION as SHELF_POPULATION
from lossmith.tasks import AnyTask
from lossmith.tasks.several import all_parts
from lossmith.testing import check_task

PILOT_META_STEPS = (2, 12)
GRID_POINTS = 9


@dataclass(frozen=True)
class Part:
    """One line of the estimate: `trainings` of `steps` steps each.

    Args:
        seconds: of one worker in all.
        pieces: chunks that are known at a time, so that workers can share them.
    """

    what: str
    trainings: int
    steps: int
    seconds: float
    pieces: int = 1

    def wall_seconds(self, workers: int) -> float:
        """With so many workers, if all pieces take equally long."""
        return self.seconds * -(-self.pieces // workers) / self.pieces


@dataclass(frozen=True)
class Estimate:
    """Cost of a search and its verdict.

    Args:
        parts: what is to be done. seconds_per_step: of one candidate in a chunk, measured by the pilot on one worker.
        workers: among which the work is divided. pilot_seconds: what the pilot took.
        plan: what the pilot ran under, as the search will.
    """

    parts: tuple[Part, ...]
    seconds_per_step: float
    workers: int
    pilot_seconds: float
    plan: Plan

    @property
    def core_seconds(self) -> float:
        return sum(part.seconds for part in self.parts)

    @property
    def wall_seconds(self) -> float:
        """With these workers."""
        return sum(part.wall_seconds(self.workers) for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "parts": [vars(part) for part in self.parts],
            "seconds_per_step": self.seconds_per_step,
            "workers": self.workers,
            "pilot_seconds": self.pilot_seconds,
            "core_seconds": self.core_seconds,
            "wall_seconds": self.wall_seconds,
            "plan": self.plan.to_dict(),
        }


def estimate(
    task: AnyTask,
    method: Method,
    section: SearchSection,
    *,
    resources: Resources | None = None,
    verdict: MetaTest | None = None,
    shelf: bool = True,
) -> Estimate:
    """Estimate a search, its finalists, the shelf and the verdict.

    Every kind of training is timed in the company it will have: so many at once as share a seed, by the plan's engine.

    Raises:
        TaskError: the task is not sound, cannot be sent to the workers wanted, or cannot be tuned on.
        UsageError, LossError: the method does not fit the task, or cannot start from a loss; as a search would say.
        SpecError: no such engine or device; more workers than memory allows.
    """
    started = time.perf_counter()
    resources = resources or Resources()
    check_task(task)
    check_parts(method, task)
    asked, _ = method.ask(method.init(problem_of(section, task, 0)))
    plan = planned(task, resources)
    try_tuning(task, method, asked, plan)  # what a search would refuse has no price
    trainings = _Trainings(task, plan, _adaptive(task, asked))
    full = steps_of(task, 1.0)
    partial = steps_of(task, section.budget)
    population = int(method.settings().get("population", 20))
    counted = section.generations * population * section.seeds_per_candidate
    searched = counted + section.generations * section.elites
    parts = list(_preparing(task, method, asked, plan, section))
    candidates = trainings.part("candidates", counted, partial, population, calls=section.generations, found=1)
    elites = trainings.part("", searched - counted, partial, company=1, calls=section.generations, found=1)
    parts.append(replace(candidates, trainings=searched, seconds=candidates.seconds + elites.seconds))
    finals = section.finalists * section.finalist_seeds
    parts.append(trainings.part("finalists", finals, full, section.finalists, found=1))
    parts.append(trainings.part("fresh score", section.finalist_seeds, partial, company=1, found=1))
    if shelf:
        spent = searched * partial + section.finalists * section.finalist_seeds * full
        count = max(1, spent // partial)
        company = min(count, SHELF_POPULATION)
        parts.append(trainings.part("shelf (as many steps)", count, partial, company, calls=-(-count // company)))
    if verdict is not None:
        if "tuned" in verdict.controls:
            points = 2 * GRID_POINTS  # of both sides
            parts.append(trainings.part("tuned learning rates", points * verdict.tune_seeds, full, points, found=1 / 2))
        arms = 2 + 2 * ("tuned" in verdict.controls) + ("shelf" in verdict.controls)
        subjects = 1 + ("tuned" in verdict.controls)
        parts.append(trainings.part("verdict on test", arms * verdict.seeds, full, arms, found=subjects / arms))
    workers = 1
    if resources.workers:
        workers = count_workers(resources.workers, task, plan, len(pack(task)))
    per_step = trainings.cost_of_found(population).per_step
    return Estimate(tuple(parts), per_step, workers, time.perf_counter() - started, plan)


class _Trainings:
    """Costs of trainings by how many of them are done at once, each measured when it is first asked for.

    Args:
        adaptive: a loss of the method that goes on learning while it trains, which costs more and trains alone; ""
            where the method's losses cost what any other does.
    """

    def __init__(self, task: AnyTask, plan: Plan, adaptive: str = "") -> None:
        self.task, self.plan, self.adaptive = task, plan, adaptive
        self._costs: dict[int, TrainingCost] = {}
        self._alone: TrainingCost | None = None

    def cost(self, company: int) -> TrainingCost:
        """Of one among `company` trainings that could be done at once."""
        at_once = -(-company // self._chunks(company))
        if at_once not in self._costs:
            self._costs[at_once] = training_cost(self.task, self.plan, at_once)
        return self._costs[at_once]

    def cost_of_found(self, company: int) -> TrainingCost:
        """The same, of a loss of the method."""
        if not self.adaptive:
            return self.cost(company)
        if self._alone is None:
            self._alone = training_cost(self.task, self.plan, 1, self.adaptive)
        return self._alone

    def part(self, what: str, count: int, steps: int, company: int, calls: int = 1, *, found: float = 0.0) -> Part:
        """`count` trainings, those of `company` with one seed, asked for in `calls` goes.

        Args:
            found: which share of them is of losses of the method.
        """
        groups = max(1, count // (max(1, company) * calls))
        seconds = 0.0
        for share, cost in ((found, self.cost_of_found), (1 - found, self.cost)):
            if count and share:
                seconds += count * share * cost(company).of(steps)
        pieces = groups * (company if self.adaptive and found == 1 else self._chunks(company))
        return Part(what, count, steps, seconds, pieces)

    def _chunks(self, company: int) -> int:
        return max(1, -(-company // self.plan.chunk))


def _adaptive(task: AnyTask, asked: Sequence[Candidate]) -> str:
    """A loss of the first generation, where its losses go on learning while they train; "" otherwise."""
    first = requested_loss(asked[0].loss, task)
    members = first if isinstance(first, LossSet) else (first,)
    return asked[0].loss if any(member.online is not None for member in members) else ""


def _preparing(
    task: AnyTask, method: Method, asked: Sequence[Candidate], plan: Plan, section: SearchSection
) -> Iterator[Part]:
    """Screening and tuning, each timed on a chunk of the first generation, as if every candidate were tuned."""
    wanted = method.preparation
    if not all_parts(task) or (wanted.screening is None and wanted.tuning is None):
        return
    losses = [candidate.loss for candidate in asked if candidate.status.ok][: plan.tune_chunk]
    population = int(method.settings().get("population", 20))
    count = section.generations * population

    def seconds(work: Work, settings: str) -> float:
        """Of one candidate among those of a chunk."""
        requests = [Request(loss, 0, work=work, settings=settings) for loss in losses]
        started = time.perf_counter()
        evaluate_chunk(task, requests, plan)
        return (time.perf_counter() - started) / len(losses)

    if wanted.screening is not None:
        settings = wanted.screening.to_settings()
        seconds("screen", settings)  # warming up, compiling the interpreter above all, is not counted
        yield Part("screening", count, 0, count * seconds("screen", settings), -(-population // plan.screen_chunk))
    if wanted.tuning is not None:
        short, long = (replace(wanted.tuning, meta_steps=m, screen_after=None) for m in PILOT_META_STEPS)
        seconds("tune", short.to_settings())
        once, more = seconds("tune", short.to_settings()), seconds("tune", long.to_settings())
        per_step = max(0.0, more - once) / (long.meta_steps - short.meta_steps)  # without what a tuning costs once
        each = once + per_step * (wanted.tuning.meta_steps - short.meta_steps)
        steps = wanted.tuning.meta_steps * wanted.tuning.unroll_length
        yield Part("tuning loss parameters", count, steps, count * each, -(-population // plan.tune_chunk))
