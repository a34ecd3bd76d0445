"""Where the tunings of several candidates stand: φ of all of them as one vector, and the state of Adam on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from lossmith.records import OK, Status
from lossmith.training.meta_adam import AdamState, Vector, adam_step
from lossmith.training.meta_gradient import MetaGradient

History = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Courses:
    """All that the next meta-step needs. What has diverged stays as it was before that.

    Args:
        parts: where φ of each candidate is. phi: φ of all, [ΣK]. adam: its state.
        meta_steps: done. stopped: at which meta-step a candidate diverged.
        histories: (meta-step, task loss) of each candidate at the meta-steps that were kept.
    """

    parts: tuple[slice, ...]
    phi: Vector
    adam: AdamState
    histories: tuple[History, ...]
    meta_steps: int = 0
    stopped: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def start(cls, phis: Sequence[Vector]) -> Courses:
        """Before the first meta-step."""
        ends = np.cumsum([0, *(len(phi) for phi in phis)]).tolist()
        parts = tuple(slice(a, b) for a, b in pairwise(ends))
        return cls(parts, np.concatenate(phis), AdamState.empty(ends[-1]), ((),) * len(phis))

    @property
    def phis(self) -> list[Vector]:
        """φ of each candidate; not to be written to."""
        return [self.phi[part] for part in self.parts]

    def taken(self, candidate: int) -> int:
        """Meta-steps done with a candidate, the one it diverged at included."""
        return self.stopped.get(candidate, self.meta_steps)

    def status(self, candidate: int) -> Status:
        if candidate not in self.stopped:
            return OK
        return Status("diverged", "", f"tuning became non-finite at meta-step {self.stopped[candidate]}")

    def advanced(self, found: Mapping[int, MetaGradient], lr: float, *, keep: bool) -> Courses:
        """After one more step of Adam.

        Args:
            found: by the place of every candidate that has not diverged; others are not looked at.
            keep: whether this meta-step goes into the histories.
        """
        done = self.meta_steps + 1
        gradient = np.zeros_like(self.phi)
        going = [i for i in range(len(self.parts)) if i not in self.stopped]
        for i in going:
            gradient[self.parts[i]] = found[i].gradient
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at
            phi, adam = adam_step(self.phi, gradient, self.adam, lr)
        finite = np.isfinite(phi) & np.isfinite(gradient)
        sound = bool(finite.all())
        stopped = dict(self.stopped)
        for i in going:
            numbers = math.isfinite(found[i].value) and math.isfinite(found[i].inner)
            if not (numbers and (sound or finite[self.parts[i]].all())):
                stopped[i] = done
        for i in stopped:
            phi[self.parts[i]] = self.phi[self.parts[i]]
            adam.mean[self.parts[i]] = adam.square[self.parts[i]] = 0.0
        after = replace(self, phi=phi, adam=adam, meta_steps=done, stopped=stopped)
        return after._kept(found) if keep else after

    def _kept(self, found: Mapping[int, MetaGradient]) -> Courses:
        return replace(
            self,
            histories=tuple(
                history if i in self.stopped else (*history, (self.meta_steps, found[i].value))
                for i, history in enumerate(self.histories)
            ),
        )
