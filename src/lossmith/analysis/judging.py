"""From trainings to a verdict: the rules, in one place.

Pairs. Arms with the same seeds are compared by the paired t test, others by Welch's; Holm's adjustment runs over all
comparisons of the verdict.

Failed trainings. They give no number and none is made up for them. A seed whose training failed in either arm is left
out of the difference, and then: where the subject failed more than its control (paired: on any seed where the control
did not; unpaired: in a larger share of trainings), it can be neither `better` nor `no_worse`; a subject without any
finished training is `worse` than a control with at least two. A control's failures are reported, never counted for the
subject.

One pair is `better` if it is ahead with Holm-adjusted p < alpha; else `no_worse` if a delta was given and the one-sided
test against a deficit of delta (also Holm-adjusted) has p < alpha, even where a smaller deficit is significant (the
sentence says so); else `worse` if it is behind with Holm-adjusted p < alpha; else `not_shown`.

The verdict is `better` if every comparison is; `worse` if some control beats every subject it was compared with (then
that control is what should be used); `no_worse` if every comparison is `no_worse` or `better`; else `not_shown`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lossmith.analysis.power import seeds_needed, smallest_difference
from lossmith.analysis.statistics import Effect, TTest, effect_size, holm, no_worse, paired_t, welch_t
from lossmith.analysis.verdict import Arm, Comparison, Direction, Outcome, SelectionBias, Verdict
from lossmith.analysis.verdict_sentence import comparison_sentence, verdict_sentence
from lossmith.errors import UsageError


def judge(
    subjects: Sequence[Arm],
    controls: Sequence[Arm],
    comparisons: Sequence[tuple[str, str]],
    *,
    metric: str,
    direction: Direction,
    alpha: float = 0.05,
    delta: float | None = None,
    split: str = "test",
    selection_bias: SelectionBias | None = None,
    test_touches: int | None = None,
) -> Verdict:
    """Compare subjects with controls and say what the seeds show (rules: module docstring).

    Args:
        subjects, controls: the arms; their names are unique.
        comparisons: (subject name, control name) pairs; these and only these make up Holm's family.
        metric, direction, split: what the samples are, which way is better ("min" or "max"), where they were measured.
        alpha: two-sided level after Holm's adjustment.
        delta: margin for "no worse", in the metric's units, above 0.
        selection_bias, test_touches: handed through to the verdict.
    Raises:
        UsageError: no comparison, an unknown or repeated name, a direction, alpha or delta out of range.
    """
    arms = {a.name: a for a in (*subjects, *controls)}
    _check(subjects, controls, comparisons, direction, alpha, delta)
    family = len(comparisons)
    drafts = [_draft(arms[s], arms[c], direction) for s, c in comparisons]
    adjusted = holm([d.test.p if d.test else None for d in drafts])
    margins = [no_worse(d.test, delta) if d.test and delta is not None else None for d in drafts]
    pairs = [
        _conclude(draft, p, p_margin, alpha, alpha / family)
        for draft, p, p_margin in zip(drafts, adjusted, holm(margins), strict=True)
    ]
    verdict = Verdict(
        outcome=_outcome(pairs),
        sentence="",
        comparisons=tuple(replace(c, sentence=comparison_sentence(c, arms, metric, split, delta)) for c in pairs),
        arms=tuple(arms.values()),
        metric=metric,
        direction=direction,
        split=split,
        alpha=alpha,
        delta=delta,
        seeds=tuple(sorted({seed for a in arms.values() for seed in a.seeds})),
        larger_step_only=_larger_step_only(pairs, controls),
        selection_bias=selection_bias,
        test_touches=test_touches,
    )
    return replace(verdict, sentence=verdict_sentence(verdict))


@dataclass(frozen=True)
class _Draft:
    """A comparison before Holm: the tests on oriented samples (more = better) and what failed."""

    subject: Arm
    control: Arm
    paired: bool
    test: TTest | None
    welch: TTest | None
    effect: Effect | None
    held_back: bool  # the subject failed more than its control


def _draft(subject: Arm, control: Arm, direction: Direction) -> _Draft:
    sign = 1.0 if direction == "max" else -1.0
    ours = {seed: sign * v for seed, v in subject.measured.items()}
    theirs = {seed: sign * v for seed, v in control.measured.items()}
    paired = set(subject.seeds) == set(control.seeds)
    welch = welch_t(list(ours.values()), list(theirs.values())) if ours and theirs else None
    if not paired:
        held_back = subject.failed * len(control.seeds) > control.failed * len(subject.seeds)
        effect = effect_size(list(ours.values()), list(theirs.values()), paired=False) if welch else None
        return _Draft(subject, control, paired, welch, welch, effect, held_back)
    common = [seed for seed in subject.seeds if seed in ours and seed in theirs]
    first, second = [ours[s] for s in common], [theirs[s] for s in common]
    held_back = any(seed not in ours for seed in theirs)
    test = paired_t(first, second) if common else None
    effect = effect_size(first, second, paired=True) if common else None
    return _Draft(subject, control, paired, test, welch, effect, held_back)


def _conclude(d: _Draft, p_holm: float | None, p_margin: float | None, alpha: float, strictest: float) -> Comparison:
    test = d.test
    significant = p_holm is not None and p_holm < alpha
    outcome: Outcome = "not_shown"
    if test is None:
        if not d.subject.measured and len(d.subject.seeds) >= 2 and len(d.control.measured) >= 2:
            outcome = "worse"
    elif significant and test.difference > 0 and not d.held_back:
        outcome = "better"
    elif p_margin is not None and p_margin < alpha and not d.held_back:
        outcome = "no_worse"
    elif significant and test.difference < 0:
        outcome = "worse"
    return Comparison(
        subject=d.subject.name,
        control=d.control.name,
        n=min(test.n) if test else 0,
        paired=d.paired,
        difference=test.difference if test else None,
        interval=test.interval if test else None,
        p_paired=test.p if test and d.paired else None,
        p_welch=d.welch.p if d.welch else None,
        p_holm=p_holm,
        p_no_worse=p_margin,
        effect_name=d.effect.name if d.effect else "",
        effect=d.effect.value if d.effect else None,
        effect_interval=d.effect.interval if d.effect else None,
        smallest_difference=smallest_difference(test, alpha=strictest) if test else None,
        seeds_needed=seeds_needed(test, alpha=strictest) if test else None,
        failed_subject=d.subject.failed,
        failed_control=d.control.failed,
        note=test.note if test else "no seed gave a number in both",
        outcome=outcome,
        sentence="",
    )


def _outcome(pairs: Sequence[Comparison]) -> Outcome:
    if all(c.outcome == "better" for c in pairs):
        return "better"
    for control in {c.control for c in pairs}:
        if all(c.outcome == "worse" for c in pairs if c.control == control):
            return "worse"
    if all(c.outcome in ("better", "no_worse") for c in pairs):
        return "no_worse"
    return "not_shown"


def _larger_step_only(pairs: Sequence[Comparison], controls: Sequence[Arm]) -> bool:
    """Better than a control at the recipe's learning rate, never better than the same control with its own tuned."""
    beaten = {c.control for c in pairs if c.outcome == "better"}
    for arm in controls:
        against = [c for c in pairs if c.control == arm.name]
        if arm.tuned_from in beaten and against and arm.name not in beaten:
            return True
    return False


