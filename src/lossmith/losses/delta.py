"""A loss's value and its derivative by the output, ∂ℓ/∂z: all that training a base model needs of a loss.

Two roads to the same numbers: the interpreter (`losses.interpreter`) for pointwise losses on the CPU whose kernel it
supports, autograd for everything else. A population of losses is one call. `mixed_with_direction` is the one derivative
by φ that a step of unrolled training needs (ALGORITHMS §4, the closed form for K = 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses.aggregation import Pointwise
from lossmith.losses.autograd_road import (
    mixed_by_autograd,
    rows_by_autograd,
    value_and_delta_by_autograd,
    with_parameters,
)
from lossmith.losses.elements import Elements, elements, flat_phi
from lossmith.losses.interpreter import Population, supported
from lossmith.losses.loss import Loss


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
    _check_reduction(loss)
    by_row = _by_row(output, target, weight) if interpreted(loss) else None
    if by_row is not None:
        population = Population.of((loss.kernel,))
        batch = _batch(loss, population, *by_row, progress)
        if batch is not None:
            totals, _, delta = batch.values_and_deltas(population)
            return torch.from_numpy(totals)[0], torch.from_numpy(delta).reshape(output.shape).to(output.dtype)
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
        losses: P losses.
        outputs: [P, N, C], or [N, C] shared by all.
        target, weight, progress: as for `Loss.forward`, shared by all.
        per_row: values per row, neither weighted nor averaged, 0 where the weight is 0; for pointwise losses.
        phi: loss parameters to use instead of the losses' own, [K] for each.

    Returns:
        Values [P] (or [P, N]) and δ [P, N, C], in the type of the outputs.

    Raises:
        LossError: as `value_and_delta`; `per_row` of a loss that has no value per row.
    """
    if outputs.dim() not in (2, 3) or (outputs.dim() == 3 and len(outputs) != len(losses)):
        raise LossError(f"outputs of shape {tuple(outputs.shape)}: expected (N, C) or ({len(losses)}, N, C).")
    shape = (len(losses), *outputs.shape[-2:])
    values, delta = outputs.new_empty(shape[:2] if per_row else shape[:1]), outputs.new_empty(shape)
    for members, population in _alike(losses, tunable=phi is not None):
        first = losses[members[0]]
        z = outputs[members] if outputs.dim() == 3 and len(members) < len(losses) else outputs
        batch = None if population is None else _batch(first, population, z, target, weight, progress)
        if population is not None and batch is not None:
            own_phi = None if phi is None else flat_phi([phi[i] for i in members])
            totals, rows, slopes = batch.values_and_deltas(population, own_phi)
            values[members] = torch.from_numpy(rows if per_row else totals).to(values.dtype)
            delta[members] = torch.from_numpy(slopes).to(delta.dtype)
            continue
        for i in members:
            loss = with_parameters(losses[i], None if phi is None else phi[i], outputs)
            z = outputs[i] if outputs.dim() == 3 else outputs
            total, delta[i] = value_and_delta_by_autograd(loss, z, target, weight, progress)
            values[i] = rows_by_autograd(loss, z, target, weight, progress) if per_row else total
    return values, delta


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
    if output.dim() != 2 or direction.shape != (len(losses), *output.shape):
        raise LossError(
            f"output and direction of shapes {tuple(output.shape)} and {tuple(direction.shape)}: expected (N, C) and "
            f"({len(losses)}, N, C)."
        )
    found: dict[int, Tensor] = {}
    for members, population in _alike(losses, tunable=True):
        batch = None
        if population is not None:
            batch = _batch(losses[members[0]], population, output, target, weight, progress)
        if population is not None and batch is not None:
            own_phi = None if phi is None else flat_phi([phi[i] for i in members])
            along = direction if len(members) == len(losses) else direction[members]
            gradients = batch.mixed(population, along.detach().numpy(), own_phi)
            found.update(zip(members, map(torch.from_numpy, gradients), strict=True))
            continue
        for i in members:
            own_parameters = None if phi is None else phi[i]
            found[i] = mixed_by_autograd(losses[i], output, target, direction[i], weight, progress, own_parameters)
    return [found[i] for i in range(len(losses))]


def interpreted(loss: Loss, *, tunable: bool = False) -> bool:
    """Whether the interpreter can stand in for autograd on the CPU, for a loss (with its φ as parameters).

    True for pointwise losses under softmax, sigmoid and identity whose kernel it supports. A subclass with a `forward`
    of its own, or a loss with hooks, has to be called to have its say.
    """
    return (
        type(loss).forward is Loss.forward
        and isinstance(loss.aggregation, Pointwise)
        and loss.reduction != "none"
        and isinstance(loss.head, str)
        and not (loss._forward_hooks or loss._forward_pre_hooks or loss._backward_hooks or loss._backward_pre_hooks)
        and supported(loss.kernel, tunable=tunable)
    )


def _batch(
    loss: Loss,
    population: Population,
    output: Tensor,
    target: Tensor,
    weight: Tensor | None,
    progress: float | Tensor | None,
) -> Elements | None:
    """The batch for the interpreter, or None where autograd must do it."""
    if output.device.type != "cpu" or isinstance(progress, Tensor) or torch.is_autocast_enabled("cpu"):
        return None
    z = output if output.dtype in (torch.float32, torch.float64) else output.float()
    try:
        return elements(loss, population, z, target, weight, progress)
    except LossError:
        return None  # the loss itself says it in terms of what it was given


def _by_row(output: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """The axes of rows as one, of everything that has them; None where they do not fit."""
    rows = output.shape[:-1]
    if len(rows) == 1:
        return output, target, weight
    if not rows or target.shape[: len(rows)] != rows or (weight is not None and weight.shape != rows):
        return None
    target = target.reshape(-1, *target.shape[len(rows) :])
    return output.reshape(-1, output.shape[-1]), target, None if weight is None else weight.reshape(-1)


def _alike(losses: Sequence[Loss], *, tunable: bool) -> Iterator[tuple[list[int], Population | None]]:
    """Places of losses that one call can serve, with their programs; None where autograd must."""
    groups: dict[object, list[int]] = {}
    for i, loss in enumerate(losses):
        _check_reduction(loss)
        settings = (loss.head, loss.smoothing, loss.prior, loss.outputs, loss.reduction)
        groups.setdefault(settings if interpreted(loss, tunable=tunable) else None, []).append(i)
    for common, members in groups.items():
        kernels = [losses[i].kernel for i in members]
        yield members, None if common is None else Population.of(kernels, tunable=tunable)


def _check_reduction(loss: Loss) -> None:
    if loss.reduction == "none":
        raise LossError('a loss with reduction="none" has no single gradient: use reduction="mean" or "sum".')
