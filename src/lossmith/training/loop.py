"""One training run on the sequential path: a base model, a loss, a seed, a number of steps.

The loop is tuned for small networks on a CPU: batches are one gather from in-memory tensors at pre-drawn indices, the
optimiser step is fused, and nothing is measured that was not asked for. A loss whose training breaks down is a
`Status`, not an exception.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lossmith.losses import Loss, LossSet
from lossmith.losses.delta import interpreted, value_and_delta
from lossmith.records import OK, Split, Status
from lossmith.rng import torch_global_scope
from lossmith.tasks import Task, Terms
from lossmith.training.batches import batch_indices
from lossmith.training.prediction import arranged, predict, terms_of
from lossmith.training.process import compute_scope

FINITE_EVERY_ON_GPU = 64  # a look at the loss waits for the device; on the CPU it is free, so every step is looked at


@dataclass(frozen=True)
class Training:
    """What one training run depends on.

    Args:
        seed: evaluation seed: initial θ, batches and dropout masks, the same for every candidate.
        steps: training steps to do; the schedule and τ run over the task's full number of steps.
        lr_scale: factor on the recipe's learning rate.
        data_fraction: share of the training rows used.
        splits: where the metric is measured at the end.
        curve: at how many equally spaced points it is also measured on the first of `splits`.
        chance: (step, metric value): a model that at this step is not better than the value by two standard errors on
            the fitness split is stopped.
        threads, channels_last: from the evaluation plan.
    """

    seed: int
    steps: int
    lr_scale: float = 1.0
    data_fraction: float = 1.0
    splits: tuple[Split, ...] = ("fitness",)
    curve: int = 0
    chance: tuple[int, float] | None = None
    threads: int = 1
    channels_last: bool = False


@dataclass(frozen=True)
class Trained:
    """What came of a training run; `model` is there whenever training ended, whatever the status."""

    status: Status
    steps: int
    metrics: dict[str, float] = field(default_factory=dict)
    curve: tuple[tuple[int, float], ...] = ()
    model: nn.Module | None = None


def train(task: Task, loss: Loss | LossSet, how: Training, *, on_step: Callable[[int], None] | None = None) -> Trained:
    """Train a fresh base model with `loss`.

    Args:
        on_step: called with the number of finished steps, for progress.
    """
    with compute_scope(how.threads):
        model = task.build_model(how.seed)
        device = task.device
        model.to(device)
        if how.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch_global_scope(how.seed, "dropout", device=device):
            return _train(task, model, loss, how, on_step)


def _train(
    task: Task, model: nn.Module, loss: Loss | LossSet, how: Training, on_step: Callable[[int], None] | None
) -> Trained:
    recipe = task.recipe
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = recipe.make_optimizer(parameters, how.lr_scale)
    base_lr = recipe.base_lr * how.lr_scale
    lr = start = base_lr * recipe.schedule(0.0)
    # Groups with learning rates of their own keep their ratio to the recipe's.
    shares = [group["lr"] / start if start else 1.0 for group in optimizer.param_groups]
    data = task.data["train"]
    indices = batch_indices(task.train_rows(how.data_fraction, how.seed), recipe.batch_size, seed=how.seed)
    losses = tuple(loss) if isinstance(loss, LossSet) else (loss,)
    on_gpu = task.device.type != "cpu"
    backward = _through_deltas if not on_gpu and all(map(interpreted, losses)) else _through_graph
    measured = set(_points(how.steps, how.curve))
    curve: list[tuple[int, float]] = []
    suspect = torch.zeros((), device=task.device)
    # A fraction of the data is a small copy of the whole training: its schedule is run to the end (DESIGN §4).
    horizon = task.steps if how.data_fraction == 1 else how.steps
    model.train()
    for step, index in zip(range(how.steps), indices, strict=False):
        tau = step / horizon
        now = base_lr * recipe.schedule(tau)
        if now != lr:
            lr = now
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                group["lr"] = lr * share
        terms = terms_of(task, model, arranged(data.batch(index), how.channels_last))
        for parameter in parameters:
            parameter.grad = None  # what optimizer.zero_grad does, without its hooks
        value = backward(losses, terms, tau)
        if recipe.grad_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
        optimizer.step()
        done = step + 1
        if on_gpu:
            suspect = suspect + value * 0  # NaN sticks to a sum, so one look covers many steps
            look = done % FINITE_EVERY_ON_GPU == 0 or done == how.steps
            bad = look and not math.isfinite(suspect.item())
        else:
            bad = not math.isfinite(value.item())
        if bad:
            when = f"{'by' if on_gpu else 'at'} step {done}"
            status = Status("diverged", "", f"training loss became non-finite {when}")
            return Trained(status, done, curve=tuple(curve), model=model)
        if how.chance is not None and done == how.chance[0]:
            status = _at_chance(task, model, how, done)
            if not status.ok:
                return Trained(status, done, curve=tuple(curve), model=model)
        if done in measured:
            value_now, status = _measure(task, model, how.splits[0], how)
            if not status.ok:
                return Trained(status, done, curve=tuple(curve), model=model)
            curve.append((done, value_now))
        if on_step is not None:
            on_step(done)
    metrics: dict[str, float] = {}
    for split in how.splits:
        if split == how.splits[0] and curve and curve[-1][0] == how.steps:
            metrics[split] = curve[-1][1]
            continue
        metrics[split], status = _measure(task, model, split, how)
        if not status.ok:
            return Trained(status, how.steps, curve=tuple(curve), model=model)
    return Trained(OK, how.steps, metrics, tuple(curve), model)


def _through_graph(losses: tuple[Loss, ...], terms: tuple[Terms, ...], tau: float) -> Tensor:
    """The sum of the losses, back-propagated through them by autograd: any loss, any device."""
    total: Tensor | None = None
    for position, term in enumerate(terms):
        loss = losses[min(position, len(losses) - 1)]
        value: Tensor = loss(term.output, term.target, weight=term.weight, group=term.group, progress=tau)
        total = value if total is None else total + value
    assert total is not None
    total.backward()  # type: ignore[no-untyped-call]
    return total.detach()


def _through_deltas(losses: tuple[Loss, ...], terms: tuple[Terms, ...], tau: float) -> Tensor:
    """The same, with the losses' own derivatives: the network is back-propagated from ∂loss/∂output."""
    outputs: list[Tensor] = []
    deltas: list[Tensor] = []
    total: Tensor | None = None
    for position, term in enumerate(terms):
        loss = losses[min(position, len(losses) - 1)]
        value, delta = value_and_delta(loss, term.output, term.target, term.weight, tau, group=term.group)
        total = value if total is None else total + value
        if term.output.requires_grad:  # a term that no parameter reaches counts in the sum only
            outputs.append(term.output)
            deltas.append(delta)
    assert total is not None
    torch.autograd.backward(outputs, deltas)
    return total