def _check(
    subjects: Sequence[Arm],
    controls: Sequence[Arm],
    comparisons: Sequence[tuple[str, str]],
    direction: str,
    alpha: float,
    delta: float | None,
) -> None:
    if not comparisons:
        raise UsageError("a verdict needs at least one comparison; name a control, for example the task loss")
    names = [a.name for a in (*subjects, *controls)]
    if len(set(names)) != len(names):
        raise UsageError(f"the arms {names} do not all have their own name; rename the repeated ones")
    for s, c in comparisons:
        if s not in {a.name for a in subjects}:
            raise UsageError(
                f"comparison ({s!r}, {c!r}): no subject is called {s!r}; known: {[a.name for a in subjects]}"
            )
        if c not in {a.name for a in controls}:
            raise UsageError(
                f"comparison ({s!r}, {c!r}): no control is called {c!r}; known: {[a.name for a in controls]}"
            )
    if len(set(comparisons)) != len(comparisons):
        raise UsageError("a comparison is asked for twice; Holm's adjustment would count it twice, so name it once")
    if direction not in ("min", "max"):
        raise UsageError(f"direction {direction!r}: give 'min' (lower is better) or 'max'")
    if not 0.0 < alpha < 1.0:
        raise UsageError(f"alpha is {alpha}; give a level between 0 and 1, for example 0.05")
    if delta is not None and not (math.isfinite(delta) and delta > 0):
        raise UsageError(f"delta is {delta}; give a positive number in the metric's units")
