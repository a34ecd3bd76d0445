"""The loss of a training step at the φ it has there: value, derivatives by the outputs, and what φ does to these."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, float32, float64

from lossmith.losses.elements import Elements
from lossmith.losses.one_loss import OneLoss, mixed_at, value_and_delta_at
from lossmith.tasks import Terms
from lossmith.training.inner_gradients import InnerGradients
from lossmith.training.meta_adam import Vector
from lossmith.training.tunable import Tunable


class Inner:
    """At the outputs of one step.

    Attributes:
        value: M_φ, the sum over all Terms. deltas: ∂M_φ/∂z of each, in the shape of z.
    """

    def __init__(self, value: Tensor, deltas: list[Tensor], way: InnerGradients | tuple[Elements, Vector]) -> None:
        self.value, self.deltas, self._way = value, deltas, way

    def mixed(self, directions: Sequence[Tensor]) -> Vector:
        """∂/∂φ Σ ⟨∂M_φ/∂z, u⟩, [K].

        Args:
            directions: u for each of the Terms, in the shape of z.
        """
        if isinstance(self._way, InnerGradients):
            (found,) = self._way.mixed([u[None] for u in directions])
            return found
        (u,) = directions
        return mixed_at(self._way[0], u, self._way[1]).astype("float64")


class InnerLoss:
    """A candidate, ready for one step after the other."""

    def __init__(self, candidate: Tunable) -> None:
        self._candidate = candidate
        self._one = OneLoss.of(candidate.members[0]) if len(candidate.members) == 1 else None

    def at(self, terms: Sequence[Terms], phi: Vector, progress: float | None) -> Inner:
        """At the outputs of a step.

        Args:
            phi: [K]. progress: τ.
        """
        batch = self._batch(terms, progress)
        if batch is not None:
            value, delta = value_and_delta_at(batch, phi)
            return Inner(value, [delta], (batch, phi))
        inner = InnerGradients([self._candidate], [phi], terms, progress)
        return Inner(inner.values[0], [delta[0] for delta in inner.deltas], inner)

    def _batch(self, terms: Sequence[Terms], progress: float | None) -> Elements | None:
        """The batch for the compiled program; None where it is not as simple as most are."""
        term = terms[0]
        z = term.output
        simple = len(terms) == 1 and term.group is None and z.dim() == 2 and z.dtype in (float32, float64)
        if self._one is None or not simple or z.device.type != "cpu":
            return None
        return self._one.at(z.detach(), term.target, term.weight, progress)
