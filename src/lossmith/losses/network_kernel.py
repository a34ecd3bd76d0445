# mypy: allow-untyped-defs
"""The compiled part of network losses with two hidden layers: values, slopes and their derivatives by φ (numba).

Which units of the first layer are active depends on the direction of (p, t) alone, because there are no biases: each
unit has a ray where it becomes active and the opposite one where it ceases to be. Between neighbouring rays, in a
*sector*, what enters the second layer is linear, A_k·p + B_k·t. All A_k and B_k come from running sums over the rays in
order, so the first two layers cost every element one search and h₂ products instead of h₁·h₂.

Elements with t = 0 and p ≥ 0 (all other outputs, under hard targets) lie on one ray: the pre-output is p·c.

The derivative by φ of Σ g·out'(s)·∂s/∂p, with g a given weight, is that of w·D₂W₂D₁W₁y at fixed activity D, where y =
(α·p + β, α·t), α = g·out''(s)·∂s/∂p and β = g·out'(s). It is summed by sector before it meets the weights.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from lossmith.losses.interpreter_kernel import compiled, exp, log

SOFTPLUS, SMOOTH_LEAKY_RELU = range(2)
NEVER = 5.0  # beyond all angles, which are in [0, 4]


@compiled
def angle(p, t):
    """Grows with the direction of (p, t) counter-clockwise from 0 at (1, 0) up to 4."""
    size = abs(p) + abs(t)
    if p > 0 and t >= 0:
        return t / size
    if t > 0:
        return 1 - p / size
    if p < 0:
        return 2 - t / size
    return 3 + p / size


@compiled
def _sectors(phi, rays, order, a, b, row, inner):
    """The rays of the first layer in order, and A and B of the sectors between them; whether φ is finite.

    Args:
        phi: one network's weights.
        rays, order: [2 h₁]: angles in order, and which they are: 2i where unit i becomes active, 2i + 1 where it
            ceases to be. a, b: A and B, [2 h₁ + 1, h₂], the first from angle 0 on. row: [2, h₂], to work in.
        inner: W₂ transposed, [h₁, h₂], written to.
    """
    units, width = inner.shape
    for number in phi:
        if not math.isfinite(number):
            return False
    for j in range(width):
        for i in range(units):
            inner[i, j] = phi[2 * units + j * units + i]
    found = np.empty(2 * units)
    row[:] = 0
    for i in range(units):
        first, second = phi[2 * i], phi[2 * i + 1]
        if first == 0 and second == 0:  # never active
            found[2 * i], found[2 * i + 1] = NEVER, NEVER
            continue
        found[2 * i], found[2 * i + 1] = angle(second, -first), angle(-second, first)
        if found[2 * i + 1] == 0:
            found[2 * i + 1] = 4
        if first > 0:
            _add(first, second, inner[i], row)
    order[:] = np.argsort(found)
    a[0], b[0] = row[0], row[1]
    for k in range(2 * units):
        rays[k] = found[order[k]]
        if rays[k] < NEVER:
            i, sign = order[k] // 2, 1.0 - 2.0 * (order[k] % 2)
            _add(sign * phi[2 * i], sign * phi[2 * i + 1], inner[i], row)
        for j in range(width):
            a[k + 1, j], b[k + 1, j] = row[0, j], row[1, j]
    return True


@compiled
def _add(first, second, weights, row):
    for j in range(row.shape[1]):
        row[0, j] += weights[j] * first
        row[1, j] += weights[j] * second


@compiled
def _sector(rays, theta):
    """How many rays lie before an angle."""
    low, high = 0, rays.shape[0]
    while low < high:
        middle = (low + high) // 2
        if rays[middle] < theta:
            low = middle + 1
        else:
            high = middle
    return low


@partial(compiled, fastmath={"reassoc", "contract"})
def _through(a, b, w, p, t):
    """Pre-output s and ∂s/∂p of one element in its sector; a NaN counts as active and so comes through."""
    s, slope = p * 0, p * 0
    for j in range(w.shape[0]):
        inner = a[j] * p + b[j] * t
        active = not inner <= 0
        s += w[j] * inner if active else p * 0
        slope += w[j] * a[j] if active else p * 0
    return s, slope


@compiled
def _pre_outputs(x, t, rays, a, b, w, s, slope, sector):
    """s and ∂s/∂p of all elements, and the sector of each that is not on the ray t = 0, p ≥ 0."""
    number = x.dtype.type
    _, c = _through(a[0], b[0], w, number(1), number(0))
    for m in range(x.shape[0]):
        s[m] = c * x[m]
        slope[m] = c if x[m] > 0 else number(0)  # at (0, 0) no unit is active
        sector[m] = -1
    for m in range(x.shape[0]):
        if t[m] == 0 and x[m] >= 0:
            continue
        if not (abs(x[m]) < np.inf and abs(t[m]) < np.inf):
            s[m], slope[m], sector[m] = np.nan, np.nan, 0
            continue
        k = _sector(rays, angle(np.float64(x[m]), np.float64(t[m])))
        sector[m] = k
        s[m], slope[m] = _through(a[k], b[k], w, x[m], t[m])


@compiled
def run(phi, units, kind, gamma, beta, x, rest, dx, along, values, slopes):
    """ℓ and its slopes along a tangent of p.

    Args:
        phi: [P, K], float64. units: (h₁, h₂). kind: of the output. gamma, beta: of a smooth leaky ReLU.
        x: [1 or P, ≥ 1, M], p first. rest: [1, 1, M], t. dx: [1 or P, ≥ 1, M]; `along`, [1]: the row of dx.
        values, slopes: [P, M], written to.
    """
    size, dtype, number = x.shape[2], x.dtype, x.dtype.type
    rays, order, row = np.empty(2 * units[0]), np.empty(2 * units[0], np.int64), np.empty((2, units[1]))
    a, b = np.empty((2 * units[0] + 1, units[1]), dtype), np.empty((2 * units[0] + 1, units[1]), dtype)
    s, slope, sector = np.empty(size, dtype), np.empty(size, dtype), np.empty(size, np.int64)
    w, inner = np.empty(units[1], dtype), np.empty(units)
    for c in range(phi.shape[0]):
        if not _sectors(phi[c], rays, order, a, b, row, inner):
            values[c], slopes[c] = np.nan, np.nan
            continue
        w[:] = phi[c, phi.shape[1] - units[1] :]
        p, t = x[c if x.shape[0] > 1 else 0, 0], rest[0, 0]
        tangent = dx[c if dx.shape[0] > 1 else 0, along[0]]
        _pre_outputs(p, t, rays, a, b, w, s, slope, sector)
        value, rise = values[c], slopes[c]
        if kind == SOFTPLUS:
            for m in range(size):
                e = exp(-abs(s[m]))
                u = number(1) + e
                value[m] = (s[m] if s[m] > 0 else s[m] * 0) + (log(u) - ((u - number(1)) - e) / u)  # log1p(e)
                rise[m] = (number(1) if s[m] >= 0 else e) / u * slope[m] * tangent[m]
        else:
            low, high, sharp = number(gamma), number(1 - gamma), number(beta)
            for m in range(size):
                y = sharp * s[m]
                e = exp(-abs(y))
                u = number(1) + e
                soft = (y if y > 0 else y * 0) + (log(u) - ((u - number(1)) - e) / u)
                value[m] = low * s[m] + high * soft / sharp
                rise[m] = (low + high * (number(1) if y >= 0 else e) / u) * slope[m] * tangent[m]


@compiled
def run_mixed(phi, units, kind, gamma, beta, x, rest, dx, along, weight, gradient):
    """∂/∂φ Σ_m weight_m · slope_m, written to `gradient` [P, K]; weight: [1 or P, M]; the rest as for `run`."""
    size, dtype, number = x.shape[2], x.dtype, x.dtype.type
    h1, h2 = units
    rays, order, row = np.empty(2 * h1), np.empty(2 * h1, np.int64), np.empty((2, h2))
    a, b = np.empty((2 * h1 + 1, h2), dtype), np.empty((2 * h1 + 1, h2), dtype)
    s, slope, sector = np.empty(size, dtype), np.empty(size, dtype), np.empty(size, np.int64)
    first, second = np.empty(size, dtype), np.empty(size, dtype)
    sums = np.empty((2 * h1 + 1, 2, h2), dtype)
    w, inner = np.empty(h2, dtype), np.empty(units)
    low, high, sharp = number(0), number(1), number(1)
    if kind == SMOOTH_LEAKY_RELU:
        low, high, sharp = number(gamma), number(1 - gamma), number(beta)
    for c in range(phi.shape[0]):
        if not _sectors(phi[c], rays, order, a, b, row, inner):
            gradient[c] = np.nan
            continue
        w[:] = phi[c, phi.shape[1] - h2 :]
        p, t = x[c if x.shape[0] > 1 else 0, 0], rest[0, 0]
        tangent = dx[c if dx.shape[0] > 1 else 0, along[0]]
        share = weight[c if weight.shape[0] > 1 else 0]
        _pre_outputs(p, t, rays, a, b, w, s, slope, sector)
        for m in range(size):
            y = sharp * s[m]
            e = exp(-abs(y))
            u = number(1) + e
            g = share[m] * tangent[m]
            once = low + high * (number(1) if y >= 0 else e) / u
            twice = high * sharp * (e / (u * u))
            by_s = g * twice * slope[m]
            first[m], second[m] = by_s * p[m] + g * once, by_s * t[m]
        sums[:] = 0
        on_ray = 0.0
        for m in range(size):
            if sector[m] >= 0:
                k = sector[m]
                _accumulate(a[k], b[k], p[m], t[m], first[m], second[m], sums[k])
            else:
                on_ray += first[m] if p[m] > 0 else p[m] * 0
        for j in range(h2):
            sums[0, 0, j] += number(on_ray) if not a[0, j] <= 0 else number(0)
        _by_weights(phi[c], order, a, b, inner, sums, gradient[c])


@compiled
def _accumulate(a, b, p, t, first, second, sums):
    """Adds y to the sums of the units that are active."""
    for j in range(a.shape[0]):
        active = not a[j] * p + b[j] * t <= 0
        sums[0, j] += first if active else p * 0
        sums[1, j] += second if active else p * 0


@partial(compiled, fastmath={"reassoc", "contract"})
def _by_weights(phi, order, a, b, inner, sums, gradient):
    """From the sums of y by sector and unit of the second layer, [2 h₁ + 1, 2, h₂], to the derivative by φ.

    A unit that is never active has both its rays behind all elements, where the sums are 0.
    """
    h1, h2 = inner.shape
    sectors, last = sums.shape[0], phi.shape[0] - h2
    before, place = np.empty((sectors + 1, 2, h2)), np.empty(2 * h1, np.int64)
    by_w, by_inner = np.zeros(h2), np.empty((h1, h2))
    before[0] = 0
    for k in range(sectors):
        for j in range(h2):
            before[k + 1, 0, j] = before[k, 0, j] + sums[k, 0, j]
            before[k + 1, 1, j] = before[k, 1, j] + sums[k, 1, j]
            by_w[j] += a[k, j] * sums[k, 0, j] + b[k, j] * sums[k, 1, j]
    for k in range(2 * h1):
        place[order[k]] = k
    for i in range(h1):
        first, second = phi[2 * i], phi[2 * i + 1]
        start, end = before[place[2 * i] + 1], before[place[2 * i + 1] + 1]
        whole = 1.0 if first > 0 else 0.0  # active at angle 0: from there to its end, and from its start on
        by_first, by_second = 0.0, 0.0
        for j in range(h2):
            along_p = (end[0, j] - start[0, j] + whole * before[sectors, 0, j]) * phi[last + j]
            along_t = (end[1, j] - start[1, j] + whole * before[sectors, 1, j]) * phi[last + j]
            by_inner[i, j] = along_p * first + along_t * second
            by_first += along_p * inner[i, j]
            by_second += along_t * inner[i, j]
        gradient[2 * i], gradient[2 * i + 1] = by_first, by_second
    for j in range(h2):
        gradient[last + j] = by_w[j]
        for i in range(h1):
            gradient[2 * h1 + j * h1 + i] = by_inner[i, j]
