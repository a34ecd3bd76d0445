"""Plain data that travels between the rooms: what is asked of an evaluation, and what came of it.

Records know nothing of networks, disks or search; a loss travels as its canonical JSON text (see `losses.codec`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self, get_args

from lossmith.errors import SpecError

Kind = Literal["ok", "screened", "diverged", "at_chance", "timed_out", "crashed", "duplicate_of"]
Work = Literal["train", "screen", "tune"]
Solver = Literal["cg", "neumann"]
MetaOptimizer = Literal["adam", "sgd"]
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
        tuning: canonical JSON of the settings it is tuned with, where they are its own; "" for the method's.
    """

    loss: str
    key: str
    lr_scale: float = 1.0
    status: Status = OK
    origin: str = ""
    genome: tuple[float, ...] = ()
    tuning: str = ""


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
        steps: training steps actually done; meta-steps × unroll length × tasks for a tuning, 0 for a screen.
        seconds: wall-clock seconds it took; a share of the chunk's where a chunk is done at once.
        worker: who did it (process id as text, or "" in the process that asked).
        attempt: 1, or more where earlier attempts were lost with their worker.
        product: canonical JSON of what the work made besides metrics, "" for plain trainings. A screen: "gradients",
            the signature of gradient equivalence. A tuning: "loss", canonical JSON text of the tuned loss; "meta_loss",
            "meta_steps" and "state", with which it can go on. A training with an adaptive loss: "trajectory". On
            several tasks: "tasks", what was measured and made on each.
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
class Implicit:
    """How a hypergradient is taken at the end of training instead of through it (ALGORITHMS §4).

    With v the gradient of the task loss and H the Hessian of the loss at trained θ: dL/dφ = −(H⁻¹v)ᵀ ∂²M/∂θ∂φ.

    Args:
        solver: of H⁻¹v: "cg", conjugate gradient, or "neumann", the truncated series α Σ_{j ≤ J} (I − αH)^j v.
        terms: iterations of conjugate gradient at most, or J; for the series 0 is the one-step unroll.
        damping: λ > 0 in (H + λI)⁻¹; raised where curvature is not positive.

    Raises:
        SpecError: a value of the wrong type or out of its range.
    """

    solver: Solver = "cg"
    terms: int = 20
    damping: float = 1e-3

    def __post_init__(self) -> None:
        _check_word("solver", self.solver, get_args(Solver))
        _check_whole("terms", self.terms, least=0 if self.solver == "neumann" else 1)
        object.__setattr__(self, "damping", _positive("damping", self.damping))


@dataclass(frozen=True)
class Tuning:
    """How loss parameters are tuned by differentiating through training (ALGORITHMS §4, local search; §5, ML3).

    Args:
        meta_steps: steps of the meta-optimiser on φ, ≥ 1.
        unroll_length: training steps K per meta-step, ≥ 1.
        meta_lr: learning rate of φ, > 0.
        screen_after: how the tuned loss is screened once more, or None.
        truncation: only the last so many of the K steps are differentiated through, 1 … K; 0 stands for all of them.
        meta_optimizer: "adam" or "sgd".
        reinitialise: θ starts anew every so many meta-steps and is carried over in between, ≥ 1.
        implicit: how the gradient is taken at θ_K instead of through the K steps, or None.
        task_loss: name of the differentiable loss that φ is tuned for; "" for the task's own.
        state: what the tuning that this one continues ended with (`Evaluation.product`, "state"); "" at the beginning.

    Raises:
        SpecError: a value of the wrong type or out of its range.
    """

    meta_steps: int = 250
    unroll_length: int = 1
    meta_lr: float = 1e-3
    screen_after: Screening | None = None
    truncation: int = 0
    meta_optimizer: MetaOptimizer = "adam"
    reinitialise: int = 1
    implicit: Implicit | None = None
    task_loss: str = ""
    state: str = ""

    def __post_init__(self) -> None:
        _check_whole("meta_steps", self.meta_steps, least=1)
        _check_whole("unroll_length", self.unroll_length, least=1)
        _check_whole("truncation", self.truncation, least=0)
        _check_whole("reinitialise", self.reinitialise, least=1)
        _check_word("meta_optimizer", self.meta_optimizer, get_args(MetaOptimizer))
        if self.truncation > self.unroll_length:
            raise SpecError(
                f"truncation = {self.truncation}: at most unroll_length = {self.unroll_length} steps can be "
                "differentiated through; 0 stands for all of them."
            )
        object.__setattr__(self, "meta_lr", _positive("meta_lr", self.meta_lr))
        if not (self.screen_after is None or isinstance(self.screen_after, Screening)):
            raise SpecError(f"screen_after = {self.screen_after!r:.60}: a Screening or None was expected.")
        if not (self.implicit is None or isinstance(self.implicit, Implicit)):
            raise SpecError(f"implicit = {self.implicit!r:.60}: an Implicit or None was expected.")
        for name in ("task_loss", "state"):
            if not isinstance(getattr(self, name), str):
                raise SpecError(f"{name} = {getattr(self, name)!r:.60}: a text was expected.")

    @property
    def grows(self) -> bool:
        """Whether memory grows with K: K = 1 has a closed form, and implicit gradients keep no way back."""
        return self.unroll_length > 1 and self.implicit is None

    def to_settings(self) -> str:
        """Canonical JSON, as `Request.settings` carries it.

        Later fields are left out where they have their default, so that the keys of older runs stay what they were.
        """
        later = ("truncation", "meta_optimizer", "reinitialise", "implicit", "task_loss", "state")
        usual = {field.name: field.default for field in fields(self)}
        return canonical_json({k: v for k, v in asdict(self).items() if not (k in later and v == usual[k])})

    @classmethod
    def from_settings(cls, text: str) -> Self:
        """The inverse of `to_settings`; SpecError where the text is none."""
        values = _settings(text, cls)
        for name, part in (("screen_after", Screening), ("implicit", Implicit)):
            if values.get(name) is not None:
                values[name] = part(**_settings(canonical_json(values[name]), part))
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


def _check_word(name: str, value: object, words: Sequence[str]) -> None:
    if value not in words:
        raise SpecError(f"{name} = {value!r}: {' or '.join(words)} was expected.")


def _positive(name: str, value: object) -> float:
    """A float, since 1 and 1.0 are equal and so must be their settings."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise SpecError(f"{name} = {value!r}: a finite number above 0 was expected.")
    return float(value)


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
