"""What P losses make of the outputs of P base models, so that a loss that raises costs its own candidate only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses import Loss
from lossmith.losses.delta import value_and_delta
from lossmith.losses.population_loss import PopulationLoss
from lossmith.records import Status
from lossmith.tasks import Terms
from lossmith.training.judging import crashed


def made_ready(losses: Sequence[Loss]) -> PopulationLoss | None:
    """The losses of a population, prepared for step after step; None where one of them cannot be."""
    try:
        return PopulationLoss(losses)
    except LossError:
        return None  # it says so again, of itself alone, when it is asked for its value


def values_and_deltas(
    losses: Sequence[Loss],
    terms: Terms,
    tau: float | Tensor,
    *,
    ready: PopulationLoss | None = None,
    isolate: bool = True,
) -> tuple[Tensor, Tensor, dict[int, Status]]:
    """Values and derivatives by the output of each candidate's loss.

    Args:
        losses: one per candidate. ready: the same, if they are.
        terms: outputs [P, ..., C], everything else shared.
        tau: training progress.
        isolate: False has a loss that raises raise.

    Returns:
        Values [P], δ = ∂loss/∂output in shape and type of the outputs, and the status of each candidate whose loss
        raised; its value is NaN, its δ zero. `KeyboardInterrupt` passes through.
    """
    try:
        return *_together(losses, ready or PopulationLoss(losses), terms, tau), {}
    except (Exception, SystemExit):
        if not isolate:
            raise
    # As the outputs lie in memory: sums over derivatives are rounded by that.
    output = terms.output.detach()
    values, deltas = output.new_full((len(losses),), torch.nan), torch.zeros_like(output)
    failed: dict[int, Status] = {}
    for i, loss in enumerate(losses):
        try:
            found, delta = _together((loss,), PopulationLoss((loss,)), replace(terms, output=output[i : i + 1]), tau)
        except (Exception, SystemExit) as error:
            failed[i] = crashed(error)
        else:
            values[i], deltas[i] = found[0], delta[0]
    return values, deltas, failed


def _together(
    losses: Sequence[Loss], ready: PopulationLoss, terms: Terms, tau: float | Tensor
) -> tuple[Tensor, Tensor]:
    output = terms.output.detach()
    z = output if output.dtype in (torch.float32, torch.float64) else output.float()
    by_row = None if terms.group is not None else _by_row(z, terms.target, terms.weight)
    if by_row is not None:
        z, target, weight = by_row
        values, deltas = ready(z, target, weight, tau)
    else:
        pairs = [
            value_and_delta(loss, one, terms.target, terms.weight, tau, group=terms.group)
            for loss, one in zip(losses, z, strict=True)
        ]
        values, deltas = torch.stack([value for value, _ in pairs]), torch.stack([delta for _, delta in pairs])
    return values, deltas.reshape(output.shape).to(output.dtype)


def _by_row(output: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """The axes of rows as one, of everything that has them; None where they do not fit: each loss says so itself."""
    rows = output.shape[1:-1]
    if len(rows) == 1:
        return output, target, weight
    if not rows or target.shape[: len(rows)] != rows or (weight is not None and weight.shape != rows):
        return None
    flat = output.reshape(len(output), -1, output.shape[-1])
    return flat, target.reshape(-1, *target.shape[len(rows) :]), None if weight is None else weight.reshape(-1)
