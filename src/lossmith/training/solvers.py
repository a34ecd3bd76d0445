"""Solving (H + λI) x = b with a Hessian H that is known by its products only, for several candidates at once.

Pedregosa, *Hyperparameter optimization with approximate gradient*, ICML 2016, arXiv 1602.02355 (conjugate gradient);
Lorraine, Vicol & Duvenaud, *Optimizing Millions of Hyperparameters by Implicit Differentiation*, AISTATS 2020, arXiv
1911.02590 (the truncated Neumann series, and what it has to do with the unroll).

Away from a minimum a Hessian has directions of negative curvature, along which H⁻¹ says nothing about where training
leads. They are noticed when they come up, and the candidate starts again with more damping λ. Every candidate is a row
with a Hessian and a damping of its own and comes to its own end; none sees the others.

Deviations: damping λ goes into the series by a step of α/(1 + αλ), so that every factor I − αH shrinks by 1/(1 + αλ):
enough of it makes the series converge, whether curvature was negative or too large for α.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lossmith.records import Implicit

Products = Callable[[Tensor], Tensor]
"""[P, n] → H·p of each row, [P, n]."""

RELATIVE_RESIDUAL = 1e-6  # at which conjugate gradient stops
GROWTH = 1e-5  # of a term of the series over the one before: more than rounding in float32, too little to matter
RAISES = 8  # of damping, at most
TENFOLD = 10.0


@dataclass(frozen=True)
class Solution:
    """What came of solving for P candidates.

    Args:
        x: [P, n]; NaN where there is none.
        damping: λ it was found with, or the last that was tried, [P].
        raised: how many times λ was raised on the way there, [P].
        failed: whether curvature was not positive with the last λ either, [P].
    """

    x: Tensor
    damping: Tensor
    raised: Tensor
    failed: Tensor


def solve(how: Implicit, product: Products, b: Tensor, *, rate: float) -> Solution:
    """(H + λI)⁻¹ b with the least λ of those tried at which no negative curvature comes up.

    Conjugate gradient starts with `how.damping`. The series, whose truncation is a damping already, starts with λ = 0
    and takes `how.damping` when it grows. From there λ is raised tenfold, `RAISES` times in all.

    Args:
        how: the solver, its number of terms, damping.
        product: H·p. Rows of zeros are candidates that need none.
        b: [P, n].
        rate: α of the series, > 0.
    """
    ways = {"cg": _conjugate_gradient, "neumann": _series}
    damping = b.new_full(b.shape[:1], how.damping if how.solver == "cg" else 0.0)
    raised = torch.zeros(len(b), dtype=torch.long, device=b.device)
    x, open_ = torch.full_like(b, torch.nan), b.isfinite().all(1)
    for raises in range(RAISES + 1):
        asked = torch.where(open_[:, None], b, 0)
        found, negative = ways[how.solver](product, asked, damping, how.terms, rate)
        x = torch.where((open_ & ~negative)[:, None], found, x)
        open_ = open_ & negative
        if raises == RAISES or not open_.any():
            break
        damping = torch.where(open_, (TENFOLD * damping).clamp(min=how.damping), damping)
        raised = raised + open_
    return Solution(x, damping, raised, open_)


def _conjugate_gradient(
    product: Products, b: Tensor, damping: Tensor, terms: int, rate: float
) -> tuple[Tensor, Tensor]:
    """x after at most `terms` iterations (Hestenes & Stiefel 1952), and whether curvature pᵀ(H + λI)p ≤ 0 came up."""
    x, r, p = torch.zeros_like(b), b, b
    square = _dot(r, r)
    goal = RELATIVE_RESIDUAL**2 * square
    going, negative = square > 0, torch.zeros_like(square, dtype=torch.bool)
    for _ in range(terms):
        if not going.any():
            break
        hp = product(p) + damping[:, None] * p
        curvature = _dot(p, hp)
        negative = negative | (going & (curvature <= 0))
        going = going & ~negative
        length = (square / curvature)[:, None]
        x, r = torch.where(going[:, None], x + length * p, x), torch.where(going[:, None], r - length * hp, r)
        before, square = square, _dot(r, r)
        going = going & (square > goal)  # NaN is not: what is not finite ends as it is
        p = torch.where(going[:, None], r + (square / before)[:, None] * p, 0)
    return x, negative


def _series(product: Products, b: Tensor, damping: Tensor, terms: int, rate: float) -> tuple[Tensor, Tensor]:
    """β Σ_{j ≤ J} ((I − αH)/(1 + αλ))^j b with β = α/(1 + αλ), and whether its terms grow."""
    shrink = (1 / (1 + rate * damping))[:, None]
    total, term, square = b, b, _dot(b, b)
    going, grown = square > 0, torch.zeros_like(square, dtype=torch.bool)
    for _ in range(terms):
        if not going.any():
            break
        term = torch.where(going[:, None], shrink * (term - rate * product(term)), 0)
        total = total + term
        before, square = square, _dot(term, term)
        # ‖Bʲb‖ of a symmetric B is log-convex in j: once it grows, it grows for ever.
        grown = grown | (going & (square > (1 + GROWTH) ** 2 * before))
        going = going & ~grown & (square > 0)
    return rate * shrink * total, grown


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1)  # [P]
