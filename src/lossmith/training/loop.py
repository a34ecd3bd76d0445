"""One training run on the sequential path: a base model, a loss, a seed, a number of steps.

The loop is tuned for small networks on a CPU: batches are one gather from in-memory tensors at pre-drawn indices, the
optimiser step is fused, and nothing is measured that was not asked for. A loss whose training breaks down is a
`Status`, not an exception.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import nn

from lossmith.losses import Loss, LossSet
from lossmith.records import OK, Status
from lossmith.rng import torch_global_scope
from lossmith.tasks import Task
from lossmith.training.checkpoint_file import Contents, Unusable
from lossmith.training.checkpoints import UnderWay, restore
from lossmith.training.criteria import criterion_of
from lossmith.training.judging import judged_against_chance, measured
from lossmith.training.keeping import Keeper, Place
from lossmith.training.prediction import arranged, predict, terms_of
from lossmith.training.process import compute_scope
from lossmith.training.run_record import Trained, Training
from lossmith.training.steps import FiniteWatch, curve_points, initial_model, steps_of


def train(
    task: Task,
    loss: Loss | LossSet,
    how: Training,
    *,
    on_step: Callable[[int], None] | None = None,
    place: Place | None = None,
) -> Trained:
    """Train a fresh base model with `loss`.

    Args:
        on_step: called with the number of finished steps, for progress.
        place: where a long training leaves rolling checkpoints, and goes on from the one that an earlier attempt left
            there. The result is the same, bit for bit.
    """
    with compute_scope(how.threads):
        found = None if place is None else place.found()
        if found is not None:
            with suppress(Unusable):
                return _train(task, loss, how, on_step, place, found)
        return _train(task, loss, how, on_step, place, None)


def _begin(task: Task, loss: Loss | LossSet, how: Training) -> UnderWay:
    """A training at θ0, begun in its random scope."""
    model = initial_model(task, how)
    recipe = task.recipe
    optimizer = recipe.make_optimizer([p for p in model.parameters() if p.requires_grad], how.lr_scale)
    return UnderWay(
        model=model,
        optimizer=optimizer,
        criterion=criterion_of(task, model, optimizer, loss, how),
        watch=FiniteWatch(torch.zeros((), device=task.device), how.steps),
        lr=recipe.base_lr * how.lr_scale * recipe.schedule(0.0),
        device=task.device,
    )


def _train(
    task: Task,
    loss: Loss | LossSet,
    how: Training,
    on_step: Callable[[int], None] | None,
    place: Place | None,
    found: Contents | None,
) -> Trained:
    """The training from θ0, or from a checkpoint that was found; Unusable where that does not fit."""

    def begin() -> UnderWay:
        with torch_global_scope(how.seed, "dropout", device=task.device):
            return _begin(task, loss, how)

    with torch_global_scope(how.seed, "dropout", device=task.device):
        run = _begin(task, loss, how)
        return _go_on(task, run, how, on_step, Keeper(place, run, begin), found)


def _go_on(
    task: Task,
    run: UnderWay,
    how: Training,
    on_step: Callable[[int], None] | None,
    keeper: Keeper,
    found: Contents | None,
) -> Trained:
    recipe, model, optimizer, criterion, watch = task.recipe, run.model, run.optimizer, run.criterion, run.watch
    parameters = [p for p in model.parameters() if p.requires_grad]
    base_lr = recipe.base_lr * how.lr_scale
    # Groups with learning rates of their own keep their ratio to the recipe's.
    shares = [group["lr"] / run.lr if run.lr else 1.0 for group in optimizer.param_groups]
    if found is not None:
        restore(run, found)
    data = task.data["train"]
    points = curve_points(how)

    def ended(status: Status, metrics: dict[str, float] | None = None) -> Trained:
        return Trained(status, run.done, metrics or {}, tuple(run.curve), model, criterion.product())

    model.train()
    for step in steps_of(task, how, after=run.done):
        now = base_lr * step.factor
        if now != run.lr:
            run.lr = now
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                group["lr"] = now * share
        batch = arranged(data.batch(step.rows), how.channels_last)
        criterion.before_pass()
        terms = terms_of(task, model, batch, how.dtype)
        for parameter in parameters:
            parameter.grad = None  # what optimizer.zero_grad does, without its hooks
        value = criterion.backward(batch, terms, step)
        if recipe.grad_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
        optimizer.step()
        done = run.done = step.done
        if any(watch.non_finite(value, done)):
            return ended(watch.status(done))
        status = criterion.after_step(step)
        if not status.ok:
            return ended(status)
        if how.chance is not None and done == how.chance[0]:
            seen = predict(task, model, "fitness", channels_last=how.channels_last, dtype=how.dtype)
            status = judged_against_chance(task, seen, how.chance[1], done)
            if not status.ok:
                return ended(status)
        if done in points:
            seen = predict(task, model, how.splits[0], channels_last=how.channels_last, dtype=how.dtype)
            value_now, status = measured(task, seen, how.splits[0])
            if not status.ok:
                return ended(status)
            run.curve.append((done, value_now))
        if on_step is not None:
            on_step(done)
        keeper.look()
    metrics: dict[str, float] = {}
    for split in how.splits:
        if split == how.splits[0] and run.curve and run.curve[-1][0] == how.steps:
            metrics[split] = run.curve[-1][1]
            continue
        seen = predict(task, model, split, channels_last=how.channels_last, dtype=how.dtype)
        metrics[split], status = measured(task, seen, split)
        if not status.ok:
            return ended(status)
    return ended(OK, metrics)
