"""What does a candidate of a stacked population cost: against network size, outside the network, in memory?

    python benchmarks/engine_costs.py [--quick]

On one core, contestants in turn, medians, CPU seconds; batch 128, random loss trees of 22 nodes. Memory is the growth
of the peak resident set of a process from a small to a larger population. About three minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from contestants import CASES, Case, population, roots, sequential
from measuring import Run, interleaved, one_core, ratio, table, where

from lossmith.losses import Loss, Tree
from lossmith.tasks.builtin import Network
from lossmith.tasks.zoo import mlp
from lossmith.training.population.deltas import made_ready, values_and_deltas
from lossmith.training.population.network import PopulationNetwork
from lossmith.training.population.optimizers import stacked_optimizer

POPULATION = 16
WIDTHS = (16, 64, 256, 1024, 4096)
STACKS = {"64-256-10": (32, 128), "784-256-10": (16, 64), "LeNet-5": (8, 32), "PreResNet-20": (2, 6)}
STEPS = 3  # until memory has reached its peak
GOAL = 0.15  # of the time outside the networks, at most


def trees(count: int) -> list[Loss]:
    return [Loss(Tree(root)) for root in roots(count)]


def against_width(rounds: int, seconds: float) -> str:
    """64-H-10: what the width H does to both paths."""
    lines = []
    for width in WIDTHS:
        case = replace(CASES[0], network=Network(mlp, ((64, width, 10),)))
        task, losses = case.task(), trees(POPULATION)
        runs: dict[str, Run] = {"one": sequential(task, losses), "all": population(task, losses)}
        times = interleaved(runs, rounds=rounds, seconds=seconds)
        each = [second / POPULATION for second in times["all"]]
        size = sum(p.numel() for p in task.build_model(0).parameters())
        cells = (f"64-{width}-10", f"{size:,}", f"{median(times['one']) * 1e6:.0f}", f"{median(each) * 1e6:.0f}")
        lines.append([*cells, f"{ratio(times['one'], each):.2f}"])
    return table(("network", "parameters", "sequential, µs", f"population of {POPULATION}, µs", "×"), lines)


def repeated(part: Callable[[], object]) -> Run:
    """A piece of a step, done so many times."""

    def run(steps: int, on_step: Callable[[int], None]) -> None:
        for done in range(1, steps + 1):
            part()
            on_step(done)

    return run


def sections(case: Case) -> Mapping[str, Run]:
    """A step of the population, and each of its parts alone on tensors that are ready."""
    task, losses = case.task(), trees(POPULATION)
    data, index = task.data["train"], torch.randperm(len(task.data["train"]))[: task.recipe.batch_size]
    network = PopulationNetwork(task.build_model(0), task.forward, POPULATION)
    parameters = list(network.parameters.values())
    optimizer = stacked_optimizer(task.recipe, parameters, [1e-3] * POPULATION)
    batch = data.batch(index)
    terms, ready = network(batch)[0], made_ready(losses)
    delta = torch.randn_like(terms.output) * 1e-3
    torch.autograd.backward(terms.output, delta)  # gradients for the optimiser

    def forward_and_backward() -> None:
        for parameter in parameters:
            parameter.grad = None
        torch.autograd.backward(network(batch)[0].output, delta)

    return {
        "the whole step": population(task, losses),
        "networks forward and backward": repeated(forward_and_backward),
        "optimiser": repeated(lambda: optimizer.step(1e-6)),
        "losses": repeated(lambda: values_and_deltas(losses, terms, 0.0, ready=ready)),
        "batch": repeated(lambda: data.batch(index)),
    }


def outside(rounds: int, seconds: float) -> str:
    """Where a step of 64-256-10 goes; everything but forward and backward counts as outside the networks."""
    times = interleaved(sections(CASES[0]), rounds=rounds, seconds=seconds)
    whole = times.pop("the whole step")
    named = {name: median(part) / median(whole) for name, part in times.items()}
    lines = [[name, f"{median(times[name]) / POPULATION * 1e6:.1f}", f"{share:.1%}"] for name, share in named.items()]
    rest = 1 - sum(named.values())
    lines.append(["everything else", f"{rest * median(whole) / POPULATION * 1e6:.1f}", f"{rest:.1%}"])
    lines.append(["the whole step", f"{median(whole) / POPULATION * 1e6:.1f}", "100.0%"])
    share = 1 - named["networks forward and backward"]
    verdict = f"outside the networks: {share:.1%} (goal: at most {GOAL:.0%}; {'met' if share <= GOAL else 'missed'})"
    return f"{table(('part', 'µs per candidate', 'share'), lines)}\n\n{verdict}"


def print_peak(name: str, size: int) -> None:
    """How many bytes the resident set of this process grows by at most while a population trains a few steps."""
    case = next(case for case in CASES if case.name == name)
    task, losses = case.task(), trees(size)
    population(task, losses[:2])(STEPS, lambda done: None)  # what is imported and compiled once
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    population(task, losses)(STEPS, lambda done: None)
    print(resident("VmHWM") - before)


def resident(which: str) -> int:
    """VmRSS, the resident set, or VmHWM, its peak, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(which))


def memory() -> str:
    """What one more candidate adds to the peak, each population in a process of its own."""
    if not Path("/proc/self/clear_refs").exists():
        return "not measured: peaks are read from /proc, which is Linux."
    lines = []
    for case in CASES:
        peaks = []
        for size in STACKS[case.name]:
            command = [sys.executable, __file__, "--peak", case.name, str(size)]
            peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        small, large = STACKS[case.name]
        parameters = sum(p.numel() for p in case.task().build_model(0).parameters()) * 4
        each = (peaks[1] - peaks[0]) / (large - small)
        lines.append([case.name, f"{small} → {large}", f"{each / 2**20:.1f}", f"{parameters / 2**20:.2f}"])
    return table(("network", "P", "MiB per candidate", "of them parameters"), lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--peak", nargs=2, metavar=("NETWORK", "P"), help=argparse.SUPPRESS)  # a process of `memory`
    arguments = parser.parse_args()
    one_core()
    if arguments.peak:
        print_peak(arguments.peak[0], int(arguments.peak[1]))
        return
    rounds, seconds = (3, 0.1) if arguments.quick else (9, 0.5)
    print(f"{where()}, one thread on one core, {rounds} rounds\n")
    print(f"Size of the network, per candidate and step:\n\n{against_width(rounds, seconds)}\n")
    print(f"Parts of a step of {CASES[0].name}, {POPULATION} candidates:\n\n{outside(rounds, seconds)}\n")
    print(f"Peak memory:\n\n{memory()}")


if __name__ == "__main__":
    main()
