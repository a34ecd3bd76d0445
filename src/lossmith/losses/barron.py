"""Barron's general robust loss, with shape α and scale c as loss parameters.

Barron, *A General and Adaptive Robust Loss Function*, CVPR 2019, arXiv 1701.03077, eq. 13. Of the residual r = p − t:

    ρ = |α−2|/α · (((r/c)²/|α−2| + 1)^(α/2) − 1)

squared error (α = 2), Charbonnier or pseudo-Huber (1), Cauchy (0), Geman–McClure (−2), Welsch (−∞).

Deviations: c and α are learned as they are, without the probability distribution whose logarithm the paper's adaptive
loss adds to keep them in bounds: here a loss on validation data decides. Near α = 0 the derivative by α is the true
one; the authors' code has 0 there. At α = 2 the true one is infinite: |α − 2| is held above 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses.codec import register
from lossmith.losses.expression import Node
from lossmith.losses.family import Kernel, number
from lossmith.losses.inputs import Inputs
from lossmith.losses.parser import parse
from lossmith.losses.printer import to_text
from lossmith.losses.tree import Tree

NEAR = 1e-6  # the formula's distance to its limits at α = 0 and 2
_LARGEST = {torch.float32: 1e30, torch.float64: 1e300}  # of (r/c)²: divided by NEAR it is still a number
_SERIES = tuple(1 / math.factorial(k + 1) for k in range(8))


@register
@dataclass(frozen=True)
class Barron(Kernel):
    """ρ(r; α, c), **to be minimised**; φ = (α, c).

    Args:
        alpha: shape α, finite; the lower, the less an outlier counts. For ±∞ see `barron`.
        c: scale > 0: residuals below it count as squared. A negative one is the same loss and loses its sign.

    Raises:
        LossError: a number that is not finite, or c = 0.

    Example:
        >>> print(Barron(1.0, 0.5))
        (square(r/0.5) + 1)^0.5 - 1
    """

    family: ClassVar[str] = "barron"
    alpha: float = 1.0
    c: float = 1.0

    def __post_init__(self) -> None:
        for name in ("alpha", "c"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise LossError(f"barron: {name} = {value!r} must be a finite number.")
        if self.c == 0:
            raise LossError("barron: the scale c must not be 0: residuals are divided by it.")
        object.__setattr__(self, "alpha", float(self.alpha) + 0.0)
        object.__setattr__(self, "c", abs(float(self.c)))

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"r"})

    @property
    def phi(self) -> tuple[float, ...]:
        return self.alpha, self.c

    def value(self, x: Inputs, phi: Sequence[float] | Tensor | None = None) -> Tensor:
        """ℓ elementwise.

        Args:
            x: the residual r.
            phi: used instead of (α, c): two numbers, a tensor [2], or a batch [P, 2] for inputs [N, C].

        Returns:
            Broadcastable to [N, C] or [P, N, C].

        Raises:
            LossError: phi holds another number of loss parameters.
        """
        r = x["r"]
        assert isinstance(r, Tensor)
        alpha, c = self._named(phi, r)
        squared = torch.square(r / c).clamp(max=_LARGEST.get(r.dtype, 1e30))
        # With L = log(1 + s/b) and w = αL/2, ρ = b/2 · L · (e^w − 1)/w: nothing is divided by α.
        b = (alpha - 2).abs().clamp(min=NEAR)
        logarithm = torch.log1p(squared / b)
        return b / 2 * logarithm * _exp_quotient(alpha / 2 * logarithm)

    def _named(self, phi: Sequence[float] | Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
        given = self.phi if phi is None else phi
        count = given.shape[-1] if isinstance(given, Tensor) else len(given)
        if count != 2:
            raise LossError(f"phi has {count} numbers; barron has 2, alpha and c.")
        if not isinstance(given, Tensor):
            alpha, c = (like.new_full((), value) for value in given)
            return alpha, c
        alpha, c = given.unbind(-1)
        return (alpha[..., None, None], c[..., None, None]) if given.dim() > 1 else (alpha, c)

    def with_phi(self, phi: Sequence[float]) -> Barron:
        if len(phi) != 2:
            raise LossError(f"phi has {len(phi)} numbers; barron has 2, alpha and c.")
        return Barron(*phi)

    def expression(self) -> Node:
        """ρ with its numbers in, the limits at α = 0 and 2 as such."""
        return _formula(self.alpha, self.c)

    def document(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "c": self.c}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Barron:
        return cls(number(document, "alpha"), number(document, "c"))

    def __str__(self) -> str:
        return to_text(_formula(float(f"{self.alpha:.4g}"), float(f"{self.c:.4g}")))


def barron(alpha: float, c: float) -> Kernel:
    """ρ of any shape: α = −∞ (Welsch) and ∞ are trees, because a loss parameter is a finite number."""
    return Tree(_formula(alpha, c)) if math.isinf(alpha) else Barron(alpha, c)


def _formula(alpha: float, c: float) -> Node:
    squared = "square(r)" if c == 1 else "square(r/c)"
    if abs(alpha - 2) < NEAR:
        text = f"{squared}/2"
    elif abs(alpha) < NEAR:
        text = f"log({squared}/2 + 1)"
    elif math.isinf(alpha):
        text = f"exp({squared}/2) - 1" if alpha > 0 else f"1 - exp(-{squared}/2)"
    elif abs(alpha - 2) == 1:  # nothing to divide by
        text = f"(({squared} + 1)^power - 1)" + (f"/{alpha!r}" if alpha != 1 else "")
    else:
        text = f"factor*(({squared}/distance + 1)^power - 1)"
    known = {"c": c, "power": alpha / 2, "distance": abs(alpha - 2), "factor": abs(alpha - 2) / (alpha or 1.0)}
    return parse(text, parameters=known)


def _exp_quotient(w: Tensor) -> Tensor:
    """(e^w − 1)/w and its derivatives, 1 at 0: a series where the quotient would lose digits."""
    small = w.abs() < 0.05
    near = torch.where(small, w, torch.zeros_like(w))
    series = torch.full_like(w, _SERIES[-1])
    for coefficient in reversed(_SERIES[:-1]):
        series = series * near + coefficient
    far = torch.where(small, torch.ones_like(w), w)
    return torch.where(small, series, torch.expm1(far) / far)
