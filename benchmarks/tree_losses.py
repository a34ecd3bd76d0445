"""Tree losses on one core: the interpreter against autograd, on 25 random EvoMAL trees of about 22 nodes.

    python benchmarks/tree_losses.py [ROUNDS]

Both roads in turn, round after round in one process; medians of CPU time per candidate and step. Predictions
[25, 128, 10]. The goal is value and ∂ℓ/∂p at least 9 times faster than autograd.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import torch

from lossmith.losses import Loss, Tree
from lossmith.losses.autograd_road import mixed_by_autograd, value_and_delta_by_autograd
from lossmith.losses.delta import mixed_with_direction, population_value_and_delta, value_and_delta
from lossmith.losses.expression import Node, symbols
from lossmith.losses.interpreter import Population
from lossmith.losses.primitive_sets import EVOMAL
from lossmith.search.tree_growth import half_and_half

POPULATION, ROWS, CLASSES = 25, 128, 10
SIZES = range(20, 25)  # nodes


def random_roots(generator: np.random.Generator) -> list[Node]:
    """Trees of about 22 nodes that read t and p, unlike one another."""
    found: list[Node] = []
    while len(found) < POPULATION:
        root = half_and_half(generator, EVOMAL, 3, 6)
        if root.size in SIZES and {"t", "p"} <= symbols(root) and root not in found:
            found.append(root)
    return found


def elementwise(
    kernels: list[Tree], p: torch.Tensor, t: torch.Tensor
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Value and ∂ℓ/∂p of predictions given: both roads."""
    population = Population.of(kernels)
    named = {"p": p, "t": t.expand_as(p), "log_p": p.log()}
    x = np.stack([named[name].reshape(POPULATION, -1).numpy() for name in population.reads], 1)  # [P, I, M]
    dx = np.ones((1, population.moving, x.shape[2]), x.dtype)

    def by_autograd() -> None:
        for kernel, own in zip(kernels, p, strict=True):
            leaf = own.detach().requires_grad_()
            kernel.value({"p": leaf, "t": t}).sum().backward()

    return lambda: population.values_and_slopes(x, dx), by_autograd


def cases(generator: np.random.Generator) -> dict[str, tuple[int, Callable[[], object], Callable[[], object]]]:
    """Name → (candidates, the interpreter's road, autograd's)."""
    roots = random_roots(generator)
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(POPULATION, ROWS, CLASSES, generator=draw)
    u = torch.randn(POPULATION, ROWS, CLASSES, generator=draw)
    labels = torch.randint(0, CLASSES, (ROWS,), generator=draw)
    losses = [Loss(Tree(root)) for root in roots]
    weighted = [Loss(Tree(root, tuple(generator.normal(1, 1e-3, root.size - 1).tolist()))) for root in roots]
    target = torch.eye(CLASSES)[labels]
    given = elementwise([Tree(root) for root in roots], z.softmax(-1), target)

    def all_by_autograd() -> None:
        for loss, own in zip(losses, z, strict=True):
            value_and_delta_by_autograd(loss, own, labels)

    def mixed_by_graph() -> None:
        for loss, along in zip(weighted, u, strict=True):
            mixed_by_autograd(loss, z[0], labels, along)

    def each(road: Callable[..., object]) -> Callable[[], object]:
        return lambda: [road(loss, z[0], labels) for loss in losses]

    return {
        "value and dl/dp, elementwise": (POPULATION, *given),
        "population: value and dl/dz": (
            POPULATION,
            lambda: population_value_and_delta(losses, z, labels),
            all_by_autograd,
        ),
        "one candidate: value and dl/dz": (POPULATION, each(value_and_delta), each(value_and_delta_by_autograd)),
        "mixed derivative d/dphi <u, dl/dz>": (
            POPULATION,
            lambda: mixed_with_direction(weighted, z[0], labels, u),
            mixed_by_graph,
        ),
    }


def measured(road: Callable[[], object]) -> float:
    start = time.process_time()
    road()
    return time.process_time() - start


def where() -> str:
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    info = Path("/proc/cpuinfo")
    models = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    machine = f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numba {numba.__version__}"
    return f"{machine}, {versions}, commit {git.stdout.strip() or 'unknown'}"


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    print(where())
    print(
        f"{POPULATION} random trees of {SIZES[0]} to {SIZES[-1]} nodes, [{ROWS}, {CLASSES}], float32, {rounds} rounds"
    )
    print()
    print(f"{'microseconds per candidate and step':38} {'interpreter':>11} {'autograd':>9} {'ratio':>6}")
    for name, (candidates, fast, slow) in cases(np.random.default_rng(0)).items():
        for road in (fast, slow):
            road()  # compiles, fills caches
        pairs = [(measured(fast), measured(slow)) for _ in range(rounds)]
        one, other = (statistics.median(times) * 1e6 / candidates for times in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"{name:38} {one:11.1f} {other:9.1f} {ratio:5.1f}x")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
