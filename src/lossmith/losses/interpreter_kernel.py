# mypy: allow-untyped-defs
# ruff: noqa: SIM109 (`in` a tuple is a loop to the compiler)
"""The compiled part of the interpreter: loss programs run over blocks of elements (numba).

One call runs every program of a population over all its elements. An instruction is decoded once per block and then
works on `BLOCK` elements in a plain loop, which the compiler turns into vector instructions; a block's rows of values
and slopes stay in the cache. Compiled on first use for each precision and kept in numba's cache (in the package, or in
the user's cache folder where the package is read-only), so once per installation.

Every branch of `_step` is the value and the derivative of one primitive of `losses.primitives` exactly as autograd has
them: a clamp passes the slope at its edge and above, not below; a tie of min and max shares it; |x| has slope 0 at 0.
Everything is in one file because the cache is renewed by looking at the file of the function that is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from lossmith.losses.inputs import PROTECTION

BLOCK = 256  # elements per instruction: long enough to forget its decoding, short enough for the first-level cache
ADD, SUB, MUL, DIV, NEG, POW, WHOLE, TUNED, LOG, SQRT, EXP, SQUARE, ABS, SIGN, TANH, MIN, MAX, AQ = range(18)
"""Opcodes. WHOLE is a power whose exponent is one number, exact where that is whole; TUNED one that follows φ, exact
where it is whole unless a derivative by φ is taken."""
CONSTANT, PARAMETER, SCALAR, INPUT = range(4)  # kinds of leaves
A, B, BOTH = 1, 2, 3  # which arguments of an instruction have a slope, or depend on φ


def compiled(function: Callable[..., Any]) -> Any:
    """The function compiled on first use, and kept on disk if there is any place that can be written to."""
    try:
        return numba.njit(function, cache=True, nogil=True, error_model="numpy")
    except RuntimeError:  # no folder for the cache: compiled anew in every process
        return numba.njit(function, nogil=True, error_model="numpy")


@compiled
def run(programs, code, leaves, constants, scalars, phi, x, dx, values, slopes):
    """Values [P, M] of every program, and slopes [P, M] unless that array is empty.

    Args:
        programs: [P, 8]: first and last + 1 leaf; first, first varying and last + 1 instruction; place of the result
            (leaves before instructions) and whether it has a slope; place of its first parameter in `phi`.
        code: [S, 5]: opcode, arguments with a slope, places of a and b, arguments that depend on φ.
        leaves: [L, 3]: kind, row or index, whether it has a slope. constants: [L].
        scalars: [n, τ]. phi: parameters of all programs.
        x: [1 or P, I, M] inputs. dx: [1 or P, J, M] tangents of the first J of them.
    """
    size, sloped = x.shape[2], slopes.shape[1] > 0
    v, d = _rows(programs, x.dtype)
    for c in range(programs.shape[0]):
        xc, dc = x[c if x.shape[0] > 1 else 0], dx[c if dx.shape[0] > 1 else 0]
        first, last, start, varying, stop, root, moves, _ = programs[c]
        for begin in range(-BLOCK, size, BLOCK):  # the first round is the uniform instructions
            m = min(BLOCK, size - begin)
            _load(programs[c], leaves, constants, scalars, phi, xc, dc, begin, m, sloped, v, d)
            for s in range(start if begin < 0 else varying, varying if begin < 0 else stop):
                act = code[s, 1] if sloped else 0
                _step(code[s, 0], act, code[s, 2], code[s, 3], last - first + s - start, m, v, d)
            if begin >= 0:
                for i in range(m):
                    values[c, begin + i] = v[root, i]
                for i in range(m if sloped else 0):
                    slopes[c, begin + i] = d[root, i] if moves else 0


@compiled
def run_mixed(programs, code, leaves, constants, scalars, phi, x, dx, weight, gradient):
    """gradient ← ∂/∂φ Σ_m weight_m · slope_m of every program: the slopes forward, then one pass back for all of φ.

    Args:
        as for `run`; weight: [1 or P, M]. gradient: as long as `phi`.
    """
    size = x.shape[2]
    v, d = _rows(programs, x.dtype)
    gv, gd = np.zeros_like(v), np.zeros_like(d)  # derivatives of the result by values and by slopes
    gradient[:] = 0
    for c in range(programs.shape[0]):
        first, last, start, varying, stop, root, moves, k = programs[c]
        xc, dc = x[c if x.shape[0] > 1 else 0], dx[c if dx.shape[0] > 1 else 0]
        w = weight[c if weight.shape[0] > 1 else 0]
        inner, count = last - first, last - first + stop - start
        gv[:count] = 0  # uniform rows gather over all blocks
        d[:count] = 0  # a row without a slope is read as zeros
        for begin in range(-BLOCK, size, BLOCK):
            m = min(BLOCK, size - begin)
            _load(programs[c], leaves, constants, scalars, phi, xc, dc, begin, m, True, v, d)
            for s in range(start if begin < 0 else varying, varying if begin < 0 else stop):
                op = POW if code[s, 0] == TUNED else code[s, 0]
                _step(op, code[s, 1], code[s, 2], code[s, 3], inner + s - start, m, v, d)
            if begin >= 0 and moves:
                gv[inner + varying - start : count] = 0
                gd[:count] = 0
                for i in range(m):
                    gd[root, i] = w[begin + i]
                for s in range(stop - 1, varying - 1, -1):
                    _pull(code[s], inner + s - start, m, v, d, gv, gd)
        gd[:count] = 0
        for s in range(varying - 1, start - 1, -1):
            _pull(code[s], inner + s - start, BLOCK, v, d, gv, gd)
        for j in range(inner):
            if leaves[first + j, 0] == PARAMETER:
                gradient[k + leaves[first + j, 1]] += gv[j].sum()


@compiled
def _rows(programs, dtype):
    nodes = 1
    for c in range(programs.shape[0]):
        nodes = max(nodes, programs[c, 1] - programs[c, 0] + programs[c, 4] - programs[c, 2])
    return np.empty((nodes, BLOCK), dtype), np.zeros((nodes, BLOCK), dtype)


@compiled
def _load(program, leaves, constants, scalars, phi, x, dx, begin, m, sloped, v, d):
    """The inputs of the block from `begin` on; where that is negative, everything that is the same for all blocks."""
    first = program[0]
    for j in range(program[1] - first):
        kind, index = leaves[first + j, 0], leaves[first + j, 1]
        if kind == INPUT and begin >= 0:
            for i in range(m):
                v[j, i] = x[index, begin + i]
            for i in range(m if sloped and leaves[first + j, 2] else 0):
                d[j, i] = dx[index, begin + i]
        elif kind != INPUT and begin < 0:
            number = constants[first + j]
            if kind == PARAMETER:
                number = phi[program[7] + index]
            elif kind == SCALAR:
                number = scalars[index]
            for i in range(m):
                v[j, i] = number


@compiled
def _step(op, act, a, b, y, m, v, d):
    """One instruction on one block: row y of the values v and, where `act` asks for it, of the slopes d."""
    number = v.dtype.type
    zero, half, one, two, low = number(0), number(0.5), number(1), number(2), number(PROTECTION)
    if op == MUL:
        for i in range(m):
            v[y, i] = v[a, i] * v[b, i]
        if act == BOTH:
            for i in range(m):
                d[y, i] = d[a, i] * v[b, i] + v[a, i] * d[b, i]
        elif act == A:
            for i in range(m):
                d[y, i] = d[a, i] * v[b, i]
        elif act == B:
            for i in range(m):
                d[y, i] = v[a, i] * d[b, i]
    elif op == ADD or op == SUB:
        sign = one if op == ADD else -one
        for i in range(m):
            v[y, i] = v[a, i] + sign * v[b, i]
        if act == BOTH:
            for i in range(m):
                d[y, i] = d[a, i] + sign * d[b, i]
        elif act == A:
            for i in range(m):
                d[y, i] = d[a, i]
        elif act == B:
            for i in range(m):
                d[y, i] = sign * d[b, i]
    elif op == AQ:
        for i in range(m):
            v[y, i] = v[a, i] / math.sqrt(one + v[b, i] * v[b, i])
        if act & A:
            for i in range(m):
                d[y, i] = d[a, i] / math.sqrt(one + v[b, i] * v[b, i])
        if act & B:
            for i in range(m):
                root = math.sqrt(one + v[b, i] * v[b, i])
                d[y, i] = (d[y, i] if act == BOTH else zero) - (v[y, i] / root) * ((v[b, i] / root) * d[b, i])
    elif op == DIV:
        for i in range(m):
            x = v[b, i]
            v[y, i] = v[a, i] / ((-low if x < zero else low) if abs(x) < low else x)
        if act & A:
            for i in range(m):
                x = v[b, i]
                d[y, i] = d[a, i] / ((-low if x < zero else low) if abs(x) < low else x)
        if act & B:
            for i in range(m):
                x = v[b, i]
                slope = zero if abs(x) < low else (v[y, i] / x) * d[b, i]
                d[y, i] = (d[y, i] if act == BOTH else zero) - slope
    elif op == MIN or op == MAX:
        sign = one if op == MIN else -one
        for i in range(m):
            v[y, i] = v[a, i] if sign * v[a, i] < sign * v[b, i] or v[a, i] != v[a, i] else v[b, i]
        if act:
            for i in range(m):
                p, q = sign * v[a, i], sign * v[b, i]
                from_a = d[a, i] if act & A else zero
                from_b = d[b, i] if act & B else zero
                tied = (from_a + from_b) * half if p == q else from_a + from_b  # of NaN: autograd's answer, too
                d[y, i] = from_a if p < q else (from_b if p > q else tied)
    elif op == SQUARE:
        for i in range(m):
            v[y, i] = v[a, i] * v[a, i]
        if act:
            for i in range(m):
                d[y, i] = two * (v[a, i] * d[a, i])
    elif op == ABS:
        for i in range(m):
            v[y, i] = abs(v[a, i])
        if act:
            for i in range(m):
                d[y, i] = d[a, i] if v[a, i] > zero else (-d[a, i] if v[a, i] < zero else zero)
    elif op == SIGN:
        for i in range(m):
            v[y, i] = one if v[a, i] > zero else (-one if v[a, i] < zero else zero)
        if act:
            for i in range(m):
                d[y, i] = zero
    elif op == NEG:
        for i in range(m):
            v[y, i] = -v[a, i]
        if act:
            for i in range(m):
                d[y, i] = -d[a, i]
    elif op == LOG:
        for i in range(m):
            x = abs(v[a, i])
            v[y, i] = math.log(low if x < low else x)
        if act:
            for i in range(m):
                d[y, i] = d[a, i] / v[a, i] if abs(v[a, i]) >= low else zero
    elif op == SQRT:
        for i in range(m):
            x = abs(v[a, i])
            v[y, i] = math.sqrt(low if x < low else x)
        if act:
            for i in range(m):
                slope = half * d[a, i] / v[y, i]
                d[y, i] = (slope if v[a, i] > zero else -slope) if abs(v[a, i]) >= low else zero
    elif op == TANH:
        if v.itemsize == 4:
            _tanh(a, y, m, v)
        else:
            for i in range(m):
                v[y, i] = math.tanh(v[a, i])
        if act:
            for i in range(m):
                d[y, i] = (one - v[y, i] * v[y, i]) * d[a, i]
    elif op == EXP:
        for i in range(m):
            v[y, i] = math.exp(v[a, i])
        if act:
            for i in range(m):
                d[y, i] = v[y, i] * d[a, i]
    elif op != POW and v[b, 0] == np.floor(v[b, 0]) and abs(v[b, 0]) < math.inf:
        for i in range(m):
            v[y, i], slope, _ = _whole_power(v[a, i], v[b, 0])
            if act:
                d[y, i] = slope * d[a, i]
    else:
        for i in range(m):
            x = abs(v[a, i])
            v[y, i] = math.pow(low if x < low else x, v[b, i])
        if act & A:
            for i in range(m):
                x = abs(v[a, i])
                slope = v[b, i] * math.pow(x, v[b, i] - one) * d[a, i] if x >= low and v[b, i] != zero else zero
                d[y, i] = slope if v[a, i] > zero else -slope
        if act & B:
            for i in range(m):
                x = abs(v[a, i])
                slope = v[y, i] * math.log(low if x < low else x) * d[b, i]
                d[y, i] = (d[y, i] if act == BOTH else zero) + slope


@compiled
def _tanh(a, y, m, v):
    """tanh in float32 to 3e-7 relative, four times faster than the library's: 1 − 2/(1 + e^2|x|), near 0 its series."""
    number = v.dtype.type
    one, two = number(1), number(2)
    for i in range(m):
        v[y, i] = math.exp(two * abs(v[a, i]))
    for i in range(m):
        x = v[a, i]
        s = x * x
        near = x + x * s * (number(-1 / 3) + s * (number(2 / 15) + s * (number(-17 / 315) + s * number(62 / 2835))))
        far = one - two / (one + v[y, i])
        v[y, i] = near if abs(x) < number(0.25) else (far if x > 0 else -far)


