"""Where adaptive losses of a run have been, from its stored trainings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lossmith.errors import RunError
from lossmith.experiment.run import Run
from lossmith.losses import Loss, LossSet, replay_of


@dataclass(frozen=True)
class StoredTrajectory:
    """The course of φ in one training.

    Args:
        loss: canonical JSON text of the loss before it. document: "steps" and "phi".
        steps: of the full training, of which this may have been a part.
        seed: of the training. split, value: the metric by which it was chosen.
    """

    loss: str
    document: Mapping[str, Any]
    steps: int
    seed: int
    split: str
    value: float

    def __str__(self) -> str:
        done = self.document["steps"][-1]
        return f"a training of {done:,} steps (seed {self.seed}, {self.split} {self.value:.4g})"


def best_trajectory(run: Run, loss: str) -> StoredTrajectory | None:
    """Of the longest trainings with a loss the one with the best metric; None where none has a trajectory.

    Args:
        loss: canonical JSON text of the loss.
    """
    _, direction = run.metric
    if "members" in run.spec.plan:
        return None  # of several tasks each has a course of its own, at other times of its own
    found: list[StoredTrajectory] = []
    for row in run.evaluations:
        request, done = row.request, row.evaluation
        if request.work != "train" or request.loss != loss or not done.status.ok or not done.product:
            continue
        document = json.loads(done.product).get("trajectory")
        if document is None or not done.metrics:
            continue
        # A fraction of the data is trained with as if it were all: its schedule runs to the end.
        full = done.steps if request.data_fraction != 1 else max(done.steps, round(done.steps / request.budget))
        split = request.splits[0]
        found.append(StoredTrajectory(loss, document, full, request.seed, split, done.metrics[split]))
    if not found:
        return None
    longest = max(one.document["steps"][-1] for one in found)
    best = min if direction == "min" else max
    return best((one for one in found if one.document["steps"][-1] == longest), key=lambda one: one.value)


def replayed(run: Run, found: Loss | LossSet, loss: str) -> tuple[Loss | LossSet, StoredTrajectory]:
    """A loss of a run as one that replays its best stored trajectory.

    Raises:
        RunError: no training of the run has one.
    """
    trajectory = best_trajectory(run, loss)
    if trajectory is None and "members" in run.spec.plan:
        raise RunError(
            f"{run.path} is on several tasks, on each of which this loss adapted in its own way: there is no one "
            "replay; export it with --adaptive initial."
        )
    if trajectory is None:
        raise RunError(
            f"{run.path} has no finished training in which this loss adapted: a replay needs one; export it with "
            "--adaptive initial, or go on with `lossmith resume`."
        )
    return replay_of(found, trajectory.document, trajectory.steps), trajectory
