"""Outputs optimised directly on a loss, for many losses at once: the rejection protocol's work (ALGORITHMS §4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lossmith.evaluation.rejection_kernel import adam_step
from lossmith.losses import Loss
from lossmith.losses.delta import value_and_delta
from lossmith.losses.population_loss import PopulationLoss
from lossmith.training.meta_adam import BETAS, EPS


@dataclass(frozen=True)
class Rows:
    """What all candidates of a screen look at.

    Args:
        output: z of an untrained network `[N, C]`. target: `[N]` or `[N, C]`. weight, group: `[N]`, or None.
    """

    output: Tensor
    target: Tensor
    weight: Tensor | None = None
    group: Tensor | None = None


@dataclass(frozen=True)
class Optimised:
    """Where a loss has led the outputs.

    Args:
        output: z* `[N, C]`, None where something became non-finite.
        step: the last one done.
    """

    output: Tensor | None
    step: int


def values_and_deltas(
    losses: PopulationLoss, outputs: Tensor, rows: Rows, progress: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Every loss and its gradient ∂M/∂z at outputs of its own.

    Args:
        losses: P of them. outputs: `[P, N, C]`. rows: targets and weights. progress: τ.

    Returns:
        Values `[P]` and deltas `[P, N, C]`.
    """
    if rows.group is None:
        return losses(outputs, rows.target, rows.weight, progress)
    found = [
        value_and_delta(loss, z, rows.target, rows.weight, progress, group=rows.group)
        for loss, z in zip(losses.losses, outputs, strict=True)
    ]
    return torch.stack([value for value, _ in found]), torch.stack([delta for _, delta in found])


def optimise_outputs(losses: Sequence[Loss], rows: Rows, *, lrs: Sequence[float], steps: int) -> list[Optimised]:
    """Minimise every loss over the outputs themselves by Adam, all from the same start.

    A candidate is followed by itself: its numbers do not depend on the others, and one that becomes non-finite, which
    no later step could mend, is dropped from the work.

    Args:
        losses: P of them. rows: where to start, and the targets. lrs: learning rate of each. steps: of Adam, ≥ 1.
    """
    found: list[Optimised | None] = [None] * len(losses)
    left, population = np.arange(len(losses)), PopulationLoss(losses)
    # Row after row of one output, [P, C, N], as the compiled losses like it.
    z = np.repeat(np.ascontiguousarray(rows.output.numpy().T)[None], len(losses), 0)
    m, v = np.zeros_like(z), np.zeros_like(z)
    lr = np.array(lrs, z.dtype)
    for step in range(1, steps + 1):
        outputs = torch.from_numpy(z).transpose(1, 2)
        values, delta = values_and_deltas(population, outputs, rows, (step - 1) / steps)
        slope = np.ascontiguousarray(delta.transpose(1, 2).numpy())
        finite = np.empty(len(left), bool)
        flat = [x.reshape(len(left), -1) for x in (z, m, v, slope)]
        adam_step(*flat, values.numpy(), lr, BETAS, EPS, step, finite)
        if not finite.all():
            for i in left[~finite]:
                found[i] = Optimised(None, step)
            left, z, m, v, lr = (x[finite] for x in (left, z, m, v, lr))
            if not len(left):
                break
            population = population.keep(finite.nonzero()[0].tolist())
    for place, i in enumerate(left):
        found[i] = Optimised(torch.from_numpy(z[place].T.copy()) if np.isfinite(z[place]).all() else None, steps)
    return [one for one in found if one is not None]
