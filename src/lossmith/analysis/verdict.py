"""The records of a verdict: arms, comparisons, selection bias, and the verdict itself, as text and as JSON.

`judging.judge` makes them; nothing here computes a test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from lossmith.analysis import wording
from lossmith.errors import UsageError

Direction = Literal["min", "max"]
COMPARISON_HEADER = (
    "comparison",
    "difference [95 % CI]",
    "paired p",
    "Welch p",
    "Holm p",
    "effect [95 % CI]",
    "outcome",
)
Outcome = Literal["better", "worse", "no_worse", "not_shown"]


@dataclass(frozen=True)
class Arm:
    """One loss under one training recipe, trained once per seed.

    Args:
        name: for people ("cross_entropy with tuned lr"); unique within a verdict.
        kind: "subject" (what is judged) or "control" (what it has to beat).
        samples: [n] metric on the test split, in the metric's own direction; None where the training failed. A
            non-finite value is a failed training too and is stored as None.
        seeds: [n] the seed of each training, none twice.
        note: for the table ("lr × 3.16, label smoothing .1").
        tuned_from: the name of the arm that is the same loss at the recipe's own learning rate, if this one's is tuned.
    Raises:
        UsageError: lengths differ or a seed appears twice.
    """

    name: str
    kind: Literal["subject", "control"]
    samples: tuple[float | None, ...]
    seeds: tuple[int, ...]
    note: str = ""
    tuned_from: str | None = None

    def __post_init__(self) -> None:
        if len(self.samples) != len(self.seeds):
            raise UsageError(
                f"arm {self.name!r} has {len(self.samples)} samples for {len(self.seeds)} seeds; give one each"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise UsageError(f"arm {self.name!r} names a seed twice; give every training its own seed")
        clean = tuple(None if v is None or not math.isfinite(v) else float(v) for v in self.samples)
        object.__setattr__(self, "samples", clean)

    @property
    def measured(self) -> dict[int, float]:
        """Metric by seed, of the trainings that gave one."""
        return {s: v for s, v in zip(self.seeds, self.samples, strict=True) if v is not None}

    @property
    def failed(self) -> int:
        """How many trainings gave no number."""
        return sum(v is None for v in self.samples)

    def __str__(self) -> str:
        return f"{wording.mean_and_deviation(list(self.measured.values()))} ({self.name})"


@dataclass(frozen=True)
class Comparison:
    """One subject against one control.

    Args:
        subject, control: names of the arms.
        n: seeds (paired) or trainings on the smaller side (Welch) that the test rests on.
        paired: whether `p_holm` adjusts the paired test (the arms have the same seeds) or Welch's.
        difference: how much better the subject is, in the metric's units: positive = better, whatever the direction.
        interval: 95 % confidence interval of the difference.
        p_paired, p_welch: two-sided p values; None where there is no such test.
        p_holm: Holm-adjusted over all comparisons of the verdict.
        p_no_worse: Holm-adjusted one-sided p of "worse by delta or more"; None where no delta was asked for.
        effect_name, effect, effect_interval: "d_z" (paired) or "g" (Welch), positive = subject better.
        smallest_difference: what these seeds show with 80 % power in Holm's worst case.
        seeds_needed: how many would show the observed difference; None where it cannot be said.
        failed_subject, failed_control: trainings without a number.
        note: why something could not be tested.
        outcome, sentence: what follows for this pair.
    """

    subject: str
    control: str
    n: int
    paired: bool
    difference: float | None
    interval: tuple[float, float] | None
    p_paired: float | None
    p_welch: float | None
    p_holm: float | None
    p_no_worse: float | None
    effect_name: str
    effect: float | None
    effect_interval: tuple[float, float] | None
    smallest_difference: float | None
    seeds_needed: int | None
    failed_subject: int
    failed_control: int
    note: str
    outcome: Outcome
    sentence: str


@dataclass(frozen=True)
class SelectionBias:
    """How much the search flattered its winner.

    Args:
        search_score: the winner's metric as the search saw it, in the metric's own direction.
        fresh_score: mean metric of the same loss on the same split at the same fidelity, with fresh seeds.
        n: number of fresh trainings behind `fresh_score`.
        metric, direction: the metric's name and which way is better.
    """

    search_score: float
    fresh_score: float
    n: int
    metric: str = "metric"
    direction: Direction = "min"

    @property
    def bias(self) -> float:
        """Search score minus fresh score, in the metric's units."""
        return self.search_score - self.fresh_score

    @property
    def optimism(self) -> float:
        """The bias turned so that positive means: the search saw a better value than fresh seeds give."""
        return self.bias if self.direction == "max" else -self.bias

    @property
    def sentence(self) -> str:
        decimals = wording.decimals_for(abs(self.bias), self.fresh_score)
        seen, fresh, size = (wording.number(v, decimals) for v in (self.search_score, self.fresh_score, abs(self.bias)))
        scores = (
            f"the search saw {wording.readable(self.metric)} {seen} for its winner, "
            f"{wording.count(self.n, 'fresh training')} at the same fidelity gave {fresh}"
        )
        if float(f"{abs(self.bias):.{decimals}f}") == 0.0:
            return f"Selection bias: none seen ({scores})."
        flattered = f"flattered it by {size}" if self.optimism > 0 else f"was too harsh by {size}"
        return f"Selection bias {wording.signed(self.bias, decimals)}: {scores}, so the search {flattered}."


