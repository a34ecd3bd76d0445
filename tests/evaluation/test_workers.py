"""Local worker processes: the same bits as here, and what becomes of candidates that kill, leave or hang theirs."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_tasks import dropout_network, small_task
from torch import nn

from lossmith.errors import LossmithError, SpecError
from lossmith.evaluation import Plan, make_executor, run_requests
from lossmith.evaluation.executors import InProcess
from lossmith.evaluation.workers import MOST_RESTARTS, Workers, how_it_died
from lossmith.losses import loss, to_json
from lossmith.records import Evaluation, Request
from lossmith.tasks import Task, Trial

CE = to_json(loss("cross_entropy"))
DIE, HANG, EXIT = 901, 902, 903  # seeds on which the training function misbehaves


def scripted(folder: Path) -> Task:
    """Trains a small task for most seeds. DIE leaves with exit code 0 at first, then it dies by a signal."""
    inner = small_task(steps=20, model=dropout_network)
    from lossmith.training import Training, train

    def function(criterion: nn.Module, trial: Trial) -> float:
        note = folder / f"{trial.seed}"
        first = not note.exists()
        with note.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if trial.seed == DIE and first:
            os._exit(0)  # pebble takes this for an orderly end and would wait for the answer for ever
        if trial.seed == DIE:
            os.kill(os.getpid(), signal.SIGKILL)
        if trial.seed == HANG:
            time.sleep(600)
        if trial.seed == EXIT:
            sys.exit(3)
        return train(inner, criterion, Training(trial.seed, 20)).metrics["fitness"]  # type: ignore[arg-type]

    return Task.from_function(function, outputs=3, metric=("error", "min"))


def answers(requests: list[Request], executor: Any, plan: Plan) -> dict[int, Evaluation]:
    seeds = {request.key: request.seed for request in requests}
    found = [e for chunk in run_requests(requests, executor, plan) for e in chunk]
    assert len(found) == len(requests)
    return {seeds[e.request]: e for e in found}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attempts")


@pytest.fixture(scope="module")
def workers(folder: Path) -> Iterator[Workers]:
    executor = Workers(scripted(folder), 2)
    yield executor
    executor.close(kill=True)


def test_a_candidate_costs_no_other_than_itself(workers: Workers, folder: Path) -> None:
    healthy = list(range(6))
    requests = [Request(CE, seed) for seed in (0, DIE, 1, 2, HANG, 3, EXIT, 4, 5)]
    started = time.monotonic()
    found = answers(requests, workers, Plan(deadline=6.0))
    assert time.monotonic() - started < 300  # the hung one sleeps for 600
    alone = answers([Request(CE, seed) for seed in healthy], InProcess(scripted(folder)), Plan())
    for seed in healthy:
        assert found[seed].status.ok
        assert found[seed].metrics == alone[seed].metrics  # the same bits
        assert found[seed].worker not in ("", str(os.getpid()))
    assert len({alone[seed].metrics["fitness"] for seed in healthy}) > 1
    assert (str(found[DIE].status), found[DIE].attempt) == ("crashed", 2)
    assert found[DIE].status.sentence == "its worker died twice: killed by SIGKILL"
    assert (str(found[HANG].status), found[HANG].attempt) == ("timed_out", 1)
    assert found[HANG].status.sentence == "gave up after the deadline of 6 s"
    assert (str(found[EXIT].status), found[EXIT].attempt) == ("crashed", 1)
    assert found[EXIT].status.sentence == "SystemExit: 3"
    processes = {seed: (folder / f"{seed}").read_text().split() for seed in (DIE, HANG)}
    assert {seed: len(pids) for seed, pids in processes.items()} == {DIE: 2, HANG: 1}
    for pid in (*processes[DIE], *processes[HANG]):
        with pytest.raises(ProcessLookupError):  # the hung one was ended
            os.kill(int(pid), 0)


def test_results_do_not_depend_on_chunks_or_order(workers: Workers) -> None:
    requests = [Request(CE, seed, budget=0.5) for seed in range(5)]
    one_by_one = answers(requests, workers, Plan(chunk=1))
    in_twos = answers(requests[::-1], workers, Plan(chunk=2))
    assert {s: e.metrics for s, e in one_by_one.items()} == {s: e.metrics for s, e in in_twos.items()}


class Slow(nn.Module):
    """Hangs in the first forward pass outside this process, then never again."""

    def __init__(self, marker: Path, host: int) -> None:
        super().__init__()
        self.layer, self.marker, self.host = nn.Linear(6, 3), marker, host

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if os.getpid() != self.host and not self.marker.exists():
            self.marker.touch()
            time.sleep(600)
        out: torch.Tensor = self.layer(x)
        return out


def test_a_chunk_past_its_deadline_is_trained_one_by_one(tmp_path: Path) -> None:
    marker, host = tmp_path / "hung", os.getpid()
    task = small_task(steps=5, model=lambda seed: Slow(marker, host))
    requests = [Request(to_json(loss(name)), 0) for name in ("cross_entropy", "mse", "focal")]
    executor = Workers(task, 1)
    try:
        plan = Plan(engine="population", chunk=3, deadline=2.0)
        found = [e for chunk in run_requests(requests, executor, plan) for e in chunk]
    finally:
        executor.close(kill=True)
    assert [(str(e.status), e.steps) for e in found] == [("ok", 5)] * 3
    assert len({e.worker for e in found}) == 1  # the one that came after the hung one


def test_what_tidies_up_temporary_files_does_no_harm(workers: Workers) -> None:
    workers._file.unlink()
    (found,) = answers([Request(CE, 1)], workers, Plan()).values()
    assert found.status.ok
    assert workers._file.exists()


def test_everything_is_gone_afterwards(folder: Path) -> None:
    executor = Workers(scripted(folder), 1)
    place = Path(executor._folder.name)
    assert (place / "task").exists()
    assert place.stat().st_mode & 0o077 == 0  # nobody else can change what workers unpickle
    executor.close()
    assert not place.exists()
    executor.close()  # a second time does no harm
    gc.collect()  # a folder left behind would warn here, and warnings are errors


def test_workers_that_cannot_start_end_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = Workers(scripted(folder), 1)
    made: list[None] = []

    class Broken:
        def schedule(self, *args: Any, **keywords: Any) -> None:
            raise RuntimeError("Unexpected error within the Pool")

        def stop(self) -> None: ...

        def close(self) -> None: ...

        def join(self) -> None: ...

    def new_pool() -> Broken:
        made.append(None)
        return Broken()

    monkeypatch.setattr(executor, "_pool", Broken())
    monkeypatch.setattr(executor, "_new_pool", new_pool)
    with pytest.raises(LossmithError, match="end as soon as they are started"):
        list(run_requests([Request(CE, 0)], executor, Plan()))
    assert len(made) == MOST_RESTARTS
    executor.close(kill=True)


def test_at_least_one_worker() -> None:
    with pytest.raises(SpecError, match="workers 0: use a number >= 1"):
        Workers(small_task(), 0)
    with pytest.raises(SpecError):
        make_executor(small_task(), workers=-2)


def test_how_workers_die() -> None:
    import pebble

    assert how_it_died(pebble.ProcessExpired("Abnormal termination", code=-11)) == "killed by SIGSEGV"
    assert how_it_died(pebble.ProcessExpired("Abnormal termination", code=3)) == "exit code 3"
    assert how_it_died(OSError("broken pipe")) == "OSError: broken pipe"


def test_this_process_keeps_its_random_state_and_threads(workers: Workers) -> None:
    before = torch.get_rng_state()
    answers([Request(CE, 2)], workers, Plan(threads=2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == 1


def test_a_pool_that_breaks_is_built_anew(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "workers", 1)  # the new one can be smaller
    for pid in list(workers._pool._pool_manager.worker_manager.workers):
        os.kill(pid, signal.SIGKILL)  # while they have nothing to do: pebble gives up
    deadline = time.monotonic() + 30
    while workers._pool.active and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not workers._pool.active
    (found,) = answers([Request(CE, 0)], workers, Plan()).values()
    assert found.status.ok
