"""A loss wherever one is expected: a run (its best), RUN:ID, a published name, an expression, a JSON file or text."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lossmith.errors import RunError, UsageError

if TYPE_CHECKING:
    from lossmith.experiment.arms import Contestant
    from lossmith.experiment.run import Run
    from lossmith.losses import Loss, LossSet
    from lossmith.store import CandidateRow

_CANDIDATE = re.compile(r"(.+):(\d+)\.(\d+)")


@dataclass(frozen=True)
class Named:
    """A loss and how it was found.

    Args:
        name: as it was written.
        loss: the loss itself.
        lr_scale: factor on the recipe's learning rate that belongs to it. budget: share of the full training, likewise.
        run: that found it, if one did.
    """

    name: str
    loss: Loss | LossSet
    lr_scale: float = 1.0
    budget: float = 1.0
    run: Run | None = None

    @property
    def conditions(self) -> str:
        """What belongs to the loss beside its formula, or nothing."""
        found = [f"learning rate × {self.lr_scale:.4g}"] if self.lr_scale != 1 else []
        found += [f"training stopped at {self.budget:.0%} of the steps"] if self.budget < 1 else []
        return ", ".join(found)

    def contestant(self, kind: Literal["subject", "control"]) -> Contestant:
        """As an arm of a comparison."""
        from lossmith.experiment.arms import Contestant
        from lossmith.losses import to_json

        formula = str(self.loss)
        parts = [formula if formula != self.name else "", self.conditions]
        note = ", ".join(part for part in parts if part)
        return Contestant(self.name, to_json(self.loss), self.lr_scale, self.budget, kind, note=note)


def named(text: str, head: Any) -> Named:
    """The loss that a text names, under a head (or a run's own where it names one).

    Raises:
        UsageError: nothing is called that, or a run that has found nothing yet.
    """
    from lossmith.experiment.api import is_run
    from lossmith.losses import from_json, loss

    text = text.strip()
    own_head = head if callable(head) else None
    if is_run(text):
        name = text.rstrip("/")
        run = open_run(text, own_head)
        best = run.best
        return Named(name, best.loss, best.lr_scale, best.budget, run)
    if match := _CANDIDATE.fullmatch(text):
        run = open_run(match[1], own_head)
        row = _candidate(run, int(match[2]), int(match[3]))
        return Named(text, run.decode(row.loss), row.candidate.lr_scale, run=run)
    if text.lstrip().startswith("{"):
        found = from_json(text, head=own_head)
        return Named(str(found), found)
    return Named(text, loss(text, head=head))


def open_run(path: str, head: Any = None) -> Run:
    """A run that may have found a loss.

    Raises:
        RunError: no run there, damaged or newer, or a comparison.
    """
    from lossmith.experiment.run import Run

    run = Run(path, head=head)
    if run.kind == "compare":
        raise RunError(f"{path} is a comparison, which finds no loss: name one of the losses it compares.")
    return run


def starting_points(texts: Iterable[str], head: Any) -> list[Run | Loss | str]:
    """What `--start-from` names, in a form the library takes."""
    from lossmith.experiment.api import is_run
    from lossmith.losses import Loss

    points: list[Run | Loss | str] = []
    for text in texts:
        if is_run(text):
            points.append(open_run(text, head if callable(head) else None))
        elif _CANDIDATE.fullmatch(text) or text.lstrip().startswith("{"):
            found = named(text, head).loss
            if not isinstance(found, Loss):
                raise UsageError(f"{text} holds several losses: a search starts from single ones.")
            points.append(found)
        else:
            points.append(text)
    return points


def split_list(texts: Iterable[str]) -> tuple[str, ...]:
    """Texts with commas as their parts; a comma inside parentheses belongs to its part: focal(gamma=3, alpha=.2)."""
    parts: list[str] = []
    for text in texts:
        depth, start = 0, 0
        if os.path.exists(text):
            parts.append(text)
            continue
        for place, character in enumerate(text):
            depth += (character in "([{") - (character in ")]}")
            if character == "," and depth == 0:
                parts.append(text[start:place])
                start = place + 1
        parts.append(text[start:])
    return tuple(part.strip() for part in parts if part.strip())


def _candidate(run: Run, generation: int, position: int) -> CandidateRow:
    for row in run.candidates:
        if (row.generation, row.position) == (generation, position):
            return row
    last = max((row.generation for row in run.candidates), default=-1)
    if last < 0:
        raise RunError(f"{run.path} has no candidates yet: see `lossmith show {run.path}`.")
    size = sum(row.generation == generation for row in run.candidates)
    what = f"positions 0 to {size - 1} in generation {generation}" if size else f"generations 0 to {last}"
    raise RunError(f"{run.path} has no candidate {generation}.{position}: it has {what}.")
