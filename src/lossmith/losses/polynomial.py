"""Polynomials in several variables as plain dictionaries: exponents → coefficient.

A coefficient is anything that adds and multiplies (a float; in tests a complex number, whose imaginary part carries a
derivative). No term is ever pruned, so which exponents occur depends on the construction alone, never on the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import product
from math import comb
from typing import TypeAlias

Exponents: TypeAlias = tuple[int, ...]
Polynomial: TypeAlias = Mapping[Exponents, float]


@lru_cache(maxsize=256)
def multi_indices(order: int, variables: int) -> tuple[Exponents, ...]:
    """Every exponent vector of total degree ≤ `order`, in the authors' order (ALGORITHMS §2).

    Counting 0 … (order+1)^variables − 1 in base order+1, first variable most significant, keeping digit sums ≤ order.

    >>> multi_indices(2, 2)
    ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0))
    """
    return tuple(digits for digits in product(range(order + 1), repeat=variables) if sum(digits) <= order)


def linear(constant: float, slopes: Mapping[int, float], axes: int) -> Polynomial:
    """constant + Σ slopes[i]·x_i in `axes` variables.

    >>> linear(-0.5, {1: 1.0}, 2)
    {(0, 0): -0.5, (0, 1): 1.0}
    """
    terms: dict[Exponents, float] = {(0,) * axes: constant}
    for axis, slope in slopes.items():
        terms[tuple(int(i == axis) for i in range(axes))] = slope
    return terms


def multiply(a: Polynomial, b: Polynomial) -> Polynomial:
    """a·b."""
    terms: dict[Exponents, float] = {}
    for left, c in a.items():
        for right, d in b.items():
            exponents = tuple(i + j for i, j in zip(left, right, strict=True))
            terms[exponents] = terms.get(exponents, 0.0) + c * d
    return terms


def add_scaled(total: dict[Exponents, float], polynomial: Polynomial, factor: float) -> None:
    """total += factor·polynomial, in place: `total` is an accumulator its caller has just made."""
    for exponents, c in polynomial.items():
        total[exponents] = total.get(exponents, 0.0) + factor * c


def powers(base: Polynomial, highest: int) -> list[Polynomial]:
    """base⁰, base¹, …, base^highest."""
    axes = len(next(iter(base)))
    result: list[Polynomial] = [{(0,) * axes: 1.0}]
    for _ in range(highest):
        result.append(multiply(result[-1], base))
    return result


def shift(polynomial: Polynomial, axis: int, by: float) -> Polynomial:
    """The polynomial in y where x_axis = y + by (binomial theorem)."""
    terms: dict[Exponents, float] = {}
    for exponents, c in polynomial.items():
        e = exponents[axis]
        for i in range(e + 1):
            key = (*exponents[:axis], i, *exponents[axis + 1 :])
            terms[key] = terms.get(key, 0.0) + c * comb(e, i) * by ** (e - i)
    return terms
