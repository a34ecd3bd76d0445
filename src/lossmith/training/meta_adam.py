"""Adam on loss parameters φ.

Kingma & Ba (2015), Adam: a method for stochastic optimization, arXiv 1412.6980, algorithm 1, as `torch.optim.Adam`
defines it. Pure: a state goes in, a new one comes out. φ is kept in float64 whatever the base model computes in, so
that steps of 1e-3 do not drown in rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

BETAS = (0.9, 0.999)
EPS = 1e-8


@dataclass(frozen=True)
class AdamState:
    """Running means of gradient and squared gradient [K], and how many steps have been taken."""

    mean: Vector
    square: Vector
    steps: int = 0

    @classmethod
    def empty(cls, size: int) -> AdamState:
        return cls(np.zeros(size), np.zeros(size))


def adam_step(phi: Vector, gradient: Vector, state: AdamState, lr: float) -> tuple[Vector, AdamState]:
    """One step of Adam.

    Args:
        phi, gradient: [K].
        state: of the steps before.
        lr: > 0.

    Returns:
        φ after the step, and the state after it; nothing that was given is written to.
    """
    steps = state.steps + 1
    mean = BETAS[0] * state.mean + (1 - BETAS[0]) * gradient
    square = BETAS[1] * state.square + (1 - BETAS[1]) * gradient * gradient
    root = np.sqrt(square / (1 - BETAS[1] ** steps)) + EPS
    return phi - lr / (1 - BETAS[0] ** steps) * mean / root, AdamState(mean, square, steps)
