"""Dynamical cross-entropy: the classes are weighted up one after the other, all through training.

Ruiz-Garcia, Zhang, Schoenholz & Liu, *Tilting the playing field: Dynamical loss functions for machine learning*, ICML
2021, arXiv 2102.03793. The weight of the class whose turn it is rises linearly from 1 to A and falls back, the others
stay at 1; then all are normalised to the sum C:

    ℓ = −Γ_c(τ)·t·log p        Γ_c = C·Γ̃_c / Σ_k Γ̃_k

Deviations: time is training progress τ, so the schedule is given as the number of rounds over all classes in one full
training instead of steps per class (the paper's figure 4: 14 turns of 3 classes, A = 70); there is no last turn
without oscillation, but at τ = 1 after whole rounds every weight is 1 again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses.codec import register
from lossmith.losses.inputs import Inputs
from lossmith.losses.row_kernel import RowKernel, tensors


@register
@dataclass(frozen=True)
class Dynamical(RowKernel):
    """Cross-entropy with class weights that oscillate with training progress.

    Args:
        amplitude: A >= 1, the highest weight before normalisation; 1 is cross-entropy.
        rounds: how often every class has its turn in one full training, > 0.

    Raises:
        LossError: a number that is out of range.
    """

    family: ClassVar[str] = "dynamical"
    amplitude: float = 70.0
    rounds: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.amplitude < 1 or self.rounds <= 0:
            raise LossError(f"{self}: the amplitude must be at least 1, and rounds above 0.")

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"t", "log_p", "tau"})

    def value(self, x: Inputs, phi: Sequence[float] | Tensor | None = None) -> Tensor:
        del phi
        (target, log_p), tau = tensors(x, "t", "log_p"), x["tau"]
        progress = tau if isinstance(tau, Tensor) else log_p.new_full((), tau, dtype=torch.float64)
        return -self.weights(progress, log_p.shape[-1]).to(log_p) * target * log_p

    def weights(self, progress: Tensor, classes: int) -> Tensor:
        """Γ at training progress τ, a scalar: [C], their sum C."""
        turns = progress * (self.rounds * classes)
        whose = torch.arange(classes, device=progress.device) == turns.floor().remainder(classes)
        risen = 1 + (self.amplitude - 1) * (1 - (2 * turns.frac() - 1).abs())
        raw = torch.where(whose, risen, torch.ones_like(risen))
        return raw * (classes / raw.sum())

    def source(self) -> list[str]:
        return [
            "classes = log_p.shape[-1]",
            f"turns = tau.to(z.device) * ({self.rounds!r} * classes)",
            "whose = torch.arange(classes, device=z.device) == turns.floor().remainder(classes)",
            f"risen = 1 + ({self.amplitude!r} - 1) * (1 - (2 * turns.frac() - 1).abs())",
            "raw = torch.where(whose, risen, torch.ones_like(risen))",
            "value = -(raw * (classes / raw.sum())).to(z.dtype) * t * log_p",
        ]
