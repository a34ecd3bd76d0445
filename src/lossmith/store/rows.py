"""What the store hands out: one frozen record per table, holding the ground floor's records where those say it all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lossmith.records import Candidate, Evaluation, Request


@dataclass(frozen=True)
class Session:
    """One process that worked on the run.

    Args:
        started: UTC, ISO 8601.
        pid: its process id.
        host: the machine it ran on.
        ended: UTC, or None while it runs and when it was killed.
        end: how it ended ("finished", "interrupted", ...; "killed" is found out by the next session), None till then.
    """

    started: str
    pid: int
    host: str
    ended: str | None = None
    end: str | None = None


@dataclass(frozen=True)
class RunRow:
    """The run itself. `attempts` has one entry per session, oldest first."""

    format: int
    kind: str
    task: str
    fingerprint: Mapping[str, Any]
    method: str
    seed: int
    spec_digest: str
    state: str
    created_at: str
    attempts: tuple[Session, ...]


@dataclass(frozen=True)
class GenerationRow:
    """One ask-tell cycle. `counts` (candidates per status) and `steps` (training steps) are final once it is told."""

    number: int
    told: bool
    candidates: int
    counts: Mapping[str, int]
    steps: int
    started_at: str
    finished_at: str | None


@dataclass(frozen=True)
class CandidateRow:
    """A candidate in place.

    Args:
        generation, position: its place.
        candidate: as it was proposed, with its final status.
        request: key of what was asked for it first, None where nothing was.
        duplicate_of: which other candidate it repeats.
        fitness: lower is better; None until told, or failed.
        tuned: canonical JSON of the loss that tuning made, where it is another one: what was trained, or the last that
            was sound where the tuning of a search by gradient failed.
    """

    generation: int
    position: int
    candidate: Candidate
    request: str | None
    duplicate_of: str | None
    fitness: float | None
    tuned: str | None = None

    @property
    def loss(self) -> str:
        """Canonical JSON of the loss that was trained, or would have been."""
        return self.candidate.loss if self.tuned is None else self.tuned


@dataclass(frozen=True)
class EvaluationRow:
    """A finished piece of work: what was asked, what came of it, and who asked first."""

    request: Request
    evaluation: Evaluation
    purpose: str
    finished_at: str


@dataclass(frozen=True)
class Checkpoint:
    """The newest state stored under a name, and the generation after which it was taken."""

    name: str
    generation: int
    document: Mapping[str, Any]


@dataclass(frozen=True)
class EventRow:
    """Something that happened once to a subject ("test_touched", request key)."""

    kind: str
    subject: str
    data: Mapping[str, Any]
    at: str
