"""Candidates whose loss parameters φ are tuned, and their losses as functions of φ."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses import Loss, LossSet
from lossmith.losses.autograd_road import with_parameters
from lossmith.losses.class_prior_losses import ClassBalanced
from lossmith.tasks import Task, Terms
from lossmith.training.meta_adam import Vector


@dataclass(frozen=True)
class Tunable:
    """A candidate: one loss, or the losses of a set, whose φ are tuned side by side as one vector.

    Args:
        loss: as it was given.
        members: its losses; the first is that of the first of several Terms, and so on; the last one serves the rest.
    """

    loss: Loss | LossSet
    members: tuple[Loss, ...]

    @classmethod
    def of(cls, loss: Loss | LossSet, task: Task) -> Tunable:
        """The candidate, its losses completed by the task's class prior where they read one and have none.

        Raises:
            LossError: a loss that gives no single number.
        """
        members = tuple(loss) if isinstance(loss, LossSet) else (loss,)
        for member in members:
            if member.reduction == "none":
                raise LossError(
                    f'{member} gives a number per row, and only a single one can be trained: reduction="mean".'
                )
        return cls(loss, tuple(with_class_prior(member, task) for member in members))

    @property
    def phi(self) -> Vector:
        """φ of all members, [K]."""
        return np.array([number for member in self.members for number in member.kernel.phi], dtype=np.float64)

    def member(self, position: int) -> int:
        """Which member is the loss of the Terms at this position."""
        return min(position, len(self.members) - 1)

    def split(self, phi: Vector) -> list[Vector]:
        """φ of each member."""
        return [phi[part] for part in self.parts]

    @cached_property
    def parts(self) -> tuple[slice, ...]:
        """Where φ of each member is in φ."""
        ends = accumulate((len(member.kernel.phi) for member in self.members), initial=0)
        return tuple(slice(a, b) for a, b in pairwise(ends))

    def with_phi(self, phi: Vector) -> Loss | LossSet:
        """The loss as it was given, but for φ. It loses its name: it is no longer what bears that name."""
        given = tuple(self.loss) if isinstance(self.loss, LossSet) else (self.loss,)
        tuned = [_with_phi(member, part) for member, part in zip(given, self.split(phi), strict=True)]
        return LossSet(tuned) if isinstance(self.loss, LossSet) else tuned[0]


def with_class_prior(loss: Loss, task: Task) -> Loss:
    """The loss itself, or where it reads the class prior, a copy with what it lacks: the task's prior and rows."""
    if "prior" not in loss.reads:
        return loss
    prior = task.prior() if loss.prior is None else None
    unknown = isinstance(loss.kernel, ClassBalanced) and not loss.kernel.rows
    if prior is None and not unknown:
        return loss
    completed = copy.copy(loss)
    if prior is not None:
        completed.prior = tuple(prior.tolist())
    if isinstance(loss.kernel, ClassBalanced) and unknown:
        completed.kernel = replace(loss.kernel, rows=float(len(task.data["train"])))
    return completed


def value_at(loss: Loss, phi: Tensor | None, terms: Terms, progress: float | None) -> Tensor:
    """The loss of one candidate, differentiable in the output and in φ.

    Args:
        phi: [K], in the place of the loss's own numbers; None for these.
        terms: of one candidate. progress: τ.
    """
    own = with_parameters(loss, phi, terms.output)
    value: Tensor = own(terms.output, terms.target, weight=terms.weight, group=terms.group, progress=progress)
    return value


def derivative(value: Tensor, by: Tensor, *, further: bool = False) -> Tensor:
    """The gradient, zero where the value does not depend on something.

    Args:
        further: whether it will be differentiated again.
    """
    if not value.requires_grad:
        return torch.zeros_like(by)
    (found,) = torch.autograd.grad(value, by, create_graph=further, allow_unused=True, materialize_grads=True)
    return found


def by_row(terms: Terms) -> Terms:
    """The same with one axis of rows: output [N, C], target [N] or [N, C], weight and group [N]."""
    rows, c = terms.output.shape[:-1], terms.output.shape[-1]
    if len(rows) == 1:
        return terms
    weight, group = (None if part is None else part.reshape(-1) for part in (terms.weight, terms.group))
    target = terms.target.reshape(-1) if terms.target.shape == rows else terms.target.reshape(-1, c)
    return Terms(terms.output.reshape(-1, c), target, weight, group)


def per_candidate(stack: Sequence[Terms], count: int) -> Iterator[tuple[Terms, ...]]:
    """The Terms of each candidate in turn, from those with a first axis of candidates."""
    # unbind, not an index for each: its gradient is one stack instead of a sum of P mostly empty ones
    parts = [
        [None] * count if part is None else part.unbind(0)
        for terms in stack
        for part in (terms.output, terms.target, terms.weight, terms.group)
    ]
    for candidate in zip(*parts, strict=True):
        yield tuple(Terms(*candidate[at : at + 4]) for at in range(0, len(candidate), 4))


def _with_phi(loss: Loss, phi: Vector) -> Loss:
    if not len(phi):
        return loss
    tuned = copy.copy(loss)
    tuned.kernel = loss.kernel.with_phi(tuple(phi.tolist()))
    tuned.name = None
    return tuned
