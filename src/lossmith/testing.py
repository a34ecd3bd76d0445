"""Checks for what users bring: `check_task(task)` says in one sentence what is wrong with a task."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lossmith.errors import TaskError, UsageError
from lossmith.losses.inputs import head_name
from lossmith.rng import torch_global_scope
from lossmith.tasks.base import AnyTask
from lossmith.tasks.data import Data, TensorData
from lossmith.tasks.function import FunctionTask
from lossmith.tasks.several import SeveralTasks
from lossmith.tasks.splits import stratified_order
from lossmith.tasks.task import Task
from lossmith.tasks.terms import check_terms, supervised
from lossmith.tasks.trees import tensors

BATCH, BATCHES = 32, 8  # what is looked at of data that is not in memory
METRIC_ROWS = 128  # on which the metric is tried first
TRIAL_BUDGET = 0.01  # of the full training, for floor A
SHARED = 0.05  # share of a split's rows that may occur in train before it counts as a leak


def check_task(task: AnyTask) -> None:
    """Try a task in seconds: a few batches, one training step, one metric; data in memory is read through once.

    Args:
        task: of either floor. For floor A the function is called with 1 % of its budget. Of several each is tried.

    Raises:
        TaskError: the first thing found wrong, what was expected and what to do.

    Example:
        >>> import lossmith as lm
        >>> check_task(lm.task("digits/mlp"))
    """
    if isinstance(task, SeveralTasks):
        for one in task.tasks:
            try:
                check_task(one)
            except TaskError as error:
                raise TaskError(f"{one.name}: {error}") from error
        return
    if task.metric.direction not in ("min", "max"):
        raise TaskError(
            f'metric {task.metric.name!r} has no direction: give lm.metrics.metric(function, direction="min").'
        )
    if isinstance(task, FunctionTask):
        _check_function(task)
    elif isinstance(task, Task):
        _check_parts(task)
    else:
        raise TaskError(f"{type(task).__name__} is no task: use lm.Task(...) or lm.Task.from_function(...).")


def _check_function(task: FunctionTask) -> None:
    task.setting  # noqa: B018  where outputs are not given, this is the first use of the loss
    try:
        outcome = task.run(task.task_loss(), seed=0, budget=TRIAL_BUDGET)
    except UsageError:
        raise
    except Exception as error:
        raise TaskError(
            f"the train function failed on loss {task.controls[0]} with {type(error).__name__}: {error}; repair it."
        ) from error
    if outcome.status.kind == "diverged":
        raise TaskError(
            f"with the task loss {task.controls[0]} itself {outcome.status.sentence}: lower the learning rate."
        )


def _check_parts(task: Task) -> None:
    for split, data in task.data.items():
        if len(data) == 0:
            raise TaskError(f"the {split} split has no rows: give at least one.")
        _check_finite(split, data)
    _check_factory(task)
    task.probe  # noqa: B018  one forward pass, with its own complaints
    model = task.build_model(0).to(task.device)
    for split, data in task.data.items():
        _check_targets(split, data, task, model)
    _check_no_shared_rows(task)
    _check_step(task, model)
    _check_metric(task, model)


def _check_finite(split: str, data: Data) -> None:
    if isinstance(data, TensorData):
        _check_inputs(split, data.inputs())
        return
    with torch_global_scope(0, "check", "inputs"):  # augmentations draw from it
        for batch in _first_batches(data):
            _check_inputs(split, tensors(batch))


def _check_inputs(split: str, leaves: Iterable[Tensor]) -> None:
    for leaf in leaves:
        if leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
            wrong = (~torch.isfinite(leaf.reshape(len(leaf), -1))).any(1)
            raise TaskError(
                f"{int(wrong.sum())} of {len(leaf)} rows of the {split} split hold NaN or infinite inputs (the first "
                f"is row {int(wrong.nonzero()[0])}): repair or remove them."
            )


def _check_factory(task: Task) -> None:
    first, second = task.build_model(0), task.build_model(0)
    if first is second:
        raise TaskError("model returned the same module twice: build a new one at every call, e.g. lambda seed: Net().")
    trainable = [p for p in first.parameters() if p.requires_grad]
    if not trainable:
        raise TaskError("the model has no trainable parameter: return a module with parameters that require gradients.")
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        if a.shape != b.shape or not torch.equal(a, b):
            raise TaskError(
                f"model(0) gives other initial weights each time ({name}): draw them from torch's "
                "global generator, which is set from the seed, or from the seed itself."
            )


def _check_targets(split: str, data: Data, task: Task, model: nn.Module) -> None:
    """Shapes on the first batches; values of all rows where they can be had, otherwise of the first batches."""
    whole = data.targets if task.forward is supervised and data.in_memory else None
    with torch_global_scope(0, "check"), torch.no_grad():
        for number, batch in enumerate(_first_batches(data)):
            for terms in task.terms(model.eval(), batch):
                check_terms(terms, task.head)
                if whole is None:
                    _check_values(split, terms.target, terms.weight, number * BATCH, task)
            if whole is not None:
                _check_values(split, whole, None, 0, task)
                return


def _first_batches(data: Data) -> Iterator[Any]:
    return itertools.islice(data.batches(BATCH), BATCHES)


def _check_values(split: str, target: Tensor, weight: Tensor | None, first: int, task: Task) -> None:
    target = target.detach().cpu()
    counts = torch.ones(target.shape[:1], dtype=torch.bool) if weight is None else weight.detach().cpu() != 0
    counts = counts.reshape(*counts.shape, *[1] * (target.ndim - counts.ndim)).expand(target.shape)
    complaint = "is not finite: repair or remove such rows"
    if target.is_floating_point():
        _complain(split, target, first, counts & ~torch.isfinite(target), complaint)
    if task.head == "softmax" and not target.is_floating_point():
        complaint = f"is outside the classes 0…{task.outputs - 1}: renumber the labels or give the model more outputs"
        _complain(split, target, first, counts & ((target < 0) | (target >= task.outputs)), complaint)
    elif task.head in ("softmax", "sigmoid"):
        complaint = f"is outside [0, 1]: under the {task.head} head targets are classes or probabilities"
        _complain(split, target, first, counts & ((target < 0) | (target > 1)), complaint)


def _complain(split: str, target: Tensor, first: int, wrong: Tensor, what: str) -> None:
    if bool(wrong.any()):
        place = tuple(wrong.nonzero()[0].tolist())
        value = target[place].item()
        raise TaskError(f"target {value:g} in row {first + place[0]} of the {split} split {what}.")


def _check_no_shared_rows(task: Task) -> None:
    train = task.data["train"]
    if not isinstance(train, TensorData):
        return
    rows = _row_hashes(train)
    known = set(rows)
    natural = 1 - len(known) / len(rows)  # data with few distinct rows repeats itself anyway
    for split, data in task.data.items():
        if split == "train" or not isinstance(data, TensorData) or (split == "fitness" and task.same_rows):
            continue
        hashes = _row_hashes(data)
        shared = sum(row in known for row in hashes)
        if shared / len(hashes) > SHARED + 2 * natural:
            raise TaskError(
                f"{shared} of {len(hashes)} rows of the {split} split are training rows, too: give splits that "
                "share no row."
            )


def _row_hashes(data: TensorData) -> list[int]:
    leaves = [leaf.detach().cpu().reshape(len(leaf), -1).numpy() for leaf in data.inputs()]
    return [hash(tuple(leaf[row].tobytes() for leaf in leaves)) for row in range(len(data))]


def _check_step(task: Task, model: nn.Module) -> None:
    """One training step with the task loss."""
    criterion, name = task.task_loss(), task.controls[0]
    with torch_global_scope(0, "check", "step"):
        rows = min(task.recipe.batch_size, len(task.data["train"]))
        batch = task.data["train"].batch(torch.arange(rows))
        try:
            model.train()
            optimizer = task.recipe.make_optimizer([p for p in model.parameters() if p.requires_grad])
            terms = task.terms(model, batch)[0]
            if not terms.output.requires_grad:
                raise TaskError(
                    "the model's output carries no gradient, so nothing can be learned: remove torch.no_grad() or "
                    "detach() from model and forward."
                )
            value = criterion(terms.output, terms.target, weight=terms.weight, group=terms.group)
            value.backward()
            optimizer.step()
        except UsageError:
            raise
        except Exception as error:
            raise TaskError(
                f"one training step with {name} failed ({type(error).__name__}: {error}): make model, forward and "
                "recipe fit."
            ) from error
    if not math.isfinite(float(value.detach())):
        raise TaskError(
            f"the task loss {name} is {float(value.detach())} on an untrained model: scale the inputs, or make the "
            f"{head_name(task.head)} head fit the outputs."
        )


def _check_metric(task: Task, model: nn.Module) -> None:
    for split, data in task.data.items():
        if split == "train":
            continue
        # The seed's stratified order, so that a few rows hold every class.
        order = stratified_order(data.targets, len(data), task.seed, "check")
        try:
            value = _metric(task, model, data, order[:METRIC_ROWS], split)
        except TaskError:
            if len(data) <= METRIC_ROWS:
                raise
            value = _metric(task, model, data, order, split)  # perhaps a rare class was missing
        if not math.isfinite(value):
            raise TaskError(
                f"metric {task.metric.name!r} is {value} on the {split} split of an untrained model: repair it."
            )


def _metric(task: Task, model: nn.Module, data: Data, rows: Tensor, split: str) -> float:
    found = []
    with torch_global_scope(0, "check", "metric"), torch.no_grad():
        for start in range(0, len(rows), BATCH):
            (terms, *_) = task.terms(model.eval(), data.batch(rows[start : start + BATCH]))
            found.append(terms)
    weights = [terms.weight for terms in found if terms.weight is not None]
    try:
        return task.metric.value(
            torch.cat([terms.output for terms in found]),
            torch.cat([terms.target for terms in found]),
            torch.cat(weights) if weights else None,
            task.head,
        )
    except UsageError:
        raise
    except Exception as error:
        raise TaskError(
            f"metric {task.metric.name!r} failed on the {split} split ({type(error).__name__}: {error}): make it take "
            "outputs [N, C] and targets."
        ) from error