def _points(steps: int, count: int) -> list[int]:
    return [round(steps * (i + 1) / count) for i in range(count)]


def _measure(task: Task, model: nn.Module, split: Split, how: Training) -> tuple[float, Status]:
    seen = predict(task, model, split, channels_last=how.channels_last)
    if not seen.finite:
        return math.nan, Status("diverged", "", f"the model's outputs on {split} are non-finite")
    value = task.metric.value(seen.output, seen.target, seen.weight, head=task.head)
    if not math.isfinite(value):
        return math.nan, Status("diverged", "", f"{task.metric.name} on {split} is {value}")
    return value, OK


def _at_chance(task: Task, model: nn.Module, how: Training, step: int) -> Status:
    assert how.chance is not None
    seen = predict(task, model, "fitness", channels_last=how.channels_last)
    if not seen.finite:
        return Status("diverged", "", f"the model's outputs became non-finite by step {step}")
    value, error = task.metric.value_and_error(seen.output, seen.target, seen.weight, head=task.head)
    metric = task.metric
    if not math.isfinite(value):
        return Status("diverged", "", f"{metric.name} on fitness is {value} at step {step}")
    # Without a standard error (one row, say) nothing can be said: the training goes on.
    if not math.isfinite(error) or metric.fitness(value) < metric.fitness(how.chance[1]) - 2 * error:
        return OK
    return Status(
        "at_chance",
        "",
        f"{metric.name} {value:.4g} at step {step} is no better than {how.chance[1]:.4g} of a constant predictor",
    )
