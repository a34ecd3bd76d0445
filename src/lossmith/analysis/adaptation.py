"""What an adaptive loss was at some steps of a training: ℓ over the prediction, time by time. Drawn elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses import Loss, Replay, replay_of
from lossmith.losses.family import Kernel
from lossmith.losses.inputs import compute_inputs, head_name, inputs_from_prediction

POINTS = 101
RESIDUAL = 3.0  # in the task's standardised units


@dataclass(frozen=True)
class AdaptationCurves:
    """ℓ of one output at the stored steps.

    Args:
        head: of the loss. steps: of the training.
        x: prediction p of the output, in (0, 1); under the identity head the residual p − t.
        at_target: ℓ where t = 1, one curve per step; under the identity head ℓ of the residual.
        elsewhere: ℓ where t = 0; none under the identity head.
        moved: distance of φ from its start at each step, as a share of the start's length.
    """

    head: str
    steps: tuple[int, ...]
    x: tuple[float, ...]
    at_target: tuple[tuple[float, ...], ...]
    elsewhere: tuple[tuple[float, ...], ...]
    moved: tuple[float, ...]


def adaptation_curves(
    loss: Loss, trajectory: Mapping[str, Any], *, classes: int, points: int = POINTS
) -> AdaptationCurves:
    """The curves of a stored trajectory.

    Args:
        loss: adaptive, as it was before that training. trajectory: "steps" and "phi" of its product.
        classes: number of outputs C; where one output varies, the others share the rest equally.

    Raises:
        LossError: a trajectory of another loss; a head of the user's own; a loss that reads more than predictions.
    """
    steps = tuple(int(step) for step in trajectory.get("steps", ()))
    replay = replay_of(loss, trajectory, max([*steps, 1]))
    if not isinstance(replay, Loss) or not isinstance(replay.kernel, Replay):
        raise LossError(f"{loss} does not adapt: it has no trajectory.")
    head, members = head_name(loss.head), replay.kernel.members
    if head == "custom":
        raise LossError("a loss with a head of your own cannot be drawn over its predictions.")
    start = torch.tensor(members[0].phi, dtype=torch.float64)
    length = float(start.norm()) or 1.0  # of φ0 = 0 the distance itself is told
    moved = [float((torch.tensor(m.phi, dtype=torch.float64) - start).norm()) / length for m in members]
    at_target, elsewhere = [], []
    if head == "identity":
        x = torch.linspace(-RESIDUAL, RESIDUAL, points, dtype=torch.float64)
        at_target = [_of_residual(member, x) for member in members]
    else:
        outputs = 2 if head == "sigmoid" else max(classes, 2)
        x = (torch.arange(points, dtype=torch.float64) + 0.5) / points
        at_target = [_of_prediction(member, x, outputs, 0) for member in members]
        elsewhere = [_of_prediction(member, x, outputs, 1) for member in members]
    return AdaptationCurves(head, steps, tuple(x.tolist()), tuple(at_target), tuple(elsewhere), tuple(moved))


def _of_residual(kernel: Kernel, x: Tensor) -> tuple[float, ...]:
    inputs = compute_inputs(kernel.reads, x[:, None], torch.zeros_like(x)[:, None], "identity")
    return tuple(kernel.value(inputs).expand(len(x), 1)[:, 0].tolist())


def _of_prediction(kernel: Kernel, x: Tensor, classes: int, label: int) -> tuple[float, ...]:
    """ℓ of the first output as its prediction varies, where the target is the output numbered `label`."""
    rest = ((1 - x) / (classes - 1))[:, None].expand(-1, classes - 1)
    prediction = torch.cat((x[:, None], rest), 1)  # [N, C]
    target = torch.zeros_like(prediction)
    target[:, label] = 1
    inputs = inputs_from_prediction(kernel.reads, prediction, target, progress=0.0)
    return tuple(kernel.value(inputs).expand(prediction.shape)[:, 0].tolist())
