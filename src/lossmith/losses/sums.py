"""Sums of products of atoms as plain data: the numbers of the algebraic normal form (`losses.algebra`).

    sum     = {product: coefficient}           {(): 1, ((p, 1),): -1}  is  1 - p
    product = ((atom, whole exponent > 0), …)  in canonical order; () is the number 1

Coefficients are exact, whole numbers and fractions, so the order of the arguments cannot show in the last digit.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TypeAlias

from lossmith.losses.expression import Node

Coefficient: TypeAlias = int | Fraction
Product: TypeAlias = tuple[tuple[Node, int], ...]
Sum: TypeAlias = dict[Product, Coefficient]


def exact(value: float) -> Coefficient:
    """A float as an exact number."""
    return int(value) if value.is_integer() else Fraction(value)


def number(value: float) -> Sum:
    """A number as a sum."""
    return {(): exact(value)} if value else {}


def magnitude(c: Coefficient) -> Coefficient:
    return -c if c < 0 else c


def constant(a: Sum) -> float | None:
    """The value of a sum that is a number, else None."""
    if not a:
        return 0.0
    return float(a[()]) if len(a) == 1 and () in a else None


def scale(a: Sum, factor: Coefficient) -> Sum:
    return {product: c * factor for product, c in a.items()} if factor else {}


def plus(a: Sum, b: Sum, factor: Coefficient = 1) -> Sum:
    """a + factor·b; equal products collected, zeros dropped."""
    total = dict(a)
    for product, c in b.items():
        total[product] = total.get(product, 0) + factor * c
        if not total[product]:
            del total[product]
    return total
