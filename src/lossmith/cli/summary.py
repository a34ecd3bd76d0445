"""What `show` says of a run, computed: reads the run folder only, never the task or its data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossmith.errors import LossError

if TYPE_CHECKING:
    from lossmith.analysis import Verdict
    from lossmith.experiment.run import Run

LEADERS = 5


@dataclass(frozen=True)
class GenerationLine:
    """One generation: its number as in candidate IDs, the metric of its best and of the best so far, how its candidates
    ended, and how long it took."""

    number: int
    told: bool
    best: float | None
    best_so_far: float | None
    counts: dict[str, int]
    steps: int
    seconds: float | None


@dataclass(frozen=True)
class LossLine:
    """A loss of the run.

    Args:
        id: "generation.position", as in RUN:ID.
        formula: the loss for people. origin: where it came from.
        value: metric on `split`; fitness: partial training, selection: full training with fresh seeds.
        lr_scale, budget: factor on the learning rate, share of the full training.
    """

    id: str
    formula: str
    origin: str
    value: float | None
    split: str
    lr_scale: float
    budget: float


@dataclass(frozen=True)
class Summary:
    """A run at a glance.

    Args:
        path, kind, task, method, seed: which run. reference, steps_in_full: what names its task on the command line.
        state: finished, running, interrupted, killed or failed; `since` its last sign, `holder` who is at work.
        metric, direction: what is judged.
        generations_done, generations: of the search. meta_steps: done and wanted, of one that goes by them.
        history: one line per generation.
        counts: candidates per status over all generations. trainings: finished ones per purpose. steps: trained in all.
        screened, tuned, changed: candidates that went through the screens, that were tuned, and of those how many the
            screens refused afterwards.
        best: the loss found, or the best so far. losses: the finalists, before that the leaders, best first.
        fresh_seeds, search_score, fresh_score, selection_bias: what the choice rests on, and the bias as a sentence.
        verdict: of `evaluate` or `compare`.
        test_touches: trainings measured on the test split.
        seconds_left: while it runs, where it can be told.
        notes: what a person should know.
    """

    path: str
    kind: str
    task: str
    reference: str | None
    steps_in_full: int | None
    method: str
    seed: int
    state: str
    since: str
    holder: str
    metric: str
    direction: str
    generations_done: int
    generations: int
    meta_steps: tuple[int, int] | None
    history: tuple[GenerationLine, ...]
    counts: dict[str, int]
    trainings: dict[str, int]
    steps: int
    screened: int
    tuned: int
    changed: int
    best: LossLine | None
    losses: tuple[LossLine, ...]
    fresh_seeds: int | None
    search_score: float | None
    fresh_score: float | None
    selection_bias: str
    verdict: Verdict | None
    test_touches: int
    seconds_left: float | None
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """For a heading: taylorglo on digits/mlp."""
        return f"{self.method or 'comparison'} on {self.task}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        document = asdict(self)
        document["verdict"] = None if self.verdict is None else self.verdict.to_dict()
        return document


def summarize(run: Run) -> Summary:
    """Everything `show` prints."""
    state, since, holder = _state(run)
    name, direction = run.metric
    winner, bias = run.winner, run.selection_bias
    search = run.spec.search
    finalists = _finalists(run)
    losses = finalists or (() if run.kind == "compare" else _leaders(run))
    trainings = Counter(row.purpose for row in run.evaluations if row.request.work == "train")
    return Summary(
        path=run.path,
        kind=run.kind,
        task=run.row.task,
        reference=run.spec.task.reference,
        steps_in_full=run.spec.task.option,
        method=run.row.method,
        seed=run.row.seed,
        state=state,
        since=since,
        holder=holder,
        metric=name,
        direction=direction,
        generations_done=sum(generation.told for generation in run.generations),
        generations=search.generations if search else 0,
        meta_steps=run.meta_steps,
        history=tuple(_history(run)),
        counts=run.counts(),
        trainings=dict(sorted(trainings.items())),
        steps=sum(row.evaluation.steps for row in run.evaluations if row.request.work == "train"),
        screened=sum(row.request.work == "screen" for row in run.evaluations),
        tuned=sum(row.request.work == "tune" for row in run.evaluations),
        changed=sum(row.request.work == "tune" and row.evaluation.status.kind == "screened" for row in run.evaluations),
        best=losses[0] if losses else None,
        losses=losses,
        fresh_seeds=winner.fresh_seeds if winner else None,
        search_score=winner.search_score if winner else None,
        fresh_score=winner.fresh_score if winner else None,
        selection_bias=bias.sentence if bias else "",
        verdict=run.verdict,
        test_touches=run.test_touches,
        seconds_left=_seconds_left(run) if state == "running" else None,
        notes=(*_tuning_notes(run), *_event_notes(run)),
    )


def _event_notes(run: Run) -> Iterable[str]:
    return (str(event.data["text"]) for event in run.events if event.kind in ("no_winner", "empty_generation"))


def _tuning_notes(run: Run) -> Iterable[str]:
    """What was worth knowing about some meta-steps (damping raised, say): one of them, and how many there are."""
    products = (row.evaluation.product for row in run.evaluations if row.request.work == "tune")
    found = [text for product in products if '"notes"' in product if (text := json.loads(product).get("notes"))]
    if found:
        more = f" ({len(found)} tunings have such notes)" if len(found) > 1 else ""
        yield f"tuning, {min(found)}{more}"


def formula(run: Run, text: str) -> str:
    """A stored loss for people; its head may be the user's own, which only Python can bring back."""
    from lossmith.losses import from_json
    from lossmith.losses.simplify import formula as shown

    try:
        return shown(run.decode(text))
    except LossError:
        return shown(from_json(text, head="softmax"))  # the formula is the same under every head


