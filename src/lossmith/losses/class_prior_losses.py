"""Cross-entropies that know how frequent the classes are (π), for data with a long tail.

- Logit adjustment: Menon et al. 2021, *Long-tail learning via logit adjustment*, arXiv 2007.07314, eq. 10:
  −log softmax(z + κ·log π)_y.
- LDAM: Cao et al. 2019, *Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss*, arXiv 1906.07413,
  eq. 13: cross-entropy of z − Δ_y at the target's output, Δ_c ∝ n_c^(−1/4), the largest Δ given.
- Class-balanced cross-entropy: Cui et al. 2019, *Class-Balanced Loss Based on Effective Number of Samples*, arXiv
  1901.05555, eq. 9: weights (1−β)/(1−β^n_c), normalised to the sum C.

Deviations: the prior takes the place of counts. Δ and the weights then need no more than π; only β^n_c asks for the
number of training rows. Soft targets weigh margins and weights of their classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses.codec import register
from lossmith.losses.inputs import Inputs
from lossmith.losses.row_kernel import RowKernel, tensors


@register
@dataclass(frozen=True)
class LogitAdjusted(RowKernel):
    """−t·log softmax(z + κ·log π): the model may leave the prior out of its outputs.

    Args:
        kappa: κ; 1 makes the balanced error's optimum (consistent), 0 is cross-entropy.
    """

    family: ClassVar[str] = "logit_adjusted"
    kappa: float = 1.0

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"t", "z", "prior"})

    def value(self, x: Inputs, phi: Sequence[float] | Tensor | None = None) -> Tensor:
        del phi
        target, output, prior = tensors(x, "t", "z", "prior")
        return -target * F.log_softmax(output + self.kappa * prior.log(), -1)

    def source(self) -> list[str]:
        return [f"value = -t * F.log_softmax(z + {self.kappa!r} * prior.log(), -1)"]


@register
@dataclass(frozen=True)
class LDAM(RowKernel):
    """−t·log softmax(s·(z − t·Δ)): the rarer a class, the wider the margin by which it has to win.

    Args:
        margin: Δ of the rarest class, >= 0; the others have margin·(π_min/π_c)^(1/4).
        scale: s > 0. The authors use 30 after a last layer with normalised weights and features, whose outputs are
            cosines; 1 is for outputs as they are.

    Raises:
        LossError: a number that is out of range.
    """

    family: ClassVar[str] = "ldam"
    margin: float = 0.5
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.margin < 0 or self.scale <= 0:
            raise LossError(f"{self}: the margin must be at least 0, and the scale above 0.")

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"t", "z", "prior"})

    def value(self, x: Inputs, phi: Sequence[float] | Tensor | None = None) -> Tensor:
        del phi
        target, output, prior = tensors(x, "t", "z", "prior")
        margins = self.margin * (prior.amin(-1, keepdim=True) / prior).pow(0.25)
        return -target * F.log_softmax(self.scale * (output - target * margins), -1)

    def source(self) -> list[str]:
        return [
            f"margins = {self.margin!r} * (prior.amin() / prior).pow(0.25)",
            f"value = -t * F.log_softmax({self.scale!r} * (z - t * margins), -1)",
        ]


@register
@dataclass(frozen=True)
class ClassBalanced(RowKernel):
    """Cross-entropy weighted by the inverse effective number of rows of each class.

    Args:
        beta: β in [0, 1); 0 is cross-entropy, near 1 weighs by 1/n_c.
        rows: number of training rows N, so that n_c = N·π_c; 0 where it is not known yet: a task fills it in.

    Raises:
        LossError: a number that is out of range; `value` asked for without rows.
    """

    family: ClassVar[str] = "class_balanced"
    beta: float = 0.9999
    rows: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta < 1 or self.rows < 0:
            raise LossError(f"{self}: beta must be in [0, 1), and rows at least 0.")

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"t", "log_p", "prior"})

    def value(self, x: Inputs, phi: Sequence[float] | Tensor | None = None) -> Tensor:
        del phi
        target, log_p, prior = tensors(x, "t", "log_p", "prior")
        # 1 − β^n without cancellation; its factor 1 − β is lost in the normalisation
        weights = 1 / -(self._log_beta * prior).expm1()
        return -(weights / weights.mean(-1, keepdim=True)) * target * log_p

    def source(self) -> list[str]:
        return [
            f"weights = 1 / -({self._log_beta!r} * prior).expm1()",
            "value = -(weights / weights.mean()) * t * log_p",
        ]

    @property
    def _log_beta(self) -> float:
        """N·log β; of β = 0, so low a number that β^n is 0."""
        if self.rows == 0:
            raise LossError(
                "class_balanced does not know the number of training rows: give it as class_balanced(rows=...), and in "
                "Python the class prior as prior=(...)."
            )
        return self.rows * math.log(self.beta) if self.beta else -1e30
