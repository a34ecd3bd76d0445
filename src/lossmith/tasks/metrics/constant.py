"""The best predictor that ignores its input: what a model must beat to have left chance (DESIGN §5)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lossmith.errors import TaskError
from lossmith.losses.inputs import Head, head_name
from lossmith.tasks.metrics.reading import classes_of
from lossmith.tasks.metrics.record import Metric

SURE = 50.0  # an output after which softmax and sigmoid are 0 or 1 in float32
ONE_CLASS_LIMIT = 200  # with more classes (tokens) only the most frequent ones are tried
QUANTILES = (0.001, 0.01, 0.02, 0.05, *(i / 10 for i in range(1, 10)), 0.95, 0.98, 0.99, 0.999)


def best_constant(
    metric: Metric,
    *,
    head: Head | None,
    train_target: Tensor,
    target: Tensor,
    outputs: int,
    weight: Tensor | None = None,
) -> tuple[float, float]:
    """The metric of the best constant output on `target`, and its standard error.

    Tried are, for classes: the log class prior of `train_target` and every one-class output (the 200 most frequent
    classes); under a sigmoid: the log odds of each label, all labels off, all on; for values: mean, median and a grid
    of quantiles of `train_target`, per column. The choice looks at `target`: it is a bar, so it may be generous.

    Args:
        metric: of the task.
        head: of the task.
        train_target: `[n]` or `[n, C]`, from which the constants are made.
        target: `[N]` or `[N, C]`, on which they are measured.
        outputs: C.
        weight: of the rows of `target`, or None.

    Returns:
        (value, standard error). Where no constant has a value (a correlation, say), the worst possible value and 0,
        which every model beats.

    Raises:
        TaskError: there is no training row, or labels lie outside the classes.
    """
    if not train_target.numel():
        raise TaskError("the training split has no rows: check the task's data.")
    seen = _by_row(target.detach().cpu(), head, outputs)
    best, found = None, math.nan
    for constant in constants(head, train_target, outputs):
        value = metric.value(constant.expand(len(seen), outputs), seen, weight, head)
        if not math.isnan(value) and (best is None or metric.better(value, found)):
            best, found = constant, value
    if best is None:
        return (math.inf if metric.direction == "min" else -math.inf), 0.0
    return metric.value_and_error(best.expand(len(seen), outputs), seen, weight, head)


def constants(head: Head | None, train_target: Tensor, outputs: int) -> Iterator[Tensor]:
    """Constant outputs z `[C]` worth trying, from the targets of the training split."""
    target = _by_row(train_target.detach().cpu(), head, outputs)
    name = _name(head, target, outputs)
    if name == "sigmoid":
        share = target.double().reshape(len(target), -1).mean(0)
        yield share.logit(eps=0.5 / len(target)).float()
        yield torch.full([outputs], -SURE)
        yield torch.full([outputs], SURE)
    elif name == "softmax":
        if target.ndim == 2:
            count = target.double().sum(0)
        else:
            count = torch.bincount(classes_of(target, outputs), minlength=outputs).double()
        yield (count / count.sum()).clamp_min(0.5 / len(target)).log().float()
        for one in count.argsort(descending=True, stable=True)[:ONE_CLASS_LIMIT].sort().values:
            yield torch.zeros(outputs).index_fill_(0, one, SURE)
    else:
        values = target.double().reshape(len(target), -1)
        yield values.mean(0).float()
        for row in np.quantile(values.numpy(), QUANTILES, axis=0):
            yield torch.from_numpy(row).float()


def _name(head: Head | None, target: Tensor, outputs: int) -> str:
    """The head's name; for a head of the user's own (or none), what the targets look like."""
    if isinstance(head, str):
        return head_name(head)
    if target.is_floating_point():
        return "identity"
    return "sigmoid" if outputs == 1 or target.ndim == 2 else "softmax"


def _by_row(target: Tensor, head: Head | None, outputs: int) -> Tensor:
    """Targets by row: `[N]`, or `[N, C]` where every row has C of them."""
    vector = target.is_floating_point() or head in ("sigmoid", "identity")
    wide = vector and target.ndim > 1 and target.shape[-1] == outputs
    return target.reshape(-1, outputs) if wide else target.reshape(-1)
