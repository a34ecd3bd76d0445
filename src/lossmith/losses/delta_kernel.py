# mypy: allow-untyped-defs
"""The compiled way from outputs to elements and back (numba): softmax, one-hot targets, and sums over rows.

The elements of a candidate lie output after output, [C, L]: a loop over rows then meets neighbours in memory and
becomes vector instructions however few outputs there are. L is the number of rows N rounded up to whole vectors; what
is computed for the rows too many is not looked at. Outputs and their derivatives may lie in any order: they come as
flat arrays with the steps between candidates, rows and outputs.
"""

from __future__ import annotations

import numpy as np

from lossmith.losses.interpreter_kernel import compiled, exp, log

P, LOG_P, LOG_1MP, INV_P, R, Z, INV_P_SLOPE, SLOTS = range(8)
"""Places in `slots`, which say in which row of x the softmax leaves an input (−1: nowhere); INV_P_SLOPE is the tangent
of INV_P along log p."""


@compiled
def softmax_inputs(z, steps, places, weight, t, slots, edge, x):
    """What `losses.inputs` computes from outputs under softmax.

    Args:
        z: outputs, flat. steps: from candidate to candidate, row to row, output to output. places: of the candidates.
        weight: [N]; outputs of a row of weight 0 are taken as zeros. t: [C, L].
        slots: [SLOTS]. edge: log p below which 1/p does not grow.
        x: written to, [P, ≥ 2, C, L]; P and LOG_P always have a row.
    """
    outputs, lanes = t.shape
    number = x.dtype.type
    top, log_total, total = np.zeros(lanes, x.dtype), np.empty(lanes, x.dtype), np.empty(lanes, x.dtype)
    for c in range(places.shape[0]):
        p, log_p = x[c, slots[P]], x[c, slots[LOG_P]]
        _read(z, places[c] * steps[0], steps[1], steps[2], weight, log_p)
        for n in range(lanes):
            top[n], total[n] = log_p[0, n], 0
        for j in range(outputs):
            for n in range(lanes):
                top[n] = log_p[j, n] if log_p[j, n] > top[n] else top[n]
        if slots[Z] >= 0:
            z_row = x[c, slots[Z]]
            for j in range(outputs):
                for n in range(lanes):
                    z_row[j, n] = log_p[j, n]
        for j in range(outputs):
            for n in range(lanes):
                log_p[j, n] -= top[n]
                p[j, n] = exp(log_p[j, n])
                total[n] += p[j, n]
        for n in range(lanes):
            log_total[n] = log(total[n])
            total[n] = number(1) / total[n]
        for j in range(outputs):
            for n in range(lanes):
                p[j, n] *= total[n]
                log_p[j, n] -= log_total[n]
        if slots[R] >= 0:
            r = x[c, slots[R]]
            for j in range(outputs):
                for n in range(lanes):
                    r[j, n] = p[j, n] - t[j, n]
        if slots[INV_P] >= 0:
            inv_p, slope = x[c, slots[INV_P]], x[c, slots[INV_P_SLOPE]]
            for j in range(outputs):
                for n in range(lanes):
                    inv_p[j, n] = exp(-(number(edge) if log_p[j, n] < edge else log_p[j, n]))
                    slope[j, n] = -inv_p[j, n] if log_p[j, n] >= edge else number(0)
        if slots[LOG_1MP] >= 0:
            _log_complement(p, log_p, x[c, slots[LOG_1MP]])


@compiled
def _read(z, start, row, column, weight, into):
    """[C, L] of one candidate: zeros in rows of weight 0; rows too many are like the first, so no worse than it."""
    (outputs, lanes), rows = into.shape, weight.shape[0]
    if row == 1:
        for j in range(outputs):
            for n in range(rows):
                into[j, n] = z[start + n + j * column] if weight[n] != 0 else 0
    else:
        for n in range(rows):
            for j in range(outputs):
                into[j, n] = z[start + n * row + j * column] if weight[n] != 0 else 0
    for j in range(outputs):
        for n in range(rows, lanes):
            into[j, n] = into[j, 0]


