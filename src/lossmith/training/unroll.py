"""Tuning loss parameters φ by differentiating through training: EvoMAL's local search (ALGORITHMS §4).

Raymond, Chen, Xue & Zhang, *Learning Symbolic Model-Agnostic Loss Functions via Meta-Learning*, TPAMI 2023, arXiv
2209.08907; *Fast and Efficient Local Search for Genetic Programming Based Loss Function Learning*, GECCO 2023, arXiv
2403.00865. Every meta-step:

    1. a fresh θ0, K fresh training batches, one fresh batch of fitness rows: drawn
    2. θ_{k+1} = θ_k − SGD step on M_φ of a training batch, k = 0 … K−1
    3. L = task loss of θ_K on the fitness batch
    4. φ ← Adam step on dL/dφ

All candidates share what is drawn, which depends on seed and meta-step only: a candidate's numbers do not depend on its
company, and a tuning can be taken up at any meta-step from φ and the state of Adam. K = 1 has a closed form
(`closed_form`), any K is unrolled (`unrolled`).

Deviations from the public code: momentum, Nesterov and weight decay are the recipe's, from an empty optimiser state at
every meta-step; the task loss is taken on the Terms the metric is measured on; a fitness split smaller than a batch is
taken whole; a schedule that starts at 0 (a warm-up) counts as 1, since a step of 0 teaches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch.nn.attention import SDPBackend, sdpa_kernel

from lossmith.errors import TaskError, UsageError
from lossmith.losses import Loss, LossSet
from lossmith.records import OK, Status, Tuning
from lossmith.tasks import SGD, AnyTask, Task
from lossmith.training.functional_sgd import Descent
from lossmith.training.meta_adam import AdamState, Vector, adam_step
from lossmith.training.meta_gradient import MetaGradient, Unroll, draw
from lossmith.training.process import compute_scope
from lossmith.training.roads import choose_road, meta_gradients
from lossmith.training.tunable import Tunable, with_class_prior

HISTORY = 50  # points kept of the course of the task loss
NOTHING_TO_TUNE = Status("ok", "", "the loss has no parameters to tune")


@dataclass(frozen=True)
class Tuned:
    """What came of tuning one candidate.

    Args:
        status: `OK`, or diverged with a sentence.
        loss: with the last finite φ, whatever the status.
        steps: base-model steps done: meta-steps × unroll length.
        history: (meta-step, task loss of θ_K on that meta-step's fitness batch) at up to `HISTORY` meta-steps.
        road: how the meta-gradients were computed, for people.
    """

    status: Status
    loss: Loss | LossSet
    steps: int
    history: tuple[tuple[int, float], ...] = ()
    road: str = ""


@dataclass(frozen=True)
class _Course:
    """Where the tuning of one candidate stands: all that the next meta-step needs."""

    phi: Vector
    adam: AdamState
    meta_steps: int = 0
    status: Status = OK
    history: tuple[tuple[int, float], ...] = ()


def tune(
    task: AnyTask, losses: Sequence[Loss | LossSet], tuning: Tuning, *, seed: int, threads: int = 1
) -> list[Tuned]:
    """Tune the parameters of losses on a task, all of them along the same θ0 and batches.

    Args:
        task: given by its parts, with lm.SGD as optimiser.
        losses: candidates; one without parameters comes back as it is. The losses of a set are tuned together.
        tuning: meta-steps, K, learning rate of φ.
        seed: names the streams of θ0, batches and dropout masks.
        threads: from the evaluation plan.

    Returns:
        One result per loss, in order.

    Raises:
        UsageError: a task that is a training function.
        TaskError: an optimiser that cannot be differentiated through; no fitness rows; a model without a second
            derivative.
        LossError: a loss that cannot be applied to the task.

    Example:
        >>> import lossmith as lm
        >>> from lossmith.losses import Loss, Tree
        >>> from lossmith.losses.parser import parse
        >>> from lossmith.records import Tuning
        >>> start = Loss(Tree(parse("-t*log(p)"), weights=(1.0, 0.5, 1.0, 1.0)))
        >>> (tuned,) = tune(lm.task("digits/mlp"), [start], Tuning(meta_steps=20, meta_lr=0.05), seed=0)
        >>> tuned.status.ok, tuned.steps
        (True, 20)
    """
    task = _tunable_task(task)
    descent = _descent(task)
    candidates = [Tunable.of(loss, task) for loss in losses]
    open_ = [i for i, candidate in enumerate(candidates) if len(candidate.phi)]
    results = [Tuned(NOTHING_TO_TUNE, loss, 0) for loss in losses]
    if not open_:
        return results
    # Fused attention has no second derivative.
    with compute_scope(threads), sdpa_kernel([SDPBackend.MATH]):
        task_loss = with_class_prior(task.task_loss(), task)
        how = Unroll(task, task_loss, descent, tuning.unroll_length)
        road = choose_road(how, draw(task, seed, 0, how.length), len(open_))
        how = replace(how, road=road, chunks=road.chunks(len(open_)))
        courses = _tune(how, [candidates[i] for i in open_], tuning, seed)
    taken = f"{'closed form' if how.length == 1 else 'unrolled'}, {road}"
    for i, course in zip(open_, courses, strict=True):
        loss = candidates[i].with_phi(course.phi)
        results[i] = Tuned(course.status, loss, course.meta_steps * tuning.unroll_length, course.history, taken)
    return results


def _tune(how: Unroll, candidates: Sequence[Tunable], tuning: Tuning, seed: int) -> list[_Course]:
    courses = [_Course(candidate.phi, AdamState.empty(len(candidate.phi))) for candidate in candidates]
    kept = {round(at * (tuning.meta_steps - 1) / max(HISTORY - 1, 1)) for at in range(HISTORY)}
    for meta_step in range(tuning.meta_steps):
        # A chunk stays as it is until none of its candidates is left: in another company the others would round
        # differently.
        chunks = tuple(chunk for chunk in how.chunks if any(courses[i].status.ok for i in chunk))
        if not chunks:
            break
        drawn = draw(how.task, seed, meta_step, how.length)
        found = meta_gradients(replace(how, chunks=chunks), drawn, candidates, [course.phi for course in courses])
        for i, result in found.items():
            if courses[i].status.ok:
                courses[i] = _advanced(courses[i], result, tuning.meta_lr, keep=meta_step in kept)
    return courses


def _advanced(course: _Course, found: MetaGradient, lr: float, *, keep: bool) -> _Course:
    done = course.meta_steps + 1
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at
        phi, adam = adam_step(course.phi, found.gradient, course.adam, lr)
    if not (found.finite and np.isfinite(phi).all()):
        status = Status("diverged", "", f"tuning became non-finite at meta-step {done}")
        return replace(course, status=status, meta_steps=done)
    history = (*course.history, (done, found.value)) if keep else course.history
    return _Course(phi, adam, done, OK, history)


def _tunable_task(task: AnyTask) -> Task:
    if not isinstance(task, Task):
        raise UsageError(
            f"tuning differentiates through training and so needs the parts of a task, but {task.name!r} is a training "
            "function: give lm.Task(model=..., train=..., recipe=...), or use a method that trains candidates as they "
            "are: taylorglo, random or gplfl."
        )
    if "fitness" not in task.data or not len(task.data["fitness"]):
        raise TaskError(
            "tuning takes the task loss on fitness rows, and the task has none: give Task(..., valid=...), whose rows "
            "become the fitness and selection splits."
        )
    return task


def _descent(task: Task) -> Descent:
    recipe = task.recipe
    if not isinstance(recipe.optimizer, SGD):
        raise TaskError(
            f"tuning differentiates through the steps of lm.SGD, and the recipe's optimizer is "
            f"{recipe.optimizer!r:.80}: give Recipe(optimizer=lm.SGD(lr=0.01)), or use a method that trains candidates "
            "as they are: taylorglo, random or gplfl."
        )
    return Descent(recipe.optimizer, recipe.base_lr * (recipe.schedule(0.0) or 1.0), recipe.grad_clip)
