"""Executors other than our own workers: this process, threads, process pools, other libraries' futures."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest
from small_tasks import small_task

from lossmith.errors import LossmithError, SpecError, TaskError
from lossmith.evaluation import Plan, make_executor, run_requests
from lossmith.evaluation.executors import Foreign, InProcess
from lossmith.evaluation.payload import Payload, pack, run_chunk
from lossmith.losses import loss, to_json
from lossmith.records import Evaluation, Request
from lossmith.tasks import Task

PLAN = Plan()
REQUESTS = [Request(to_json(loss(name)), seed) for name in ("cross_entropy", "baikal") for seed in range(2)]


def metrics_of(executor: Any, requests: list[Request] = REQUESTS) -> dict[str, Any]:
    found: list[Evaluation] = [e for chunk in run_requests(requests, executor, PLAN) for e in chunk]
    assert all(e.status.ok for e in found), [e.status for e in found]
    return {e.request: e.metrics for e in found}


def test_which_executor() -> None:
    task = small_task()
    for nobody in (None, 0):
        assert isinstance(make_executor(task, workers=nobody), InProcess)
    with ThreadPoolExecutor(1) as pool:
        foreign = make_executor(task, executor=pool)
        assert isinstance(foreign, Foreign)
        assert foreign.workers == 1
        assert make_executor(task, executor=pool, workers=3).workers == 3
        foreign.close()
        assert pool.submit(int).result() == 0  # it belongs to the user and stays open
    with pytest.raises(SpecError, match="workers -1: use a number >= 1"):
        make_executor(task, workers=-1)


def test_in_this_process_work_is_done_on_the_object_itself() -> None:
    calls: list[int] = []
    task = Task.from_function(lambda loss, trial: calls.append(trial.seed) or 0.5, outputs=3)
    executor = InProcess(task)
    future = executor.submit_chunk(REQUESTS[:2], PLAN)
    assert future.done()
    assert calls == [0, 1]
    assert [e.worker for e in future.result()] == ["", ""]
    assert not executor.lost(future)
    executor.close(kill=True)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_pool_of_threads(threads: int) -> None:
    task = small_task(steps=20)
    with ThreadPoolExecutor(threads) as pool:
        assert metrics_of(make_executor(task, executor=pool, workers=threads)) == metrics_of(InProcess(task))


def test_a_pool_of_processes() -> None:
    task = small_task(steps=20, model=lambda seed: small_task().model(seed))  # a lambda does not pickle by name
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        executor = make_executor(task, executor=pool)
        assert metrics_of(executor) == metrics_of(InProcess(task))
        (done,) = executor.submit_chunk(REQUESTS[:1], PLAN).result()
        assert done.worker not in ("", str(os.getpid()))
        kill = Task.from_function(lambda loss, trial: os._exit(1), outputs=3)
        with pytest.raises(LossmithError, match=r"takes no more work \(BrokenProcessPool.*workers=N"):
            list(run_requests(REQUESTS, make_executor(kill, executor=pool), PLAN))
    with pytest.raises(LossmithError, match="takes no more work"):
        executor.submit_chunk(REQUESTS, PLAN)
    assert issubclass(BrokenProcessPool, RuntimeError)


class Job:
    """A future as other libraries have them: `result()` waits, `cancel()` cancels, and that is all."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.outcome: Future[Any] = Future()
        self.cancelled = False

        def do() -> None:
            time.sleep(0.01)
            try:
                self.outcome.set_result(work())
            except BaseException as error:
                self.outcome.set_exception(error)

        threading.Thread(target=do, daemon=True).start()

    def result(self) -> Any:
        return self.outcome.result()

    def cancel(self) -> None:
        self.cancelled = True


class OtherLibrary:
    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Job:
        self.jobs.append(Job(lambda: fn(*args)))
        return self.jobs[-1]


def test_another_librarys_futures() -> None:
    task = small_task(steps=20)
    other = OtherLibrary()
    assert metrics_of(make_executor(task, executor=other, workers=2)) == metrics_of(InProcess(task))
    assert len(other.jobs) == 4
    slow = Task.from_function(lambda loss, trial: time.sleep(0.2) or 0.5, outputs=3)
    future = make_executor(slow, executor=other).submit_chunk(REQUESTS[:1], PLAN)
    assert future.cancel()
    assert other.jobs[-1].cancelled
    other.jobs[-1].result()  # the late answer disturbs nobody


def test_another_librarys_failures() -> None:
    def submit(fn: Callable[..., Any], /, *args: Any) -> Job:
        return Job(lambda: 1 / 0)

    other = OtherLibrary()
    other.submit = submit  # type: ignore[method-assign]
    (chunk,) = run_requests(REQUESTS[:1], make_executor(small_task(), executor=other), PLAN)
    assert str(chunk[0].status) == "crashed"
    assert chunk[0].status.sentence == "its worker died twice: ZeroDivisionError: division by zero"


def test_a_task_that_cannot_travel() -> None:
    lock = threading.Lock()
    task = Task.from_function(lambda loss, trial: lock.locked(), outputs=3)
    for options in ({"workers": 1}, {"executor": OtherLibrary()}):
        with pytest.raises(TaskError, match=r"cannot be sent to another process \(TypeError: .*lock.*workers=None"):
            make_executor(task, **options)  # type: ignore[arg-type]


class Unreadable:
    """Pickles, and cannot be read again."""

    def __reduce__(self) -> Any:
        return (int, ("no number",))


def test_a_task_that_cannot_be_rebuilt() -> None:
    content = pack(Unreadable())  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="cannot be rebuilt in a worker process \\(ValueError: invalid literal"):
        run_chunk(Payload("none", None, content), REQUESTS, PLAN)
    with pytest.raises(TaskError, match="cannot be rebuilt in a worker process \\(FileNotFoundError"):
        run_chunk(Payload("none", "/nowhere/task", None), REQUESTS, PLAN)