def _state(run: Run) -> tuple[str, str, str]:
    """State, the time of its last sign, and who is at work."""
    from lossmith.store.lock import without_writer

    last = run.row.attempts[-1] if run.row.attempts else None
    if last is not None and last.ended is None:
        with without_writer(Path(run.path).resolve(), run.path) as idle:
            if not idle:
                state = "running" if not run.finished else "being evaluated"
                return state, last.started, f"process {last.pid} on {last.host}"
        return ("finished" if run.finished else "killed"), last.started, ""
    when = last.ended or "" if last is not None else run.row.created_at
    return ("finished" if run.finished else last.end or "interrupted" if last else "created"), when, ""


def _history(run: Run) -> Iterable[GenerationLine]:
    better = min if run.metric[1] == "min" else max
    sign = 1.0 if run.metric[1] == "min" else -1.0
    record: float | None = None
    for generation in run.generations:
        values = [
            sign * row.fitness
            for row in run.candidates
            if row.generation == generation.number and row.fitness is not None
        ]
        best = better(values) if values else None
        record = best if record is None else record if best is None else better(record, best)
        yield GenerationLine(
            generation.number,
            generation.told,
            best,
            record,
            dict(generation.counts),
            generation.steps,
            _between(generation.started_at, generation.finished_at) if generation.finished_at else None,
        )


def _leaders(run: Run) -> tuple[LossLine, ...]:
    return tuple(
        LossLine(
            f"{row.generation}.{row.position}",
            formula(run, row.loss),
            row.candidate.origin,
            value,
            "fitness",
            row.candidate.lr_scale,
            1.0,
        )
        for row, value in run.leaders(LEADERS)
    )


def _finalists(run: Run) -> tuple[LossLine, ...]:
    """Those that were trained in full, best first, once they have been compared."""
    return tuple(
        LossLine(
            str(event.data["position"]),
            formula(run, str(event.data["loss"])),
            str(event.data["origin"]),
            event.data["selection"],
            "selection",
            float(event.data["lr_scale"]),
            float(event.data["budget"]),
        )
        for event in run.events
        if event.kind == "finalist"
    )


def _seconds_left(run: Run) -> float | None:
    """From the pace of the last generation: what remains of the search, then the finalists, in training steps."""
    search = run.spec.search
    told = [generation for generation in run.generations if generation.told and generation.finished_at]
    if search is None or not told:
        return None
    last = told[-1]
    assert last.finished_at is not None
    pace = _between(last.started_at, last.finished_at) / max(1, last.steps)  # seconds per step, all workers together
    full = run.spec.task.steps or 1000
    final = search.finalist_seeds * (search.finalists * full + round(search.budget * full))
    final -= sum(row.evaluation.steps for row in run.evaluations if row.purpose == "finalist")
    steps = (search.generations - len(told)) * sum(g.steps for g in told) / len(told) + max(0, final)
    since = _between(last.finished_at, datetime.now(UTC).isoformat()) if len(told) < search.generations else 0.0
    return max(0.0, pace * steps - since)


def _between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
