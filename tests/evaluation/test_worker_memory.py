from __future__ import annotations

import pytest
import torch
from small_tasks import small_task

from lossmith.errors import SpecError
from lossmith.evaluation import Plan, count_workers, make_executor, worker_memory
from lossmith.evaluation.model_work import model_work
from lossmith.evaluation.worker_memory import BASE, CUDA_BASE, MIB, worker_bytes
from lossmith.tasks import Task


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """10 GiB free, 8 cores, 3 GPUs, and 1000 MiB per worker."""
    monkeypatch.setattr(worker_memory, "available_memory", lambda: 10_000 * MIB)
    monkeypatch.setattr(worker_memory, "usable_cores", lambda: 8)
    monkeypatch.setattr(worker_memory, "worker_bytes", lambda task, plan, packed: 1000 * MIB)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    return monkeypatch


def test_what_a_worker_takes() -> None:
    task = small_task()
    each = model_work(task).bytes
    assert worker_bytes(task, Plan(), 5 * MIB) == BASE + 10 * MIB + each
    assert worker_bytes(task, Plan(engine="population", chunk=16), 0) == BASE + 16 * each
    assert worker_bytes(task, Plan(device="cuda", chunk=16), 0) == BASE + CUDA_BASE  # its chunk is elsewhere
    function = Task.from_function(lambda loss, trial: 0.5, outputs=3)
    assert worker_bytes(function, Plan(), 0) == BASE


def test_one_worker_per_core_or_gpu(room: pytest.MonkeyPatch) -> None:
    task = small_task()
    assert count_workers("all", task, Plan(), 0) == 8
    assert count_workers("all", task, Plan(device="cuda"), 0) == 3
    assert count_workers("all", task, Plan(device="cuda:2"), 0) == 1
    room.setattr(worker_memory, "available_memory", lambda: 4_500 * MIB)
    assert count_workers("all", task, Plan(), 0) == 4  # nobody asked for more
    room.setattr(worker_memory, "available_memory", lambda: 0)
    assert count_workers("all", task, Plan(), 0) == 1


def test_more_workers_than_memory_allows(room: pytest.MonkeyPatch) -> None:
    task = small_task()
    assert count_workers(10, task, Plan(), 0) == 10
    with pytest.raises(SpecError, match=r"workers = 64: each takes about 1,000 MiB .* 10,000 MiB are available"):
        count_workers(64, task, Plan(), 0)
    with pytest.raises(SpecError, match="10 fit: use --workers 10"):
        make_executor(task, workers=64)
    room.setattr(worker_memory, "available_memory", lambda: 1_200 * MIB)
    with pytest.raises(SpecError, match="1 fits: use --workers 1"):
        count_workers(2, task, Plan(), 0)
    room.setattr(worker_memory, "available_memory", lambda: 0)
    with pytest.raises(SpecError, match="0 fit: use --workers 0, which trains in this process"):
        count_workers(1, task, Plan(), 0)
