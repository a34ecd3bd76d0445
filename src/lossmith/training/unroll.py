"""Tuning loss parameters φ by differentiating through training: EvoMAL's local search, ML3 (ALGORITHMS §4, §5).

Raymond, Chen, Xue & Zhang, *Learning Symbolic Model-Agnostic Loss Functions via Meta-Learning*, TPAMI 2023, arXiv
2209.08907; *Fast and Efficient Local Search for Genetic Programming Based Loss Function Learning*, GECCO 2023, arXiv
2403.00865; Bechtle et al., *Meta-Learning via Learned Loss*, arXiv 1906.05374. Every meta-step, on every task:

    1. a fresh θ0, K fresh training batches, one fresh batch of fitness rows: drawn
    2. θ_{k+1} = θ_k − SGD step on M_φ of a training batch, k = 0 … K−1
    3. L = task loss of θ_K on the fitness batch
    4. φ ← Adam step on dL/dφ, the mean over the tasks

All candidates share what is drawn, which depends on seed, task and meta-step only, and a tuning can be taken up from φ
and its state (`tuning_state`): 100 meta-steps are two tunings of 50, to the bit where the company is the same. Up to
rounding a candidate's numbers do not depend on its company; a stack of several may round otherwise than one alone.

K = 1 has a closed form (`closed_form`), any K is unrolled (`unrolled`), all of it or its last steps; or the gradient is
taken at θ_K (`implicit`), whose memory does not grow with K. That of an unroll grows as the steps differentiated
through (`unroll_memory`); what does not fit is an error that says how much it needs.

Options: SGD in the place of Adam; θ, momentum and buffers carried over `reinitialise` meta-steps, every candidate with
its own (then K = 1 is unrolled too, for θ is no longer shared); another task loss.

Deviations from the public code: momentum, Nesterov and weight decay are the recipe's, from an empty optimiser state
whenever θ is fresh; the task loss is taken on the Terms the metric is measured on; a fitness split smaller than a batch
is taken whole; a schedule that starts at 0 (a warm-up) counts as 1, since a step of 0 teaches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch.nn.attention import SDPBackend, sdpa_kernel

from lossmith.errors import SpecError, UsageError
from lossmith.losses import Loss, LossSet
from lossmith.records import Status, Tuning
from lossmith.tasks import AnyTask, members_of
from lossmith.training.courses import Courses
from lossmith.training.precision import DTYPES
from lossmith.training.process import compute_scope
from lossmith.training.task_tuning import TaskTuning, descent_of, mean_over_tasks, seed_of, tunable_task
from lossmith.training.tunable import Tunable
from lossmith.training.tuning_state import TuningState

HISTORY = 50  # points kept of the course of the task loss
NOTHING_TO_TUNE = Status("ok", "", "the loss has no parameters to tune")


@dataclass(frozen=True)
class Tuned:
    """What came of tuning one candidate.

    Args:
        status: `OK`, or diverged with a sentence.
        loss: with the last finite φ, whatever the status.
        steps: base-model steps done: meta-steps × unroll length × tasks.
        history: (meta-step, task loss of θ_K on that meta-step's fitness batch) at up to `HISTORY` meta-steps, counted
            from the very beginning.
        road: how the meta-gradients were computed, for people.
        state: with which `loss` can be tuned on (`Tuning.state`); "" where there is nothing to tune.
        notes: what was worth knowing about some meta-steps, for people.
        meta_steps: done here.
        memory: bytes that the unroll may take per candidate (`unroll_memory`), 0 where they do not grow with K.
    """

    status: Status
    loss: Loss | LossSet
    steps: int
    history: tuple[tuple[int, float], ...] = ()
    road: str = ""
    state: str = ""
    notes: str = ""
    meta_steps: int = 0
    memory: int = 0


def tune(
    task: AnyTask | Sequence[AnyTask],
    losses: Sequence[Loss | LossSet],
    tuning: Tuning,
    *,
    seed: int,
    threads: int = 1,
    dtype: str = "float32",
    states: Sequence[str] | None = None,
    memory: int | None = None,
    on_step: Callable[[int], None] | None = None,
) -> list[Tuned]:
    """Tune the parameters of losses on a task or several, all of them along the same θ0 and batches.

    Args:
        task: given by its parts, with lm.SGD as optimiser. Of several the mean task loss is what φ is tuned for; each
            has its own draws.
        losses: candidates; one without parameters comes back as it is. The losses of a set are tuned together.
        tuning: meta-steps, K, learning rate of φ, and the rest.
        seed: names the streams of θ0, batches and dropout masks.
        threads, dtype: from the evaluation plan. In "bfloat16" the products of plain perceptrons are taken for K = 1,
            which saves about a quarter of the time; meta-gradients then deviate by about 1 %, those near 0 by far more.
            Everything else ignores it.
        states: with which each of the losses goes on, all of them after equally many meta-steps; None: all with the
            tuning's.
        memory: bytes that are free; an unroll that needs more is refused. None: it is not asked.
        on_step: called with the number of meta-steps finished here, for progress.

    Returns:
        One result per loss, in order.

    Raises:
        UsageError: a task that is a training function; no task; an unknown dtype.
        TaskError: an optimiser that cannot be differentiated through; no fitness rows; a model without a second
            derivative; a task loss without gradient; an unroll that does not fit into memory.
        LossError: a loss that cannot be applied to the task.
        SpecError: a state that is none, or belongs to something else.

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
    tasks = [tunable_task(one) for one in (members_of(task) if isinstance(task, AnyTask) else task)]
    if not tasks:
        raise UsageError("tuning without a task: give one or several.")
    for one in tasks:
        descent_of(one)
    first = [Tunable.of(loss, tasks[0]) for loss in losses]
    open_ = [i for i, candidate in enumerate(first) if len(candidate.phi)]
    results = [Tuned(NOTHING_TO_TUNE, loss, 0) for loss in losses]
    if not open_:
        return results
    texts = [tuning.state] * len(losses) if states is None else states
    courses = Courses.start(
        [first[i].phi for i in open_],
        _starts(tuning, [texts[i] for i in open_], [len(first[i].phi) for i in open_]),
    )
    # Fused attention has no second derivative.
    with compute_scope(threads), sdpa_kernel([SDPBackend.MATH]):
        sides = [
            TaskTuning.of(
                one, [losses[i] for i in open_], tuning, seed=seed_of(seed, position), dtype=dtype, memory=memory
            )
            for position, one in enumerate(tasks)
        ]
        courses = _tune(sides, courses, tuning, on_step)
    roads = "; ".join(dict.fromkeys(side.describe() for side in sides))
    for place, (i, phi) in enumerate(zip(open_, courses.phis, strict=True)):
        done = courses.taken(place)
        results[i] = Tuned(
            courses.status(place),
            first[i].with_phi(phi),
            done * tuning.unroll_length * len(tasks),
            courses.histories[place],
            roads,
            state=courses.state(place).to_text(),
            notes=str(courses.notes.get(place, "")),
            meta_steps=done,
            memory=max(side.bytes for side in sides),
        )
    return results


def _tune(
    sides: Sequence[TaskTuning], courses: Courses, tuning: Tuning, on_step: Callable[[int], None] | None
) -> Courses:
    count, begun = len(courses.parts), courses.begun
    kept = {round(at * (tuning.meta_steps - 1) / max(HISTORY - 1, 1)) for at in range(HISTORY)}
    for meta_step in range(begun, begun + tuning.meta_steps):
        left = [i for i in range(count) if i not in courses.stopped]
        if not left:
            break
        found = mean_over_tasks([side.meta_gradients(meta_step, courses.phis, left) for side in sides])
        courses = courses.advanced(found, tuning.meta_lr, keep=meta_step - begun in kept)
        if on_step is not None:
            on_step(meta_step - begun + 1)
    return courses


def _starts(tuning: Tuning, texts: Sequence[str], sizes: Sequence[int]) -> list[TuningState]:
    """The states candidates begin with.

    Raises:
        SpecError: one is no state, they stand at different meta-steps, or θ would have to be carried over to them.
    """
    found = [TuningState.from_text(text, tuning.meta_optimizer, size) for text, size in zip(texts, sizes, strict=True)]
    done = {state.meta_steps for state in found}
    if len(done) > 1:
        raise SpecError(
            f"losses that go on from {' and '.join(map(str, sorted(done)))} meta-steps cannot be tuned side by side, "
            "since meta-steps draw by their number: tune those of one number at once."
        )
    (at,) = done
    if at % tuning.reinitialise:
        raise SpecError(
            f"a tuning goes on after {at} meta-steps, in the midst of {tuning.reinitialise} that share one training "
            f"(reinitialise = {tuning.reinitialise}), and θ is not kept: end tunings at a multiple of it."
        )
    return found
