"""Plain data that travels between the rooms: what is asked of an evaluation, and what came of it.

Records know nothing of networks, disks or search; a loss travels as its canonical JSON text (see `losses.codec`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self, get_args

from lossmith.errors import SpecError

Kind = Literal["ok", "screened", "diverged", "at_chance", "timed_out", "crashed", "duplicate_of"]
Work = Literal["train", "screen", "tune"]
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
        """The inverse of `str`.

        Raises:
            ValueError: no status begins like this.
        """
        kind, _, detail = text.partition(":")
        if kind not in get_args(Kind):
            raise ValueError(f"{text!r:.60} is no status: it must begin with {', '.join(get_args(Kind))}.")
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
    """One piece of work to be done: everything its result depends on, beside the task and the evaluation plan.

    What concerns trainings only (`budget` to `stop_at_chance`, but for `lr_scale`) keeps its defaults in other work.

    Args:
        loss: canonical JSON text of the loss.
        seed: index into the run's block of evaluation seeds, or any non-negative integer.
        budget: fraction of the full training in (0, 1].
        lr_scale: factor on the recipe's learning rate.
        data_fraction: fraction of the training data used, in (0, 1].
        splits: on which splits the metric is measured at the end.
        curve: at how many equally spaced points the metric is also measured on the first of `splits`.
        stop_at_chance: whether a training that has not left chance by the plan's step is stopped.
        work: "train"; "screen": the cheap tests before training (`Screening`); "tune": the loss parameters by unrolled
            training (`Tuning`).
        settings: canonical JSON of that work's settings, "" for trainings.
    """

    loss: str
    seed: int
    budget: float = 1.0
    lr_scale: float = 1.0
    data_fraction: float = 1.0
    splits: tuple[Split, ...] = ("fitness",)
    curve: int = 0
    stop_at_chance: bool = False
    work: Work = "train"
    settings: str = ""

    @property
    def key(self) -> str:
        """Identifies the request in the store; equal requests have equal keys and equal results."""
        numbers = {name: float(getattr(self, name)) for name in ("budget", "lr_scale", "data_fraction")}
        whole = {name: int(getattr(self, name)) for name in ("seed", "curve")}  # 1 and 1.0 are equal: so are their keys
        document = {**asdict(self), **numbers, **whole, "splits": list(self.splits)}
        if self.work == "train" and not self.settings:  # trainings keep the keys of runs older than the other work
            del document["work"], document["settings"]
        return content_hash(document)


@dataclass(frozen=True)
class Evaluation:
    """What came of a `Request`.

    Args:
        request: the request's key.
        status: `OK` or why there is no number.
        metrics: metric value per split, in the metric's own direction; empty unless the status is `ok`.
        curve: (step, metric) pairs on the first requested split.
        steps: training steps actually done; meta-steps × unroll length for a tuning, 0 for a screen.
        seconds: wall-clock seconds it took; a share of the chunk's where a chunk is done at once.
        worker: who did it (process id as text, or "" in the process that asked).
        attempt: 1, or more where earlier attempts were lost with their worker.
        product: canonical JSON of what the work made besides metrics, "" for trainings. A screen: "gradients", the
            signature of gradient equivalence. A tuning: "loss", canonical JSON text of the tuned loss; "meta_loss" and
            "meta_steps".
    """

    request: str
    status: Status
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[tuple[int, float], ...] = ()
    steps: int = 0
    seconds: float = 0.0
    worker: str = ""
    attempt: int = 1
    product: str = ""


@dataclass(frozen=True)
class Screening:
    """How candidates are screened before training (ALGORITHMS §4, filters).

    Args:
        rejection_steps: Adam steps of the rejection protocol, ≥ 0; 0 leaves it out.
        rows: training examples that are looked at, ≥ 1.
        gradient_equivalence: whether the gradients at the initial outputs are signed.

    Raises:
        SpecError: a value of the wrong type or out of its range.
    """

    rejection_steps: int = 1000
    rows: int = 100
    gradient_equivalence: bool = True

    def __post_init__(self) -> None:
        _check_whole("rejection_steps", self.rejection_steps, least=0)
        _check_whole("rows", self.rows, least=1)
        if not isinstance(self.gradient_equivalence, bool):
            raise SpecError(f"gradient_equivalence = {self.gradient_equivalence!r}: true or false was expected.")

    def to_settings(self) -> str:
        """Canonical JSON, as `Request.settings` carries it."""
        return canonical_json(asdict(self))

    @classmethod
    def from_settings(cls, text: str) -> Self:
        """The inverse of `to_settings`; SpecError where the text is none."""
        return cls(**_settings(text, cls))


@dataclass(frozen=True)
class Tuning:
    """How loss parameters are tuned by unrolled training (ALGORITHMS §4, local search).

    Args:
        meta_steps: Adam steps on φ, ≥ 1.
        unroll_length: training steps K that each meta-step differentiates through, ≥ 1.
        meta_lr: learning rate of φ, > 0.
        screen_after: how the tuned loss is screened once more, or None.

    Raises:
        SpecError: a value of the wrong type or out of its range.
    """

    meta_steps: int = 250
    unroll_length: int = 1
    meta_lr: float = 1e-3
    screen_after: Screening | None = None

    def __post_init__(self) -> None:
        _check_whole("meta_steps", self.meta_steps, least=1)
        _check_whole("unroll_length", self.unroll_length, least=1)
        lr = self.meta_lr
        if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 < lr < math.inf:
            raise SpecError(f"meta_lr = {lr!r}: a finite number above 0 was expected.")
        object.__setattr__(self, "meta_lr", float(lr))  # 1 and 1.0 are equal: so are their settings
        if not (self.screen_after is None or isinstance(self.screen_after, Screening)):
            raise SpecError(f"screen_after = {self.screen_after!r:.60}: a Screening or None was expected.")

    def to_settings(self) -> str:
        """Canonical JSON, as `Request.settings` carries it."""
        return canonical_json(asdict(self))

    @classmethod
    def from_settings(cls, text: str) -> Self:
        """The inverse of `to_settings`; SpecError where the text is none."""
        values = _settings(text, cls)
        if values.get("screen_after") is not None:
            values["screen_after"] = Screening.from_settings(canonical_json(values["screen_after"]))
        return cls(**values)


@dataclass(frozen=True)
class Preparation:
    """What a method wants done with a candidate between ask and training, in this order.

    Args:
        screening: the screens, or None.
        tuning: of the loss parameters, or None.
    """

    screening: Screening | None = None
    tuning: Tuning | None = None


def _check_whole(name: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SpecError(f"{name} = {value!r}: a whole number of at least {least} was expected.")


def _settings(text: str, record: type) -> dict[str, Any]:
    """The fields of a settings text; SpecError unless they are fields of the record."""
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise SpecError(f"{text!r:.60} are no settings of a {record.__name__}: a JSON object was expected.")
    known = [field.name for field in fields(record)]
    unknown = sorted(document.keys() - set(known))
    if unknown:
        raise SpecError(f"unknown setting {unknown[0]!r} of a {record.__name__}: it has {', '.join(known)}.")
    return document
