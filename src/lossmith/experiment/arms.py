"""Arms of a comparison: losses trained in full on the same seeds, some with tuned learning rate, scored on test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lossmith.analysis import Arm, Verdict
from lossmith.evaluation import TunedLearningRate, seed_block, tune_learning_rates
from lossmith.experiment.session import Session
from lossmith.records import Request, canonical_json

VERDICT = "verdict"  # name of the stored verdict
TEST_SEED = 0  # one block of test seeds for everyone, so that arms of different runs are paired


@dataclass(frozen=True)
class Contestant:
    """A loss with the recipe it is trained under.

    Args:
        name: unique among the arms.
        loss: canonical JSON. lr_scale: factor on the recipe's learning rate. budget: share of the full training.
        kind: whether it is judged or is a bar to beat.
        tuned_from: name of the contestant of which this is the tuned version.
        note: for the table.
    """

    name: str
    loss: str
    lr_scale: float = 1.0
    budget: float = 1.0
    kind: Literal["subject", "control"] = "control"
    tuned_from: str | None = None
    note: str = ""


def tuned(session: Session, contestants: Sequence[Contestant], *, seeds: int, run_seed: int) -> list[Contestant | None]:
    """Each contestant with its learning rate tuned on the fitness split; None where no learning rate gives a number.

    The grid, the seeds and the rule are the same for every contestant. The tables are kept as events.
    """
    task = session.task
    block = seed_block(run_seed, "tuning", seeds)

    def fitness(points: Sequence[tuple[int, float]]) -> list[list[float | None]]:
        arms = [(contestants[number], scale) for number, scale in points]
        requests = [Request(c.loss, seed, c.budget, c.lr_scale * scale) for c, scale in arms for seed in block]
        done = session.evaluate(requests, "tuning")
        values = [task.metric.fitness(d.metrics["fitness"]) if d.status.ok else None for d in done]
        return [values[i : i + seeds] for i in range(0, len(values), seeds)]

    found = tune_learning_rates(fitness, len(contestants))
    for contestant, one in zip(contestants, found, strict=True):
        subject = f"{contestant.name}, {seeds} seeds"
        session.store.add_event("tuned_learning_rate", subject, _table(one, task.metric.fitness))
    return [_at_best(contestant, one) for contestant, one in zip(contestants, found, strict=True)]


def _at_best(contestant: Contestant, found: TunedLearningRate) -> Contestant | None:
    """The contestant at the learning rate found."""
    if found.scale is None:
        return None
    scale = contestant.lr_scale * found.scale
    note = f"learning rate × {scale:.4g}" + (", at the edge of the grid" if found.at_edge else "")
    return Contestant(
        f"{contestant.name}, tuned lr",
        contestant.loss,
        scale,
        contestant.budget,
        contestant.kind,
        contestant.name,
        f"{contestant.note}, {note}" if contestant.note else note,
    )


def run_arms(session: Session, contestants: Sequence[Contestant], *, seeds: int) -> list[Arm]:
    """Train every contestant in full on the same test seeds and measure on the test split.

    Contestants that train alike share their trainings. Each training is announced as a touch of the test split.
    """
    block = seed_block(TEST_SEED, "test", seeds)
    requests = [Request(c.loss, seed, c.budget, c.lr_scale, splits=("test",)) for c in contestants for seed in block]
    done = iter(session.evaluate(requests, "test"))
    arms = []
    for c in contestants:
        results = [next(done) for _ in block]
        samples = tuple(r.metrics["test"] if r.status.ok else None for r in results)
        arms.append(Arm(c.name, c.kind, samples, block, c.note, c.tuned_from))
    return arms


def keep_verdict(session: Session, verdict: Verdict) -> None:
    """Store a verdict in the place of an earlier one."""
    store = session.store
    before = store.checkpoint(VERDICT)
    document = verdict.to_dict()
    if before is None or canonical_json(document) != canonical_json(dict(before.document)):
        store.write_checkpoint(VERDICT, 0 if before is None else before.generation + 1, document)


def _table(found: TunedLearningRate, direction: Any) -> dict[str, Any]:
    rows = [[scale, None if value is None else direction(value)] for scale, value in found.table]
    return {"scale": found.scale, "at_edge": found.at_edge, "table": rows}
