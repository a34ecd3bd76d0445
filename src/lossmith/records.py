"""Plain data that travels between the rooms: what is asked of an evaluation, and what came of it.

Records know nothing of networks, disks or search; a loss travels as its canonical JSON text (see `losses.codec`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["ok", "screened", "diverged", "at_chance", "timed_out", "crashed", "duplicate_of"]
Split = Literal["train", "fitness", "selection", "test"]
SPLITS: tuple[Split, ...] = ("train", "fitness", "selection", "test")


def canonical_json(document: Any) -> str:
    """JSON with sorted keys and no spaces: equal documents give equal text, so text can be hashed and compared."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_hash(document: Any, length: int = 16) -> str:
    """The first `length` hex digits of the SHA-256 of a document's canonical JSON."""
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()[:length]


@dataclass(frozen=True)
class Status:
    """How an evaluation ended. Anything but `ok` ranks last; a status never stands in for a number.

    Args:
        kind: one of `Kind`.
        detail: which screen (`screened`) or which candidate (`duplicate_of`).
        sentence: what happened, for people ("training loss became non-finite at step 37").
    """

    kind: Kind = "ok"
    detail: str = ""
    sentence: str = ""

    @property
    def ok(self) -> bool:
        return self.kind == "ok"

    def __str__(self) -> str:
        return f"{self.kind}:{self.detail}" if self.detail else self.kind

    @classmethod
    def parse(cls, text: str, sentence: str = "") -> Status:
        """The inverse of `str`."""
        kind, _, detail = text.partition(":")
        return cls(kind, detail, sentence)  # type: ignore[arg-type]


OK = Status()


@dataclass(frozen=True)
class Candidate:
    """A loss under test, as a search method proposes it.

    Args:
        loss: canonical JSON text of the loss.
        key: two candidates with one key need only one evaluation (ALGORITHMS §2: effective coefficients).
        lr_scale: factor on the recipe's learning rate that goes with the loss.
        status: `OK`, or why it is not worth evaluating (a screen).
        origin: where it came from, for people ("cma-es", "redraw 3", "start: baikal").
        genome: the numbers the search varies, where there are any.
    """

    loss: str
    key: str
    lr_scale: float = 1.0
    status: Status = OK
    origin: str = ""
    genome: tuple[float, ...] = ()


@dataclass(frozen=True)
class Request:
    """One training to be done: everything its result depends on, beside the task and the evaluation plan.

    Args:
        loss: canonical JSON text of the loss.
        seed: index into the run's block of evaluation seeds, or any non-negative integer.
        budget: fraction of the full training in (0, 1].
        lr_scale: factor on the recipe's learning rate.
        data_fraction: fraction of the training data used, in (0, 1].
        splits: on which splits the metric is measured at the end.
        curve: at how many equally spaced points the metric is also measured on the first of `splits`.
        stop_at_chance: whether a training that has not left chance by the plan's step is stopped.
    """

    loss: str
    seed: int
    budget: float = 1.0
    lr_scale: float = 1.0
    data_fraction: float = 1.0
    splits: tuple[Split, ...] = ("fitness",)
    curve: int = 0
    stop_at_chance: bool = False

    @property
    def key(self) -> str:
        """Identifies the request in the store; equal requests have equal keys and equal results."""
        numbers = {name: float(getattr(self, name)) for name in ("budget", "lr_scale", "data_fraction")}
        whole = {name: int(getattr(self, name)) for name in ("seed", "curve")}  # 1 and 1.0 are equal: so are their keys
        return content_hash({**asdict(self), **numbers, **whole, "splits": list(self.splits)})


@dataclass(frozen=True)
class Evaluation:
    """What came of a `Request`.

    Args:
        request: the request's key.
        status: `OK` or why there is no number.
        metrics: metric value per split, in the metric's own direction; empty unless the status is `ok`.
        curve: (step, metric) pairs on the first requested split.
        steps: training steps actually done.
        seconds: wall-clock seconds it took.
        worker: who did it (process id as text, or "" in the process that asked).
        attempt: 1, or more where earlier attempts were lost with their worker.
    """

    request: str
    status: Status
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[tuple[int, float], ...] = ()
    steps: int = 0
    seconds: float = 0.0
    worker: str = ""
    attempt: int = 1
