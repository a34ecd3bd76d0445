"""How a metric reads a model's outputs: aligned shapes, the prediction after the head, and hard decisions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lossmith.errors import TaskError
from lossmith.losses.inputs import Head, head_name


@dataclass(frozen=True)
class Rows:
    """Outputs, targets and weights of the rows that count.

    Args:
        output: `[N, C]` floating point, before the head.
        target: `[N]` classes or values, or `[N, C]` with C > 1 for soft, several-label and vector targets.
        weight: `[N]` float64, positive and not all equal; None where every row counts the same.
    """

    output: Tensor
    target: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.output)

    def take(self, index: Tensor) -> Rows:
        """The rows named by `index` (repeats allowed)."""
        index = index.to(self.output.device)
        weight = None if self.weight is None else self.weight[index.to(self.weight.device)]
        return Rows(self.output[index], self.target[index], weight)


def align(output: Tensor, target: Tensor, weight: Tensor | None = None) -> Rows:
    """Flatten leading axes, drop rows of weight 0 and columns that say nothing.

    Args:
        output: `[..., C]`, or `[N]` for one output.
        target: the leading shape of `output` (classes, or values where C = 1), or the full shape of `output`.
        weight: the leading shape of `output`, or None.

    Raises:
        TaskError: shapes do not fit, no row is left, or a weight is negative or not finite.
    """
    output, target = output.detach(), target.detach().to(output.device)
    if output.ndim == 1:
        output = output[:, None]
    lead, columns = output.shape[:-1], output.shape[-1]
    if target.shape == output.shape:
        target = target.reshape(-1, columns) if columns > 1 else target.reshape(-1)
    elif target.shape == lead:
        target = target.reshape(-1)
    else:
        raise TaskError(
            f"a metric got output {list(output.shape)} and target {list(target.shape)}: "
            f"the target must be {list(lead)} (classes) or {list(output.shape)}."
        )
    output = output.reshape(-1, columns)
    if output.dtype in (torch.float16, torch.bfloat16) or not output.is_floating_point():
        output = output.float()
    if weight is not None:
        output, target, weight = _weigh(output, target, weight, lead)
    if not len(output):
        raise TaskError("a metric got no rows: the split is empty, or every weight in it is 0.")
    return Rows(output, target, weight)


def _weigh(output: Tensor, target: Tensor, weight: Tensor, lead: torch.Size) -> tuple[Tensor, Tensor, Tensor | None]:
    if weight.shape != lead:
        raise TaskError(f"a metric got weights {list(weight.shape)} for rows {list(lead)}: give one weight per row.")
    flat = weight.detach().reshape(-1).cpu().double()
    if not bool(torch.isfinite(flat).all()) or bool((flat < 0).any()):
        raise TaskError("a metric got a negative or non-finite weight: weights must be finite and at least 0.")
    keep = flat > 0
    if not bool(keep.all()):
        mask = keep.to(output.device)
        output, target, flat = output[mask], target[mask], flat[keep]
    equal = not len(flat) or bool((flat == flat[0]).all())
    return output, target, None if equal else flat


def predict(output: Tensor, head: Head | None) -> Tensor:
    """The prediction p `[N, C]` of outputs `[N, C]`; without a head the output is the prediction."""
    if head is None:
        return output
    if not isinstance(head, str):
        return head(output)
    name = head_name(head)
    if name == "softmax":
        return output.softmax(1)
    return output.sigmoid() if name == "sigmoid" else output


def one_hot(target: Tensor, columns: int) -> Tensor:
    """Target `[N, C]` floating point: classes become indicators, values stay what they are."""
    if target.ndim == 2 or columns == 1:
        return (
            target.reshape(len(target), -1).float() if not target.is_floating_point() else target.reshape(-1, columns)
        )
    return torch.nn.functional.one_hot(classes_of(target, columns), columns).float()


def classes_of(target: Tensor, classes: int) -> Tensor:
    """Integer classes `[N]` of a target `[N]` or, by its largest entry, `[N, C]`.

    Raises:
        TaskError: a label is no whole number of 0 … classes − 1.
    """
    if target.ndim == 2:
        return target.argmax(1)
    labels = target.long()
    whole = not target.is_floating_point() or bool((labels == target).all())
    low, high = int(labels.min()), int(labels.max())
    if not whole or low < 0 or high >= classes:
        found = f"{low} to {high}" if whole else "numbers that are no whole numbers"
        raise TaskError(
            f"a classification metric got labels from {found} for {classes} classes: "
            f"labels must be 0 to {classes - 1} (give rows to be left out the weight 0)."
        )
    return labels


@dataclass(frozen=True)
class Decisions:
    """Hard decisions: K questions per row, each with `classes` answers.

    Softmax asks one question of C classes, a one-output sigmoid one of two, a sigmoid of C > 1 outputs C such ones.
    """

    chosen: Tensor  # [N, K] int64
    truth: Tensor  # [N, K] int64
    classes: int


def decide(output: Tensor, target: Tensor, head: Head | None) -> Decisions:
    """What a classifier decides: the largest output (the first of equals), or z > 0 under a sigmoid.

    Raises:
        TaskError: one output without a sigmoid head, or labels outside the classes.
    """
    columns = output.shape[1]
    name = "sigmoid" if head is None and columns == 1 else head_name(head or "softmax")
    if name == "sigmoid":
        wide = target if target.ndim == 2 else target[:, None]
        if wide.shape[1] != columns:
            raise TaskError(
                f"a sigmoid head with {columns} outputs is a several-label task: targets must be [N, {columns}] of 0 "
                'and 1 (for classes that exclude each other use head="softmax").'
            )
        if not bool(((wide >= 0) & (wide <= 1)).all()):
            raise TaskError("targets of a sigmoid head must be between 0 and 1.")
        return Decisions((output > 0).long(), (wide > 0.5).long(), 2)
    if columns == 1:
        raise TaskError(f'a classification metric cannot decide by one output of head {name!r}: use head="sigmoid".')
    scores = predict(output, head) if name == "custom" else output
    return Decisions(scores.argmax(1, keepdim=True), classes_of(target, columns)[:, None], columns)
