"""What a request names, made ready, and what becomes of one that fails: shared by every kind of work."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch

from lossmith.losses import Loss, LossSet, from_json
from lossmith.records import Evaluation, Request, Status
from lossmith.tasks import AnyTask, Task
from lossmith.training.judging import crashed as crashed
from lossmith.training.tunable import with_class_prior

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_moved: WeakKeyDictionary[Task, Task] = WeakKeyDictionary()  # to the plan's device, so that data is copied there once


def requested_loss(text: str, task: AnyTask) -> Loss | LossSet:
    """The loss of a request, with the task's own head where it has one.

    Raises:
        LossError: the text is no loss.
    """
    return from_json(text, head=task.head if callable(task.head) else None)


def with_prior(loss: Loss | LossSet, task: AnyTask) -> Loss | LossSet:
    """The loss with the task's class prior, where it reads one and carries none."""
    if not isinstance(task, Task):
        return loss
    completed = [with_class_prior(member, task) for member in members(loss)]
    return LossSet(completed) if isinstance(loss, LossSet) else completed[0]


def members(loss: Loss | LossSet) -> tuple[Loss, ...]:
    """The losses of a set, or the loss itself."""
    return tuple(loss) if isinstance(loss, LossSet) else (loss,)


def on_device(task: Task, device: str) -> Task:
    """The task with its data served on a device."""
    if _serves(task, device):
        return task
    moved = _moved.get(task)
    if moved is None or not _serves(moved, device):
        moved = _moved[task] = task.to_device(device)
    return moved


def _serves(task: Task, device: str) -> bool:
    wanted, here = torch.device(device), task.device
    return wanted.type == here.type and (wanted.type == "cpu" or wanted.index in (None, here.index))


def isolated(
    items: Sequence[Item],
    at_once: Callable[[Sequence[Item]], list[Answer]],
    failed: Callable[[Item, Status], Answer],
) -> list[Answer]:
    """`at_once(items)`; where that raises, each item alone, so that one at fault costs no other.

    `SystemExit` counts as a failure, because a function that gives up says so by it; `KeyboardInterrupt` passes
    through: it is not the candidate's doing.

    Args:
        items: what is worked on. at_once: their answers, in order.
        failed: the answer of an item that raises alone.
    """
    if not items:
        return []
    try:
        return at_once(items)
    except (Exception, SystemExit) as error:
        status = crashed(error)  # not the error, which would keep alive what it interrupted: a whole stack of models
    if len(items) == 1:
        return [failed(items[0], status)]
    return [answer for item in items for answer in isolated([item], at_once, failed)]


def grouped(
    task: AnyTask,
    requests: Sequence[Request],
    alike: Callable[[Sequence[Request], Sequence[Loss | LossSet]], list[Evaluation]],
    *,
    key: Callable[[Request], Hashable],
) -> list[Evaluation]:
    """The evaluations of requests, in order, those with one `key` done at once; a failure is its request's own.

    Args:
        task: whose head the losses take. requests: of one kind of work.
        alike: the evaluations of requests with one key, given their losses.
        key: what requests done at once must share.
    """
    found: dict[str, Evaluation] = {}
    groups: dict[Hashable, list[tuple[Request, Loss | LossSet]]] = {}
    for request in requests:
        try:
            groups.setdefault(key(request), []).append((request, requested_loss(request.loss, task)))
        except Exception as error:
            found[request.key] = Evaluation(request.key, crashed(error))
    for group in groups.values():
        answers = isolated(
            group,
            lambda some: alike([request for request, _ in some], [loss for _, loss in some]),
            lambda item, status: Evaluation(item[0].key, status),
        )
        found |= {answer.request: answer for answer in answers}
    return [found[request.key] for request in requests]