@dataclass(frozen=True)
class Verdict:
    """What the trainings on the test split say about a loss (`judging.judge` states the rules).

    Args:
        outcome: "better", "worse", "no_worse" (than every control, by less than `delta`) or "not_shown".
        sentence: the outcome for people; names every control.
        comparisons, arms: what it rests on.
        metric, direction, split: what was measured, which way is better, and where.
        alpha: two-sided level after Holm's adjustment.
        delta: margin of "no worse", in the metric's units, if one was asked for.
        seeds: every seed that was trained with.
        larger_step_only: better than a control at the recipe's learning rate, but not once that is tuned.
        selection_bias: search score against fresh score, if measured.
        test_touches: how often this run's test split has been looked at so far, if counted.
    """

    outcome: Outcome
    sentence: str
    comparisons: tuple[Comparison, ...]
    arms: tuple[Arm, ...]
    metric: str
    direction: Direction
    split: str = "test"
    alpha: float = 0.05
    delta: float | None = None
    seeds: tuple[int, ...] = ()
    larger_step_only: bool = False
    selection_bias: SelectionBias | None = None
    test_touches: int | None = None

    def __str__(self) -> str:
        return self.sentence

    @property
    def test_sentence(self) -> str:
        """How often the test split was looked at, or nothing."""
        if self.test_touches is None:
            return ""
        return f"The {self.split} split has been touched {wording.count(self.test_touches, 'time')} so far."

    def to_text(self) -> str:
        """The arms and comparisons as plain tables, then the sentence."""
        better = "lower" if self.direction == "min" else "higher"
        arms = wording.table(
            (f"{self.split} {wording.readable(self.metric)} ({better} is better)", "mean ± sd", "trained", ""),
            [
                (
                    f"{a.name}{' [control]' if a.kind == 'control' else ''}",
                    wording.mean_and_deviation(list(a.measured.values())),
                    f"{len(a.measured)} of {len(a.seeds)}",
                    a.note,
                )
                for a in self.arms
            ],
            left=(0, 3),
        )
        pairs = wording.table(
            COMPARISON_HEADER,
            [comparison_cells(c) for c in self.comparisons],
            left=(0, 6),
        )
        extra = [self.selection_bias.sentence] if self.selection_bias else []
        if self.test_sentence:
            extra.append(self.test_sentence)
        return "\n\n".join([arms, pairs, "\n".join([self.sentence, *extra])])

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without NaN; `from_dict` reads it back."""
        document = asdict(self)
        if self.selection_bias is not None:
            document["selection_bias"] |= {"bias": self.selection_bias.bias, "sentence": self.selection_bias.sentence}
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Verdict:
        """The inverse of `to_dict`; tuples may have become lists on the way."""
        values = dict(document)
        values["comparisons"] = tuple(_record(Comparison, c) for c in values["comparisons"])
        values["arms"] = tuple(_record(Arm, a) for a in values["arms"])
        if values.get("selection_bias") is not None:
            values["selection_bias"] = _record(SelectionBias, values["selection_bias"])
        verdict: Verdict = _record(cls, values)
        return verdict


def comparison_cells(c: Comparison) -> tuple[str, ...]:
    """The cells of a comparison's row, the same in text and in the report."""
    if c.effect is None:
        effect = "–"
    else:
        effect = f"{c.effect_name} {wording.signed(c.effect, 2)} {wording.interval(c.effect_interval, 2, sign=True)}"
    return (
        f"{c.subject} vs {c.control}",
        wording.difference(c.difference, c.interval),
        wording.p_cell(c.p_paired),
        wording.p_cell(c.p_welch),
        wording.p_cell(c.p_holm),
        effect,
        wording.readable(c.outcome),
    )


def _record(kind: Any, document: Mapping[str, Any]) -> Any:
    names = {f.name for f in fields(kind)}
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in document.items() if k in names})