@compiled
def _whole_power(x, k):
    """x^k for a whole k, its derivative, and its second; a negative k is the reciprocal of the protected x^|k|."""
    number = type(x)
    zero, one, two, low = number(0), number(1), number(2), number(PROTECTION)
    n = abs(k)
    y = x * x * x if n == number(3) else (x * x if n == two else (x if n == one else math.pow(x, n)))
    first = zero if n == zero else n * (x * x if n == number(3) else (x if n == two else math.pow(x, n - one)))
    second = zero if n == zero or n == one else n * (n - one) * (x if n == number(3) else math.pow(x, n - two))
    if k >= zero:
        return y, first, second
    if abs(y) < low:
        return one / (-low if y < zero else low), zero, zero
    inverse = one / y
    return inverse, -inverse * inverse * first, inverse * inverse * (two * inverse * first * first - second)


@compiled
def _pull(instruction, y, m, v, d, gv, gd):
    """The way back through one instruction: what rows y of gv and gd mean for the arguments that depend on φ.

    With g, h the derivatives of the result by value and slope of y = f(a), whose slope is f'(a)·ȧ: by the value of a
    it is g·f' + h·f''·ȧ, by its slope h·f'; with two arguments the mixed derivatives of f join in.
    """
    op, act, a, b, tuned = instruction[0], instruction[1], instruction[2], instruction[3], instruction[4]
    number = v.dtype.type
    zero, half, one, two, low = number(0), number(0.5), number(1), number(2), number(PROTECTION)
    if not act:
        for i in range(m):  # no slope, so nothing depends on it
            gd[y, i] = zero
    if op == MUL:
        if tuned & A:
            for i in range(m):
                gv[a, i] += gv[y, i] * v[b, i] + gd[y, i] * d[b, i]
                gd[a, i] += gd[y, i] * v[b, i]
        if tuned & B:
            for i in range(m):
                gv[b, i] += gv[y, i] * v[a, i] + gd[y, i] * d[a, i]
                gd[b, i] += gd[y, i] * v[a, i]
    elif op == ADD or op == SUB or op == NEG:
        sign_a, sign_b = -one if op == NEG else one, -one if op == SUB else one
        if tuned & A:
            for i in range(m):
                gv[a, i] += sign_a * gv[y, i]
                gd[a, i] += sign_a * gd[y, i]
        if tuned & B:
            for i in range(m):
                gv[b, i] += sign_b * gv[y, i]
                gd[b, i] += sign_b * gd[y, i]
    elif op == AQ:
        for i in range(m):
            q = one / math.sqrt(one + v[b, i] * v[b, i])
            s = v[b, i] * q
            by_both = -s * q * q
            if tuned & A:
                gv[a, i] += gv[y, i] * q + gd[y, i] * by_both * d[b, i]
                gd[a, i] += gd[y, i] * q
            if tuned & B:
                by_b = v[a, i] * by_both
                twice = v[a, i] * q * q * q * (number(3) * s * s - one)
                gv[b, i] += gv[y, i] * by_b + gd[y, i] * (by_both * d[a, i] + twice * d[b, i])
                gd[b, i] += gd[y, i] * by_b
    elif op == DIV:
        for i in range(m):
            free = zero if abs(v[b, i]) < low else one
            q = one / ((-low if v[b, i] < zero else low) if free == zero else v[b, i])
            by_b = -free * v[y, i] * q
            if tuned & A:
                gv[a, i] += gv[y, i] * q - gd[y, i] * free * q * q * d[b, i]
                gd[a, i] += gd[y, i] * q
            if tuned & B:
                gv[b, i] += gv[y, i] * by_b - gd[y, i] * free * q * (q * d[a, i] + two * by_b * d[b, i])
                gd[b, i] += gd[y, i] * by_b
    elif op == MIN or op == MAX:
        sign = one if op == MIN else -one
        for i in range(m):
            p, q = sign * v[a, i], sign * v[b, i]
            if tuned & A and not p > q:
                gv[a, i] += half * gv[y, i] if p == q else gv[y, i]
                gd[a, i] += half * gd[y, i] if p == q else gd[y, i]
            if tuned & B and not p < q:
                gv[b, i] += half * gv[y, i] if p == q else gv[y, i]
                gd[b, i] += half * gd[y, i] if p == q else gd[y, i]
    elif op == POW or op == TUNED or op == WHOLE:
        exact = op == WHOLE and v[b, 0] == np.floor(v[b, 0]) and abs(v[b, 0]) < math.inf
        for i in range(m):
            x, k = v[a, i], v[b, i]
            if exact:
                _, by_a, twice = _whole_power(x, k)
            elif abs(x) >= low:
                size, sign = abs(x), one if x > zero else -one
                by_a = sign * k * math.pow(size, k - one)
                twice = k * (k - one) * math.pow(size, k - two)
            else:
                by_a, twice = zero, zero
            if tuned & A:
                gv[a, i] += gv[y, i] * by_a + gd[y, i] * twice * d[a, i]
                gd[a, i] += gd[y, i] * by_a
            if not exact and (tuned & B or act & B):
                size = abs(x)
                log = math.log(low if size < low else size)
                by_both = zero
                if size >= low:
                    by_both = math.pow(size, k - one) * (one + k * log) * (one if x > zero else -one)
                if tuned & A:
                    gv[a, i] += gd[y, i] * by_both * d[b, i]
                if tuned & B:
                    by_b = v[y, i] * log
                    gv[b, i] += gv[y, i] * by_b + gd[y, i] * (by_both * d[a, i] + by_b * log * d[b, i])
                    gd[b, i] += gd[y, i] * by_b
    elif tuned and op != SIGN:
        for i in range(m):
            x, z = v[a, i], v[y, i]
            sign = one if x > zero else (-one if x < zero else zero)
            if op == SQUARE:
                by_a, twice = two * x, two
            elif op == ABS:
                by_a, twice = sign, zero
            elif op == TANH:
                by_a = one - z * z
                twice = -two * z * by_a
            elif op == EXP:
                by_a, twice = z, z
            elif abs(x) < low or x != x:
                by_a, twice = zero, zero
            elif op == LOG:
                by_a = one / x
                twice = -by_a * by_a
            else:  # SQRT
                by_a = half * sign / z
                twice = -half * by_a / x
            gv[a, i] += gv[y, i] * by_a + gd[y, i] * twice * d[a, i]
            gd[a, i] += gd[y, i] * by_a
