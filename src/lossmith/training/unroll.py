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

from torch.nn.attention import SDPBackend, sdpa_kernel

from lossmith.errors import TaskError, UsageError
from lossmith.losses import Loss, LossSet
from lossmith.records import Status, Tuning
from lossmith.tasks import SGD, AnyTask, Task
from lossmith.training.courses import Courses
from lossmith.training.draws import drawn_once
from lossmith.training.functional_sgd import Descent
from lossmith.training.meta_gradient import Unroll, draw
from lossmith.training.precision import DTYPES
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


def tune(
    task: AnyTask,
    losses: Sequence[Loss | LossSet],
    tuning: Tuning,
    *,
    seed: int,
    threads: int = 1,
    dtype: str = "float32",
) -> list[Tuned]:
    """Tune the parameters of losses on a task, all of them along the same θ0 and batches.

    Args:
        task: given by its parts, with lm.SGD as optimiser.
        losses: candidates; one without parameters comes back as it is. The losses of a set are tuned together.
        tuning: meta-steps, K, learning rate of φ.
        seed: names the streams of θ0, batches and dropout masks.
        threads, dtype: from the evaluation plan. In "bfloat16" the products of plain perceptrons are taken for K = 1,
            which saves about a quarter of the time; meta-gradients then deviate by about 1 %, those near 0 by far more.
            Everything else ignores it.

    Returns:
        One result per loss, in order.

    Raises:
        UsageError: a task that is a training function; an unknown dtype.
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
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} of a tuning: use {' or '.join(map(repr, DTYPES))}.")
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
        how = replace(how, road=road, chunks=road.chunks(len(open_)), dtype=dtype)
        courses = _tune(how, [candidates[i] for i in open_], tuning, seed)
    halved = " in bfloat16" if dtype == "bfloat16" and road.kind == "layers" else ""
    taken = f"{'closed form' if how.length == 1 else 'unrolled'}, {road}{halved}"
    for place, (i, phi) in enumerate(zip(open_, courses.phis, strict=True)):
        steps = courses.taken(place) * tuning.unroll_length
        loss, history = candidates[i].with_phi(phi), courses.histories[place]
        results[i] = Tuned(courses.status(place), loss, steps, history, taken)
    return results


def _tune(how: Unroll, candidates: Sequence[Tunable], tuning: Tuning, seed: int) -> Courses:
    courses = Courses.start([candidate.phi for candidate in candidates])
    kept = {round(at * (tuning.meta_steps - 1) / max(HISTORY - 1, 1)) for at in range(HISTORY)}
    for meta_step in range(tuning.meta_steps):
        # A chunk stays as it is until none of its candidates is left: in another company the others would round
        # differently.
        chunks = tuple(chunk for chunk in how.chunks if any(i not in courses.stopped for i in chunk))
        if not chunks:
            break
        # The road of explicit matrices writes to nothing; other networks may keep something in their buffers.
        drawn = (drawn_once if how.road.kind == "layers" else draw)(how.task, seed, meta_step, how.length)
        found = meta_gradients(replace(how, chunks=chunks), drawn, candidates, courses.phis)
        courses = courses.advanced(found, tuning.meta_lr, keep=meta_step in kept)
    return courses


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
