"""Outputs optimised directly on a loss, for many losses at once: the rejection protocol's work (ALGORITHMS §4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lossmith.losses import Loss
from lossmith.losses.delta import population_value_and_delta, value_and_delta
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
    losses: Sequence[Loss], outputs: Tensor, rows: Rows, progress: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Every loss and its gradient ∂M/∂z at outputs of its own.

    Args:
        losses: P of them. outputs: `[P, N, C]`. rows: targets and weights. progress: τ.

    Returns:
        Values `[P]` and deltas `[P, N, C]`.
    """
    if rows.group is None:
        return population_value_and_delta(losses, outputs, rows.target, rows.weight, progress)
    found = [
        value_and_delta(loss, z, rows.target, rows.weight, progress, group=rows.group)
        for loss, z in zip(losses, outputs, strict=True)
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
    left = list(range(len(losses)))
    z = rows.output.expand(len(losses), *rows.output.shape).clone()  # [P, N, C]
    m, v = torch.zeros_like(z), torch.zeros_like(z)
    lr = z.new_tensor(list(lrs))[:, None, None]
    for step in range(1, steps + 1):
        values, delta = values_and_deltas([losses[i] for i in left], z, rows, (step - 1) / steps)
        largest = delta.flatten(1).abs().amax(1)
        finite = torch.isfinite(values) & torch.isfinite(largest.square())  # Adam squares it
        if not bool(finite.all()):
            for place in (~finite).nonzero().flatten().tolist():
                found[left[place]] = Optimised(None, step)
            kept = finite.nonzero().flatten()
            left = [left[place] for place in kept.tolist()]
            if not left:
                break
            z, m, v, lr, delta = (x.index_select(0, kept) for x in (z, m, v, lr, delta))
        # Plain products and sums, which round alike in every lane: fused ones would let a candidate's last bit depend
        # on its place in the population.
        m.mul_(BETAS[0]).add_(delta * (1 - BETAS[0]))
        v.mul_(BETAS[1]).add_(delta.mul_(delta).mul_(1 - BETAS[1]))
        down = (v / (1 - BETAS[1] ** step)).sqrt_().add_(EPS)
        z.sub_((m / (1 - BETAS[0] ** step)).mul_(lr).div_(down))
    for place, i in enumerate(left):
        finite_end = bool(torch.isfinite(z[place]).all())
        found[i] = Optimised(z[place] if finite_end else None, steps)
    return [one for one in found if one is not None]
