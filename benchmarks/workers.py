"""Are two workers on two cores twice as fast as one?

    python benchmarks/workers.py [--quick]

The same partial trainings of digits/mlp through one and through two warm local workers, in turn, in wall seconds.
Beside it the ceiling of the machine in the same rounds: two processes, each on a core of its own, that multiply
matrices, against one. About two minutes.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median

import torch
from contestants import LR_SCALE, roots
from measuring import ratio, table, where

from lossmith.evaluation import AnyExecutor, Plan, make_executor, make_plan, run_requests
from lossmith.losses import Loss, Tree, to_json
from lossmith.records import Request
from lossmith.tasks.builtin import task as built_in

TASK, CHUNKS, STEPS = "digits/mlp", 4, 500
GOAL = 1.8
MOST_WARMING = 50  # rounds until every worker has answered once


def requests(count: int, steps: int, full: int) -> list[Request]:
    """Trainings that all run to their end."""
    return [Request(to_json(Loss(Tree(root))), seed=0, budget=steps / full, lr_scale=LR_SCALE) for root in roots(count)]


def done(some: list[Request], executor: AnyExecutor, plan: Plan) -> tuple[float, dict[str, float], set[str]]:
    """Wall seconds, the metric of every request, and which workers answered."""
    start = time.perf_counter()
    found = [evaluation for chunk in run_requests(some, executor, plan) for evaluation in chunk]
    seconds = time.perf_counter() - start
    for evaluation in found:
        if not evaluation.status.ok:
            raise SystemExit(f"a training stopped ({evaluation.status.sentence}): choose other trees.")
    return seconds, {e.request: e.metrics["fitness"] for e in found}, {e.worker for e in found}


def warm(executor: AnyExecutor, plan: Plan, few: list[Request]) -> None:
    """Until every worker has imported, compiled and answered."""
    seen: set[str] = set()
    for _ in range(MOST_WARMING):
        seen |= done(few, executor, plan)[2]
        if len(seen) == executor.workers:
            return
    raise SystemExit(f"only {len(seen)} of {executor.workers} workers ever answered.")


def multiply(core: int, products: int) -> None:
    """Products of 512×512 on one core with one thread."""
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {core})
    a, b = torch.rand(512, 512), torch.rand(512, 512)
    for _ in range(products):
        torch.mm(a, b)


def pinned(pool: ProcessPoolExecutor, cores: list[int], products: int) -> float:
    """Wall seconds until every one of these cores has done its products."""
    start = time.perf_counter()
    for future in [pool.submit(multiply, core, products) for core in cores]:
        future.result()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter trainings, fewer rounds")
    quick = parser.parse_args().quick
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("two workers need two cores on Linux; there is one here.")
    cores = sorted(os.sched_getaffinity(0))[:2]
    task = built_in(TASK)
    plan = make_plan(task)
    steps, rounds, products = (100, 2, 200) if quick else (STEPS, 7, 800)
    count = CHUNKS * max(plan.chunk, 8)
    some, few = requests(count, steps, task.steps), requests(2 * plan.chunk + 2, 1, task.steps)
    one, two = make_executor(task, workers=1), make_executor(task, workers=2)
    times: dict[str, list[float]] = {"one": [], "two": [], "one pinned": [], "two pinned": []}
    results = []
    try:
        warm(one, plan, few)
        warm(two, plan, few)
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            pinned(pool, cores, 10)
            for _ in range(rounds):
                for name, executor in (("one", one), ("two", two)):
                    seconds, metrics, _ = done(some, executor, plan)
                    times[name].append(seconds)
                    results.append(metrics)
                times["one pinned"].append(pinned(pool, cores[:1], products))
                times["two pinned"].append(pinned(pool, cores, products))
    finally:
        one.close()
        two.close()
    if any(metrics != results[0] for metrics in results):
        raise SystemExit("one and two workers did not give the same numbers: this is a defect.")
    gain = ratio(times["one"], times["two"])
    ceiling = 2 * ratio(times["one pinned"], times["two pinned"])
    print(f"{where()}, {rounds} rounds\n\n{count} trainings of {TASK} over {steps} steps; {plan.describe()}\n")
    header = ("", "one, s", "two, s", "×")
    print(
        table(
            header,
            [
                ("workers", f"{median(times['one']):.2f}", f"{median(times['two']):.2f}", f"{gain:.2f}"),
                (
                    "plain products (ceiling)",
                    f"{2 * median(times['one pinned']):.2f}",
                    f"{median(times['two pinned']):.2f}",
                    f"{ceiling:.2f}",
                ),
            ],
        )
    )
    print(f"\ngoal: {GOAL:.1f}; {'met' if gain >= GOAL else 'missed'}. Both gave the same numbers.")


if __name__ == "__main__":
    main()
