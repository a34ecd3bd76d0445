"""One loss with its φ given anew at every batch: value, ∂ℓ/∂z and what φ does to it, the batch read once for all three.

What `PopulationLoss` does for many, with less around it: where φ moves at every training step of a small model, what
surrounds the compiled program counts.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses.elements import Elements, elements, flattened
from lossmith.losses.loss import Loss
from lossmith.losses.population_loss import interpreted
from lossmith.losses.programs import program_of
from lossmith.losses.tangents import Array

_FIRST = np.zeros(1, np.int64)


class OneLoss:
    """A loss that a compiled program can compute, its φ as parameters; see `losses.delta.interpreted`."""

    def __init__(self, loss: Loss) -> None:
        self._loss, self._program = loss, program_of((loss.kernel,), tunable=True)

    @classmethod
    def of(cls, loss: Loss) -> OneLoss | None:
        """The loss made ready, or None where only autograd can compute it."""
        return cls(loss) if interpreted(loss, tunable=True) else None

    def at(self, z: Tensor, target: Tensor, weight: Tensor | None, progress: float | None) -> Elements | None:
        """A batch, ready; None where the loss itself has something to say about it.

        Args:
            z: [N, C], float32 or float64, on the CPU, without graph. target, weight, progress: as for `Loss.forward`.
        """
        try:
            return elements(self._loss, self._program, z, target, weight, progress, places=_FIRST)
        except LossError:
            return None


def value_and_delta_at(batch: Elements, phi: Array) -> tuple[Tensor, Tensor]:
    """The loss, and ∂loss/∂z [N, C].

    Args:
        phi: [K] float64.
    """
    dtype, rows = batch.weight.dtype, len(batch.weight)
    delta = np.empty((1, rows, batch.outputs), dtype)
    per_row, value = np.empty((1, rows), dtype), np.empty(1, dtype)
    batch.values_and_deltas(_FIRST, value, per_row, *flattened(delta), phi)
    return torch.from_numpy(value)[0], torch.from_numpy(delta)[0]


def mixed_at(batch: Elements, direction: Tensor, phi: Array) -> Array:
    """∂/∂φ Σ_nc u_nc · ∂loss/∂z_nc, [K].

    Args:
        direction: u, [N, C] in the type of z.
    """
    (found,) = batch.mixed(direction[None], phi)
    return found
