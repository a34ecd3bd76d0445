"""Tests between two groups of trainings: differences, intervals, effect sizes, Holm's adjustment, equivalence.

Every function takes finite samples, one value per training, and says nothing about which direction is good: a
difference is always mean(a) − mean(b). What cannot be tested has `p = None` and a note that says why.

References: Welch (1947); Holm (1979); Schuirmann (1987) for the two one-sided tests; Hedges (1981) for the correction
of the standardised difference; Cumming & Finch (2001) for its interval from the noncentral t distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from lossmith.analysis.noncentral import noncentrality
from lossmith.errors import UsageError

# Differences that vary by less than this share of the values themselves are rounding, not variation.
ROUNDING = 1e-12


@dataclass(frozen=True)
class TTest:
    """A comparison of two groups by a t test.

    Args:
        kind: "paired" (one difference per seed) or "welch" (independent groups, unequal variances).
        n: number of samples of a and of b (paired: the same number twice).
        difference: mean(a) − mean(b).
        variances: sample variance of the differences (paired) or of a and of b (welch); NaN where n < 2.
        standard_error: of the difference; NaN where it cannot be estimated.
        df: degrees of freedom; NaN where there are none.
        p: two-sided p value, or None where the data cannot be tested.
        interval: confidence interval of the difference, or None.
        note: why there is no p value or interval; empty where there are both.
    """

    kind: Literal["paired", "welch"]
    n: tuple[int, int]
    difference: float
    variances: tuple[float, ...]
    standard_error: float
    df: float
    p: float | None
    interval: tuple[float, float] | None
    note: str = ""

    @property
    def testable(self) -> bool:
        """Whether the samples vary, so that a t statistic exists."""
        return self.standard_error > 0.0 and self.df > 0.0


@dataclass(frozen=True)
class Effect:
    """A standardised difference with its confidence interval.

    Args:
        name: "d_z" (paired: mean difference / standard deviation of the differences) or "g" (Hedges: difference /
            pooled standard deviation, small-sample corrected).
        value: the effect size, same sign as the difference.
        interval: its confidence interval.
    """

    name: Literal["d_z", "g"]
    value: float
    interval: tuple[float, float]


def paired_t(a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95) -> TTest:
    """Paired t test of a against b, matched by position.

    Args:
        a, b: [n] finite values; position i of both belongs to one seed.
        confidence: level of the interval.
    Raises:
        UsageError: different lengths, no samples, or a non-finite sample.
    """
    first, second = _samples(a, b)
    if len(first) != len(second):
        raise UsageError(
            f"a paired test needs one value of each per seed, got {len(first)} and {len(second)}; use welch_t"
        )
    delta = first - second
    return _t_test(
        "paired", (len(first), len(second)), float(delta.mean()), (delta,), _scale(first, second), confidence
    )


def welch_t(a: Sequence[float], b: Sequence[float], *, confidence: float = 0.95) -> TTest:
    """Welch's t test of a against b: independent groups that may differ in variance and size.

    Args:
        a, b: [n_a] and [n_b] finite values.
        confidence: level of the interval.
    Raises:
        UsageError: no samples or a non-finite sample.
    """
    first, second = _samples(a, b)
    difference = float(first.mean() - second.mean())
    return _t_test("welch", (len(first), len(second)), difference, (first, second), _scale(first, second), confidence)


def effect_size(a: Sequence[float], b: Sequence[float], *, paired: bool, confidence: float = 0.95) -> Effect | None:
    """Cohen's d_z (paired) or Hedges' g (unpaired) of a over b, with an interval from the noncentral t distribution.

    The interval of g assumes equal variances, as g itself does. None where the samples do not vary or are too few.

    Raises:
        UsageError: as `paired_t` and `welch_t`.
    """
    test = paired_t(a, b) if paired else welch_t(a, b)
    if not test.testable:
        return None
    tail = (1.0 - confidence) / 2.0
    if paired:
        root, df, correction = math.sqrt(test.n[0]), float(test.n[0] - 1), 1.0
        value = test.difference / math.sqrt(test.variances[0])
    else:
        (n_a, n_b), (var_a, var_b) = test.n, test.variances
        df = float(n_a + n_b - 2)
        root = math.sqrt(n_a * n_b / (n_a + n_b))
        value = test.difference / math.sqrt(((n_a - 1) * var_a + (n_b - 1) * var_b) / df)
        # Hedges (1981), Eq. (6e): the exact factor that makes the estimate unbiased.
        correction = math.exp(math.lgamma(df / 2) - math.lgamma((df - 1) / 2)) / math.sqrt(df / 2)
    low = noncentrality(value * root, df, 1.0 - tail) / root
    high = noncentrality(value * root, df, tail) / root
    return Effect("d_z" if paired else "g", correction * value, (correction * low, correction * high))


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Holm's step-down adjustment: compare each with alpha, and the chance of any false claim stays below alpha.

    A comparison that could not be tested (None) stays None, but still counts as a member of the family.
    """
    family = len(p_values)
    adjusted: list[float | None] = [None] * family
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    reached = 0.0
    for rank, (p, i) in enumerate(order):
        reached = max(reached, min(1.0, (family - rank) * p))  # monotone: a smaller p never gets a larger adjusted one
        adjusted[i] = reached
    return tuple(adjusted)


