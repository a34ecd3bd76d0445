"""Verdicts: every rule of `judging`, in both directions, with failures, and what the sentences must say."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from lossmith.analysis import Arm, SelectionBias, Verdict, judge
from lossmith.errors import UsageError

SEEDS = tuple(range(10, 16))
BASE = (0.040, 0.043, 0.039, 0.045, 0.041, 0.042)  # what a seed does to every arm
OWN = (0.0003, -0.0004, 0.0001, 0.0005, -0.0006, 0.0002)  # what is left of it between two arms
PAIRS = [("found", "cross_entropy"), ("found", "cross_entropy, tuned lr")]
Samples = tuple[float | None, ...]


def arm(name: str, shift: float, *, kind: str = "control", turn: int = 0, tuned_from: str | None = None) -> Arm:
    own = OWN[turn:] + OWN[:turn]
    samples = tuple(b + o + shift for b, o in zip(BASE, own, strict=True))
    return Arm(name, kind, samples, SEEDS, tuned_from=tuned_from)  # type: ignore[arg-type]


FOUND = arm("found", -0.010, kind="subject")
PLAIN = arm("cross_entropy", 0.0, turn=2)
TUNED = arm("cross_entropy, tuned lr", -0.004, turn=3, tuned_from="cross_entropy")


def verdict(found: Arm = FOUND, plain: Arm = PLAIN, tuned: Arm = TUNED, **options: object) -> Verdict:
    settings = {"metric": "error_rate", "direction": "min", **options}
    return judge([found], [plain, tuned], PAIRS, **settings)  # type: ignore[arg-type]


def failing(one: Arm, *places: int) -> Arm:
    return replace(one, samples=tuple(None if i in places else v for i, v in enumerate(one.samples)))


def numbers(one: Arm) -> list[float]:
    return [v for v in one.samples if v is not None]


def test_better_than_every_control() -> None:
    v = verdict()
    assert v.outcome == "better"
    # .0303 .0326 .0291 .0355 .0304 .0322: mean .03168, squared deviations 25.9e-6 in sum, sd √(25.9e-6 / 5) = .00228
    assert v.sentence.startswith("Better: test error rate .0317 ± .0023 (found) against .0417 ± .0024 (cross_entropy)")
    assert "cross_entropy, tuned lr" in v.sentence
    assert "mean ± sd over 6 seeds" in v.sentence
    assert "Holm-adjusted p < .05 against every control" in v.sentence
    assert not v.larger_step_only
    assert v.seeds == SEEDS


def test_tests_and_adjustment_agree_with_scipy_and_holm_by_hand() -> None:
    v = verdict()
    paired = [stats.ttest_rel(numbers(FOUND), numbers(c)) for c in (PLAIN, TUNED)]
    assert_allclose([c.p_paired for c in v.comparisons], [t.pvalue for t in paired], rtol=1e-9)
    assert_allclose(
        [c.p_welch for c in v.comparisons],
        [stats.ttest_ind(numbers(FOUND), numbers(c), equal_var=False).pvalue for c in (PLAIN, TUNED)],
        rtol=1e-9,
    )
    small, large = sorted(t.pvalue for t in paired)
    # Holm with two: the smaller is doubled, the larger is kept unless the doubled one is larger
    assert_allclose(sorted(c.p_holm or 9 for c in v.comparisons), [2 * small, max(2 * small, large)], rtol=1e-9)
    assert_allclose(v.comparisons[0].difference, 0.010, rtol=1e-6)  # lower error: a positive difference
    low, high = v.comparisons[0].interval or (0, 0)
    assert low < 0.010 < high


def test_the_direction_of_the_metric_changes_nothing_but_the_numbers() -> None:
    def accuracy(one: Arm) -> Arm:
        return replace(one, samples=tuple(None if v is None else 1.0 - v for v in one.samples))

    for found in (FOUND, PLAIN, failing(FOUND, 2), replace(PLAIN, samples=TUNED.samples)):
        found = replace(found, name="found", kind="subject")
        one = verdict(found)
        other = verdict(accuracy(found), accuracy(PLAIN), accuracy(TUNED), metric="accuracy", direction="max")
        assert one.outcome == other.outcome
        for a, b in zip(one.comparisons, other.comparisons, strict=True):
            assert a.outcome == b.outcome
            assert_allclose(a.difference or 0.0, b.difference or 0.0, atol=1e-12)
            assert_allclose(a.p_holm or 9.0, b.p_holm or 9.0, rtol=1e-6)
    assert "higher is better" in other.to_text()


def test_not_shown_says_what_the_seeds_could_have_shown() -> None:
    v = verdict(arm("found", -0.0001, kind="subject", turn=1), tuned=arm(TUNED.name, 0.0, turn=4))
    assert v.outcome == "not_shown"
    assert v.sentence.startswith("Not shown: ")
    assert "These 6 seeds could have shown a difference of " in v.sentence
    assert "would take about " in v.sentence
    assert all(c.smallest_difference and c.seeds_needed for c in v.comparisons)
    assert max(c.seeds_needed or 0 for c in v.comparisons) > 6


def test_worse_if_a_control_beats_every_subject() -> None:
    v = verdict(tuned=arm(TUNED.name, -0.020, turn=3, tuned_from="cross_entropy"))
    assert v.outcome == "worse"
    assert "It is beaten by cross_entropy, tuned lr (Holm-adjusted p < .001)" in v.sentence
    assert "Better: found vs cross_entropy." in v.sentence
    second = arm("found, tuned lr", -0.0201, kind="subject", turn=1, tuned_from="found")
    both = judge(
        [FOUND, second],
        [PLAIN, arm(TUNED.name, -0.020, turn=3)],
        [*PAIRS, ("found, tuned lr", TUNED.name)],
        metric="error_rate",
        direction="min",
    )
    assert both.outcome == "not_shown"  # with its own learning rate tuned the loss holds out


def test_a_larger_step_is_called_one() -> None:
    v = verdict(tuned=arm(TUNED.name, -0.010, turn=3, tuned_from="cross_entropy"))
    assert v.outcome == "not_shown"
    assert v.larger_step_only
    assert (
        "It beats cross_entropy at the recipe's learning rate, but not once that learning rate is tuned" in v.sentence
    )
    assert "no more than a larger step" in v.sentence


def test_no_larger_step_where_the_tuned_control_is_beaten_by_another_subject() -> None:
    second = arm("found, tuned lr", -0.015, kind="subject", turn=1)
    tuned = arm(TUNED.name, -0.010, turn=3, tuned_from="cross_entropy")
    v = judge(
        [FOUND, second], [PLAIN, tuned], [*PAIRS, (second.name, tuned.name)], metric="error_rate", direction="min"
    )
    assert not v.larger_step_only


def test_no_worse_needs_a_margin() -> None:
    near = arm("found", -0.0001, kind="subject", turn=1)
    controls = {"tuned": arm(TUNED.name, 0.0, turn=4)}
    assert verdict(near, **controls).outcome == "not_shown"
    assert verdict(near, **controls, delta=0.0001).outcome == "not_shown"
    v = verdict(near, **controls, delta=0.005)
    assert v.outcome == "no_worse"
    assert v.sentence.startswith("No worse than .005: ")
    assert all(c.p_no_worse is not None and c.p_no_worse < 0.05 for c in v.comparisons)


def test_a_significant_deficit_smaller_than_the_margin_is_told() -> None:
    behind = arm("found", 0.002, kind="subject")
    assert verdict(behind, tuned=arm(TUNED.name, 0.0, turn=3)).outcome == "worse"
    v = verdict(behind, tuned=arm(TUNED.name, 0.0, turn=3), delta=0.01)
    assert v.outcome == "no_worse"
    assert "significantly worse, by less than that: found vs cross_entropy" in v.sentence


def test_a_failure_of_the_subject_counts_against_it() -> None:
    v = verdict(failing(FOUND, 2))
    assert v.outcome == "not_shown"
    assert [c.n for c in v.comparisons] == [5, 5]
    assert all(c.p_holm is not None and c.p_holm < 0.05 for c in v.comparisons)
    assert "Failed trainings: found in 1 of 6." in v.sentence
    assert "A loss that fails where its control trains is not called better" in v.sentence
    assert "could have shown" not in v.sentence  # more seeds are not what is missing
    assert verdict(failing(FOUND, 2), delta=0.02).outcome == "not_shown"


def test_a_failure_of_a_control_is_reported_and_not_counted() -> None:
    v = verdict(plain=failing(PLAIN, 0))
    assert v.outcome == "better"
    assert v.comparisons[0].n == 5
    assert v.comparisons[0].failed_control == 1
    assert_allclose(v.comparisons[0].p_paired, stats.ttest_rel(numbers(FOUND)[1:], numbers(PLAIN)[1:]).pvalue)
    assert "Failed trainings: cross_entropy in 1 of 6." in v.sentence


def test_a_seed_that_fails_in_both_counts_against_neither() -> None:
    v = verdict(failing(FOUND, 1), failing(PLAIN, 1), failing(TUNED, 1))
    assert v.outcome == "better"


def test_a_subject_that_never_trains_is_worse() -> None:
    v = verdict(failing(FOUND, *range(6)))
    assert v.outcome == "worse"
    assert "every training of the subject failed" in v.sentence
    assert v.comparisons[0].difference is None
    json.dumps(v.to_dict(), allow_nan=False)


def test_a_control_that_never_trains_decides_nothing() -> None:
    v = verdict(plain=failing(PLAIN, *range(6)))
    assert v.outcome == "not_shown"
    assert "no seed gave a number in both" in v.sentence


def test_other_seeds_are_compared_by_welch() -> None:
    other = replace(PLAIN, seeds=tuple(range(100, 106)))
    c = verdict(plain=other).comparisons[0]
    assert not c.paired
    assert c.p_paired is None
    assert c.effect_name == "g"
    assert_allclose(c.p_welch, stats.ttest_ind(numbers(FOUND), numbers(PLAIN), equal_var=False).pvalue, rtol=1e-9)


def test_seeds_in_another_order_are_still_pairs() -> None:
    shuffled = Arm(PLAIN.name, "control", PLAIN.samples[::-1], SEEDS[::-1])
    assert verdict(plain=shuffled).comparisons[0].p_paired == verdict().comparisons[0].p_paired


def test_unpaired_failures_are_compared_as_shares() -> None:
    twelve = Arm("cross_entropy", "control", (*failing(PLAIN, 0).samples, *PLAIN.samples), tuple(range(100, 112)))
    v = judge([failing(FOUND, 0)], [twelve], [PAIRS[0]], metric="error_rate", direction="min")
    assert v.outcome == "not_shown"  # 1 of 6 against 1 of 12
    v = judge([FOUND], [twelve], [PAIRS[0]], metric="error_rate", direction="min")
    assert v.outcome == "better"


def test_one_seed_shows_nothing() -> None:
    v = judge(
        [Arm("found", "subject", (0.1,), (0,))],
        [Arm("mse", "control", (0.2,), (0,))],
        [("found", "mse")],
        metric="mse",
        direction="min",
    )
    assert v.outcome == "not_shown"
    assert v.sentence == (
        "Not shown: test mse .1000 (found) against .2000 (mse), 1 seed. Fewer than two seeds say nothing about chance: "
        "repeat it with more (--seeds 10 is a good number)."
    )


def test_equal_and_constant_samples() -> None:
    same = replace(PLAIN, name="found", kind="subject")
    v = judge([same], [PLAIN], [PAIRS[0]], metric="error_rate", direction="min")
    assert v.outcome == "not_shown"
    assert v.comparisons[0].p_holm == 1.0
    assert "all samples are equal" in v.sentence
    constant = judge(
        [Arm("found", "subject", (0.25,) * 3, (0, 1, 2))],
        [Arm("mse", "control", (0.5,) * 3, (0, 1, 2))],
        [("found", "mse")],
        metric="mse",
        direction="min",
    )
    assert constant.outcome == "not_shown"
    assert constant.comparisons[0].p_holm is None
    assert "without variation it cannot be tested" in constant.sentence


def test_text_has_every_arm_every_comparison_and_the_sentence() -> None:
    v = verdict(selection_bias=SelectionBias(0.030, 0.034, 5, "error_rate", "min"), test_touches=18)
    text = v.to_text()
    for one in v.arms:
        assert one.name in text
    assert text.count(" vs ") == 2
    assert v.sentence in text
    assert "The test split has been touched 18 times so far." in text
    assert "Selection bias −.0040" in text


def test_json_and_back() -> None:
    v = verdict(failing(FOUND, 1), selection_bias=SelectionBias(0.03, 0.034, 5), delta=0.01, test_touches=3)
    assert Verdict.from_dict(json.loads(json.dumps(v.to_dict(), allow_nan=False))) == v


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_a_failure(bad: float) -> None:
    one = Arm("a", "subject", (1.0, bad), (0, 1))
    assert one.samples == (1.0, None)
    assert one.failed == 1


def test_selection_bias_reads_the_direction() -> None:
    low = SelectionBias(0.030, 0.034, 10, "error_rate", "min")
    assert low.bias == pytest.approx(-0.004)
    assert low.optimism == pytest.approx(0.004)
    assert low.sentence == (
        "Selection bias −.0040: the search saw error rate .0300 for its winner, 10 fresh trainings at the same "
        "fidelity gave .0340, so the search flattered it by .0040."
    )
    assert "flattered" in SelectionBias(0.97, 0.95, 10, "accuracy", "max").sentence
    assert "too harsh" in SelectionBias(0.95, 0.97, 10, "accuracy", "max").sentence
    assert "none seen" in SelectionBias(0.95, 0.95, 1, "accuracy", "max").sentence


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"comparisons": []}, "at least one comparison"),
        ({"comparisons": [("lost", "cross_entropy")]}, "no subject is called 'lost'"),
        ({"comparisons": [("found", "lost")]}, "no control is called 'lost'"),
        ({"comparisons": [PAIRS[0], PAIRS[0]]}, "asked for twice"),
        ({"controls": [PLAIN, PLAIN]}, "do not all have their own name"),
        ({"direction": "down"}, "'min'"),
        ({"alpha": 1.0}, "between 0 and 1"),
        ({"delta": -0.1}, "positive number"),
        ({"delta": math.nan}, "positive number"),
    ],
)
def test_misuse_is_one_sentence(change: dict[str, object], message: str) -> None:
    call: dict[str, object] = {"subjects": [FOUND], "controls": [PLAIN], "comparisons": [PAIRS[0]], **change}
    call = {"metric": "error_rate", "direction": "min", **call}
    with pytest.raises(UsageError, match=message):
        judge(**call)  # type: ignore[arg-type]


def test_arms_check_themselves() -> None:
    with pytest.raises(UsageError, match="2 samples for 1 seeds"):
        Arm("a", "subject", (1.0, 2.0), (0,))
    with pytest.raises(UsageError, match="names a seed twice"):
        Arm("a", "subject", (1.0, 2.0), (0, 0))


values = st.one_of(st.none(), st.floats(0, 1, width=16))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(values, values, values), min_size=1, max_size=6), st.sampled_from(["min", "max"]))
def test_any_samples_give_a_verdict_that_survives_json(rows: list[Samples], direction: str) -> None:
    seeds = tuple(range(len(rows)))
    a, b, c = (tuple(row[i] for row in rows) for i in range(3))
    v = judge(
        [Arm("a", "subject", a, seeds)],
        [Arm("b", "control", b, seeds), Arm("c", "control", c, seeds)],
        [("a", "b"), ("a", "c")],
        metric="m",
        direction=direction,  # type: ignore[arg-type]
        delta=0.1,
    )
    assert Verdict.from_dict(json.loads(json.dumps(v.to_dict(), allow_nan=False))) == v
    assert v.to_text()
    assert (v.outcome == "better") == all(x.outcome == "better" for x in v.comparisons)
    for x in v.comparisons:
        if x.outcome == "better":
            assert x.p_holm is not None
            assert x.p_holm < 0.05
            assert (x.difference or 0.0) > 0.0
            assert x.failed_subject <= x.failed_control
