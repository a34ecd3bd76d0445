# mypy: allow-untyped-defs
"""One step of Adam on the outputs of many candidates, compiled (numba)."""

from __future__ import annotations

import math

from lossmith.losses.interpreter_kernel import compiled


@compiled
def adam_step(z, m, v, delta, values, lr, betas, eps, step, finite):
    """Moves z down along delta, a candidate whose value or squared delta is not finite excepted.

    Plain products and sums, element by element, so that no candidate's last bit depends on its place in the population.

    Args:
        z, m, v: outputs and their moments [P, M], written to. delta: [P, M]. values, lr: [P].
        step: which this is, from 1.
        finite: [P], written to: whether the candidate was moved.
    """
    number = z.dtype.type
    first, second, small = number(betas[0]), number(betas[1]), number(eps)
    new, new_square = number(1 - betas[0]), number(1 - betas[1])
    bias, bias_square = number(1 - betas[0] ** step), number(1 - betas[1] ** step)
    for c in range(z.shape[0]):
        wrong = 0
        for i in range(z.shape[1]):
            wrong |= 0 if delta[c, i] * delta[c, i] < math.inf else 1
        finite[c] = not wrong and abs(values[c]) < math.inf
        rate = lr[c]
        for i in range(z.shape[1] if finite[c] else 0):
            d = delta[c, i]
            m[c, i] = m[c, i] * first + d * new
            v[c, i] = v[c, i] * second + d * d * new_square
            z[c, i] -= m[c, i] / bias * rate / (math.sqrt(v[c, i] / bias_square) + small)