@compiled
def _log_complement(p, log_p, log_1mp):
    """log(1 − p). Only the largest p of a row can round to 1; its complement is the log-sum-exp of the others."""
    outputs, lanes = p.shape
    number = p.dtype.type
    second, rest, index = np.empty(lanes, p.dtype), np.zeros(lanes, p.dtype), _largest(log_p)
    for n in range(lanes):
        second[n] = -np.inf
    for j in range(outputs):
        for n in range(lanes):
            second[n] = log_p[j, n] if index[n] != j and log_p[j, n] > second[n] else second[n]
    for j in range(outputs):
        for n in range(lanes):
            share = exp(log_p[j, n] - second[n])
            rest[n] += share if index[n] != j else number(0)
            u = number(1) - p[j, n]
            log_1mp[j, n] = log(u) - ((u - number(1)) + p[j, n]) / u  # log1p(−p)
    for n in range(lanes):
        # All others are −∞: log 0; a NaN goes on.
        nothing = second[n] == -np.inf and p[0, n] == p[0, n]
        log_1mp[int(index[n]), n] = second[n] if nothing else log(rest[n]) + second[n]


@compiled
def _largest(log_p):
    """Which output is the largest of each row, [L], as numbers of its precision."""
    outputs, lanes = log_p.shape
    number = log_p.dtype.type
    top, index = np.empty(lanes, log_p.dtype), np.zeros(lanes, log_p.dtype)
    for n in range(lanes):
        top[n] = log_p[0, n]
    for j in range(1, outputs):
        for n in range(lanes):
            index[n] = number(j) if log_p[j, n] > top[n] else index[n]
            top[n] = log_p[j, n] if log_p[j, n] > top[n] else top[n]
    return index


@compiled
def softmax_tangents(direction, steps, weight, x, slots, dx):
    """The tangents of what `softmax_inputs` left where the outputs move along a direction.

    Args:
        direction: flat; steps: as for z. weight, x, slots: as for `softmax_inputs`; x: [1 or P, ≥ 2, C, L].
        dx: written to, [P, SLOTS, C, L], those in `slots` (R has that of P).
    """
    outputs, lanes = x.shape[2:]
    mean = np.empty(lanes, x.dtype)
    for c in range(dx.shape[0]):
        own = x[c if x.shape[0] > 1 else 0]
        p, u = own[slots[P]], dx[c, Z]
        _read(direction, c * steps[0], steps[1], steps[2], weight, u)
        along, by_p = dx[c, LOG_P], dx[c, P]
        for n in range(lanes):
            mean[n] = 0
        for j in range(outputs):
            for n in range(lanes):
                mean[n] += p[j, n] * u[j, n]
        for j in range(outputs):
            for n in range(lanes):
                along[j, n] = u[j, n] - mean[n]
                by_p[j, n] = p[j, n] * along[j, n]
        if slots[INV_P] >= 0:
            slope, by_inv = own[slots[INV_P_SLOPE]], dx[c, INV_P]
            for j in range(outputs):
                for n in range(lanes):
                    by_inv[j, n] = slope[j, n] * along[j, n]
        if slots[LOG_1MP] >= 0:
            log_p, log_1mp = own[slots[LOG_P]], own[slots[LOG_1MP]]
            index, odds, shares = _odds(log_p, log_1mp)
            by_1mp = dx[c, LOG_1MP]
            for n in range(lanes):
                mean[n] = 0
            for j in range(outputs):
                for n in range(lanes):
                    by_1mp[j, n] = -odds[j, n] * along[j, n]
                    mean[n] += shares[j, n] * along[j, n]
            for n in range(lanes):
                by_1mp[int(index[n]), n] = mean[n]  # the largest: the share-weighted mean of the others


@compiled
def _odds(log_p, log_1mp):
    """The largest p of each row, p/(1 − p) of all others and their shares of its complement (0 at the largest)."""
    outputs, lanes = log_p.shape
    number = log_p.dtype.type
    index, odds, shares = _largest(log_p), np.empty_like(log_p), np.empty_like(log_p)
    rest = np.empty(lanes, log_p.dtype)
    for n in range(lanes):
        rest[n] = log_1mp[int(index[n]), n]
    for j in range(outputs):
        for n in range(lanes):
            odd, share = exp(log_p[j, n] - log_1mp[j, n]), exp(log_p[j, n] - rest[n])
            odds[j, n] = odd if index[n] != j else number(0)
            shares[j, n] = share if index[n] != j else number(0)
    return index, odds, shares


