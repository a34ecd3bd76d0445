"""What an EvoMAL search costs, and where: screening, tuning, training.

    python benchmarks/search.py [GENERATIONS] [TASK] [FOLDER] [float32 | bfloat16]

EvoMAL, population 25, on digits/mlp2 (the published comparison), in this process on one thread. Costs are CPU seconds,
so that other work on the machine counts little. With few generations it also runs the search the published way, tuning
first and rejecting after, and prints what screening first saves. 50 generations make the full search, 1,250 candidates:
a few minutes on digits/mlp2, up to an hour on digits/lenet5.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch

import lossmith as lm
from lossmith.evaluation import Plan
from lossmith.experiment.events import Event, GenerationFinished, PhaseStarted

TWICE_UP_TO = 5  # generations, up to which the search is also run the other way round
FULL = 50  # generations of the full search, for which the goals are set
GOALS = {"digits/mlp2": (4.0, 0.45, 70), "digits/lenet5": (60.0, 10.0, 380)}  # core-minutes, per candidate, published
PHASES = {"screen": "screening", "tune": "tuning", "search": "training", "elite": "elites"}


@dataclass
class Clock:
    """A listener that says where CPU time goes: everything between two phases belongs to the first."""

    generations: list[Counter[str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    trained: int = 0
    tuned: int = 0
    spent: Counter[str] = field(default_factory=Counter)  # in this generation
    phase: str = ""  # "" before the first and between generations
    since: float = field(default_factory=time.process_time)

    def __call__(self, event: Event) -> None:
        if isinstance(event, PhaseStarted):
            self._charge(event.phase)
            self.trained += event.total if event.phase == "search" else 0
            self.tuned += event.total if event.phase == "tune" else 0
        elif isinstance(event, GenerationFinished):
            self._charge("ask")
            self.counts.update(event.counts)
            self.generations.append(self.spent)
            self.spent = Counter()

    def _charge(self, following: str) -> None:
        now = time.process_time()
        if self.phase:
            self.spent[self.phase] += now - self.since
        self.phase, self.since = following, now

    @property
    def total(self) -> float:
        """CPU seconds of all generations: without the pilot before them and the finalists after."""
        return sum(generation.total() for generation in self.generations)


def searched(task: str, generations: int, screen: str, folder: Path, dtype: str) -> Clock:
    """One search, timed."""
    clock = Clock()
    run = lm.search(
        "evomal", task, generations=generations, seed=0, path=folder / f"evomal-{screen.replace(',', '-')}",
        settings={"screen": screen}, finalists=1, finalist_seeds=1, listeners=[clock], dtype=dtype,
    )  # fmt: skip
    print(f"{Plan(**run.spec.plan).describe()}\n")
    return clock


def report(clock: Clock, generations: int, task: str) -> None:
    """Seconds per generation, shares, and the two numbers the field compares."""
    print("generation  " + "  ".join(f"{name:>9}" for name in PHASES.values()) + "      all")
    for number, spent in enumerate(clock.generations):
        if generations <= 10 or number % 5 == 0:
            parts = "  ".join(f"{spent[phase]:7.2f} s" for phase in PHASES)
            print(f"{number:10}  {parts}  {spent.total():5.2f} s")
    for phase, name in PHASES.items():
        print(f"share of {name}: {sum(g[phase] for g in clock.generations) / clock.total:.0%}")
    candidates = generations * 25
    print(f"candidates: {candidates}, of them tuned {clock.tuned}, trained {clock.trained}")
    print(f"kept (trained of all): {clock.trained / candidates:.0%}")
    print("how they ended: " + ", ".join(f"{count} {status}" for status, count in sorted(clock.counts.items())))
    minutes, each = clock.total / 60, clock.total / max(1, clock.trained)
    print(f"core-minutes: {minutes:.2f}")
    print(f"core-seconds per fully evaluated candidate: {each:.3f}")
    if generations == FULL and task in GOALS:
        most, most_each, published = GOALS[task]
        met = ["met" if value <= goal else "missed" for value, goal in ((minutes, most), (each, most_each))]
        print(f"goals: {most:g} core-minutes ({met[0]}), {most_each:g} core-seconds ({met[1]})")
        print(f"the published code takes about {published} core-minutes: {published / minutes:.0f} times as long")


def main(generations: int, task: str, folder: Path, dtype: str) -> None:
    torch.set_num_threads(1)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"EvoMAL on {task}, population 25; {platform.machine()}, torch {torch.__version__}, commit {commit}\n")
    first = searched(task, generations, "before,after", folder, dtype)
    report(first, generations, task)
    if generations <= TWICE_UP_TO:
        print("\ntuning first, rejecting after (the published order):\n")
        second = searched(task, generations, "after", folder, dtype)
        report(second, generations, task)
        print(f"\ntuning first costs {second.total / first.total:.2f} times as much as screening first")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as place:
        main(
            int(arguments[0]) if arguments else 3,
            arguments[1] if len(arguments) > 1 else "digits/mlp2",
            Path(arguments[2] if len(arguments) > 2 else place),
            arguments[3] if len(arguments) > 3 else "float32",
        )
