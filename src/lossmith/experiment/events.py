"""What happens during a run, as records handed to listeners.

A listener is any callable that takes an event; `lm.search(..., listeners=[print])` prints them all. Progress on the
terminal is one such listener. A listener that raises stops the run cleanly: everything finished is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class PhaseStarted:
    """A phase of a run began: `total` trainings are to be done, `done` of them are stored already."""

    phase: str
    total: int
    done: int = 0


@dataclass(frozen=True)
class TrainingFinished:
    """One training ended with `status`; `seconds` of work on one worker."""

    phase: str
    status: str
    seconds: float
    steps: int


@dataclass(frozen=True)
class GenerationFinished:
    """A generation was told.

    Args:
        number: from 0. generations: how many there will be.
        best: metric of the best candidate so far, in the metric's own direction; None while there is none.
        formula: that candidate's loss for people.
        counts: candidates of this generation per status.
        meta_steps: done so far and in all, of a search that goes by them; None elsewhere.
    """

    number: int
    generations: int
    best: float | None
    metric: str
    formula: str
    counts: Mapping[str, int]
    meta_steps: tuple[int, int] | None = None


@dataclass(frozen=True)
class Note:
    """Something a person should know."""

    text: str


Event: TypeAlias = PhaseStarted | TrainingFinished | GenerationFinished | Note
Listener: TypeAlias = Callable[[Event], None]
