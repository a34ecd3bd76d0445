# mypy: allow-untyped-defs
"""The compiled way from outputs to elements and back (numba): softmax, one-hot targets, and sums over rows."""

from __future__ import annotations

import math

import numpy as np

from lossmith.losses.interpreter_kernel import compiled

SOFTMAX, SIGMOID, IDENTITY = range(3)


@compiled
def softmax_logs(z, p, log_p, log_1mp, inv_p, edge):
    """What `losses.inputs` computes from outputs under softmax, all [R, C]; the last two only if they are not empty.

    Args:
        z: outputs. p, log_p, log_1mp, inv_p: written to.
        edge: log p below which 1/p does not grow.
    """
    rows, outputs = z.shape
    number = z.dtype.type
    for n in range(rows):
        top = 0
        for j in range(outputs):
            if z[n, j] > z[n, top]:
                top = j
        total = number(0)
        for j in range(outputs):
            log_p[n, j] = z[n, j] - z[n, top]
            p[n, j] = math.exp(log_p[n, j])
            total += p[n, j]
        log_total = math.log(total)
        for j in range(outputs):
            log_p[n, j] -= log_total
            p[n, j] /= total
        if inv_p.size:
            for j in range(outputs):
                inv_p[n, j] = math.exp(-(number(edge) if log_p[n, j] < edge else log_p[n, j]))
        if log_1mp.size:
            # Only the largest p of a row can round to 1; its complement is the log-sum-exp of the others.
            second = number(-np.inf)
            for j in range(outputs):
                if j != top:
                    log_1mp[n, j] = math.log1p(-p[n, j])
                    second = max(second, log_p[n, j])
            rest = number(0)
            for j in range(outputs):
                if j != top:
                    rest += math.exp(log_p[n, j] - second)
            nothing = second == -np.inf and total == total  # all others are −∞: log 0; a NaN goes on
            log_1mp[n, top] = second if nothing else math.log(rest) + second


@compiled
def one_hot(labels, t):
    """t [N, C] ← one-hot rows; whether every label is one of the classes."""
    rows, outputs = t.shape
    inside = True
    for n in range(rows):
        for j in range(outputs):
            t[n, j] = labels[n] == j
        inside = inside and 0 <= labels[n] < outputs
    return inside


@compiled
def gather(head, values, slopes, p, weight, share, divisor, totals, rows, delta):
    """From elements to losses: rows ← Σ ℓ · share, totals ← Σ_n w_n·rows_n / divisor, delta ← ∂totals/∂z.

    Args:
        head: SOFTMAX, SIGMOID or IDENTITY.
        values, slopes: [P, N·C], under sigmoid [P, N·C·2]. p: [1 or P, N, C] under softmax, else anything.
        weight: [N]; a row of weight 0 counts for nothing, whatever its values.
        totals: [P]. rows: [P, N]. delta: [P, N, C].
    """
    population, number, outputs = delta.shape
    pair = 2 if head == SIGMOID else 1
    for c in range(population):
        cp = c if p.shape[0] > 1 else 0
        total = 0.0
        for n in range(number):
            value, slope = 0.0, 0.0
            for j in range(n * outputs * pair, (n + 1) * outputs * pair):
                value += values[c, j]
                slope += slopes[c, j]
            rows[c, n] = value if weight[n] != 0 else 0  # rounded: what overflows is infinite
            rows[c, n] *= share
            total += rows[c, n] * weight[n]
            factor = weight[n] * share / divisor
            for j in range(outputs):
                k = (n * outputs + j) * pair
                if weight[n] == 0:
                    delta[c, n, j] = 0
                elif head == SOFTMAX:
                    delta[c, n, j] = factor * (slopes[c, k] - p[cp, n, j] * slope)
                elif head == SIGMOID:
                    delta[c, n, j] = factor * (slopes[c, k] + slopes[c, k + 1])
                else:
                    delta[c, n, j] = factor * slopes[c, k]
        totals[c] = total
        totals[c] /= divisor
