"""Cores and memory on pretended machines: control groups are files, so they can be written."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from lossmith.evaluation import machine
from lossmith.evaluation.machine import available_memory, usable_cores

GIB = 2**30


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 cores and 100 GiB free, in no control group."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100 * GIB))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    (tmp_path / "cgroup").mkdir()
    return tmp_path


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_a_machine_without_limits(root: Path) -> None:
    assert (usable_cores(), available_memory()) == (64, 100 * GIB)
    (root / "own").write_text("0::/user.slice\n")
    write(root / "cgroup/user.slice", memory__max="max", memory__current=GIB, cpu__max="max 100000")
    assert (usable_cores(), available_memory()) == (64, 100 * GIB)


def test_where_there_is_no_affinity(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


def test_a_container_of_version_2(root: Path) -> None:
    (root / "own").write_text("0::/box/inner\n")
    write(root / "cgroup/box/inner", memory__max="max", memory__current=0, cpu__max="max 100000")
    stat = f"anon 5\ninactive_file {GIB}"
    write(root / "cgroup/box", memory__max=8 * GIB, memory__current=3 * GIB, memory__stat=stat)
    write(root / "cgroup/box", cpu__max="250000 100000")
    assert available_memory() == 6 * GIB  # 8 − 3, and what the kernel would give back
    assert usable_cores() == 2
    write(root / "cgroup/box", cpu__max="50000 100000")
    assert usable_cores() == 1


def test_a_container_of_version_1(root: Path) -> None:
    """Inside it only the top of each hierarchy is seen, under a path that is not there."""
    (root / "own").write_text("9:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/\n")
    write(root / "cgroup/memory", memory__limit_in_bytes=4 * GIB, memory__usage_in_bytes=5 * GIB)
    write(root / "cgroup/cpu", **{"cpu__cfs_quota_us": 400000, "cpu__cfs_period_us": 100000})
    assert available_memory() == 0
    assert usable_cores() == 4
    write(root / "cgroup/cpu", **{"cpu__cfs_quota_us": -1})
    write(root / "cgroup/memory", memory__limit_in_bytes=9223372036854771712)  # no limit, as the kernel writes it
    assert (usable_cores(), available_memory()) == (64, 100 * GIB)


def test_this_machine() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    assert 2**20 < available_memory() <= psutil.virtual_memory().total
