"""Loss parameters φ that move while a base model trains: their steps, the state these go on with, where they have been.

Raymond, Chen, Xue & Zhang 2023, *Online Loss Function Learning*, arXiv 2301.13247: φ ← φ − η ∂L_task(θ_{t+1}(φ))/∂φ
after every base step, by Adam, from the offline start φ0.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lossmith.losses import OnlineRule
from lossmith.records import OK, Status, canonical_json
from lossmith.training.meta_adam import AdamState, Vector
from lossmith.training.meta_optimizers import META_STEPS
from lossmith.training.tunable import Tunable

_LARGEST = float(np.finfo(np.float32).max)
POINTS = 10  # intervals of a stored trajectory: 11 points, the start and the end among them


def rule_of(candidate: Tunable) -> OnlineRule:
    """The rule of those of a candidate's losses that adapt; they have the same one."""
    return next(member.online for member in candidate.members if member.online is not None)


@dataclass
class Trajectory:
    """φ at some steps of a training.

    Attributes:
        steps: ascending, 0 first. phi: [K] at each.
    """

    steps: list[int] = field(default_factory=list)
    phi: list[Vector] = field(default_factory=list)

    def add(self, step: int, phi: Vector) -> None:
        """φ after `step` steps; a step that is there already is left as it is."""
        if not self.steps or step > self.steps[-1]:
            self.steps.append(step)
            self.phi.append(phi)

    def every_second(self) -> None:
        """Leave out every second point, the first one stays."""
        self.steps, self.phi = self.steps[::2], self.phi[::2]

    def document(self) -> dict[str, list[int] | list[str]]:
        """JSON-able: "steps", and "phi" in little-endian float32, base64."""
        packed = [base64.b64encode(phi.astype("<f4").tobytes()).decode("ascii") for phi in self.phi]
        return {"steps": list(self.steps), "phi": packed}


class Adaptation:
    """φ of one candidate on its way.

    Args:
        candidate: its members that have an online rule move, the others stay.

    Attributes:
        phi: as it is now, finite. done: base steps done. trajectory: where φ has been.
    """

    def __init__(self, candidate: Tunable) -> None:
        self.candidate, self.rule = candidate, rule_of(candidate)
        self.phi = candidate.phi
        self.done = 0
        self.trajectory = Trajectory([0], [self.phi])
        self._optimizer = AdamState.empty(len(self.phi))
        moves = [np.full(len(m.kernel.phi), m.online is not None) for m in candidate.members]
        self._still = np.flatnonzero(~np.concatenate(moves))

    def due(self, step: int) -> bool:
        """Whether φ moves after this many base steps."""
        return step % self.rule.every == 0

    def move(self, gradient: Vector, task_loss: float) -> Status:
        """One step on φ.

        Args:
            gradient: of the task loss by φ, [K]. task_loss: its value at θ after `done` steps.

        Returns:
            `OK`, or diverged: then φ is what it was.
        """
        step = self.done
        if not (math.isfinite(task_loss) and np.isfinite(gradient).all()):
            return Status("diverged", "", f"the task loss that φ adapts to became non-finite at step {step}")
        if self._still.size:
            gradient = gradient.copy()
            gradient[self._still] = 0
        phi, state = META_STEPS[self.rule.optimizer](self.phi, gradient, self._optimizer, self.rule.lr)
        if not (np.abs(phi) <= _LARGEST).all():  # losses compute in float32, and trajectories are stored in it
            return Status("diverged", "", f"adapting made the loss parameters non-finite at step {step}")
        self.phi, self._optimizer = phi, state
        return OK

    def whole_trajectory(self) -> Trajectory:
        """Where φ has been, its last point φ now."""
        whole = Trajectory(list(self.trajectory.steps), list(self.trajectory.phi))
        whole.add(self.done, self.phi)
        return whole

    def product(self) -> str:
        """As `Evaluation.product` carries it: the whole trajectory."""
        return canonical_json({"trajectory": self.whole_trajectory().document()})

    def state(self) -> dict[str, Tensor]:
        """Everything that changes, as tensors."""
        optimizer = self._optimizer
        return {
            "phi": torch.from_numpy(self.phi.copy()),
            "mean": torch.from_numpy(optimizer.mean.copy()),
            "square": torch.from_numpy(optimizer.square.copy()),
            "steps": torch.tensor([self.done, optimizer.steps]),
            "trajectory_steps": torch.tensor(self.trajectory.steps),
            "trajectory_phi": torch.from_numpy(np.stack(self.trajectory.phi)),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned.

        Raises:
            ValueError: it belongs to another number of loss parameters.
        """
        vectors: Sequence[Vector] = [state[name].double().cpu().numpy().copy() for name in ("phi", "mean", "square")]
        points = state["trajectory_phi"].double().cpu().numpy().copy()
        if any(v.shape != self.phi.shape for v in (*vectors, *points)):
            raise ValueError(
                f"the state belongs to {vectors[0].size} loss parameters, and this loss has {self.phi.size}"
            )
        self.phi = vectors[0]
        self.done, taken = map(int, state["steps"].tolist())
        self._optimizer = AdamState(vectors[1], vectors[2], taken)
        self.trajectory = Trajectory(state["trajectory_steps"].tolist(), list(points))
