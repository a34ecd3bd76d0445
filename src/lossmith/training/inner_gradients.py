"""Gradients of losses by the network's output, and how φ changes them: all that tuning at K = 1 needs of a loss.

Through `losses.delta`, which takes the interpreter where it can and autograd elsewhere; losses over groups of rows go
by autograd here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lossmith.losses import Loss
from lossmith.losses.delta import mixed_with_direction, population_value_and_delta
from lossmith.tasks import Terms
from lossmith.training.meta_adam import Vector
from lossmith.training.tunable import Tunable, by_row, derivative, value_at


class InnerGradients:
    """δ = ∂M_φ/∂z of P candidates at outputs z they share.

    Args:
        candidates: P of them. phis: their φ.
        terms: of the shared forward pass.
        progress: τ, or None where no loss reads it.

    Attributes:
        values: M_φ of each candidate, the sum over all Terms, [P].
        deltas: for each of the Terms δ of the candidates, [P, *z.shape].
    """

    def __init__(
        self, candidates: Sequence[Tunable], phis: Sequence[Vector], terms: Sequence[Terms], progress: float | None
    ) -> None:
        self._candidates, self._terms, self._progress = candidates, [by_row(term) for term in terms], progress
        parts = [candidate.split(phi) for candidate, phi in zip(candidates, phis, strict=True)]
        self._phis = [[torch.from_numpy(part) for part in own] for own in parts]
        values: list[Tensor] = []
        self.deltas: list[Tensor] = []
        for position, term in enumerate(terms):
            value, delta = self._value_and_delta(position, self._terms[position])
            values.append(value)
            self.deltas.append(delta.reshape(len(candidates), *term.output.shape))
        self.values = torch.stack(values).sum(0)

    def mixed(self, directions: Sequence[Tensor]) -> list[Vector]:
        """∂/∂φ ⟨δ(φ), u⟩ of each candidate, [K].

        Args:
            directions: u for each of the Terms, [P, *z.shape].
        """
        found = [np.zeros(sum(map(len, own))) for own in self._phis]
        for position, (term, direction) in enumerate(zip(self._terms, directions, strict=True)):
            gradients = self._mixed(position, term, direction.reshape(len(direction), *term.output.shape))
            together = torch.cat(gradients).double().cpu().numpy()
            end = 0
            for row, candidate in enumerate(self._candidates):
                start, end = end, end + len(gradients[row])
                # One member may be the loss of several Terms.
                found[row][candidate.parts[candidate.member(position)]] += together[start:end]
        return found

    def _at(self, position: int) -> tuple[list[Loss], list[Tensor]]:
        """The losses of the candidates for the Terms at a position, and their φ."""
        places = [candidate.member(position) for candidate in self._candidates]
        losses = [candidate.members[at] for candidate, at in zip(self._candidates, places, strict=True)]
        return losses, [own[at] for own, at in zip(self._phis, places, strict=True)]

    def _value_and_delta(self, position: int, term: Terms) -> tuple[Tensor, Tensor]:
        losses, phis = self._at(position)
        z = term.output.detach()
        if term.group is None:
            return population_value_and_delta(losses, z, term.target, term.weight, self._progress, phi=phis)
        values, deltas = [], []
        for loss, phi in zip(losses, phis, strict=True):
            own = z.clone().requires_grad_()
            value = value_at(loss, phi, replace(term, output=own), self._progress)
            values.append(value.detach())
            deltas.append(derivative(value, own))
        return torch.stack(values), torch.stack(deltas)

    def _mixed(self, position: int, term: Terms, direction: Tensor) -> list[Tensor]:
        losses, phis = self._at(position)
        z = term.output.detach()
        if term.group is None:
            return mixed_with_direction(losses, z, term.target, direction, term.weight, self._progress, phi=phis)
        found = []
        for loss, phi, along in zip(losses, phis, direction, strict=True):
            own, number = z.clone().requires_grad_(), phi.clone().requires_grad_()
            value = value_at(loss, number, replace(term, output=own), self._progress)
            found.append(derivative((derivative(value, own, further=True) * along).sum(), number))
        return found