def no_worse(test: TTest, margin: float) -> float | None:
    """One-sided p value of "a lies more than `margin` below b": small means a is not worse by `margin` or more.

    Orient the samples so that more is better before testing. None where the samples do not vary.

    Raises:
        UsageError: `margin` is not a positive finite number.
    """
    _check_margin(margin)
    if not test.testable:
        return None
    return float(special.stdtr(test.df, -(test.difference + margin) / test.standard_error))


def equivalent(test: TTest, margin: float) -> float | None:
    """Two one-sided tests (TOST): small p means the difference lies inside (−margin, margin).

    Raises:
        UsageError: `margin` is not a positive finite number.
    """
    _check_margin(margin)
    if not test.testable:
        return None
    below = special.stdtr(test.df, -(test.difference + margin) / test.standard_error)
    above = special.stdtr(test.df, (test.difference - margin) / test.standard_error)
    return float(max(below, above))


def welch_df(variances: Sequence[float], n: Sequence[int]) -> float:
    """Welch–Satterthwaite degrees of freedom of a sum of means; n − 1 for a single one."""
    parts = [v / m for v, m in zip(variances, n, strict=True)]
    return sum(parts) ** 2 / sum(part**2 / (m - 1) for part, m in zip(parts, n, strict=True))


def _t_test(
    kind: Literal["paired", "welch"],
    n: tuple[int, int],
    difference: float,
    groups: tuple[NDArray[np.float64], ...],
    scale: float,
    confidence: float,
) -> TTest:
    if min(n) < 2:
        note = f"{min(n)} sample{'s' if min(n) != 1 else ''} cannot be tested; at least 2 seeds are needed"
        return TTest(kind, n, difference, (math.nan,) * len(groups), math.nan, math.nan, None, None, note)
    sizes = [len(g) for g in groups]
    deviations = [float(g.std(ddof=1)) for g in groups]
    # Rounding makes the standard deviation of equal numbers a tiny one; a t statistic of 1e14 would be made of nothing.
    variances = tuple(0.0 if d <= ROUNDING * scale else d**2 for d in deviations)
    if not any(variances):
        if abs(difference) <= ROUNDING * scale:
            note = "all samples are equal"
            return TTest(kind, n, 0.0, variances, 0.0, math.nan, 1.0, (0.0, 0.0), note)
        note = f"the difference is the same ({difference:.3g}) in every sample; without variation it cannot be tested"
        return TTest(kind, n, difference, variances, 0.0, math.nan, None, None, note)
    error = math.sqrt(sum(v / m for v, m in zip(variances, sizes, strict=True)))
    df = welch_df(variances, sizes)
    p = float(2.0 * special.stdtr(df, -abs(difference) / error))
    half = float(special.stdtrit(df, 0.5 + confidence / 2.0)) * error
    return TTest(kind, n, difference, variances, error, df, min(p, 1.0), (difference - half, difference + half))


def _samples(a: Sequence[float], b: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    for name, group in (("first", first), ("second", second)):
        if group.ndim != 1 or len(group) == 0:
            raise UsageError(f"the {name} group has shape {group.shape}; give a flat list with at least one value")
        if not np.isfinite(group).all():
            where = int(np.flatnonzero(~np.isfinite(group))[0])
            raise UsageError(f"sample {where} of the {name} group is {group[where]}; leave failed trainings out first")
    return first, second


def _scale(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(max(np.abs(a).max(), np.abs(b).max()))


def _check_margin(margin: float) -> None:
    if not (math.isfinite(margin) and margin > 0):
        raise UsageError(f"the margin is {margin}; give a positive number in the metric's units")
