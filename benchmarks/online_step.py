"""What does a training step cost whose loss adapts, against a plain one with cross-entropy?

    python benchmarks/online_step.py [--quick]

AdaLFL's step in the training loop: a step of the base model on the loss network (2-40-40-1), then the task loss of the
moved model on a fitness batch, differentiated through that step, and a step of Adam on φ. Batch 128, one thread on one
core, contestants in turn, medians of the rounds' ratios, CPU seconds. The goal is at most 3.5 times the plain step.
About two minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median

import numpy as np
from measuring import Run, interleaved, one_core, ratio, table, where

import lossmith as lm
from lossmith.losses import Loss, Network, OnlineRule
from lossmith.training import Training, train

TASKS = ("digits/mlp", "digits/lenet5")
GOAL = 3.5


def training(task: lm.Task, loss: Loss) -> Run:
    """A training without any look at a metric but the last."""

    def run(steps: int, on_step: Callable[[int], None]) -> None:
        done = train(task, loss, Training(seed=0, steps=steps, channels_last=True), on_step=on_step)
        assert done.status.ok, done.status

    return run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    quick = parser.parse_args().quick
    one_core()
    network = Network.adalfl(np.random.default_rng(0))
    losses = {
        "cross-entropy": lm.loss("cross_entropy"),
        "network, φ standing still": Loss(network),
        "network, adapting": Loss(network, online=OnlineRule()),
    }
    rows = []
    for name in TASKS:
        task = lm.task(name)
        runs = {what: training(task, loss) for what, loss in losses.items()}
        times = interleaved(runs, rounds=3 if quick else 9, seconds=0.5 if quick else 2.0)
        plain = times["cross-entropy"]
        for what, seconds in times.items():
            rows.append((name, what, f"{1000 * median(seconds):.3g}", f"{ratio(seconds, plain):.2f}"))
    print(table(("task", "loss", "ms per step", "times the plain step"), rows))
    print(f"\nGoal: at most {GOAL}. {where()}.")


if __name__ == "__main__":
    main()
