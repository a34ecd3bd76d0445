"""Where evaluations run: the seam `submit(fn, *args) -> Future` (DESIGN §3).

- `InProcess`: here and now, the default in Python.
- `Workers`: local processes by pebble (see `evaluation.workers`).
- `Foreign`: anything else with `submit`, e.g. a dask client or a concurrent.futures executor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Protocol

from lossmith.errors import LossmithError, SpecError
from lossmith.evaluation.evaluate import evaluate_chunk
from lossmith.evaluation.payload import Payload, digest, pack, run_chunk
from lossmith.evaluation.plan import Plan
from lossmith.evaluation.rolling import Rolling
from lossmith.evaluation.worker_memory import AllCores
from lossmith.evaluation.workers import Workers
from lossmith.records import Evaluation, Request
from lossmith.tasks import AnyTask


class Executor(Protocol):
    """Anything that runs a function somewhere; what it answers with has at least `result()` and `cancel()`."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any: ...


class InProcess:
    """Runs each piece of work at once in this process, on the task object itself; it knows no deadline."""

    workers = 1

    def __init__(self, task: AnyTask, rolling: Rolling | None = None) -> None:
        self.task = task
        self._rolling = rolling

    def submit_chunk(self, requests: Sequence[Request], plan: Plan) -> Future[list[Evaluation]]:
        """The evaluations of a chunk, done by the time this returns."""
        future: Future[list[Evaluation]] = Future()
        future.set_result(evaluate_chunk(self.task, requests, plan, self._rolling))
        return future

    def lost(self, future: Future[list[Evaluation]]) -> bool:
        """Nothing gets lost here."""
        return False

    def close(self, *, kill: bool = False) -> None:
        """Nothing to close."""


class Foreign:
    """Wraps a user's executor (dask client, ThreadPoolExecutor, submitit …); the task travels as bytes.

    It knows no deadline, and a worker lost is lost as the executor says: `Workers` are safer where they reach.
    Trainings in threads of one process take turns, because torch's global generator exists once.
    """

    def __init__(self, task: AnyTask, executor: Executor, *, workers: int = 1, rolling: Rolling | None = None) -> None:
        self.workers = workers
        self._rolling = rolling
        self._executor = executor
        content = pack(task)
        self._payload = Payload(digest(content), None, content)

    def submit_chunk(self, requests: Sequence[Request], plan: Plan) -> Future[list[Evaluation]]:
        """Hand a chunk to the executor.

        Raises:
            LossmithError: it takes no more work.
        """
        try:
            job = self._executor.submit(run_chunk, self._payload, list(requests), plan, self._rolling)
        except Exception as error:
            raise LossmithError(
                f"the executor takes no more work ({type(error).__name__}: {error}): go on with a new one, or with "
                f"workers=N, which survive a loss that kills its process. What is finished is kept."
            ) from error
        return job if isinstance(job, Future) else _Bridge(job)

    def lost(self, future: Future[list[Evaluation]]) -> bool:
        """Left to the executor."""
        return False

    def close(self, *, kill: bool = False) -> None:
        """The executor belongs to the user."""


class _Bridge(Future[list[Evaluation]]):
    """Another library's future as one that `concurrent.futures.wait` understands: a thread waits for its result."""

    def __init__(self, job: Any) -> None:
        super().__init__()
        self._job = job
        threading.Thread(target=self._follow, daemon=True).start()

    def cancel(self) -> bool:
        self._job.cancel()
        return super().cancel()

    def _follow(self) -> None:
        try:
            answer, error = self._job.result(), None
        except BaseException as problem:
            answer, error = [], problem
        with suppress(InvalidStateError):  # cancelled in the meantime
            self.set_result(answer) if error is None else self.set_exception(error)


AnyExecutor = InProcess | Workers | Foreign


def make_executor(
    task: AnyTask,
    *,
    workers: int | AllCores | None = None,
    executor: Executor | None = None,
    plan: Plan | None = None,
    rolling: Rolling | None = None,
) -> AnyExecutor:
    """The executor for a run: a user's own, local workers, or this process.

    Args:
        workers: local processes, "all" for as many as there are cores or GPUs, or how many pieces of work the user's
            executor does at a time; None or 0 without an executor trains in this process.
        executor: the user's own.
        plan: what they will work under; see `Workers`.
        rolling: where long trainings leave their checkpoints, for those workers that reach the folder.

    Raises:
        SpecError: a negative number of workers, more than memory allows, "all" with a user's executor.
        TaskError: the task cannot be sent to other processes.
    """
    if executor is not None:
        if workers == "all":
            raise SpecError('workers "all": say how many pieces of work your executor does at a time, e.g. workers=8.')
        return Foreign(task, executor, workers=workers or 1, rolling=rolling)
    if not workers:
        return InProcess(task, rolling)
    return Workers(task, workers, plan, rolling)
