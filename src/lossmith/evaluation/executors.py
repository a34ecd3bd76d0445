"""Where evaluations run: the seam `submit(fn, *args) -> Future` (DESIGN §3).

- `InProcess`: here and now, the default in Python.
- `Workers`: local processes by pebble, one torch thread each; a hung one is killed at the deadline, a dead one costs its chunk.
- anything else with `submit`, e.g. a dask client or a concurrent.futures executor.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import multiprocessing.popen_spawn_posix
import multiprocessing.spawn
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any, Protocol

import cloudpickle
import pebble

from lossmith.errors import SpecError
from lossmith.evaluation.evaluate import evaluate_chunk
from lossmith.evaluation.plan import Plan
from lossmith.records import Evaluation, Request
from lossmith.tasks import AnyTask


@dataclass(frozen=True)
class Payload:
    """A task as it travels to a worker: a file on this machine, or bytes for executors that reach others."""

    digest: str
    path: str | None
    content: bytes | None


class Executor(Protocol):
    """Anything that runs a function somewhere and answers with a `concurrent.futures`-like future."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]: ...


class InProcess:
    """Runs each piece of work at once in this process, on the task object itself."""

    workers = 1

    def __init__(self, task: AnyTask) -> None:
        self.task = task

    def submit_chunk(self, requests: Sequence[Request], plan: Plan) -> Future[list[Evaluation]]:
        future: Future[list[Evaluation]] = Future()
        future.set_result([*evaluate_chunk(self.task, requests, plan)])
        return future

    def close(self, *, kill: bool = False) -> None:
        """Nothing to close."""


class Workers:
    """Local worker processes.

    Args:
        task: sent to every worker once, by value (cloudpickle), so tasks of notebooks and `__main__` work.
        workers: how many processes.
    """

    def __init__(self, task: AnyTask, workers: int) -> None:
        if workers < 1:
            raise SpecError(f"workers {workers}: use a number >= 1.")
        self.workers = workers
        self._payload, self._folder = _to_file(task)
        self._pool = pebble.ProcessPool(max_workers=workers, context=_MainlessContext(), initializer=_start_worker)

    def submit_chunk(self, requests: Sequence[Request], plan: Plan) -> Future[list[Evaluation]]:
        """Schedule a chunk; the future raises TimeoutError past the plan's deadline, or what ended the worker."""
        timeout = plan.deadline * len(requests) if plan.deadline else None
        future: Future[list[Evaluation]] = self._pool.schedule(
            run_chunk, args=(self._payload, list(requests), plan), timeout=timeout
        )
        return future

    def close(self, *, kill: bool = False) -> None:
        """End the workers, at once with `kill`, and remove the task's file."""
        if kill:
            self._pool.stop()
        else:
            self._pool.close()
        self._pool.join()
        self._folder.cleanup()


class Foreign:
    """Wraps a user's executor (dask client, ThreadPoolExecutor, submitit …); the task travels as bytes."""

    def __init__(self, task: AnyTask, executor: Executor, *, workers: int = 1) -> None:
        self.workers = workers
        self._executor = executor
        content = cloudpickle.dumps(task)
        self._payload = Payload(hashlib.sha256(content).hexdigest(), None, content)

    def submit_chunk(self, requests: Sequence[Request], plan: Plan) -> Future[list[Evaluation]]:
        return self._executor.submit(run_chunk, self._payload, list(requests), plan)

    def close(self, *, kill: bool = False) -> None:
        """The executor belongs to the user."""


AnyExecutor = InProcess | Workers | Foreign


def make_executor(task: AnyTask, *, workers: int | None = None, executor: Executor | None = None) -> AnyExecutor:
    """The executor for a run: a user's own, local workers, or this process.

    Raises:
        SpecError: a number of workers below 1, or more than this machine can hold in memory.
    """
    if executor is not None:
        return Foreign(task, executor, workers=workers or 1)
    if workers is None or workers == 0:
        return InProcess(task)
    return Workers(task, workers)


_TASKS: dict[str, AnyTask] = {}  # in a worker: the task it was sent, read once


def run_chunk(payload: Payload, requests: Sequence[Request], plan: Plan) -> list[Evaluation]:
    """What a worker does."""
    if payload.digest not in _TASKS:
        content = payload.content if payload.path is None else Path(payload.path).read_bytes()
        assert content is not None
        _TASKS.clear()
        _TASKS[payload.digest] = cloudpickle.loads(content)  # written by this very run, never read from a store
    return evaluate_chunk(_TASKS[payload.digest], requests, plan)


def _to_file(task: AnyTask) -> tuple[Payload, tempfile.TemporaryDirectory[str]]:
    folder = tempfile.TemporaryDirectory(prefix="lossmith-")
    content = cloudpickle.dumps(task)
    path = Path(folder.name) / "task"
    path.write_bytes(content)
    return Payload(hashlib.sha256(content).hexdigest(), str(path), None), folder


def _start_worker() -> None:
    """Ctrl-C belongs to the host, which ends the workers itself; a worker whose host is gone ends too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    host = os.getppid()

    def watch() -> None:
        pause = threading.Event()
        while os.getppid() == host:
            pause.wait(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# A spawned child normally imports the parent's `__main__`, which would run a user's unguarded script again in every worker.
# Tasks travel by value, so the child does not need it: these classes leave it out.
_launch_lock = threading.Lock()


@contextmanager
def _without_main() -> Iterator[None]:
    with _launch_lock:
        original = multiprocessing.spawn.get_preparation_data

        def preparation_data(name: str) -> dict[str, Any]:
            data = original(name)
            return {k: v for k, v in data.items() if not k.startswith("init_main")}

        multiprocessing.spawn.get_preparation_data = preparation_data
        try:
            yield
        finally:
            multiprocessing.spawn.get_preparation_data = original


class _MainlessProcess(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # the hook multiprocessing offers for this
        with _without_main():
            return multiprocessing.popen_spawn_posix.Popen(process_obj)


class _MainlessContext(SpawnContext):
    Process = _MainlessProcess  # type: ignore[assignment]
