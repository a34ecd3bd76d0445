"""Class prior of a task's training targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lossmith.rng import torch_global_scope
from lossmith.tasks.splits import stratified_order
from lossmith.tasks.terms import Terms, supervised

if TYPE_CHECKING:
    from lossmith.tasks.task import Task

SAMPLE = 4096  # rows looked at where targets are known only after a forward pass
BATCH = 256


def class_prior(task: Task) -> Tensor | None:
    """See `Task.prior`."""
    one_logit = task.head == "sigmoid" and task.outputs == 1
    if task.head != "softmax" and not one_logit:
        return None
    classes = 2 if one_logit else task.outputs
    targets = task.data["train"].targets
    if task.forward is supervised and targets is not None:
        counts = _counts(Terms(targets, targets), classes, one_logit)
    else:
        counts = torch.zeros(classes, dtype=torch.float64)
        model = task.build_model(0).to(task.device).eval()
        order = stratified_order(targets, len(task.data["train"]), task.seed, "prior")[:SAMPLE]
        with torch_global_scope(0, "prior"), torch.no_grad():
            for start in range(0, len(order), BATCH):
                index = order[start : start + BATCH]
                counts += _counts(task.terms(model, task.data["train"].batch(index))[0], classes, one_logit)
    counts = torch.where(counts > 0, counts, torch.full_like(counts, 0.5))
    return counts / counts.sum()


def _counts(terms: Terms, classes: int, one_logit: bool) -> Tensor:
    """Weighted rows per class, [classes] float64."""
    target = terms.target.detach().cpu()
    weight = None if terms.weight is None else terms.weight.detach().cpu().double().reshape(-1)
    if one_logit or target.is_floating_point():
        shares = target.double().reshape(-1, 1 if one_logit else classes)
        shares = torch.cat((1 - shares, shares), 1) if one_logit else shares  # [N, classes]
        return shares.sum(0) if weight is None else weight @ shares
    labels = target.long().reshape(-1)
    known = (labels >= 0) & (labels < classes)  # a masked row may carry any label
    return torch.bincount(labels[known], None if weight is None else weight[known], minlength=classes).double()
