"""What the engine's benchmarks run: four networks under random loss trees, trained by Lossmith or by a usual loop.

Inputs are random numbers in the shape of the real ones, the recipe is that of the built-in task, but for the learning
rate, which is so small that no loss diverges: what a step costs does not depend on it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from measuring import Run
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

import lossmith as lm
from lossmith.evaluation import make_plan
from lossmith.losses import Loss, Tree
from lossmith.losses.expression import Node, Number, Symbol, symbols
from lossmith.losses.primitive_sets import EVOMAL
from lossmith.losses.primitives import PRIMITIVES
from lossmith.search.tree_growth import half_and_half
from lossmith.tasks.builtin import TASKS, Network
from lossmith.tasks.zoo import mlp
from lossmith.training import Trained, Training, train
from lossmith.training.population.training import train_population

ROWS, BATCH, CLASSES, NODES = 1024, 128, 10, 22
LR_SCALE = 1e-3


@dataclass(frozen=True)
class Case:
    """One network.

    Args:
        like: the built-in task whose recipe is used, and whose network unless `network` is given.
        shape: of one input. most: candidates in the largest stack (memory).
        goal, goal_bfloat16: times faster than the repository loop; 0 where none is set.
    """

    name: str
    like: str
    shape: tuple[int, ...]
    most: int
    goal: float
    goal_bfloat16: float = 0.0
    network: Network | None = None

    def task(self, batch: int = BATCH) -> lm.Task:
        """The network on random rows."""
        built = TASKS[self.like]
        draw = torch.Generator().manual_seed(0)
        x, y = torch.rand(ROWS, *self.shape, generator=draw), torch.randint(0, CLASSES, (ROWS,), generator=draw)
        recipe = lm.Recipe(built.recipe.steps, batch, optimizer=built.recipe.optimizer)
        return lm.Task(model=self.network or built.model, train=(x, y), valid=(x[:200], y[:200]), recipe=recipe)

    def operations(self) -> float:
        """Floating-point operations of one step of one candidate in matrix products and convolutions."""
        with FlopCounterMode(display=False) as counter:
            self.task().build_model(0)(torch.rand(BATCH, *self.shape)).sum().backward()
        return float(counter.get_total_flops())


CASES = (
    Case("64-256-10", "digits/mlp", (64,), 128, 6.0),
    Case("784-256-10", "digits/mlp", (784,), 128, 2.3, network=Network(mlp, ((784, 256, 10),))),
    Case("LeNet-5", "digits/lenet5", (1, 28, 28), 128, 1.7),
    Case("PreResNet-20", "cifar10/preresnet20", (3, 32, 32), 8, 1.0, 1.9),
)


@functools.cache
def roots(count: int) -> list[Node]:
    """Different EvoMAL trees of 22 nodes that read t and p, with a finite slope that is not flat, for any outputs."""
    generator = np.random.default_rng(0)
    draw = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.1, 1.0, 5.0])[:, None, None]
    output = (torch.randn(len(spread), BATCH, CLASSES, generator=draw) * spread).flatten(0, 1)
    target = torch.arange(len(output)) % CLASSES
    found: dict[Node, None] = {}
    while len(found) < count:
        root = half_and_half(generator, EVOMAL, 3, 6)
        if root.size != NODES or not {"t", "p"} <= symbols(root) or root in found:
            continue
        z = output.clone().requires_grad_()
        value = Loss(Tree(root))(z, target)
        if not value.requires_grad:
            continue
        slope = torch.autograd.grad(value, z)[0].reshape(len(spread), -1)
        if bool(slope.isfinite().all() and (slope != 0).any(1).all()):
            found[root] = None
    return list(found)


def sequential(task: lm.Task, losses: Sequence[Loss], **more: Any) -> Run:
    """(a) Lossmith's own loop, one candidate at a time: every call trains with the next of the losses.

    Args:
        more: fields of `Training`, e.g. dtype="bfloat16".
    """
    turns, how = itertools.cycle(losses), usual(task, lr_scale=LR_SCALE, **more)

    def run(steps: int, on_step: Callable[[int], None]) -> None:
        _check([train(task, next(turns), replace(how, steps=steps), on_step=on_step)])

    return run


def population(task: lm.Task, losses: Sequence[Loss], *, say: Callable[[str], None] | None = None, **more: Any) -> Run:
    """All the losses at once, as one stacked network: a step is a step of all.

    Args:
        say: is told why steps were not compiled, or not recorded as a CUDA graph, where `more` asks for it.
        more: as for `sequential`.
    """
    how, scales = usual(task, **more), [LR_SCALE] * len(losses)

    def run(steps: int, on_step: Callable[[int], None]) -> None:
        _check(train_population(task, losses, replace(how, steps=steps), scales, on_step=on_step, say=say))

    return run


def usual(task: lm.Task, **more: Any) -> Training:
    """A training as the plan would have it, without any measurement."""
    plan = make_plan(task, engine="sequential", device=str(task.device))
    return Training(seed=0, steps=1, splits=(), threads=1, channels_last=plan.channels_last, **more)


def repository(task: lm.Task, trees: Sequence[Node], *, published: bool = False) -> Run:
    """(b) The loop research repositories typically have: every call trains with the next of the trees.

    It is that of the published EvoMAL code, Decadz/Evolved-Model-Agnostic-Loss (`source/optimization/bp.py`): a
    DataLoader asked by `next(iter(…))` at every step, one-hot targets, the loss as torch expressions under autograd, a
    look for NaN, torch.optim as it comes, the error rate of every batch.

    Args:
        published: count errors row by row in Python as that code does, not by one comparison.
    """
    turns = itertools.cycle(trees)
    data = task.data["train"].batch(torch.arange(ROWS))
    sgd, batch = task.recipe.optimizer, task.recipe.batch_size
    assert isinstance(sgd, lm.SGD)

    def run(steps: int, on_step: Callable[[int], None]) -> None:
        model, root = task.build_model(0), next(turns)
        optimizer = torch.optim.SGD(
            model.parameters(), sgd.lr * LR_SCALE, momentum=sgd.momentum, weight_decay=sgd.weight_decay
        )
        loader = DataLoader(TensorDataset(*data), batch_size=batch, shuffle=True)
        history = []
        for done in range(1, steps + 1):
            optimizer.zero_grad()
            x, y = next(iter(loader))
            output = model(x)
            one_hot = nn.functional.one_hot(y, CLASSES).float()
            loss = evaluated(root, output.softmax(1), one_hot).sum(1).mean()
            if torch.isnan(loss) or torch.isinf(loss):
                raise SystemExit("a loss became non-finite: choose other trees.")
            loss.backward()
            optimizer.step()
            wrong = _row_by_row(output, y) if published else (output.argmax(1) != y).float().mean()
            history.append(wrong.item())
            on_step(done)

    return run


def evaluated(node: Node, p: Tensor, t: Tensor) -> Any:
    """A tree in plain torch, node by node."""
    if isinstance(node, Symbol):
        return {"p": p, "t": t}[node.name]
    if isinstance(node, Number):
        return node.value
    return PRIMITIVES[node.op].function(*(evaluated(arg, p, t) for arg in node.args))


def _row_by_row(output: Tensor, target: Tensor) -> Tensor:
    wrong = 0
    for own, label in zip(output, target, strict=True):
        if label != torch.argmax(own):
            wrong += 1
    return torch.tensor(wrong / len(target))


def _check(trained: Sequence[Trained]) -> None:
    for one in trained:
        if not one.status.ok:
            raise SystemExit(f"a candidate stopped while it was timed ({one.status.sentence}): choose other trees.")
