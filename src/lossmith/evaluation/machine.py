"""What this process may use of its machine: cores and memory, as the container it may run in allows them.

Reference: Linux kernel documentation, admin-guide/cgroup-v2 (memory.max, cpu.max) and cgroup-v1 (memory, cpu).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Cores this process may run on, at least 1: not those it is not scheduled on, nor more than its quota."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    return max(1, int(min(cores, _cpu_quota())))


def available_memory() -> int:
    """Bytes that can be taken without swapping, and without passing the limit of a container."""
    free = [int(psutil.virtual_memory().available)]
    for folder in _own_folders("memory"):
        limit = _number(folder / "memory.max", folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current", folder / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            free.append(max(0, limit - used + _given_back(folder)))
    return min(free)


def _cpu_quota() -> float:
    """Cores' worth of time that the container allows, infinite where it sets no limit."""
    quotas = [math.inf]
    for folder in _own_folders("cpu"):
        text = _text(folder / "cpu.max").split()
        both = text if len(text) == 2 else [_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        if both[0].isdigit() and both[1].isdigit() and int(both[1]):  # "max" and -1 are no limit
            quotas.append(max(1.0, int(both[0]) / int(both[1])))
    return min(quotas)


def _own_folders(controller: str) -> Iterator[Path]:
    """The control groups of this process and those above it; inside a container only the top one may be seen."""
    for line in _text(OWN_CGROUPS).splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number != "0" and controller not in controllers.split(","):
            continue
        root = CGROUPS if number == "0" else CGROUPS / controller
        own = Path(path.lstrip("/"))
        yield from (root / part for part in (own, *own.parents))


def _given_back(folder: Path) -> int:
    """Bytes of files that the kernel holds in memory as long as nobody else needs it: they count as used."""
    for line in _text(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and value.isdigit():
            return int(value)
    return 0


def _number(*places: Path) -> int | None:
    texts = [_text(place) for place in places]
    return next((int(text) for text in texts if text.isdigit()), None)


def _text(place: Path) -> str:
    try:
        return place.read_text().strip()
    except OSError:
        return ""
