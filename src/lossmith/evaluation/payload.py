"""A task on its way to a worker: pickled by value there, rebuilt once here."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cloudpickle

from lossmith.errors import TaskError
from lossmith.evaluation.evaluate import evaluate_chunk
from lossmith.evaluation.plan import Plan
from lossmith.evaluation.rolling import Rolling
from lossmith.records import Evaluation, Request
from lossmith.tasks import AnyTask

_TASKS: dict[str, AnyTask] = {}  # in a worker: the task it was sent last, so that it is read once
_READING = threading.Lock()


@dataclass(frozen=True)
class Payload:
    """A task as it travels to a worker: a file on this machine, or bytes for executors that reach others."""

    digest: str
    path: str | None
    content: bytes | None


def pack(task: AnyTask) -> bytes:
    """The task as bytes, functions and classes of notebooks and `__main__` by value.

    Raises:
        TaskError: something in the task cannot be pickled.
    """
    try:
        content: bytes = cloudpickle.dumps(task)
    except Exception as error:
        raise TaskError(
            f"the task cannot be sent to another process ({type(error).__name__}: {error}): open files, locks and "
            f"connections inside the functions that use them, or train in this process (workers=None)."
        ) from error
    return content


def digest(content: bytes) -> str:
    """Names a task's bytes."""
    return hashlib.sha256(content).hexdigest()


def run_chunk(
    payload: Payload, requests: Sequence[Request], plan: Plan, rolling: Rolling | None = None
) -> list[Evaluation]:
    """What a worker does: the evaluations of a chunk, in order, signed with the worker's process id.

    Raises:
        TaskError: the task cannot be rebuilt in this process.
    """
    done = evaluate_chunk(rebuilt(payload), requests, plan, rolling)
    return [replace(evaluation, worker=str(os.getpid())) for evaluation in done]


def rebuilt(payload: Payload) -> AnyTask:
    """The task, read at its first use in this process.

    Raises:
        TaskError: it cannot be rebuilt here.
    """
    with _READING:
        task = _TASKS.get(payload.digest)
        if task is None:
            try:
                content = payload.content if payload.path is None else Path(payload.path).read_bytes()
                task = cloudpickle.loads(content)  # written by this very run, never read from a store
            except Exception as error:
                raise TaskError(
                    f"the task cannot be rebuilt in a worker process ({type(error).__name__}: {error}): see to it that "
                    f"what it imports can be imported there, or train in this process (workers=None)."
                ) from error
            _TASKS.clear()
            _TASKS[payload.digest] = task
    return task
