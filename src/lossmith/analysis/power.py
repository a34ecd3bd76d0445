"""What these seeds could have shown, and how many it would take: power of a two-sided t test.

Both questions are asked at the level a comparison faces in the worst case of Holm's adjustment, alpha / number of
comparisons, and both take the spread that was observed for the true one.
"""

from __future__ import annotations

import math

from scipy import special

from lossmith.analysis.noncentral import noncentral_t_cdf
from lossmith.analysis.statistics import TTest, welch_df

POWER = 0.8
MOST_SEEDS = 1_000_000


def power(difference: float, standard_error: float, df: float, *, alpha: float = 0.05) -> float:
    """Probability that a two-sided t test at `alpha` shows a true difference of this size."""
    critical = -float(special.stdtrit(df, alpha / 2.0))
    delta = abs(difference) / standard_error
    return 1.0 - noncentral_t_cdf(critical, df, delta) + noncentral_t_cdf(-critical, df, delta)


def smallest_difference(test: TTest, *, alpha: float = 0.05, wanted: float = POWER) -> float | None:
    """The smallest true difference that seeds like these show with probability `wanted`; None without variation."""
    if not test.testable:
        return None
    low, high = 0.0, test.standard_error
    while power(high, test.standard_error, test.df, alpha=alpha) < wanted:
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = (low + high) / 2.0
        if power(middle, test.standard_error, test.df, alpha=alpha) < wanted:
            low = middle
        else:
            high = middle
    return high


def seeds_needed(test: TTest, *, alpha: float = 0.05, wanted: float = POWER, most: int = MOST_SEEDS) -> int | None:
    """How many seeds (on each side) show a true difference as large as the observed one with probability `wanted`.

    None where the samples do not vary, the observed difference is zero, or more than `most` seeds would be needed.
    """
    if not test.testable or test.difference == 0.0:
        return None

    def enough(n: int) -> bool:
        sizes = [n] * len(test.variances)
        error = math.sqrt(sum(v / n for v in test.variances))
        return power(test.difference, error, welch_df(test.variances, sizes), alpha=alpha) >= wanted

    low, high = 1, 2
    while not enough(high):
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
