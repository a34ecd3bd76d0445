"""Power: the noncentral t distribution against scipy where scipy works, and what power promises against simulation."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
from numpy.testing import assert_allclose
from scipy import stats

from lossmith.analysis.noncentral import noncentral_t_cdf, noncentrality
from lossmith.analysis.power import power, seeds_needed, smallest_difference
from lossmith.analysis.statistics import paired_t, welch_t
from lossmith.rng import stream


@pytest.mark.parametrize("df", [1, 2, 3.7, 9, 30, 200, 1e5])
def test_noncentral_t_agrees_with_scipy(df: float) -> None:
    compared = 0
    for t, delta in itertools.product([-30, -5, -0.1, 0, 0.5, 1.9, 5, 12, 40, 200], [-6, -2, 0, 0.3, 2.8, 30, 180]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = stats.nct.cdf(t, df, delta)
        if math.isfinite(theirs):
            assert_allclose(noncentral_t_cdf(t, df, delta), theirs, atol=1e-8)
            compared += 1
    assert compared > 40


def test_noncentral_t_where_scipy_gives_up() -> None:
    # P(T ≤ 30) with 9 df and δ = 26 by simulation: 400,000 draws, standard error .0008
    rng = stream(0, "noncentral")
    draws = (rng.normal(size=400_000) + 26.0) / (rng.chisquare(9, size=400_000) / 9.0) ** 0.5
    assert_allclose(noncentral_t_cdf(30.0, 9.0, 26.0), (draws <= 30.0).mean(), atol=0.004)


@pytest.mark.parametrize(("t", "df"), [(0.0, 4), (2.5, 9), (-3.0, 2), (30.0, 9), (1e5, 3)])
def test_noncentrality_inverts_the_distribution(t: float, df: float) -> None:
    for probability in (0.025, 0.5, 0.975):
        assert_allclose(noncentral_t_cdf(t, df, noncentrality(t, df, probability)), probability, atol=1e-6)


def test_power_of_a_textbook_case() -> None:
    # Cohen (1988): d = .5, two groups of 64, two-sided .05 has power .80; G*Power 3.1: .8015
    assert_allclose(power(0.5, math.sqrt(2 / 64), 126.0), 0.8015, atol=5e-4)
    assert_allclose(power(0.0, 1.0, 9.0), 0.05, atol=1e-9)  # no difference: only false alarms


def test_seeds_needed_of_textbook_cases() -> None:
    # G*Power 3.1, paired, d_z = .5, two-sided .05, power .8: n = 34. Samples with mean .5 and sd 1:
    test = paired_t([-0.5, 0.5, 1.5], [0.0, 0.0, 0.0])
    assert seeds_needed(test) == 34
    # two groups, d = .5: 64 each
    two = welch_t([-0.5, 0.5, 1.5], [-1.0, 0.0, 1.0])
    assert seeds_needed(two) == 64


def test_smallest_difference_is_shown_eight_times_in_ten() -> None:
    rng = stream(0, "power")
    test = paired_t(rng.normal(0.0, 1.0, 10).tolist(), [0.0] * 10)
    size = smallest_difference(test, alpha=0.05 / 4)
    assert size is not None
    deviation = math.sqrt(test.variances[0])
    trials = rng.normal(size, deviation, (4000, 10))
    shown = (stats.ttest_1samp(trials, 0.0, axis=1).pvalue < 0.05 / 4).mean()
    assert_allclose(shown, 0.8, atol=0.025)  # standard error .006


def test_seeds_needed_reach_the_observed_difference() -> None:
    test = paired_t([0.5, 1.5, -0.7, 0.9], [0.0, 0.3, 0.1, -0.2])
    n = seeds_needed(test, alpha=0.0125)
    assert n is not None
    error = math.sqrt(test.variances[0] / n)
    assert power(test.difference, error, n - 1, alpha=0.0125) >= 0.8
    fewer = math.sqrt(test.variances[0] / (n - 1))
    assert power(test.difference, fewer, n - 2, alpha=0.0125) < 0.8


def test_questions_without_an_answer() -> None:
    constant = paired_t([1.0, 1.0], [1.0, 1.0])
    assert smallest_difference(constant) is None
    assert seeds_needed(constant) is None
    assert seeds_needed(paired_t([1.0, -1.0], [0.0, 0.0])) is None  # no difference was observed
    assert seeds_needed(paired_t([1.0001, -1.0], [0.0, 0.0])) is None  # more than a million
