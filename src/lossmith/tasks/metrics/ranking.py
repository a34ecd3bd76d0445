"""Area under the ROC curve, with its standard error from the same pass.

Value and rows come from the placements of DeLong, DeLong, Clarke-Pearson (1988), Biometrics 44: V_i, for a positive row
the weighted share of negative rows it is ranked above (ties half), for a negative row the share of positive rows above
it. The AUC is the mean of either kind, and its variance is var(V⁺)/m + var(V⁻)/n.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lossmith.errors import TaskError
from lossmith.losses.inputs import Head, head_name
from lossmith.tasks.metrics.reading import decide, predict
from lossmith.tasks.metrics.record import mean_of


def _share_below(score: np.ndarray, others: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted share of `others` below each score, ties half."""
    order = np.argsort(others, kind="stable")
    mass = np.concatenate([[0.0], np.cumsum(weight[order])])
    ranked = others[order]
    left, right = np.searchsorted(ranked, score, "left"), np.searchsorted(ranked, score, "right")
    return np.asarray((mass[left] + mass[right]) / (2 * mass[-1]))


def placements(score: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Rows `[N]` whose weighted mean is the AUC and whose squared spread gives DeLong's variance.

    Args:
        score: `[N]`, higher for the positive class.
        positive: `[N]` boolean, both values present.
        weight: `[N]`, positive.
    """
    w_pos, w_neg = weight[positive], weight[~positive]
    above = _share_below(score[positive], score[~positive], w_neg)
    below = 1 - _share_below(score[~positive], score[positive], w_pos)
    auc = float((w_pos * above).sum() / w_pos.sum())
    rows = np.empty(len(score))
    rows[positive] = auc + weight.sum() / w_pos.sum() * (above - auc)
    rows[~positive] = auc + weight.sum() / w_neg.sum() * (below - auc)
    return rows


def _scores(output: Tensor, head: Head | None) -> Tensor:
    """What each column ranks by: z under a sigmoid, a monotone function of the class probability under a softmax."""
    name = "sigmoid" if head is None and output.shape[1] == 1 else head_name(head or "softmax")
    if name == "softmax":
        return output.double().log_softmax(1) if output.device.type != "mps" else output.log_softmax(1)
    return predict(output, head) if name == "custom" else output


def _auc_rows(output: Tensor, target: Tensor, weight: Tensor | None, *, head: Head | None) -> Tensor:
    seen = decide(output, target, head)
    scores, truth = _scores(output, head).cpu().double().numpy(), seen.truth.cpu().numpy()
    w = np.ones(len(output)) if weight is None else weight.numpy()
    several = truth.shape[1] > 1 or scores.shape[1] == 1
    columns = range(scores.shape[1]) if scores.shape[1] != 2 or several else range(1, 2)  # two classes: one curve
    found = []
    for column in columns:
        positive = truth[:, column] == 1 if several else truth[:, 0] == column
        if positive.any() and not positive.all():
            found.append(placements(scores[:, column], positive, w))
    if not found:
        raise TaskError("roc_auc needs rows of at least two classes: this split has only one.")
    return torch.from_numpy(np.mean(found, axis=0))


roc_auc = mean_of("roc_auc", "max", _auc_rows)
