"""The noncentral t distribution: what power and the interval of an effect size are computed from.

scipy.stats.nct returns NaN for strong effects (t = 30, 9 degrees of freedom: scipy 1.17), which is what a loss that is
much better than its control produces, so the integral is done here: T = (Z + δ)/S, Z standard normal, S² = χ²/df.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

_TAIL = 9.0  # a normal variable leaves ±9 with probability 2e-19


def noncentral_t_cdf(t: float, df: float, delta: float) -> float:
    """P(T ≤ t) for T = (Z + delta) / √(χ²_df / df); absolute error below 1e-8, below 1e-6 where 1 < df < 2."""
    if t < 0.0:
        return 1.0 - noncentral_t_cdf(-t, df, -delta)
    if t == 0.0:
        return float(special.ndtr(-delta))
    # Two forms of one integral; each is smooth where the other has a step too steep for its nodes.
    value = _over_scale(t, df, delta) if t < math.sqrt(2.0 * df) else _over_normal(t, df, delta)
    return min(max(value, 0.0), 1.0)


def noncentrality(t: float, df: float, probability: float) -> float:
    """The delta for which P(T ≤ t) = probability: the confidence limit of a noncentrality parameter."""
    width = 10.0 + 2.0 * abs(t)
    return _decreasing_root(lambda delta: noncentral_t_cdf(t, df, delta) - probability, t - width, t + width)


def _over_scale(t: float, df: float, delta: float) -> float:
    """∫ Φ(t·s − δ) f_S(s) ds."""
    low = math.sqrt(2.0 * special.gammaincinv(df / 2.0, 1e-13) / df)
    high = math.sqrt(2.0 * special.gammainccinv(df / 2.0, 1e-15) / df)
    nodes, weights = _nodes(low, high)
    log_density = (
        math.log(2.0) + (df / 2.0) * math.log(df / 2.0) - math.lgamma(df / 2.0)
        + (df - 1.0) * np.log(nodes) - df * nodes**2 / 2.0
    )  # fmt: skip
    density = np.exp(log_density) * weights
    # Dividing by the sum cancels the mass left out and most of the quadrature error (df < 2 has a cusp at 0).
    return float((special.ndtr(t * nodes - delta) * density).sum() / density.sum())


def _over_normal(t: float, df: float, delta: float) -> float:
    """Φ(−δ) + ∫ φ(z) P(S ≥ (z + δ)/t) dz over z > −δ."""
    widest = t * math.sqrt(2.0 * special.gammainccinv(df / 2.0, 1e-16) / df)
    low, high = max(-delta, -_TAIL), min(_TAIL, widest - delta)
    below = float(special.ndtr(-delta))
    if high <= low:
        return below
    z, weights = _nodes(low, high)
    survival = special.gammaincc(df / 2.0, df * ((z + delta) / t) ** 2 / 2.0)
    return below + float((np.exp(-(z**2) / 2.0) / math.sqrt(2.0 * math.pi) * survival * weights).sum())


def _nodes(low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = _legendre()
    half = (high - low) / 2.0
    return low + half * (nodes + 1.0), half * weights


@cache
def _legendre() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = np.polynomial.legendre.leggauss(256)
    return nodes, weights


def _decreasing_root(function: Callable[[float], float], low: float, high: float) -> float:
    """The zero of a decreasing function; the bracket is widened until it holds one."""
    while function(low) < 0.0:
        low -= high - low
    while function(high) > 0.0:
        high += high - low
    for _ in range(200):
        middle = (low + high) / 2.0
        if function(middle) > 0.0:
            low = middle
        else:
            high = middle
        if high - low <= 1e-10 * max(1.0, abs(low), abs(high)):
            break
    return (low + high) / 2.0
