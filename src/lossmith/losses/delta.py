"""A loss's value and its derivative by the output, ∂ℓ/∂z: all that training a base model needs of a loss.

Two roads to the same numbers: the interpreter (`losses.interpreter`) for pointwise losses on the CPU whose kernel it
supports, autograd for everything else. A population of losses is one call (`losses.population_loss`).
`mixed_with_direction` is the one derivative by φ that a step of unrolled training needs (ALGORITHMS §4, the closed form
for K = 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from torch import Tensor

from lossmith.losses.autograd_road import value_and_delta_by_autograd
from lossmith.losses.loss import Loss
from lossmith.losses.population_loss import PopulationLoss, interpreted

__all__ = ["interpreted", "mixed_with_direction", "population_value_and_delta", "value_and_delta"]


def value_and_delta(
    loss: Loss,
    output: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    progress: float | Tensor | None = None,
    *,
    group: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss and its derivative by the output, as `loss(output, target, …)` and its backward pass give them.

    Args:
        loss: any loss that is one number.
        output: z, [..., C]. target, weight, progress, group: as for `Loss.forward`.

    Returns:
        The loss (a scalar), and δ = ∂loss/∂output in shape and type of the output. Neither carries a graph.

    Raises:
        LossError: as `Loss.forward`; a loss with reduction="none".
    """
    remembered = _remembered((loss,), False)
    by_row = _by_row(output, target, weight)
    if by_row is not None and group is None:
        values, _, delta, left = remembered.by_interpreter(*by_row, progress)
        if not left:
            return values[0], delta[0].reshape(output.shape).to(output.dtype)
    return value_and_delta_by_autograd(loss, output, target, weight, progress, group)


def population_value_and_delta(
    losses: Sequence[Loss],
    outputs: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    progress: float | Tensor | None = None,
    *,
    per_row: bool = False,
    phi: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Values and derivatives of P losses at once.

    Args:
        losses: P losses. The same ones are made ready once, as a `PopulationLoss`.
        outputs: [P, N, C], or [N, C] shared by all.
        target, weight, progress: as for `Loss.forward`, shared by all.
        per_row: values per row, neither weighted nor averaged, 0 where the weight is 0; for pointwise losses.
        phi: loss parameters to use instead of the losses' own, [K] for each.

    Returns:
        Values [P] (or [P, N]) and δ [P, N, C], in the type of the outputs; δ is contiguous whatever they are, because
        sums over it are rounded by how it lies in memory. A `PopulationLoss` itself leaves it in their order.

    Raises:
        LossError: as `value_and_delta`; `per_row` of a loss that has no value per row.
    """
    remembered = _remembered(tuple(losses), phi is not None)
    values, deltas = remembered(outputs, target, weight, progress, per_row=per_row, phi=phi)
    return values, deltas.contiguous()


def mixed_with_direction(
    losses: Sequence[Loss],
    output: Tensor,
    target: Tensor,
    direction: Tensor,
    weight: Tensor | None = None,
    progress: float | Tensor | None = None,
    *,
    phi: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """∂/∂φ Σ_nc u_nc · ∂M/∂z_nc of each loss M: how its pull along a direction u depends on its parameters.

    Args:
        losses: P losses.
        output: z, [N, C], shared. target, weight, progress: as for `Loss.forward`.
        direction: u, [P, N, C].
        phi: loss parameters to use instead of the losses' own, [K] for each.

    Returns:
        One tensor [K] per loss, float64 where the output is, else float32; empty for a loss without parameters.

    Raises:
        LossError: as `value_and_delta`.
    """
    return _remembered(tuple(losses), True).mixed(output, target, direction, weight, progress, phi=phi)


def _remembered(losses: tuple[Loss, ...], tunable: bool) -> PopulationLoss:
    """These losses, made ready: training asks the same ones step after step."""
    ready = _made_ready(losses, tunable)
    if not ready[0].still_of(losses):
        ready[0] = PopulationLoss(losses, tunable=tunable)
    return ready[0]


@lru_cache(maxsize=64)
def _made_ready(losses: tuple[Loss, ...], tunable: bool) -> list[PopulationLoss]:
    return [PopulationLoss(losses, tunable=tunable)]


def _by_row(output: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """The axes of rows as one, of everything that has them; None where they do not fit."""
    rows = output.shape[:-1]
    if len(rows) == 1:
        return output, target, weight
    if not rows or target.shape[: len(rows)] != rows or (weight is not None and weight.shape != rows):
        return None
    target = target.reshape(-1, *target.shape[len(rows) :])
    return output.reshape(-1, output.shape[-1]), target, None if weight is None else weight.reshape(-1)
