"""The loss that φ is tuned for: the task's own, or another one by its name."""

from __future__ import annotations

import torch

from lossmith.errors import TaskError
from lossmith.losses import PUBLISHED, Loss, loss
from lossmith.losses.inputs import Head, head_name
from lossmith.tasks import Task
from lossmith.tasks.metrics import METRICS
from lossmith.tasks.terms import as_terms
from lossmith.training.tunable import derivative, value_at, with_class_prior


def tuned_for(task: Task, name: str = "") -> Loss:
    """The loss that is taken of the trained base model on fitness rows, completed by the task's class prior.

    Args:
        name: of a loss, as `lm.loss` reads it; "" for the task's own.

    Raises:
        TaskError: the name of a metric, or a loss without gradient; the sentence names losses that fit the head.
        LossError: no loss has this name, or it does not fit the task.
    """
    if not name:
        return with_class_prior(task.task_loss(), task)
    word = name.partition("(")[0].strip()
    if word not in PUBLISHED and (word in METRICS or word == task.metric.name):
        raise TaskError(
            f"task_loss = {name!r} is a metric, which has no gradient that φ could follow: {_instead(task)}"
        )
    found = with_class_prior(loss(name, head=task.head), task)
    if found.reduction == "none":
        raise TaskError(
            f"task_loss = {name!r} gives a number per row, and φ is tuned for a single one: {_instead(task)}"
        )
    if not _has_gradient(found, task):
        raise TaskError(f"task_loss = {name!r} has no gradient by the outputs of a fresh model: {_instead(task)}")
    return found


def fitting(head: Head) -> tuple[str, ...]:
    """Names of the differentiable losses that fit a head."""
    kind = head_name(head)
    return tuple(name for name, entry in PUBLISHED.items() if kind == "custom" or kind in entry.heads)


def _instead(task: Task) -> str:
    names = fitting(task.head)
    return f"losses that have one and fit {head_name(task.head)} outputs are {', '.join(names)}."


def _has_gradient(found: Loss, task: Task) -> bool:
    """Whether the loss of a fresh model on fitness rows changes with the model's outputs."""
    data = task.data["fitness"]
    model = task.build_model(0).to(task.device).eval()
    with torch.no_grad():
        term = as_terms(task.forward(model, data.batch(torch.arange(min(len(data), task.recipe.batch_size)))))[0]
    term.output.requires_grad_()
    slope = derivative(value_at(found, None, term, 0.0), term.output)
    return bool(slope.isfinite().all() and slope.abs().max() > 0)
