"""The task loss of trained candidates: what φ is tuned for."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from lossmith.losses import Loss, Pointwise
from lossmith.losses.delta import population_value_and_delta
from lossmith.tasks import Terms
from lossmith.training.tunable import by_row, derivative, per_candidate, value_at


def task_values_and_deltas(loss: Loss, terms: Terms, count: int) -> tuple[Tensor, Tensor]:
    """The task loss of each of `count` candidates, [P], and its derivative by the outputs, [P, *z.shape].

    Args:
        terms: with a first axis of candidates.
    """
    parts = [part for part in (terms.target, terms.weight) if part is not None]
    if terms.group is None and all(count == 1 or part.stride(0) == 0 for part in parts):
        # They share the targets, as candidates do unless the targets come out of the model.
        weight = None if terms.weight is None else terms.weight[0]
        flat = by_row(Terms(terms.output[0], terms.target[0], weight))
        outputs = terms.output.detach().reshape(count, *flat.output.shape)
        values, deltas = population_value_and_delta([loss] * count, outputs, flat.target, flat.weight, 0.0)
        return values, deltas.reshape(terms.output.shape)
    own = terms.output.detach().requires_grad_()
    task_loss = task_values(loss, replace(terms, output=own), count)
    return task_loss.detach(), derivative(task_loss.sum(), own)


def task_values(loss: Loss, terms: Terms, count: int) -> Tensor:
    """The task loss of each of `count` candidates, [P], differentiable in their outputs."""
    if not isinstance(loss.aggregation, Pointwise) or terms.weight is not None or terms.group is not None:
        return torch.stack([value_at(loss, None, one, 0.0) for (one,) in per_candidate([terms], count)])
    rows = copy.copy(loss)  # of all candidates at once
    rows.reduction = "none"
    values: Tensor = rows(terms.output.flatten(0, 1), terms.target.flatten(0, 1), progress=0.0)
    values = values.reshape(count, -1)  # [P, N]
    return values.mean(1) if loss.reduction == "mean" else values.sum(1)
