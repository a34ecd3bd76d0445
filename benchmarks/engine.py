"""How fast is the population path on one core? Against Lossmith's own loop and the loop of research repositories.

    python benchmarks/engine.py [--quick] [--only NETWORK …]

Four networks, batch 128, random loss trees of 22 nodes. Every round times every contestant once, in turn, in CPU
seconds; ratios are medians over the rounds. The population's size P is chosen in a sweep before, so that the table does
not pick the luckiest of many. bfloat16 is compared with the loops in float32, which is what it replaces. About eight
minutes; --quick one, for a look.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import torch
from contestants import CASES, Case, population, repository, roots, sequential
from measuring import Run, interleaved, one_core, product, ratio, table, where

import lossmith as lm
from lossmith.evaluation import make_plan
from lossmith.losses import Loss, Tree

BFLOAT16_PAYS = 1.2  # times faster products, from which a CPU is taken to have bfloat16
DTYPES = ("float32", "bfloat16")
PATHS = {"sequential": "sequential", "population": "population", "compiled": "population, compiled"}


@dataclass(frozen=True)
class Effort:
    """Rounds, and seconds per contestant and round, of the table and of the sweeps before."""

    rounds: int
    seconds: float
    sweep_rounds: int
    sweep_seconds: float


FULL, QUICK = Effort(9, 0.5, 3, 0.3), Effort(3, 0.1, 1, 0.05)


def sweep(case: Case, effort: Effort, dtype: str) -> dict[int, float]:
    """Population size → seconds per candidate and step."""
    task, trees = case.task(), roots(case.most)
    losses = [Loss(Tree(root)) for root in trees]
    sizes = [2**k for k in range(8) if 2**k <= case.most]
    sizes = sizes[1:-1:2] if effort is QUICK else sizes
    runs: dict[str, Run] = {str(size): population(task, losses[:size], dtype=dtype) for size in sizes}
    times = interleaved(runs, rounds=effort.sweep_rounds, seconds=effort.sweep_seconds)
    return {size: median(times[str(size)]) / size for size in sizes}


def contest(case: Case, best: Mapping[str, int], effort: Effort) -> dict[str, list[float]]:
    """Seconds per candidate and step of every contestant in every round; of the products, per operation."""
    task, trees = case.task(), roots(32)
    losses = [Loss(Tree(root)) for root in trees]
    runs: dict[str, Run] = {"repository": repository(task, trees), "published": repository(task, trees, published=True)}
    share = {name: 1.0 for name in runs}
    for dtype in DTYPES:
        size = best[dtype]
        many = [losses[i % len(losses)] for i in range(size)]
        if compiles(case, task, many, dtype):
            runs[f"compiled {dtype}"] = population(task, many, compile=True, dtype=dtype)
            share[f"compiled {dtype}"] = size
        runs |= {
            f"sequential {dtype}": sequential(task, losses, dtype=dtype),
            f"population {dtype}": population(task, many, dtype=dtype),
            f"products {dtype}": product(getattr(torch, dtype)),
        }
        share |= {f"sequential {dtype}": 1.0, f"population {dtype}": size, f"products {dtype}": 2 * 512**3}
    times = interleaved(runs, rounds=effort.rounds, seconds=effort.seconds)
    return {name: [second / share[name] for second in seconds] for name, seconds in times.items()}


def compiles(case: Case, task: lm.Task, losses: list[Loss], dtype: str) -> bool:
    """Whether torch compiles the steps; not tried for images, where it takes minutes and gains nothing."""
    if len(case.shape) > 1:
        return False
    obstacles: list[str] = []
    population(task, losses, say=obstacles.append, compile=True, dtype=dtype)(2, lambda done: None)
    for obstacle in obstacles:
        print(f"{case.name} is not compiled: {obstacle}")
    return not obstacles


def rows(case: Case, best: Mapping[str, int], times: Mapping[str, list[float]]) -> list[list[str]]:
    """The rows of one network in the table of goals."""
    found = []
    for dtype in DTYPES:
        goal = case.goal if dtype == "float32" else case.goal_bfloat16
        pays = ratio(times["products float32"], times[f"products {dtype}"]) > BFLOAT16_PAYS
        here = [path for path in PATHS if f"{path} {dtype}" in times]
        paths = {path: ratio(times["repository"], times[f"{path} {dtype}"]) for path in here}
        for path, against_b in paths.items():
            own = times[f"{path} {dtype}"]
            judged = goal and path == max(paths, key=paths.__getitem__) and (dtype == "float32" or pays)
            found.append(
                [
                    case.name,
                    dtype,
                    PATHS[path],
                    "1" if path == "sequential" else str(best[dtype]),
                    f"{median(own) * 1e6:.0f}",
                    f"{ratio(times['sequential float32'], own):.2f}",
                    f"{against_b:.2f}",
                    f"{ratio(times['published'], own):.2f}",
                    f"{case.operations() * median(times[f'products {dtype}']) / median(own):.0%}",
                    f"{goal:.1f}" if judged else "–",
                    ("yes" if against_b >= goal else "**no**") if judged else "–",
                ]
            )
    return found


def against_size(sweeps: Mapping[tuple[Case, str], Mapping[int, float]]) -> str:
    """The sweeps as a table."""
    sizes = sorted({size for one in sweeps.values() for size in one})
    lines = [
        [case.name, dtype, *(f"{one[size] * 1e6:.0f}" if size in one else "–" for size in sizes)]
        for (case, dtype), one in sweeps.items()
    ]
    return table(("network", "dtype", *(f"P = {size}" for size in sizes)), lines)


HEADER = (
    "network", "dtype", "path", "P", "µs per candidate-step", "× (a)", "× (b)", "× published", "of ceiling",
    "goal × (b)", "met",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two minutes instead of ten")
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES], help="these networks")
    arguments = parser.parse_args()
    one_core()
    effort = QUICK if arguments.quick else FULL
    cases = [case for case in CASES if arguments.only is None or case.name in arguments.only]
    print(f"{where()}, one thread on one core, {effort.rounds} rounds\n")
    sweeps = {(case, dtype): sweep(case, effort, dtype) for case in cases for dtype in DTYPES}
    # A stack of one is no population: where none is faster, the row of the sequential path shows it.
    best = {
        case: {
            dtype: min((p for p in sweeps[case, dtype] if p > 1), key=sweeps[case, dtype].__getitem__)
            for dtype in DTYPES
        }
        for case in cases
    }
    lines: list[list[str]] = []
    ceilings: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    for case in cases:
        times = contest(case, best[case], effort)
        lines += rows(case, best[case], times)
        for dtype in DTYPES:
            ceilings[dtype] += times[f"products {dtype}"]
    print(table(HEADER, lines))
    print("\n(a) Lossmith's sequential loop; (b) the loop of research repositories; both float32. Products of 512×512:")
    print(", ".join(f"{1e-9 / median(seconds):.0f} GFLOP/s in {dtype}" for dtype, seconds in ceilings.items()))
    print("\nWhat the plan's rule chooses:")
    print("\n".join(f"- {case.name}: {make_plan(case.task()).describe()}" for case in cases))
    print("\nCost against the size of the population, µs per candidate and step:\n")
    print(against_size(sweeps))


if __name__ == "__main__":
    main()
