"""Which parameters of a polynomial loss can matter at all (ALGORITHMS §2, "What is identifiable").

A polynomial f in target t, prediction p, output z and progress τ moves training only through its pull γ = ∂f/∂p and
its direct pull ∂f/∂z. Part of these is invisible: with one-hot targets t² = t; what is the same for all outputs
vanishes in the softmax gradient p_j(γ_j − Σ_k γ_k p_k); where two outputs share one probability only γ_T(p) − γ_N(1−p)
is left. What remains are the *effective coefficients*: losses with the same ones train identically, so they make the
key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

from lossmith.losses.family import Setting
from lossmith.losses.polynomial import Exponents, Polynomial, shift
from lossmith.records import content_hash

T, P, Z, TAU = range(4)  # axes of the expanded polynomial
AXES = 4
DIGITS = 10  # of a key, relative to the largest coefficient: far above float noise, far below meaning

Label: TypeAlias = tuple[str, Exponents]
Effective: TypeAlias = dict[Label, float]


def effective(f: Polynomial, setting: Setting) -> Effective:
    """What training can see of f.

    Args:
        f: polynomial on the axes (t, p, z, τ); under the identity head z is already read as p.
        setting: head, number of outputs, whether targets are one-hot.

    Returns:
        Coefficients by label, in a fixed order: ("pull", exponents) of ∂f/∂p; ("output", exponents) of ∂f/∂z where p
        does not occur; ("contrast", …) of γ_T(p) − γ_N(1−p) in p − ½ where two outputs share one probability. Labels
        depend on which exponents f has, never on its numbers.
    """
    probabilities = setting.head in ("softmax", "sigmoid")
    if probabilities and setting.hard_targets:
        f = _one_hot(f)
    result: Effective = {}
    pull: dict[Exponents, float] = {}
    for (t, p, z, tau), c in f.items():
        if p:
            pull[(t, p - 1, z, tau)] = p * c
        elif z:
            result[("output", (t, 0, z - 1, tau))] = z * c
    if setting.head == "sigmoid" or (setting.head == "softmax" and setting.classes == 2):
        shared = {e: c for e, c in pull.items() if e[Z] == 0}
        pull = {e: c for e, c in pull.items() if e[Z]}
        result |= _contrast(shared, hard=setting.hard_targets)
    for e, c in pull.items():
        if not (probabilities and e[:TAU] == (0, 0, 0)):
            result[("pull", e)] = c
    return dict(sorted(result.items()))


def effective_key(coefficients: Mapping[Label, float]) -> str:
    """A key that equal effective coefficients share: rounded to `DIGITS` digits relative to the largest one."""
    largest = max((abs(c) for c in coefficients.values()), default=0.0)
    if largest == 0.0:
        return content_hash([])
    quantum = math.floor(math.log10(largest)) - DIGITS + 1
    rounded = {label: _in_quanta(c, quantum) for label, c in coefficients.items()}
    # Zeros are left out: a loss of order 3 is the loss of order 4 whose fourth-order terms vanish.
    return content_hash([quantum, *[[kind, *e, n] for (kind, e), n in rounded.items() if n]])


def _in_quanta(c: float, quantum: int) -> int:
    return round(c * 10.0**-quantum) if quantum < 0 else round(c / 10.0**quantum)


def _one_hot(f: Polynomial) -> Polynomial:
    terms: dict[Exponents, float] = {}
    for exponents, c in f.items():
        key = (min(exponents[T], 1), *exponents[1:])
        terms[key] = terms.get(key, 0.0) + c
    return terms


def _contrast(pull: Polynomial, *, hard: bool) -> Effective:
    """γ(t, p) − γ(1−t, 1−p) of a pull without z, in powers of p − ½: with p_N = 1 − p_T nothing else acts."""
    pull = shift(pull, P, 0.5)
    result: Effective = {}
    if hard:
        # t is 0 or 1: γ_T = Σ over t-exponents 0 and 1, γ_N = the t-free part, mirrored by (−1)^i.
        for (t, i, _, tau), c in pull.items():
            label: Label = ("contrast", (1, i, 0, tau))
            result[label] = result.get(label, 0.0) + (c if t else c - (-1) ** i * c)
        return result
    for exponents, c in shift(pull, T, 0.5).items():
        if (exponents[T] + exponents[P]) % 2:  # even terms are the same for both outputs
            result[("contrast", exponents)] = 2 * c
    return result
