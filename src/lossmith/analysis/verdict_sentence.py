"""The sentences of a verdict: what was measured, what follows, what the seeds could have shown, what to beware of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lossmith.analysis import wording
from lossmith.analysis.verdict import Arm, Comparison, Verdict


def comparison_sentence(c: Comparison, arms: Mapping[str, Arm], metric: str, split: str, delta: float | None) -> str:
    """One pair: outcome, both values, difference, p, and for what was not shown the reach of these seeds."""
    relation = {
        "better": "is better than",
        "worse": "is worse than",
        "no_worse": f"is no worse by {wording.margin(delta)} or more than",
        "not_shown": "is not shown better than",
    }[c.outcome]
    subject, control = (wording.mean_and_deviation(list(arms[n].measured.values())) for n in (c.subject, c.control))
    parts = [f"{c.subject} {relation} {c.control}: {split} {wording.readable(metric)} {subject} against {control}"]
    if c.difference is not None:
        kind = "paired t" if c.paired else "Welch"
        test = f"{kind}, {wording.count(c.n, 'seed')}, Holm-adjusted {wording.p_value(c.p_holm)}"
        parts.append(f"difference {wording.difference(c.difference, c.interval)}, positive is better ({test})")
    if c.outcome == "not_shown":
        parts.extend(filter(None, [_reach([c]), _would_take([c])]))
    if c.failed_subject or c.failed_control:
        parts.append(f"failed trainings: {c.failed_subject} against {c.failed_control}")
    if c.note:
        parts.append(c.note)
    return "; ".join(parts) + "."


def verdict_sentence(v: Verdict) -> str:
    """The outcome in words; every control is named with its value."""
    arms = {a.name: a for a in v.arms}
    subjects, controls = (
        wording.listing(str(arms[n]) for n in dict.fromkeys(names)) for names in _names(v.comparisons)
    )
    seeds = sorted({len(arms[n].seeds) for names in _names(v.comparisons) for n in names})
    spread = "mean ± sd over " if seeds[-1] > 1 else ""
    trained = (
        spread
        + "–".join(f"{n}" for n in dict.fromkeys([seeds[0], seeds[-1]]))
        + (" seeds" if seeds[-1] > 1 else " seed")
    )
    values = f"{v.split} {wording.readable(v.metric)} {subjects} against {controls}, {trained}"
    sentences = [f"{_opening(v)}: {values}.", _reason(v)]
    if v.larger_step_only:
        sentences.append(_larger_step(v))
    sentences.append(_failures(v))
    return " ".join(filter(None, sentences))


def _opening(v: Verdict) -> str:
    if v.outcome == "no_worse":
        return f"No worse than {wording.margin(v.delta)}"
    return {"better": "Better", "worse": "Worse", "not_shown": "Not shown"}[v.outcome]


def _reason(v: Verdict) -> str:
    level = wording.margin(v.alpha)
    if v.outcome == "better":
        largest = max(c.p_holm for c in v.comparisons if c.p_holm is not None)
        every = "every control" if len(v.comparisons) > 1 else "the control"
        return f"Holm-adjusted p < {level} against {every} (largest: {wording.p_value(largest)})."
    if v.outcome == "no_worse":
        behind = [c for c in v.comparisons if c.p_holm is not None and c.p_holm < v.alpha and (c.difference or 0.0) < 0]
        small = f" It is significantly worse, by less than that: {_pairs(behind)}." if behind else ""
        return (
            f"It is not shown better than every control, but worse than none by {wording.margin(v.delta)} or more "
            f"(one-sided tests, Holm-adjusted p < {level}).{small}"
        )
    beaten = ""
    if v.outcome == "worse":
        controls = [a.name for a in v.arms if a.kind == "control" and _beats_all(v.comparisons, a.name)]
        named = "; ".join(f"{n} ({_worst_p(v.comparisons, n)})" for n in controls)
        beaten = f"It is beaten by {named}."
    return " ".join(filter(None, [beaten, _apart(v), _undecided(v)]))


def _apart(v: Verdict) -> str:
    """Which comparison came out how, where they differ."""
    words = {
        "better": "Better",
        "no_worse": f"No worse than {wording.margin(v.delta)}",
        "worse": "Worse",
        "not_shown": "Not shown",
    }
    groups = {word: [c for c in v.comparisons if c.outcome == outcome] for outcome, word in words.items()}
    if len([g for g in groups.values() if g]) < 2:
        return ""
    return " ".join(f"{word}: {_pairs(group)}." for word, group in groups.items() if group)


def _undecided(v: Verdict) -> str:
    """What the seeds could have shown where nothing was shown, and how many it would take."""
    # Pairs held back only because a training failed are no question of more seeds.
    pairs = [c for c in v.comparisons if c.outcome == "not_shown" and not (c.p_holm is not None and c.p_holm < v.alpha)]
    if not pairs:
        return ""
    sentences = [f"{part[0].upper()}{part[1:]}." for part in (_reach(pairs), _would_take(pairs)) if part]
    if max(len(a.seeds) for a in v.arms) < 2:
        sentences.append(
            "Fewer than two seeds say nothing about chance: repeat it with more (--seeds 10 is a good number)."
        )
    elif notes := [f"{c.subject} vs {c.control}: {c.note}" for c in pairs if c.note]:
        sentences.append(f"{'; '.join(notes)}.")
    return " ".join(sentences)


def _reach(pairs: Sequence[Comparison]) -> str:
    """The smallest difference that these seeds could have shown: the largest over the pairs."""
    known = [(c.smallest_difference, c.n) for c in pairs if c.smallest_difference is not None]
    if not known:
        return ""
    size, n = max(known)
    seeds = wording.count(n, "seed")
    return f"these {seeds} could have shown a difference of {_short(size)} (80 % power, Holm's worst case)"


def _would_take(pairs: Sequence[Comparison]) -> str:
    """How many seeds the observed advantage would take: the most over the pairs where the subject was ahead."""
    ahead = [c for c in pairs if c.smallest_difference is not None and c.difference is not None and c.difference > 0]
    if not ahead:
        behind = dict.fromkeys(c.control for c in pairs if c.difference is not None and c.difference < 0)
        return f"the observed difference is in favour of {wording.listing(behind)}" if behind else ""
    unreachable = [c for c in ahead if c.seeds_needed is None]
    hardest = unreachable[0] if unreachable else max(ahead, key=lambda c: c.seeds_needed or 0)
    seeds = (
        "more than a million seeds"
        if hardest.seeds_needed is None
        else f"about {wording.count(hardest.seeds_needed, 'seed')}"
    )
    return f"the observed {_short(hardest.difference or 0.0)} over {hardest.control} would take {seeds}"


def _larger_step(v: Verdict) -> str:
    beaten = {c.control for c in v.comparisons if c.outcome == "better"}
    tuned = [a for a in v.arms if a.kind == "control" and a.tuned_from in beaten and a.name not in beaten]
    plain = wording.listing(dict.fromkeys(a.tuned_from for a in tuned if a.tuned_from))
    names = wording.listing(a.name for a in tuned)
    return (
        f"It beats {plain} at the recipe's learning rate, but not once that learning rate is tuned ({names}): "
        f"what it wins may be no more than a larger step."
    )


def _failures(v: Verdict) -> str:
    failed = [f"{a.name} in {a.failed} of {len(a.seeds)}" for a in v.arms if a.failed]
    if not failed:
        return ""
    held = [c for c in v.comparisons if c.outcome == "not_shown" and c.p_holm is not None and c.p_holm < v.alpha]
    rule = (
        " A loss that fails where its control trains is not called better, whatever the trainings that survived say."
        if held
        else ""
    )
    return f"Failed trainings: {'; '.join(failed)}.{rule}"


def _beats_all(pairs: Sequence[Comparison], control: str) -> bool:
    return all(c.outcome == "worse" for c in pairs if c.control == control)


def _worst_p(pairs: Sequence[Comparison], control: str) -> str:
    values = [c.p_holm for c in pairs if c.control == control and c.p_holm is not None]
    return f"Holm-adjusted {wording.p_value(max(values))}" if values else "every training of the subject failed"


def _names(pairs: Sequence[Comparison]) -> tuple[list[str], list[str]]:
    """Subjects and controls that are compared."""
    return [c.subject for c in pairs], [c.control for c in pairs]


def _pairs(pairs: Sequence[Comparison]) -> str:
    return "; ".join(f"{c.subject} vs {c.control}" for c in pairs)


def _short(value: float) -> str:
    """Two significant digits."""
    return wording.number(value, wording.decimals_for(abs(value)))
