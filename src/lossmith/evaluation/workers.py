"""Local worker processes by pebble: a hung one is killed at the deadline, a dead one costs its chunk and no other."""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.popen_spawn_posix
import multiprocessing.spawn
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

import pebble

from lossmith.errors import LossmithError, SpecError, TaskError
from lossmith.evaluation.devices import gpus_for
from lossmith.evaluation.gpu_places import take_gpu
from lossmith.evaluation.payload import Payload, digest, pack, rebuilt, run_chunk
from lossmith.evaluation.plan import Plan
from lossmith.evaluation.rolling import Rolling
from lossmith.evaluation.worker_memory import AllCores, count_workers
from lossmith.records import Evaluation, Request
from lossmith.tasks import AnyTask

MOST_RESTARTS = 3  # of the whole pool in a row without a single answer
GRACE = 3.0  # seconds pebble has to report a death itself before it is found here


class Workers:
    """Local worker processes.

    Args:
        task: sent to every worker once, by value (cloudpickle), so tasks of notebooks and `__main__` work.
        workers: how many processes; "all": one per usable core or GPU.
        plan: what they will work under, so that they fit into memory and share the GPUs; None: one training at a time
            on the CPU.
        rolling: where their long trainings leave checkpoints.

    Raises:
        SpecError: fewer than one worker, or more than memory allows.
        TaskError: the task cannot be pickled.
    """

    def __init__(
        self, task: AnyTask, workers: int | AllCores, plan: Plan | None = None, rolling: Rolling | None = None
    ) -> None:
        if workers != "all" and workers < 1:
            raise SpecError(f"workers {workers}: use a number >= 1.")
        self._task = task
        self._rolling = rolling
        content = pack(task)
        plan = plan or Plan()
        self.workers = count_workers(workers, task, plan, len(content))
        self._gpus = gpus_for(plan.device)
        self._folder = tempfile.TemporaryDirectory(prefix="lossmith-")
        self._file = Path(self._folder.name) / "task"
        self._file.write_bytes(content)
        self._payload = Payload(digest(content), str(self._file), None)
        self._pool = self._new_pool()
        self._restarts = 0
        self._submitted = 0
        self._claims: dict[Future[Any], Path] = {}
        self._found_dead: dict[Future[Any], float] = {}

    def submit_chunk(self, requests: Sequence[Request], plan: Plan) -> Future[list[Evaluation]]:
        """Schedule a chunk; the future raises TimeoutError past the plan's deadline, or what ended the worker.

        Raises:
            LossmithError: workers end as soon as they are started.
        """
        if not self._file.exists():  # a long run may outlive what tidies up temporary files
            self._file.parent.mkdir(exist_ok=True)
            self._file.write_bytes(pack(self._task))
        self._submitted += 1
        claim = self._file.with_name(f"claim-{self._submitted}")
        arguments = (str(claim), self._payload, list(requests), plan, self._rolling)
        timeout = plan.deadline * len(requests) if plan.deadline else None
        while True:
            try:
                future: Future[list[Evaluation]] = self._pool.schedule(_run_claimed, args=arguments, timeout=timeout)
                break
            except RuntimeError:  # a worker died while it had nothing to do: pebble gives its whole pool up
                self._restart()
        self._claims[future] = claim
        future.add_done_callback(self._answered)
        return future

    def lost(self, future: Future[list[Evaluation]]) -> bool:
        """Whether the worker that took a chunk is gone without pebble noticing: it does not see an exit code of 0."""
        claim = self._claims.get(future)
        try:
            pid = int(claim.read_text()) if claim else 0
        except (OSError, ValueError):
            return False  # not begun
        if not pid or _is_alive(pid):
            return False
        return time.monotonic() - self._found_dead.setdefault(future, time.monotonic()) > GRACE

    def close(self, *, kill: bool = False) -> None:
        """End the workers, at once with `kill`, and remove the task's file."""
        if kill:
            self._pool.stop()
        else:
            self._pool.close()
        self._pool.join()
        self._folder.cleanup()

    def _new_pool(self) -> Any:
        arguments = (os.getpid(), self._folder.name, self._payload, self._gpus)
        context = _MainlessContext()
        return pebble.ProcessPool(self.workers, context=context, initializer=_start_worker, initargs=arguments)

    def _restart(self) -> None:
        self._restarts += 1
        self._pool.stop()
        self._pool.join()
        if self._restarts > MOST_RESTARTS:
            raise LossmithError(
                "worker processes end as soon as they are started: look for their message above, or train in this "
                "process (workers=None)."
            )
        self._pool = self._new_pool()

    def _answered(self, future: Future[list[Evaluation]]) -> None:
        self._found_dead.pop(future, None)
        claim = self._claims.pop(future, None)
        if claim is not None:
            claim.unlink(missing_ok=True)
        if not future.cancelled() and future.exception() is None:
            self._restarts = 0


def how_it_died(error: Exception) -> str:
    """What ended a worker, in words."""
    if not isinstance(error, pebble.ProcessExpired):
        return f"{type(error).__name__}: {error}"
    code = error.exitcode
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _run_claimed(claim: str, *arguments: Any) -> list[Evaluation]:
    """`run_chunk`, after leaving word of who does it."""
    Path(claim).write_text(str(os.getpid()))
    return run_chunk(*arguments)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _start_worker(host: int, folder: str, payload: Payload, gpus: int) -> None:
    """Ctrl-C belongs to the host, which ends the workers itself; a worker whose host is gone tidies up and ends too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def watch() -> None:
        pause = threading.Event()
        while os.getppid() == host:
            pause.wait(1.0)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if gpus > 1:
        take_gpu(Path(folder), gpus)
    # What is done once per process must not count against the first candidate's deadline.
    importlib.import_module("torch._dynamo")  # by torch.optim at its first step, and it takes seconds
    with suppress(TaskError):  # said again where it can be answered to
        rebuilt(payload)


# A spawned child normally imports the parent's `__main__`, which would run a user's unguarded script again in every
# worker. Tasks travel by value, so the child does not need it: these classes leave it out. The child also inherits that
# Ctrl-C waits, so that one pressed while it still imports brings no traceback from every worker.
_launch_lock = threading.Lock()


@contextmanager
def _alone() -> Iterator[None]:
    with _launch_lock:
        original = multiprocessing.spawn.get_preparation_data

        def preparation_data(name: str) -> dict[str, Any]:
            data = original(name)
            return {k: v for k, v in data.items() if not k.startswith("init_main")}

        multiprocessing.spawn.get_preparation_data = preparation_data
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            multiprocessing.spawn.get_preparation_data = original


class _MainlessProcess(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # the hook multiprocessing offers for this
        with _alone():
            return multiprocessing.popen_spawn_posix.Popen(process_obj)


class _MainlessContext(SpawnContext):
    Process = _MainlessProcess
