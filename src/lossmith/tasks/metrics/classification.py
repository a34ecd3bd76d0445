"""Metrics of decisions and of class probabilities.

Under a softmax head there are C classes that exclude each other; a sigmoid head with one output is a binary task (class
1 where z > 0), with several outputs a several-label task whose metrics are means over the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossmith.errors import TaskError
from lossmith.losses.inputs import Head, head_name
from lossmith.tasks.metrics.reading import classes_of, decide, predict
from lossmith.tasks.metrics.record import Metric, mean_of
from lossmith.tasks.ranges import check_number


def _wrong(output: Tensor, target: Tensor, *, head: Head | None) -> Tensor:
    seen = decide(output, target, head)
    return (seen.chosen != seen.truth).double().mean(1)


def _right(output: Tensor, target: Tensor, *, head: Head | None) -> Tensor:
    return 1 - _wrong(output, target, head=head)


def _balanced_wrong(output: Tensor, target: Tensor, weight: Tensor | None, *, head: Head | None) -> Tensor:
    """Rows whose mean is the balanced error and whose spread is that of its linearisation in the class sizes."""
    seen = decide(output, target, head)
    w = torch.ones(len(output), dtype=torch.float64) if weight is None else weight
    wrong, truth = (seen.chosen != seen.truth).cpu().double(), seen.truth.cpu()
    rows = torch.zeros(len(output), dtype=torch.float64)
    for question in range(truth.shape[1]):
        mass = torch.zeros(seen.classes, dtype=torch.float64).index_add_(0, truth[:, question], w)
        missed = torch.zeros_like(mass).index_add_(0, truth[:, question], w * wrong[:, question])
        present = mass > 0
        error = torch.where(present, missed / mass.clamp_min(1e-300), 0.0)  # of each class
        k = int(present.sum())
        lever = w.sum() / (k * mass.clamp_min(1e-300))
        mine = truth[:, question]
        rows += error.sum() / k + lever[mine] * (wrong[:, question] - error[mine])
    return rows / truth.shape[1]


def _f1_rows(output: Tensor, target: Tensor, weight: Tensor | None, *, head: Head | None) -> Tensor:
    """Rows whose mean is the mean F1 = 2 TP/(2 TP + FP + FN) and whose spread is that of its linearisation.

    The mean is over the classes that occur in truth or decision; of several labels, over all.
    """
    seen = decide(output, target, head)
    w = torch.ones(len(output), dtype=torch.float64) if weight is None else weight
    share = w / w.sum()
    chosen, truth = seen.chosen.cpu(), seen.truth.cpu()
    labels = truth.shape[1] > 1
    rows, count = torch.zeros(len(output), dtype=torch.float64), 0
    for question in range(truth.shape[1]):
        for one in (1,) if labels else range(seen.classes):
            said, true = chosen[:, question] == one, truth[:, question] == one
            hit, both = 2 * (said & true).double(), said.double() + true.double()
            mass = float((share * both).sum())
            if mass > 0:
                f1 = float((share * hit).sum()) / mass
                rows += f1 + (hit - f1 * both) / mass
            count += labels or mass > 0
    return rows / count


def _not_in_top(output: Tensor, target: Tensor, *, head: Head | None, k: int) -> Tensor:
    columns = output.shape[1]
    if head_name(head or "softmax") == "sigmoid" or columns <= k:
        raise TaskError(
            f"top_k_error(k={k}) needs more than {k} classes that exclude each other, and the model has {columns} "
            f"outputs under head {head_name(head or 'softmax')!r}: choose a smaller k or error_rate."
        )
    truth = classes_of(target, columns)[:, None]
    own = output.gather(1, truth)
    # ties count in the order of the classes, as argmax decides them, so k = 1 is the error rate
    ahead = (output > own) | ((output == own) & (torch.arange(columns, device=output.device) < truth))
    return (ahead.sum(1) >= k).double()


def _neg_log_likelihood(output: Tensor, target: Tensor, *, head: Head | None) -> Tensor:
    columns = output.shape[1]
    name = "sigmoid" if head is None and columns == 1 else head_name(head or "softmax")
    if name == "sigmoid":
        decide(output, target, head)  # for its complaints about targets
        truth = target.reshape(len(target), -1).to(output.dtype)
        return F.binary_cross_entropy_with_logits(output, truth, reduction="none").mean(1)
    if name == "identity":
        raise TaskError('log_loss needs probabilities: use head="softmax" or head="sigmoid", or the metric mse.')
    log_p = output.log_softmax(1) if name == "softmax" else predict(output, head).log()
    if target.ndim == 2:
        return -torch.where(target > 0, target * log_p, 0.0).sum(1)
    return -log_p.gather(1, classes_of(target, columns)[:, None])[:, 0]


def _cost(output: Tensor, target: Tensor, *, head: Head | None, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    seen = decide(output, target, head)
    if len(matrix) != seen.classes:
        raise TaskError(
            f"asymmetric_cost has a {len(matrix)}×{len(matrix)} matrix for {seen.classes} classes: "
            "give one row of costs per true class, one column per decision."
        )
    return torch.tensor(matrix, dtype=torch.float64)[seen.truth.cpu(), seen.chosen.cpu()].mean(1)


error_rate = mean_of("error_rate", "min", _wrong)
accuracy = mean_of("accuracy", "max", _right)
balanced_error = mean_of("balanced_error", "min", _balanced_wrong)
macro_f1 = mean_of("macro_f1", "max", _f1_rows)
log_loss = mean_of("log_loss", "min", _neg_log_likelihood)


def top_k_error(k: int = 5) -> Metric:
    """Share of rows whose class is not among the k largest outputs.

    Raises:
        TaskError: k is no positive whole number.
    """
    check_number("top_k_error.k", k, least=1, whole=True)
    return mean_of(f"top_k_error(k={k})", "min", _not_in_top, k=int(k))


def asymmetric_cost(
    matrix: Sequence[Any] | None = None,
    *,
    false_negative: float | None = None,
    false_positive: float | None = None,
) -> Metric:
    """Mean cost of the decisions.

    Args:
        matrix: `[C][C]` costs, row = true class, column = decision; or the pair (false_negative, false_positive) of a
            binary task. In a several-label task it applies to each label.
        false_negative, false_positive: the same pair by name.

    Raises:
        TaskError: not square, not finite, or not given.

    Example:
        >>> str(asymmetric_cost(false_negative=5, false_positive=1))
        'asymmetric_cost([[0, 1], [5, 0]])'
    """
    pair = (false_negative, false_positive)
    if (matrix is None) != (None not in pair):
        raise TaskError(
            "asymmetric_cost needs costs: write asymmetric_cost(false_negative=5, false_positive=1) or "
            "asymmetric_cost([[0, 1], [5, 0]])."
        )
    table: Sequence[Any] = pair if matrix is None else matrix
    if len(table) == 2 and not any(isinstance(row, Sequence) for row in table):
        table = ((0.0, table[1]), (table[0], 0.0))
    if len(table) < 2 or not all(isinstance(row, Sequence) and len(row) == len(table) for row in table):
        raise TaskError("asymmetric_cost needs a square matrix: one row per true class, one column per decision.")
    for row in table:
        for cost in row:
            check_number("asymmetric_cost's cost", cost)
    costs = tuple(tuple(float(cost) for cost in row) for row in table)
    text = ", ".join("[" + ", ".join(f"{cost:.12g}" for cost in row) + "]" for row in costs)
    return mean_of(f"asymmetric_cost([{text}])", "min", _cost, matrix=costs)