@compiled
def through_complement(slopes, x, slots, more):
    """more += what u = ∂ℓ/∂log(1 − p) adds to ∂L/∂z under softmax.

    δ_i = −u_i·p_i + p_i·Σ_{m≠i} u_m·p_m/(1 − p_m); only the largest p of a row can come near 1, so its term is taken
    as exp(log p_i − log(1 − p_m)), which is at most 1.

    Args:
        slopes: u, [P, C, L]. x: [1 or P, ≥ 2, C, L] with `slots`. more: [P, C, L].
    """
    outputs, lanes = more.shape[1:]
    total, largest = np.empty(lanes, x.dtype), np.empty(lanes, x.dtype)
    for c in range(more.shape[0]):
        own = x[c if x.shape[0] > 1 else 0]
        p, log_p = own[slots[P]], own[slots[LOG_P]]
        index, odds, shares = _odds(log_p, own[slots[LOG_1MP]])
        for n in range(lanes):
            total[n] = 0
        for j in range(outputs):
            for n in range(lanes):
                total[n] += slopes[c, j, n] * odds[j, n]
        for n in range(lanes):
            largest[n] = slopes[c, int(index[n]), n] * p[int(index[n]), n]
        for j in range(outputs):
            for n in range(lanes):
                u = slopes[c, j, n]
                more[c, j, n] += p[j, n] * (total[n] - u * odds[j, n] - u) + largest[n] * shares[j, n]


@compiled
def one_hot(labels, t):
    """t [C, L] ← one-hot columns, as the first beyond the last label; whether every label is one of the classes."""
    outputs, rows = t.shape[0], labels.shape[0]
    inside = True
    for n in range(rows):
        inside = inside and 0 <= labels[n] < outputs
    for j in range(outputs):
        for n in range(t.shape[1]):
            t[j, n] = 0
    for n in range(rows if inside else 0):
        t[labels[n], n] = 1
    for n in range(rows, t.shape[1] if inside else 0):
        t[labels[0], n] = 1
    return inside


@compiled
def gather(values, slopes, more, x, slot, weight, share, divisor, places, totals, rows, delta, steps):
    """From elements to losses: rows ← Σ ℓ · share, totals ← Σ_n w_n·rows_n / divisor, delta ← ∂totals/∂z.

    Args:
        values, slopes: [P, S, L]: S is C, or 2C of pairs, those of an output C apart.
        more: to be added to the slopes after the head, [P, C, L], or [0, C, L].
        x: [1 or P, ≥ 1, C, L]; its row `slot` is p under softmax; under other heads slot is −1.
        weight: [N]; a row of weight 0 counts for nothing, whatever its values.
        places: of the candidates in what is written: totals [≥ P], rows [≥ P, N], and delta, flat with `steps` from
            candidate to candidate, row to row, output to output.
    """
    planes, lanes = values.shape[1:]
    number, dtype = weight.shape[0], values.dtype.type
    outputs = more.shape[1]
    value, slope, factor = np.empty(lanes), np.empty(lanes), np.zeros(lanes)
    for n in range(number):
        factor[n] = weight[n] * share / divisor
    flat = np.empty((outputs, lanes), values.dtype)
    for c in range(places.shape[0]):
        place = places[c]
        for n in range(lanes):
            value[n], slope[n] = 0, 0
        for j in range(planes):
            for n in range(lanes):
                value[n] += values[c, j, n]
                slope[n] += slopes[c, j, n]
        total = 0.0
        for n in range(number):
            rows[place, n] = value[n] if weight[n] != 0 else 0  # rounded: what overflows is infinite
            rows[place, n] *= share
            total += rows[place, n] * weight[n]
        totals[place] = total
        totals[place] /= divisor
        if slot >= 0:
            p = x[c if x.shape[0] > 1 else 0, slot]
            for j in range(outputs):
                for n in range(lanes):
                    flat[j, n] = factor[n] * (slopes[c, j, n] - p[j, n] * slope[n])
        else:
            for j in range(outputs):
                for n in range(lanes):
                    flat[j, n] = 0
            for j in range(planes):
                for n in range(lanes):
                    flat[j % outputs, n] += dtype(factor[n] * slopes[c, j, n])
        for j in range(outputs if more.shape[0] else 0):
            for n in range(lanes):
                flat[j, n] += dtype(factor[n] * more[c, j, n])
        _write(flat, weight, place * steps[0], steps[1], steps[2], delta)


@compiled
def _write(flat, weight, start, row, column, delta):
    outputs, rows = flat.shape[0], weight.shape[0]
    if row == 1:
        for j in range(outputs):
            for n in range(rows):
                delta[start + n + j * column] = flat[j, n] if weight[n] != 0 else 0
    else:
        for n in range(rows):
            for j in range(outputs):
                delta[start + n * row + j * column] = flat[j, n] if weight[n] != 0 else 0
