"""Learning-rate schedules: functions of relative progress τ ∈ [0, 1] that return a factor on the learning rate.

τ is steps done / steps of the *full* recipe (ALGORITHMS, notation), so a schedule needs no numbers of steps and a
partial training walks through the beginning of the full one. All are frozen records: they print as they are written,
compare by value and pickle. Any other callable float → float serves as well. Lower-case names, because they are used
as verbs: `lm.schedules.step((0.5, 0.75))`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from lossmith.errors import TaskError
from lossmith.tasks.ranges import check_number

Schedule = Callable[[float], float]


@dataclass(frozen=True)
class constant:
    """The learning rate as it is."""

    def __call__(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True)
class step:
    """The learning rate times `factor` for every milestone reached.

    Args:
        milestones: fractions of the full training in (0, 1), increasing.
        factor: > 0.

    Raises:
        TaskError: milestones out of (0, 1) or not increasing, factor not positive.
    """

    milestones: tuple[float, ...]
    factor: float = 0.1

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "milestones", tuple(float(m) for m in self.milestones))
        except (TypeError, ValueError):
            raise TaskError(
                f"step.milestones is {self.milestones!r}: it must be a sequence of numbers in (0, 1), e.g. (0.5, 0.75)."
            ) from None
        for milestone in self.milestones:
            check_number("a milestone of schedules.step", milestone, above=0, below=1)
        if list(self.milestones) != sorted(set(self.milestones)):
            raise TaskError(f"step.milestones is {self.milestones!r}: milestones must increase, e.g. (0.5, 0.75).")
        check_number("step.factor", self.factor, above=0)

    def __call__(self, progress: float) -> float:
        factor: float = self.factor ** sum(progress >= milestone for milestone in self.milestones)
        return factor


@dataclass(frozen=True)
class linear:
    """A straight line from 1 at the start to `final` at the end (≥ 0)."""

    final: float = 0.0

    def __post_init__(self) -> None:
        check_number("linear.final", self.final, least=0)

    def __call__(self, progress: float) -> float:
        return 1.0 + (self.final - 1.0) * min(progress, 1.0)


@dataclass(frozen=True)
class cosine:
    """Half a cosine from 1 at the start to `final` (≥ 0) at the end (Loshchilov & Hutter, arXiv 1608.03983)."""

    final: float = 0.0

    def __post_init__(self) -> None:
        check_number("cosine.final", self.final, least=0)

    def __call__(self, progress: float) -> float:
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


@dataclass(frozen=True)
class warmup:
    """A straight line from `start` to 1 over the first `fraction`, then another schedule over what remains.

    Args:
        fraction: of the full training, in (0, 1).
        then: the schedule that follows; it sees its own progress, 0 at the end of the warm-up and 1 at the end.
        start: the factor at the very first step, in [0, 1].

    Raises:
        TaskError: an argument out of its range.
    """

    fraction: float
    then: Schedule = field(default_factory=constant)
    start: float = 0.0

    def __post_init__(self) -> None:
        check_number("warmup.fraction", self.fraction, above=0, below=1)
        check_number("warmup.start", self.start, least=0, most=1)
        if not callable(self.then):
            raise TaskError(f"warmup.then is {self.then!r}: it must be a schedule, e.g. schedules.cosine().")

    def __call__(self, progress: float) -> float:
        if progress < self.fraction:
            return self.start + (1.0 - self.start) * progress / self.fraction
        return self.then((progress - self.fraction) / (1.0 - self.fraction))
