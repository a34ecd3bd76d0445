"""Is the engine right and fast on this GPU? Equality tests and benchmark in one command, within ten minutes.

    python benchmarks/gpu.py [RESULT.json] [--device cuda] [--quick]

Four networks. Right: the stacked population against the sequential path (float64 after 50 steps, float32 after one) and
the GPU against the CPU; nothing waits for the device inside the steps. Fast: seconds per candidate and step of the
sequential path, the population, and the population replayed as a CUDA graph, at P = 1 … 256; memory per candidate;
how far bfloat16 ranks candidates as float32 does. `--device cpu` runs the same comparisons, small, where there is no
GPU. Numbers also go into RESULT.json. Exit code 1 if a comparison fails, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import bfloat16
import torch
from contestants import CASES, Case, population, roots, sequential, usual
from measuring import Run, clock_of, interleaved, table, where
from torch import Tensor, nn

import lossmith as lm
from lossmith.losses import Loss, Tree
from lossmith.tasks.builtin import task as built_in
from lossmith.training import Training, train
from lossmith.training.population.training import train_population

SMALL_BATCH = 16  # of the equality tests, so that the CPU's side of them is soon done
STEPS = 50
EXACT, ROUNDED = 1e-9, 1e-4  # relative distances allowed: float64 after 50 steps, float32 after one
# Learning rates: different, so that a mixed-up candidate shows; small, and the losses tame, because a training may blow
# rounding up: PreResNet-20 under an evolved Taylor loss, float64, one candidate at a time, differs by 6e-5 after 50
# steps from itself with the rows of its batches reversed.
SCALES = (0.1, 0.05, 0.02)
CORES = os.cpu_count() or 1  # for the CPU's side of the comparison
QUIET = (10, 40)  # steps between which nothing may wait for the device


@dataclass
class Findings:
    """All that was measured, for the file."""

    where: str
    equality: list[dict[str, Any]] = field(default_factory=list)
    waits: dict[str, str] = field(default_factory=dict)
    speed: list[dict[str, Any]] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)
    bfloat16: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def right(self) -> bool:
        """Whether every comparison held."""
        return all(one["ok"] for one in self.equality) and all(not sentence for sentence in self.waits.values())


@dataclass(frozen=True)
class Doubled:
    """A model in float64."""

    model: Any

    def __call__(self, seed: int) -> nn.Module:
        found: nn.Module = self.model(seed).double()
        return found


def small(case: Case, *, wide: bool) -> lm.Task:
    """The network on small batches, in float64 where `wide`."""
    task = case.task(batch=SMALL_BATCH)
    if not wide:
        return task
    data = {
        split: tuple(_double(leaf) for leaf in rows.batch(torch.arange(len(rows)))) for split, rows in task.data.items()
    }
    return task.replace(model=Doubled(task.model), data=data)


def _double(leaf: Tensor) -> Tensor:
    return leaf.double() if leaf.is_floating_point() else leaf


def losses() -> list[Loss]:
    """Two published ones and a random tree."""
    found = [lm.loss("cross_entropy"), lm.loss("focal"), Loss(Tree(roots(1)[0]))]
    assert all(isinstance(loss, Loss) for loss in found)
    return [loss for loss in found if isinstance(loss, Loss)]


def distance(a: nn.Module, b: nn.Module, start: nn.Module) -> float:
    """‖a − b‖ relative to how far b has moved from the start: nothing moved is an infinite distance."""
    x, y, zero = (torch.cat([p.detach().double().flatten().cpu() for p in m.parameters()]) for m in (a, b, start))
    return float((x - y).norm() / (y - zero).norm()) if bool((y != zero).any()) else float("inf")


def one_by_one(task: lm.Task, how: Training) -> list[nn.Module]:
    """The trained models of the sequential path."""
    pairs = zip(losses(), SCALES, strict=True)
    return [_model(train(task, loss, replace(how, lr_scale=scale))) for loss, scale in pairs]


def at_once(task: lm.Task, how: Training) -> list[nn.Module]:
    """The trained models of the population path."""
    return [_model(one) for one in train_population(task, losses(), how, SCALES)]


def _model(trained: Any) -> nn.Module:
    if not trained.status.ok or trained.model is None:
        raise SystemExit(f"a training of the equality tests stopped: {trained.status.sentence}")
    found: nn.Module = trained.model
    return found


def compared(case: Case, device: str, graph: bool) -> list[dict[str, Any]]:
    """The largest distance of any candidate in each comparison."""
    rows = []
    for wide, steps, allowed in ((True, STEPS, EXACT), (False, 1, ROUNDED)):
        cpu = small(case, wide=wide)
        task = cpu.to_device(device)
        how = replace(usual(task), steps=steps)
        start = task.build_model(0)
        stacked, single = at_once(task, how), one_by_one(task, how)
        pairs = {"population and sequential": (stacked, single)}
        if graph:
            pairs["graph and population"] = (at_once(task, replace(how, graph=True)), stacked)
        if device != "cpu" and wide:
            pairs["GPU and CPU"] = (stacked, at_once(cpu, replace(usual(cpu), steps=steps, threads=CORES)))
        for what, (a, b) in pairs.items():
            far = max(distance(x, y, start) for x, y in zip(a, b, strict=True))
            row = {"network": case.name, "compared": what, "dtype": "float64" if wide else "float32", "steps": steps}
            rows.append({**row, "distance": far, "allowed": allowed, "ok": far <= allowed})
    return rows


def waits(case: Case, device: str, graph: bool) -> str:
    """What waits for the device inside the steps of a population, or why they are no graph; "" if all is well."""

    def watch(done: int) -> None:
        if done in QUIET:
            torch.cuda.set_sync_debug_mode("error" if done == QUIET[0] else "default")

    task = case.task().to_device(device)
    obstacles: list[str] = []
    trees = [Loss(Tree(root)) for root in roots(4)]
    run = population(task, trees, say=obstacles.append, graph=graph)
    try:
        run(QUIET[1] + 1, watch)  # the last step looks at the losses, which waits
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return " ".join(obstacles)


def speed(case: Case, device: str, sizes: Sequence[int], rounds: int, seconds: float, graph: bool) -> dict[str, Any]:
    """Microseconds per candidate and step of every path at every P; None where memory does not reach."""
    task = case.task().to_device(device)
    many = [Loss(Tree(root)) for root in roots(max(sizes))]
    row: dict[str, Any] = {"network": case.name}
    paths: dict[str, Run] = {"sequential": sequential(task, many)}
    for size in sizes:
        paths[f"population {size}"] = population(task, many[:size])
        if graph:
            paths[f"graph {size}"] = population(task, many[:size], graph=True)
    # Path by path, not interleaved: a GPU keeps its pace, and a stack too large must not cost the others.
    for name, run in paths.items():
        size = int(name.split()[1]) if " " in name else 1
        try:
            times = interleaved({name: run}, rounds=rounds, seconds=seconds, clock=clock_of(device))[name]
        except torch.cuda.OutOfMemoryError:
            row[name] = None
            torch.cuda.empty_cache()
            continue
        row[name] = median(times) / size * 1e6
    return row


def bytes_each(case: Case, device: str, few: int = 4, many: int = 12) -> float:
    """Peak memory on the GPU that one more candidate takes."""
    task = case.task().to_device(device)
    peaks = []
    for size in (few, many):
        torch.cuda.reset_peak_memory_stats(device)
        population(task, [Loss(Tree(root)) for root in roots(size)])(3, lambda done: None)
        peaks.append(torch.cuda.max_memory_allocated(device))
    return (peaks[1] - peaks[0]) / (many - few)


def equality_table(rows: Sequence[dict[str, Any]]) -> str:
    """Distances and whether they are small enough."""
    lines = []
    for row in rows:
        cells = (row["network"], row["compared"], row["dtype"], str(row["steps"]))
        lines.append([*cells, f"{row['distance']:.1e}", f"{row['allowed']:.0e}", "yes" if row["ok"] else "**no**"])
    return table(("network", "compared", "dtype", "steps", "distance", "allowed", "holds"), lines)


def speed_table(rows: Sequence[dict[str, Any]]) -> str:
    """Microseconds per candidate and step; the best against the sequential path."""
    names = [name for name in rows[0] if name != "network"]
    lines = []
    for row in rows:
        cells = ["out of memory" if row[name] is None else f"{row[name]:.0f}" for name in names]
        best = row["sequential"] / min(row[name] for name in names if row[name] is not None)
        lines.append([row["network"], *cells, f"{best:.1f}"])
    return table(("network", *names, "× best"), lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", nargs="?", type=Path, help="JSON file for the numbers")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller stacks, no rank agreement")
    arguments = parser.parse_args()
    device, on_cpu = arguments.device, torch.device(arguments.device).type == "cpu"
    if not on_cpu and not torch.cuda.is_available():
        print("torch finds no CUDA device on this machine: try --device cpu for the comparisons.", file=sys.stderr)
        raise SystemExit(2)
    if on_cpu:
        torch.set_num_threads(1)
    graph = not on_cpu
    small_run = arguments.quick or on_cpu
    sizes = (1, 4) if small_run else tuple(2**k for k in range(9))
    rounds, seconds = (2, 0.05) if small_run else (3, 0.2)
    started = time.perf_counter()
    found = Findings(where(device))
    print(f"{found.where}\n\nEquality, largest relative distance of any candidate:\n")
    # TensorFloat-32 would round convolutions to ten bits, in which no two orders of summation agree.
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    for case in CASES:
        found.equality += compared(case, device, graph)
    torch.backends.cudnn.allow_tf32 = before
    print(equality_table(found.equality))
    if not on_cpu:
        for case in CASES:
            for path in (False, True) if graph else (False,):
                name = f"{case.name}, {'graph' if path else 'population'}"
                found.waits[name] = waits(case, device, path)
        print("\nWaits for the device inside the steps:")
        print("\n".join(f"- {name}: {sentence or 'none'}" for name, sentence in found.waits.items()))
    print("\nMicroseconds per candidate and step, batch 128, loss trees of 22 nodes:\n")
    for case in CASES[:1] if on_cpu else CASES:
        found.speed.append(speed(case, device, sizes, rounds, seconds, graph))
    print(speed_table(found.speed))
    if not on_cpu:
        found.memory = {case.name: bytes_each(case, device) for case in CASES}
        each = ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in found.memory.items())
        print(f"\nMemory per candidate: {each}")
    if not small_run:
        lines = []
        train_well = bfloat16.that_train(bfloat16.POPULATION, bfloat16.TASKS[bfloat16.CHOSEN_ON][0], device)
        for name, (steps, lr_scale) in bfloat16.TASKS.items():
            task = built_in(name)
            partial = bfloat16.Partial(task, steps, lr_scale, device)
            agreements, faster = bfloat16.compared(partial, train_well)
            lines += bfloat16.lines_of(task, agreements, faster)
            found.bfloat16 += [{"task": name, **asdict(one), "faster": faster} for one in agreements]
        print(f"\nRank agreement of {bfloat16.POPULATION} losses:\n\n{table(bfloat16.HEADER, lines)}")
    found.seconds = time.perf_counter() - started
    print(f"\nin {found.seconds:.0f} s")
    if arguments.result is not None:
        arguments.result.write_text(json.dumps({**asdict(found), "right": found.right}, indent=2) + "\n")
    raise SystemExit(0 if found.right else 1)


if __name__ == "__main__":
    main()
