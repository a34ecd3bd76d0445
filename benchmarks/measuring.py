"""How the benchmarks measure: contestants in turn, round after round in one process; printed as Markdown tables."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch

Clock = Callable[[], float]
Run = Callable[[int, Callable[[int], None]], None]  # does so many steps and calls back with the number done after each

WARM = 2  # steps at the start of every training that are not timed: allocations, first touches


def one_core() -> None:
    """This process on one core with one thread, denormals flushed, as evaluation processes are."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def clock_of(device: str) -> Clock:
    """CPU seconds, so that other work on the machine counts little; on a GPU wall seconds once it has caught up."""
    if torch.device(device).type == "cpu":
        return time.process_time

    def caught_up() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return caught_up


def seconds_per_step(run: Run, steps: int, clock: Clock = time.process_time) -> float:
    """Seconds of one step, from a run of `steps` after a few that are not timed."""
    at: list[float] = []
    edges = (WARM, WARM + steps)
    run(WARM + steps, lambda done: at.append(clock()) if done in edges else None)
    return (at[1] - at[0]) / steps


def interleaved(
    runs: Mapping[str, Run], *, rounds: int, seconds: float, clock: Clock = time.process_time
) -> dict[str, list[float]]:
    """Seconds per step of every run in every round, the runs taking turns (A B C A B C …).

    Args:
        seconds: of steps timed per run and round, about.
    """
    # The calibration also compiles, fills caches and grows the heap.
    steps = {name: max(1, round(seconds / seconds_per_step(run, 1, clock))) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds_per_step(run, steps[name], clock))
    return times


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """How many times faster: the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def product(dtype: torch.dtype, device: str = "cpu", size: int = 512) -> Run:
    """A step is one product of two square matrices, 2·size³ floating-point operations."""
    a, b = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)

    def run(steps: int, on_step: Callable[[int], None]) -> None:
        for done in range(1, steps + 1):
            torch.mm(a, b, out=out)
            on_step(done)

    return run


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned, numbers to the right but for the first column."""
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [i > 0 and all(row[i][:1] in "0123456789.-–" for row in lines[1:]) for i in range(len(header))]
    rule = ["-" * (width - 1) + ":" if is_right else "-" * width for width, is_right in zip(widths, right, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
        return f"| {' | '.join(padded)} |"

    return "\n".join([line(lines[0]), line(rule), *map(line, lines[1:])])


def where(device: str = "cpu") -> str:
    """Machine, versions and commit, for the foot of a table."""
    git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    name = models[0].split(":")[1].strip() if models else platform.machine()
    gpu = f"{torch.cuda.get_device_name(device)}, " if torch.device(device).type == "cuda" else ""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{gpu}{name}, {os.cpu_count()} cores, {versions}, commit {git.stdout.strip() or 'unknown'}"
