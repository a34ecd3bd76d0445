"""One process per GPU, on machines that have none: which GPU is chosen is recorded, not used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_tasks import small_task

from lossmith.evaluation import Plan, gpu_places, worker_memory
from lossmith.evaluation.gpu_places import take_gpu
from lossmith.evaluation.workers import Workers

TAKE = """
import sys
from pathlib import Path
import torch
from lossmith.evaluation.gpu_places import take_gpu

torch.cuda.set_device = lambda index: None
print(take_gpu(Path(sys.argv[1]), 3), flush=True)
sys.stdin.read()  # until the test lets go
"""


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", found.append)
    monkeypatch.setattr(gpu_places, "_taken", [])
    return found


def test_every_gpu_once_before_any_twice(tmp_path: Path, chosen: list[int]) -> None:
    assert [take_gpu(tmp_path / "places", 3) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert chosen == [0, 1, 2, 0, 1, 2, 0]
    for descriptor in gpu_places._taken:
        os.close(descriptor)


def test_the_place_of_a_dead_worker_is_free(tmp_path: Path, chosen: list[int]) -> None:
    command = [sys.executable, "-c", TAKE, str(tmp_path)]
    others = []
    for expected in ("0\n", "1\n"):
        others.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert others[-1].stdout.readline() == expected
    others[0].kill()
    others[0].communicate()
    assert take_gpu(tmp_path, 3) == 0
    assert take_gpu(tmp_path, 3) == 2
    others[1].communicate()
    for descriptor in gpu_places._taken:
        os.close(descriptor)


@pytest.mark.parametrize(("device", "gpus", "workers"), [("cuda", 3, 3), ("cuda:1", 1, 1), ("cpu", 0, 5)])
def test_workers_are_told_how_many_gpus_there_are(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, workers: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(worker_memory, "usable_cores", lambda: 5)
    monkeypatch.setattr(worker_memory, "available_memory", lambda: 2**40)
    monkeypatch.setattr(Workers, "_new_pool", lambda self: None)  # starts nothing
    executor = Workers(small_task(), "all", Plan(device=device))
    assert (executor.workers, executor._gpus) == (workers, gpus)
    executor._folder.cleanup()
