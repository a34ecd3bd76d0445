"""Records to columns and back: the one place that knows which field of a record lives in which column."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

from lossmith.records import Candidate, Evaluation, Request, Status, Work, canonical_json
from lossmith.store.rows import CandidateRow, Checkpoint, EvaluationRow, EventRow, GenerationRow, RunRow, Session
from lossmith.store.schema import Row

Columns = dict[str, object]


def candidate_columns(
    generation: int, position: int, candidate: Candidate, request: Request | str | None, duplicate_of: str | None
) -> Columns:
    status = candidate.status
    if duplicate_of is None and status.kind == "duplicate_of":
        duplicate_of = status.detail
    return {
        "generation": generation,
        "position": position,
        "loss": candidate.loss,
        "key": candidate.key,
        "lr_scale": candidate.lr_scale,
        "genome": canonical_json(
            [_finite(x, f"genome of candidate {generation}:{position}") for x in candidate.genome]
        ),
        "origin": candidate.origin,
        "status": str(status),
        "sentence": status.sentence,
        "request": request.key if isinstance(request, Request) else request,
        "duplicate_of": duplicate_of,
        "fitness": None,
        "tuned": None,
        "tuning": candidate.tuning,
    }


def read_candidate(row: Row) -> CandidateRow:
    candidate = Candidate(
        loss=_text(row["loss"]),
        key=_text(row["key"]),
        lr_scale=_number(row["lr_scale"]),
        status=Status.parse(_text(row["status"]), _text(row["sentence"])),
        origin=_text(row["origin"]),
        genome=tuple(_json(row["genome"])),
        tuning=_text(row["tuning"]),
    )
    request, duplicate_of, fitness, tuned = row["request"], row["duplicate_of"], row["fitness"], row["tuned"]
    return CandidateRow(
        generation=_count(row["generation"]),
        position=_count(row["position"]),
        candidate=candidate,
        request=None if request is None else _text(request),
        duplicate_of=None if duplicate_of is None else _text(duplicate_of),
        fitness=None if fitness is None else _number(fitness),
        tuned=None if tuned is None else _text(tuned),
    )


def evaluation_columns(request: Request, evaluation: Evaluation, purpose: str, finished_at: str) -> Columns:
    """Raises `ValueError` when the two do not belong together or a metric is not finite: mistakes of the caller."""
    if evaluation.request != request.key:
        raise ValueError(f"evaluation of request {evaluation.request} was handed in with request {request.key}")
    where = f"of evaluation {request.key}"
    metrics = {split: _finite(value, f"metric {split!r} {where}") for split, value in evaluation.metrics.items()}
    curve = [[int(step), _finite(value, f"curve {where}")] for step, value in evaluation.curve]
    return {
        "request": request.key,
        "loss": request.loss,
        "seed": request.seed,
        "budget": request.budget,
        "lr_scale": request.lr_scale,
        "data_fraction": request.data_fraction,
        "splits": canonical_json(list(request.splits)),
        "curve_points": request.curve,
        "stop_at_chance": request.stop_at_chance,
        "purpose": purpose,
        "status": str(evaluation.status),
        "sentence": evaluation.status.sentence,
        "metrics": canonical_json(metrics),
        "curve": canonical_json(curve),
        "steps": evaluation.steps,
        "seconds": evaluation.seconds,
        "worker": evaluation.worker,
        "attempt": evaluation.attempt,
        "finished_at": finished_at,
        "work": request.work,
        "settings": request.settings,
        "product": evaluation.product,
    }


def read_evaluation(row: Row) -> EvaluationRow:
    request = Request(
        loss=_text(row["loss"]),
        seed=_count(row["seed"]),
        budget=_number(row["budget"]),
        lr_scale=_number(row["lr_scale"]),
        data_fraction=_number(row["data_fraction"]),
        splits=tuple(_json(row["splits"])),
        curve=_count(row["curve_points"]),
        stop_at_chance=bool(row["stop_at_chance"]),
        work=_work(row["work"]),
        settings=_text(row["settings"]),
    )
    evaluation = Evaluation(
        request=_text(row["request"]),
        status=Status.parse(_text(row["status"]), _text(row["sentence"])),
        metrics=_json(row["metrics"]),
        curve=tuple((step, value) for step, value in _json(row["curve"])),
        steps=_count(row["steps"]),
        seconds=_number(row["seconds"]),
        worker=_text(row["worker"]),
        attempt=_count(row["attempt"]),
        product=_text(row["product"]),
    )
    return EvaluationRow(request, evaluation, _text(row["purpose"]), _text(row["finished_at"]))


def read_run(row: Row) -> RunRow:
    return RunRow(
        format=_count(row["format"]),
        kind=_text(row["kind"]),
        task=_text(row["task"]),
        fingerprint=_json(row["fingerprint"]),
        method=_text(row["method"]),
        seed=_count(row["seed"]),
        spec_digest=_text(row["spec_digest"]),
        state=_text(row["state"]),
        created_at=_text(row["created_at"]),
        attempts=read_sessions(row),
    )


def read_sessions(row: Row) -> tuple[Session, ...]:
    return tuple(Session(**session) for session in _json(row["attempts"]))


def sessions_column(sessions: Sequence[Session]) -> str:
    return canonical_json([asdict(session) for session in sessions])


def generation_columns(number: int, candidates: int, started_at: str) -> Columns:
    """A generation that is asked, not told."""
    return {
        "number": number,
        "state": "asked",
        "candidates": candidates,
        "counts": "{}",
        "steps": 0,
        "started_at": started_at,
        "finished_at": None,
    }


def read_generation(row: Row) -> GenerationRow:
    finished = row["finished_at"]
    return GenerationRow(
        number=_count(row["number"]),
        told=row["state"] == "told",
        candidates=_count(row["candidates"]),
        counts=_json(row["counts"]),
        steps=_count(row["steps"]),
        started_at=_text(row["started_at"]),
        finished_at=None if finished is None else _text(finished),
    )


def read_checkpoint(row: Row) -> Checkpoint:
    return Checkpoint(_text(row["name"]), _count(row["generation"]), _mapping(row["document"]))


def read_event(row: Row) -> EventRow:
    return EventRow(_text(row["kind"]), _text(row["subject"]), _mapping(row["data"]), _text(row["at"]))


def _finite(value: float, what: str) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{what} is {value}: a result that is no number is a Status (diverged), never stored as one")
    return float(value)


def _json(value: object) -> Any:
    return json.loads(_text(value))


def _mapping(value: object) -> Mapping[str, Any]:
    document: Mapping[str, Any] = _json(value)
    return document


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where text should be")
    return value


def _work(value: object) -> Work:
    text = _text(value)
    if text not in get_args(Work):
        raise ValueError(f"{text!r:.60} is no kind of work: one of {', '.join(get_args(Work))} was expected")
    return text  # type: ignore[return-value]


def _number(value: object) -> float:
    if not isinstance(value, float):
        raise TypeError(f"{value!r} where a number should be")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} where an integer should be")
    return value
