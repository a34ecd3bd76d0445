"""How many meta-steps per second does tuning do, against the usual create_graph-and-backward loop?

    python benchmarks/meta_gradient.py [--quick]

One meta-step: a fresh θ0, one step of the base model on M_φ, the task loss on fitness rows, one step of Adam on φ
(K = 1). Random rows in the shape of the real ones, batch 128, one thread on one core, contestants in turn, medians of
the rounds' ratios, CPU seconds. Three loss families: trees of 22 nodes with a weight on every edge, Taylor polynomials
of third order, networks 2-50-50-1. About ten minutes.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import torch
from contestants import CASES, LR_SCALE, roots
from measuring import Run, interleaved, one_core, ratio, table, where
from torch.func import functional_call

import lossmith as lm
from lossmith.losses import Loss, Network, Taylor, Tree
from lossmith.losses.autograd_road import with_parameters
from lossmith.records import Tuning
from lossmith.training import tune

GOALS = {"64-256-10": 3.0, "784-256-10": 1.8, "LeNet-5": 1.2}  # times as many meta-steps, population of 25
POPULATION = 25
META_LR = 1e-3


def families(count: int) -> dict[str, list[Loss]]:
    """So many losses of every family, all different."""
    generator = np.random.default_rng(0)
    trees = [Tree(root, tuple(generator.normal(1, 1e-3, root.size - 1).tolist())) for root in roots(count)]
    taylors = [Taylor(tuple(generator.normal(0, 0.3, 8).tolist())) for _ in range(count)]
    networks = [Network.ml3(generator) for _ in range(count)]
    kernels = {"tree": trees, "taylor": taylors, "network": networks}
    return {name: [Loss(kernel) for kernel in some] for name, some in kernels.items()}


def usual(task: lm.Task, losses: Sequence[Loss]) -> Run:
    """The loop of research repositories for one loss after the other: a differentiable step, then `.backward()`.

    It is kinder than most: batches are drawn from memory, and the model is called as a function of its parameters
    without any library between.
    """
    turns = itertools.cycle(losses)
    train, valid = task.data["train"], task.data["fitness"]
    task_loss, lr = task.task_loss(), task.recipe.base_lr

    def run(steps: int, on_step: Callable[[int], None]) -> None:
        loss = next(turns)
        phi = torch.tensor(loss.kernel.phi, requires_grad=True)
        optimizer = torch.optim.Adam([phi], lr=META_LR)
        draw = torch.Generator().manual_seed(0)
        for done in range(1, steps + 1):
            model = task.build_model(done)
            theta = dict(model.named_parameters())
            x, y = train.batch(torch.randint(len(train), (task.recipe.batch_size,), generator=draw))
            z = model(x)
            inner = with_parameters(loss, phi, z)(z, y)
            gradients = torch.autograd.grad(inner, list(theta.values()), create_graph=True)
            moved = {name: p - lr * g for (name, p), g in zip(theta.items(), gradients, strict=True)}
            x, y = valid.batch(torch.randint(len(valid), (task.recipe.batch_size,), generator=draw))
            optimizer.zero_grad()
            task_loss(functional_call(model, moved, (x,)), y).backward()
            optimizer.step()
            on_step(done)

    return run


def tuned(task: lm.Task, losses: Sequence[Loss]) -> Run:
    """Lossmith: all the losses at once; a step is a meta-step of all."""
    seeds = itertools.count()

    def run(steps: int, on_step: Callable[[int], None]) -> None:
        results = tune(task, losses, Tuning(meta_steps=steps, meta_lr=META_LR), seed=next(seeds), on_step=on_step)
        failed = [one.status.sentence for one in results if not one.status.ok]
        if failed:
            raise RuntimeError(f"what diverges cannot be timed: {failed[0]}")

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a look, in a minute")
    quick = parser.parse_args().quick
    one_core()
    print(f"{where()}\n", flush=True)
    losses, lines = families(POPULATION), []
    for case in CASES:
        if case.name not in GOALS:
            continue
        task = case.task()
        task = task.fresh(recipe=lm.Recipe(task.steps, task.recipe.batch_size, lr=task.recipe.base_lr * LR_SCALE))
        for family, some in losses.items():
            runs = {"usual": usual(task, some), "1": tuned(task, some[:1]), str(POPULATION): tuned(task, some)}
            times = interleaved(runs, rounds=2 if quick else 7, seconds=0.3 if quick else 1.5)
            before = 1e3 * median(times["usual"])
            for count in (1, POPULATION):
                each = [second / count for second in times[str(count)]]
                gain, goal = ratio(times["usual"], each), GOALS[case.name] if count > 1 else 0.0
                met = "–" if not goal else "yes" if gain >= goal else "**no**"
                cells = (f"{before:.2f}", f"{1e3 * median(each):.3f}", f"{1 / median(each):.0f}", f"{gain:.2f}")
                lines.append([case.name, family, str(count), *cells, f"{goal:g}" if goal else "–", met])
            print(f"done: {case.name}, {family}", flush=True)
    head = (
        "network",
        "loss family",
        "P",
        "usual loop, ms",
        "tuning, ms per candidate",
        "meta-steps/s",
        "×",
        "goal",
        "met",
    )
    print("\n" + table(head, lines))


if __name__ == "__main__":
    main()
