"""One training run on the sequential path: a base model, a loss, a seed, a number of steps.

The loop is tuned for small networks on a CPU: batches are one gather from in-memory tensors at pre-drawn indices, the
optimiser step is fused, and nothing is measured that was not asked for. A loss whose training breaks down is a
`Status`, not an exception.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lossmith.losses import Loss, LossSet
from lossmith.losses.delta import interpreted, value_and_delta
from lossmith.records import OK
from lossmith.rng import torch_global_scope
from lossmith.tasks import Task, Terms
from lossmith.training.judging import judged_against_chance, measured
from lossmith.training.prediction import arranged, predict, terms_of
from lossmith.training.process import compute_scope
from lossmith.training.run_record import Trained, Training
from lossmith.training.steps import FiniteWatch, curve_points, initial_model, steps_of, through_deltas


def train(task: Task, loss: Loss | LossSet, how: Training, *, on_step: Callable[[int], None] | None = None) -> Trained:
    """Train a fresh base model with `loss`.

    Args:
        on_step: called with the number of finished steps, for progress.
    """
    with compute_scope(how.threads):
        model = initial_model(task, how)
        with torch_global_scope(how.seed, "dropout", device=task.device):
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
    losses = tuple(loss) if isinstance(loss, LossSet) else (loss,)
    on_cpu = task.device.type == "cpu"
    backward = _through_deltas if on_cpu and all(map(interpreted, losses)) else _through_graph
    points = curve_points(how)
    curve: list[tuple[int, float]] = []
    watch = FiniteWatch(torch.zeros((), device=task.device), how.steps)
    model.train()
    for step in steps_of(task, how):
        now = base_lr * step.factor
        if now != lr:
            lr = now
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                group["lr"] = lr * share
        terms = terms_of(task, model, arranged(data.batch(step.rows), how.channels_last), how.dtype)
        for parameter in parameters:
            parameter.grad = None  # what optimizer.zero_grad does, without its hooks
        value = backward(losses, terms, step.tau)
        if recipe.grad_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
        optimizer.step()
        done = step.done
        if any(watch.non_finite(value, done)):
            return Trained(watch.status(done), done, curve=tuple(curve), model=model)
        if how.chance is not None and done == how.chance[0]:
            seen = predict(task, model, "fitness", channels_last=how.channels_last, dtype=how.dtype)
            status = judged_against_chance(task, seen, how.chance[1], done)
            if not status.ok:
                return Trained(status, done, curve=tuple(curve), model=model)
        if done in points:
            seen = predict(task, model, how.splits[0], channels_last=how.channels_last, dtype=how.dtype)
            value_now, status = measured(task, seen, how.splits[0])
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
        seen = predict(task, model, split, channels_last=how.channels_last, dtype=how.dtype)
        metrics[split], status = measured(task, seen, split)
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

    def own(position: int, term: Terms) -> tuple[Tensor, Tensor]:
        loss = losses[min(position, len(losses) - 1)]
        return value_and_delta(loss, term.output, term.target, term.weight, tau, group=term.group)

    return through_deltas(terms, own)
