"""Statistics: our formulas against scipy.stats, against values worked by hand, and against laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from lossmith.analysis.statistics import effect_size, equivalent, holm, no_worse, paired_t, welch_t
from lossmith.errors import UsageError
from lossmith.rng import stream

A = [0.0312, 0.0287, 0.0334, 0.0301, 0.0299]
B = [0.0433, 0.0401, 0.0388, 0.0472, 0.0420]
samples = st.lists(st.floats(-1e3, 1e3, allow_nan=False, width=32), min_size=3, max_size=12)


def test_paired_t_agrees_with_scipy() -> None:
    ours, theirs = paired_t(A, B), stats.ttest_rel(A, B)
    assert_allclose([ours.p, ours.df], [theirs.pvalue, theirs.df], rtol=1e-12)
    assert_allclose(ours.interval, theirs.confidence_interval(0.95), rtol=1e-12)
    assert ours.n == (5, 5)


def test_paired_t_by_hand() -> None:
    # differences 1, 2, 3: mean 2, sd 1, se 1/√3, t = 2√3 on 2 df; F(t) = ½ + t/(2√(2 + t²)), so p = 1 − √12/√14.
    test = paired_t([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert test.difference == 2.0
    assert_allclose(test.p, 1.0 - math.sqrt(12.0 / 14.0), rtol=1e-12)
    # t(.975, 2 df) = .95·√(2/(1 − .95²)) = 4.302653
    half = 0.95 * math.sqrt(2.0 / (1.0 - 0.95**2)) / math.sqrt(3.0)
    assert_allclose(test.interval, (2.0 - half, 2.0 + half), rtol=1e-9)


@pytest.mark.parametrize("sizes", [(5, 5), (3, 9), (2, 2), (30, 4)])
def test_welch_agrees_with_scipy(sizes: tuple[int, int]) -> None:
    rng = stream(0, "welch", *sizes)
    a, b = rng.normal(1.0, 0.3, sizes[0]), rng.normal(0.5, 2.0, sizes[1])
    ours, theirs = welch_t(a.tolist(), b.tolist()), stats.ttest_ind(a, b, equal_var=False)
    assert_allclose([ours.p, ours.df], [theirs.pvalue, theirs.df], rtol=1e-10)
    assert_allclose(ours.interval, theirs.confidence_interval(0.95), rtol=1e-10)


@settings(max_examples=60, deadline=None)
@given(samples, samples)
def test_swapping_the_groups_turns_the_sign_only(a: list[float], b: list[float]) -> None:
    one, other = welch_t(a, b), welch_t(b, a)
    assert_allclose(one.difference, -other.difference, atol=1e-9)
    assert (one.p is None) == (other.p is None)
    if one.p is not None and other.p is not None:
        assert_allclose(one.p, other.p, rtol=1e-9)
        assert 0.0 <= one.p <= 1.0


def test_pairing_gains_from_what_seeds_share() -> None:
    shared = stream(0, "shared").normal(0.0, 1.0, 8)
    noise = stream(0, "noise").normal(0.0, 0.05, (2, 8))
    a, b = (shared + 0.2 + noise[0]).tolist(), (shared + noise[1]).tolist()
    paired, welch = paired_t(a, b).p, welch_t(a, b).p
    assert paired is not None
    assert welch is not None
    assert paired < 0.01 < 0.2 < welch


@pytest.mark.parametrize("test", [paired_t, welch_t])
def test_one_sample_cannot_be_tested(test) -> None:  # type: ignore[no-untyped-def]
    result = test([1.0], [2.0])
    assert result.p is None
    assert result.interval is None
    assert result.difference == -1.0
    assert "at least 2 seeds" in result.note
    assert not result.testable


@pytest.mark.parametrize("test", [paired_t, welch_t])
def test_equal_samples_show_no_difference(test) -> None:  # type: ignore[no-untyped-def]
    result = test([0.1] * 4, [0.1] * 4)
    assert result.p == 1.0
    assert result.interval == (0.0, 0.0)


@pytest.mark.parametrize("test", [paired_t, welch_t])
def test_a_constant_difference_cannot_be_tested(test) -> None:  # type: ignore[no-untyped-def]
    result = test([0.3] * 4, [0.1] * 4)
    assert result.p is None
    assert_allclose(result.difference, 0.2)
    assert "without variation" in result.note


def test_rounding_is_no_variation() -> None:
    # .3 − .2, .4 − .3, .5 − .4 differ in the last bit: their standard deviation is 3e-17, not a reason for t = 1e15.
    result = paired_t([0.3, 0.4, 0.5], [0.2, 0.3, 0.4])
    assert np.std([0.3 - 0.2, 0.4 - 0.3, 0.5 - 0.4]) > 0
    assert result.p is None


def test_one_constant_arm_is_tested_by_welch() -> None:
    result = welch_t([0.0, 0.0, 0.0], [1.0, 2.0, 3.0])
    # se = √(1/3), df = 2 (the constant arm adds nothing): t = −2√3
    assert_allclose([result.p, result.df], [1.0 - math.sqrt(12.0 / 14.0), 2.0], rtol=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_failed_trainings_are_not_numbers(bad: float) -> None:
    with pytest.raises(UsageError, match="sample 1 of the first group"):
        paired_t([1.0, bad], [1.0, 2.0])
    with pytest.raises(UsageError, match="sample 0 of the second group"):
        welch_t([1.0, 2.0], [bad, 2.0])


def test_misuse_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="use welch_t"):
        paired_t([1.0, 2.0], [1.0])
    with pytest.raises(UsageError, match="at least one value"):
        welch_t([], [1.0])
    with pytest.raises(UsageError, match="positive number"):
        no_worse(paired_t(A, B), 0.0)


def test_d_z_by_hand_and_its_interval_by_scipy() -> None:
    effect = effect_size([2.0, 4.0, 6.0, 8.0], [1.0, 2.0, 3.0, 4.0], paired=True)
    assert effect is not None
    assert_allclose(effect.value, 2.5 / math.sqrt(5.0 / 3.0), rtol=1e-12)  # differences 1, 2, 3, 4
    t = effect.value * 2.0
    # scipy 1.17: the limits are the noncentralities that put the observed t at the 97.5 % and 2.5 % points
    assert_allclose(stats.nct.cdf(t, 3, np.array(effect.interval) * 2.0), [0.975, 0.025], atol=1e-6)


def test_hedges_g_by_hand() -> None:
    effect = effect_size([3.0, 4.0, 5.0], [1.0, 2.0, 3.0], paired=False)
    assert effect is not None
    # pooled sd 1, difference 2, df 4: J = Γ(2)/(√2·Γ(1.5)) = 1/(√2·.886227) = .797885
    assert_allclose(effect.value, 2.0 * 1.0 / (math.sqrt(2.0) * math.gamma(1.5)), rtol=1e-12)
    low, high = effect.interval
    assert low < 0.0 < effect.value < high  # three against three at p = .07


def test_effect_of_samples_without_variation_is_undefined() -> None:
    assert effect_size([1.0, 1.0], [1.0, 1.0], paired=True) is None
    assert effect_size([1.0], [2.0], paired=False) is None


def test_interval_of_an_effect_covers_the_truth() -> None:
    rng = stream(3, "coverage")
    covered = 0
    for _ in range(200):
        effect = effect_size(rng.normal(0.8, 1.0, 8).tolist(), [0.0] * 8, paired=True)
        assert effect is not None
        covered += effect.interval[0] <= 0.8 <= effect.interval[1]
    assert 180 <= covered <= 199  # binomial(200, .95): mean 190, sd 3


def test_holm_by_hand() -> None:
    # sorted .01 .03 .04 with factors 3 2 1: .03 .06 .04, made monotone: .03 .06 .06
    # (statsmodels' multipletests([.03, .01, .04], method="holm") gives the same)
    assert_allclose(holm([0.03, 0.01, 0.04]), [0.06, 0.03, 0.06])
    assert holm([0.6, 0.5]) == (1.0, 1.0)
    assert holm([]) == ()


def test_holm_counts_what_could_not_be_tested() -> None:
    assert holm([None, 0.02]) == (None, 0.04)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8))
def test_holm_lies_between_nothing_and_bonferroni(p: list[float]) -> None:
    adjusted = holm(p)
    for raw, new in zip(p, adjusted, strict=True):
        assert new is not None
        assert raw <= new <= min(1.0, len(p) * raw) + 1e-15
    order = np.argsort(p, kind="stable")
    ranked = [adjusted[i] for i in order]
    assert ranked == sorted(ranked)  # type: ignore[type-var]


def test_no_worse_agrees_with_scipys_shifted_one_sided_test() -> None:
    a, b = [0.91, 0.93, 0.90, 0.94], [0.92, 0.93, 0.91, 0.93]
    theirs = stats.ttest_rel(np.add(a, 0.02), b, alternative="greater").pvalue
    assert_allclose(no_worse(paired_t(a, b), 0.02), theirs, rtol=1e-12)


def test_equivalence_is_the_worse_of_two_one_sided_tests() -> None:
    a, b = [0.91, 0.93, 0.90, 0.94], [0.92, 0.93, 0.91, 0.93]
    lower = stats.ttest_ind(np.add(a, 0.03), b, equal_var=False, alternative="greater").pvalue
    upper = stats.ttest_ind(np.subtract(a, 0.03), b, equal_var=False, alternative="less").pvalue
    assert_allclose(equivalent(welch_t(a, b), 0.03), max(lower, upper), rtol=1e-10)
    assert no_worse(paired_t([1.0, 1.0], [1.0, 1.0]), 0.1) is None
    assert equivalent(paired_t([1.0, 1.0], [1.0, 1.0]), 0.1) is None
