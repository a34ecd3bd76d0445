"""Does bfloat16 rank candidates as float32 does, and what does it save?

    python benchmarks/bfloat16.py [--quick]

25 losses that train digits/mlp, random trees and Taylor polynomials, are judged by partial trainings of digits/mlp and,
at ten times the learning rate so that they leave chance, of digits/lenet5. Their order in bfloat16 is compared with
that in float32 on the same evaluation seed, and beside it float32 with itself on another seed: what is closer than that
is closer than a seed can tell. About four minutes.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
import torch
from measuring import clock_of, table, where
from scipy import stats

import lossmith as lm
from lossmith import rng
from lossmith.evaluation import make_executor, make_plan, run_requests
from lossmith.losses import Loss, Taylor, TaylorFamily, Tree, to_json
from lossmith.losses.expression import symbols
from lossmith.losses.learning_rule import check_invariant
from lossmith.losses.primitive_sets import EVOMAL
from lossmith.records import Request
from lossmith.search.tree_growth import half_and_half
from lossmith.tasks.builtin import task as built_in

POPULATION, TOP = 25, 5
CHOSEN_ON = "digits/mlp"
TASKS = {"digits/mlp": (500, 1.0), "digits/lenet5": (300, 10.0)}  # steps, factor on the learning rate
CHOOSING, SEED, OTHER = 2, 0, 1  # evaluation seeds: what is compared is not what was chosen by
TRAINS = 0.6  # error rate below which a loss counts as one that trains; chance is .9
MOST = 400  # losses tried


@dataclass(frozen=True)
class Judged:
    """Fitness of every candidate, infinite where its training failed; CPU or GPU seconds."""

    fitness: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class Agreement:
    """How two orders of one population agree."""

    what: str
    spearman: float
    kendall: float
    top: int

    @classmethod
    def of(cls, what: str, a: Judged, b: Judged) -> Agreement:
        rho = stats.spearmanr(a.fitness, b.fitness).statistic
        tau = stats.kendalltau(a.fitness, b.fitness).statistic
        best = [set(np.argsort(one.fitness, kind="stable")[:TOP].tolist()) for one in (a, b)]
        return cls(what, float(rho), float(tau), len(best[0] & best[1]))


def drawn() -> Iterator[Loss]:
    """Random trees and Taylor losses in turn."""
    family = TaylorFamily()
    for i in itertools.count():
        generator = rng.stream(0, "bfloat16", i)
        root = half_and_half(generator, EVOMAL, 2, 4)
        if {"t", "p"} <= symbols(root):
            yield Loss(Tree(root))
        kernel = Taylor(family.sample(generator))
        if check_invariant(kernel, lm.losses.Setting("softmax", 10)).ok:
            yield Loss(kernel)


@dataclass(frozen=True)
class Partial:
    """Partial trainings of one task as a search does them, in this process.

    Args:
        steps, lr_scale: of every training. device: where.
    """

    task: lm.Task
    steps: int
    lr_scale: float = 1.0
    device: str = "cpu"

    def judged(self, losses: Sequence[Loss], *, seed: int, dtype: str = "float32") -> Judged:
        """The fitness of each loss."""
        plan = make_plan(self.task, dtype=dtype, device=self.device)
        budget = self.steps / self.task.steps
        requests = [Request(to_json(loss), seed=seed, budget=budget, lr_scale=self.lr_scale) for loss in losses]
        clock = clock_of(self.device)
        start = clock()
        chunks = run_requests(requests, make_executor(self.task), plan)
        found = {evaluation.request: evaluation for chunk in chunks for evaluation in chunk}
        seconds = clock() - start
        return Judged(tuple(found[request.key].metrics.get("fitness", inf) for request in requests), seconds)


def that_train(count: int, steps: int, device: str = "cpu") -> list[Loss]:
    """Losses under which digits/mlp reaches an error rate well below chance."""
    partial = Partial(built_in(CHOSEN_ON), steps, device=device)
    source = itertools.islice(drawn(), MOST)
    found: list[Loss] = []
    while len(found) < count and (some := list(itertools.islice(source, 2 * POPULATION))):
        fitness = partial.judged(some, seed=CHOOSING).fitness
        found += [loss for loss, value in zip(some, fitness, strict=True) if value < TRAINS]
    if len(found) < count:
        raise SystemExit(f"only {len(found)} of {MOST} losses train {CHOSEN_ON} within {steps} steps: give it more.")
    return found[:count]


def compared(partial: Partial, losses: Sequence[Loss]) -> tuple[list[Agreement], float]:
    """Agreements, and how many times faster bfloat16 is."""
    for dtype in ("float32", "bfloat16"):
        replace(partial, steps=2).judged(losses, seed=SEED, dtype=dtype)  # warms up
    single = partial.judged(losses, seed=SEED)
    half = partial.judged(losses, seed=SEED, dtype="bfloat16")
    again = partial.judged(losses, seed=OTHER)
    agreements = [
        Agreement.of("bfloat16 and float32, one seed", half, single),
        Agreement.of("float32 and float32, two seeds", again, single),
        Agreement.of("bfloat16 and float32, two seeds", half, again),
    ]
    return agreements, single.seconds / half.seconds


def lines_of(task: lm.Task, agreements: Sequence[Agreement], faster: float) -> list[list[str]]:
    """The rows of a task in the table."""
    rows = []
    for a in agreements:
        times = f"{faster:.2f}" if a is agreements[0] else "–"
        rows.append([task.name, a.what, f"{a.spearman:.2f}", f"{a.kendall:.2f}", f"{a.top} of {TOP}", times])
    return rows


HEADER = ("task", "compared", "Spearman", "Kendall", "best five in common", "× faster")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="eight candidates, MLP only")
    quick = parser.parse_args().quick
    count, names = (8, [CHOSEN_ON]) if quick else (POPULATION, list(TASKS))
    torch.set_num_threads(1)
    started = time.perf_counter()
    losses = that_train(count, TASKS[CHOSEN_ON][0])
    lines = []
    for name in names:
        steps, lr_scale = TASKS[name]
        task = built_in(name)
        lines += lines_of(task, *compared(Partial(task, steps, lr_scale), losses))
        print(f"{name}: done after {time.perf_counter() - started:.0f} s", flush=True)
    print(f"\n{where()}, {count} losses\n\n{table(HEADER, lines)}")


if __name__ == "__main__":
    main()
