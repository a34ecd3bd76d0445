"""Where the tunings of several candidates stand: φ of all of them as one vector, and the optimiser's state on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from lossmith.records import OK, MetaOptimizer, Status
from lossmith.training.meta_adam import AdamState, Vector
from lossmith.training.meta_gradient import MetaGradient
from lossmith.training.meta_optimizers import META_STEPS
from lossmith.training.tuning_state import TuningState

History = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Noted:
    """Meta-steps with something worth knowing: the first of them, what it was, and how many there are."""

    first: int
    note: str
    count: int = 1

    def __str__(self) -> str:
        return f"meta-step {self.first}: {self.note}" + (f"; {self.count} such meta-steps" if self.count > 1 else "")


@dataclass(frozen=True)
class Courses:
    """All that the next meta-step needs. What has diverged stays as it was before that.

    Args:
        parts: where φ of each candidate is. phi: φ of all, [ΣK]. adam: the state of its optimiser.
        meta_steps: done, those of the tuning that this one continues included. begun: of these, before this one.
        optimizer: of φ. stopped: at which meta-step a candidate diverged.
        histories: (meta-step, task loss) of each candidate at the meta-steps that were kept.
        notes: of candidates that have some.
    """

    parts: tuple[slice, ...]
    phi: Vector
    adam: AdamState
    histories: tuple[History, ...]
    meta_steps: int = 0
    stopped: Mapping[int, int] = field(default_factory=dict)
    begun: int = 0
    optimizer: MetaOptimizer = "adam"
    notes: Mapping[int, Noted] = field(default_factory=dict)

    @classmethod
    def start(cls, phis: Sequence[Vector], states: Sequence[TuningState] = ()) -> Courses:
        """Before the first meta-step, or going on from states that have done equally many."""
        ends = np.cumsum([0, *(len(phi) for phi in phis)]).tolist()
        parts = tuple(slice(a, b) for a, b in pairwise(ends))
        states = states or [TuningState.begin("adam", len(phi)) for phi in phis]
        done, optimizer = states[0].meta_steps, states[0].optimizer
        mean, square = np.concatenate([one.mean for one in states]), np.concatenate([one.square for one in states])
        adam = AdamState(mean, square, done)
        return cls(
            parts, np.concatenate(phis), adam, ((),) * len(phis), meta_steps=done, begun=done, optimizer=optimizer
        )

    @property
    def phis(self) -> list[Vector]:
        """φ of each candidate; not to be written to."""
        return [self.phi[part] for part in self.parts]

    def taken(self, candidate: int) -> int:
        """Meta-steps done here with a candidate, the one it diverged at included."""
        return self.stopped.get(candidate, self.meta_steps) - self.begun

    def status(self, candidate: int) -> Status:
        if candidate not in self.stopped:
            return OK
        at, noted = self.stopped[candidate], self.notes.get(candidate)
        why = f" ({noted})" if noted else ""
        return Status("diverged", "", f"tuning became non-finite at meta-step {at}{why}")

    def state(self, candidate: int) -> TuningState:
        """With what a candidate can go on; one that has diverged, from the last meta-step that was sound."""
        part, done = self.parts[candidate], self.stopped.get(candidate, self.meta_steps + 1) - 1
        return TuningState(done, self.optimizer, self.adam.mean[part], self.adam.square[part])

    def advanced(self, found: Mapping[int, MetaGradient], lr: float, *, keep: bool) -> Courses:
        """After one more step of the meta-optimiser.

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
            phi, adam = META_STEPS[self.optimizer](self.phi, gradient, self.adam, lr)
        finite = np.isfinite(phi) & np.isfinite(gradient)
        sound = bool(finite.all())
        stopped = dict(self.stopped)
        for i in going:
            numbers = math.isfinite(found[i].value) and math.isfinite(found[i].inner)
            if not (numbers and (sound or finite[self.parts[i]].all())):
                stopped[i] = done
        for i in stopped:
            phi[self.parts[i]] = self.phi[self.parts[i]]
            adam.mean[self.parts[i]] = self.adam.mean[self.parts[i]]
            adam.square[self.parts[i]] = self.adam.square[self.parts[i]]
        notes = self._noted({i: found[i].note for i in going if found[i].note}, done)
        notes = {
            **notes,
            **{i: Noted(done, found[i].note) for i in going if i in stopped and found[i].note},
        }  # the cause
        after = replace(self, phi=phi, adam=adam, meta_steps=done, stopped=stopped, notes=notes)
        return after._kept(found) if keep else after

    def _kept(self, found: Mapping[int, MetaGradient]) -> Courses:
        return replace(
            self,
            histories=tuple(
                history if i in self.stopped else (*history, (self.meta_steps, found[i].value))
                for i, history in enumerate(self.histories)
            ),
        )

    def _noted(self, notes: Mapping[int, str], meta_step: int) -> Mapping[int, Noted]:
        had = self.notes
        new = {
            i: replace(had[i], count=had[i].count + 1) if i in had else Noted(meta_step, n) for i, n in notes.items()
        }
        return {**had, **new} if new else had
