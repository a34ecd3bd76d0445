"""Sine regression: 100 points of one wave, and the family of waves on which a learned loss is tried afterwards.

    y = amplitude · sin(x − phase)

`sine/mlp` is the wave of amplitude 1 and phase π on x ∈ [−2, 2], where losses are learned. `sine/mlp@wave=N`, N = 0, 1,
…, is a member of the test family: amplitude U(0.2, 5), phase U(−π, π), x ∈ [−5, 5], drawn from stream N. `@wave=0-9`
names ten members, which are several tasks (`tasks.several`).

The loss parameters are learned on the points that the base model is trained on: the fitness split has the rows of
train. Selection and test are other points of the same range.

No training is stopped at chance: 100 steps are few, and with plain mean squared error 31 of 40 seeds are at step 10 no
better than a constant by two standard errors of 100 points, though at the end the mean error is .32 against .55 of the
constant (measured).

Reference: Bechtle, Molchanov, Chebotar, Grefenstette, Righetti, Sukhatme & Meier, *Meta-Learning via Learned Loss*,
ICPR 2020, arXiv 1906.05374; numbers from the authors' code (facebookresearch/LearningToLearn, `ml3/`).

Deviations: test points are points not trained on, where the authors measure on the trained ones after 100 steps;
initial weights are torch's defaults, as in the authors' meta-testing (their meta-training draws Xavier-uniform weights
and sets biases to 0); points and test waves belong to their number and are not drawn anew for every seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from lossmith.records import Split
from lossmith.rng import stream
from lossmith.tasks.prepare import Pair, Splits

POINTS = 100  # of every split


@dataclass(frozen=True)
class Wave:
    """One wave and the range its points are drawn from, uniformly.

    Args:
        amplitude, phase: of y = amplitude · sin(x − phase). reach: x is in [−reach, reach].
        number: of the member of the test family, or None for the wave that losses are learned on.
    """

    amplitude: float = 1.0
    phase: float = math.pi
    reach: float = 2.0
    number: int | None = None

    @classmethod
    def member(cls, number: int) -> Wave:
        """Member `number` of the test family."""
        draws = stream(0, "sine", "wave", number)
        return cls(float(draws.uniform(0.2, 5.0)), float(draws.uniform(-math.pi, math.pi)), 5.0, number)

    def points(self, split: Split) -> Pair:
        """x `[100, 1]` and y `[100, 1]` of a split; fitness has the points of train."""
        named = "train" if split == "fitness" else split
        draws = stream(0, "sine", "points", -1 if self.number is None else self.number, named)
        x = torch.from_numpy(draws.uniform(-self.reach, self.reach, (POINTS, 1)))
        return x.float(), (self.amplitude * torch.sin(x - self.phase)).float()

    def splits(self) -> Splits:
        """All four splits."""
        return {split: self.points(split) for split in ("train", "fitness", "selection", "test")}


def sine_splits(number: int | None) -> Splits:
    """The splits of `sine/mlp`, or of a member of its test family."""
    return (Wave() if number is None else Wave.member(number)).splits()
