"""Finalists: the best of a search are trained again, in full, on fresh seeds, and chosen on data the search never saw.

The best of hundreds of noisy scores is mostly lucky (ALGORITHMS §7); the difference between its score in the search and
on fresh seeds at the same effort is the selection bias, and is printed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lossmith.evaluation import mean_fitness, seed_block, top
from lossmith.evaluation.evaluate import steps_of
from lossmith.experiment.events import Note
from lossmith.experiment.search_loop import Tried
from lossmith.experiment.session import Session
from lossmith.experiment.spec import SearchSection
from lossmith.losses import to_json
from lossmith.records import Candidate, Evaluation, Request, Split
from lossmith.tasks import AnyTask

CURVE_POINTS = 20  # where early stopping may stop
MOST_BY_DEFAULT = 5


@dataclass(frozen=True)
class Winner:
    """What a search chose.

    Args:
        loss: canonical JSON. lr_scale: factor on the recipe's learning rate. budget: share of the full training, below
            1 where early stopping was chosen.
        position: "generation.position". origin: for people.
        search_score: metric in the search, mean over the seeds the candidate has had.
        fresh_score: the same effort on fresh seeds and fresh rows (see `_fresh_score`).
        selection_score: full training on fresh seeds, scored on the selection split: what it was chosen by.
        fresh_seeds: number of fresh seeds behind both.
    """

    loss: str
    lr_scale: float
    budget: float
    position: str
    origin: str
    search_score: float
    fresh_score: float | None
    selection_score: float
    fresh_seeds: int

    def document(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def affordable(task: AnyTask, *, candidates: int, budget: float, seeds: int) -> int:
    """How many finalists by default: 5, or as many as cost no more than the search itself, at least one."""
    searched = candidates * steps_of(task, budget)
    return max(1, min(MOST_BY_DEFAULT, searched // (seeds * steps_of(task, 1.0))))


def choose(session: Session, tried: Sequence[Tried], settings: SearchSection, run_seed: int) -> Winner | None:
    """Train the finalists and choose among them; None where no candidate gave a number. Stored as events."""
    metric = session.task.metric
    by_position = {t.standing.position: t for t in tried}
    best = [by_position[s.position] for s in top([t.standing for t in tried], settings.finalists)]
    if not best:
        lucky = any(t.standing.mean(1) < math.inf for t in tried)  # on the first seed, and failed on a further one
        text = "every candidate failed on one of its seeds" if lucky else "no candidate gave a number"
        session.store.add_event("no_winner", "", {"text": text})
        session.emit(Note(f"{text}, so there is no best loss; look at the statuses and widen the search."))
        return None
    seeds = seed_block(run_seed, "finalists", settings.finalist_seeds)

    def fitness(results: Sequence[Evaluation], split: str) -> float | None:
        return mean_fitness([metric.fitness(r.metrics[split]) if r.status.ok else None for r in results])

    def train(candidate: Candidate, budget: float) -> list[Request]:
        splits: tuple[Split, ...] = ("fitness", "selection") if settings.early_stopping else ("selection",)
        points = CURVE_POINTS if settings.early_stopping and budget == 1 else 0
        return [Request(candidate.loss, s, budget, candidate.lr_scale, splits=splits, curve=points) for s in seeds]

    full = _in_groups(session, [train(t.candidate, 1.0) for t in best], "finalist")
    entries = [(t, 1.0, fitness(results, "selection")) for t, results in zip(best, full, strict=True)]
    if settings.early_stopping:
        stops = [(t, _best_stop(session, results)) for t, results in zip(best, full, strict=True)]
        early = [(t, budget) for t, budget in stops if budget < 1]
        stopped = _in_groups(session, [train(t.candidate, budget) for t, budget in early], "finalist")
        entries += [(t, b, fitness(results, "selection")) for (t, b), results in zip(early, stopped, strict=True)]
    scored = [(value, order) for order, (_, _, value) in enumerate(entries) if value is not None]
    if not scored:
        session.store.add_event("no_winner", "", {"text": "every finalist failed in full training"})
        session.emit(Note("every finalist failed in full training, so there is no best loss."))
        return None
    value, order = min(scored)
    tried_one, budget, _ = entries[order]
    candidate = tried_one.candidate
    fresh = _fresh_score(session, candidate, settings, seeds)
    standing = tried_one.standing
    winner = Winner(
        loss=candidate.loss,
        lr_scale=candidate.lr_scale,
        budget=budget,
        position=f"{standing.position[0]}.{standing.position[1]}",
        origin=candidate.origin,
        search_score=metric.fitness(standing.mean(len(standing.fitness))),
        fresh_score=fresh,
        selection_score=metric.fitness(value),
        fresh_seeds=len(seeds),
    )
    for rank, (position, (t, b, v)) in enumerate(sorted(enumerate(entries), key=lambda e: _order(e[1][2], e[0]))):
        del position
        row = {"loss": t.candidate.loss, "lr_scale": t.candidate.lr_scale, "budget": b, "origin": t.candidate.origin}
        row |= {"position": f"{t.standing.position[0]}.{t.standing.position[1]}"}
        session.store.add_event(
            "finalist", f"{rank:04d}", row | {"selection": None if v is None else metric.fitness(v)}
        )
    session.store.add_event("winner", "", winner.document())
    return winner


def _fresh_score(session: Session, candidate: Candidate, settings: SearchSection, seeds: Sequence[int]) -> float | None:
    """What the search would have seen of the winner without having chosen it: its metric at the same effort on fresh
    seeds and on the selection split.

    The two splits are not equally hard, above all under label noise; the task loss, which nobody selected, is trained
    on the same seeds and measured on both, and its difference is taken off.
    """
    task = session.task
    fraction = settings.budget if settings.fidelity == "data" else 1.0
    both: tuple[Split, ...] = ("fitness", "selection")
    winner = [
        Request(candidate.loss, s, settings.budget, candidate.lr_scale, fraction, splits=("selection",)) for s in seeds
    ]
    plain = [Request(to_json(task.task_loss()), s, settings.budget, 1.0, fraction, splits=both) for s in seeds]
    seen, reference = _in_groups(session, [winner, plain], "finalist")
    if not all(r.status.ok for r in seen):
        return None
    score = sum(r.metrics["selection"] for r in seen) / len(seen)
    if all(r.status.ok for r in reference):
        score -= sum(r.metrics["selection"] - r.metrics["fitness"] for r in reference) / len(reference)
    return score


def read_winner(document: dict[str, Any]) -> Winner:
    """The inverse of `Winner.document`."""
    return Winner(**document)


def _order(value: float | None, position: int) -> tuple[bool, float, int]:
    return (value is None, 0.0 if value is None else value, position)


def _in_groups(session: Session, groups: Sequence[Sequence[Request]], purpose: str) -> list[list[Evaluation]]:
    """Evaluate groups of requests in one go, so that all workers have something to do."""
    done = iter(session.evaluate([request for group in groups for request in group], purpose))
    return [[next(done) for _ in group] for group in groups]


def _best_stop(session: Session, results: Sequence[Evaluation]) -> float:
    """The share of the full training at which the mean fitness curve is lowest; 1 where there is no common curve."""
    metric = session.task.metric
    curves = [dict(r.curve) for r in results if r.status.ok and r.curve]
    if not curves or len(curves) < len(results):
        return 1.0
    steps = sorted(set.intersection(*(set(c) for c in curves)))
    if not steps:
        return 1.0
    best = min(steps, key=lambda step: sum(metric.fitness(c[step]) for c in curves))
    return min(1.0, best / steps_of(session.task, 1.0))
