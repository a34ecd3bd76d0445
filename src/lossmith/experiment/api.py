"""The verbs of Lossmith as a user calls them: `search`, `shelf`, `evaluate`, `compare`, `resume`.

Thin: each gathers what may be used (workers, device, listeners) and hands on to the room that does the work.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lossmith.analysis import Verdict
from lossmith.errors import UsageError
from lossmith.evaluation import AllCores, Executor
from lossmith.experiment import compare as comparing
from lossmith.experiment import meta_testing, search_run
from lossmith.experiment import shelf as shelving
from lossmith.experiment.arms import Contestant
from lossmith.experiment.events import Listener
from lossmith.experiment.opening import Resources
from lossmith.experiment.run import Run
from lossmith.experiment.search_run import StartFrom
from lossmith.losses import Loss, LossSet, loss, to_json
from lossmith.search import Method
from lossmith.tasks import AnyTask, SeveralTasks, resolve_task

PathLike = str | os.PathLike[str]
TaskLike = AnyTask | str | Sequence[AnyTask | str]


def search(
    method: Method | str,
    task: TaskLike,
    *,
    generations: int | None = None,
    partial: float | None = None,
    fidelity: str = "steps",
    seed: int = 0,
    path: PathLike | None = None,
    start_from: StartFrom = (),
    shelf: Run | str | None = None,
    settings: Mapping[str, Any] | None = None,
    finalists: int | None = None,
    finalist_seeds: int = 2,
    seeds_per_candidate: int = 1,
    elites: int = 1,
    workers: int | AllCores | None = None,
    executor: Executor | None = None,
    device: str = "cpu",
    engine: str = "rule",
    dtype: str = "float32",
    compile: bool | None = None,
    deadline: float | None = None,
    listeners: Sequence[Listener] = (),
) -> Run:
    """Search for a loss function.

    Args:
        method: a search method, e.g. `lm.TaylorGLO(order=3)`, or its name (with `settings`).
        task: a task, or the name of a built-in one; several in a list, or with commas in their name: a loss is then
            judged by its mean over them, and learned on all of them.
        generations: ask–tell cycles, 20 by default; methods that go by meta-steps (`lm.ML3(meta_steps=250)`) take none.
        partial: effort per candidate: a share of the full training in (0, 1] or a number of steps above 1; None takes
            the task's own, else 0.1.
        fidelity: what a partial training has less of, "steps" or "data".
        seed: of everything random in the run.
        path: run folder, `runs/METHOD-TASK-seedN` by default; it must not exist yet.
        start_from: names of losses, losses, or runs (their finalists, best first) that the search starts from.
        shelf: the shelf run that `evaluate` compares with; a shelf in `start_from` is taken by itself.
        finalists, finalist_seeds: how many of the best are trained again in full (None: up to 5, costing no more than
            the search), on how many fresh seeds.
        seeds_per_candidate: trainings per candidate. elites: how many of the best gain a seed per generation.
        workers: local processes, "all" for one per core or GPU; None trains in this one. No result depends on it.
        executor: your own `submit(fn, *args) -> Future` (a dask client, …) instead of workers.
        device: torch device. engine: "rule" by model, batch and device, "auto" by measuring, "sequential" or
            "population" (see docs/engines.md). dtype: "float32" or "bfloat16".
        compile: whether torch compiles steps of stacked training, where it can (see docs/performance.md).
        deadline: seconds per candidate after which it is given up; needs workers.
        listeners: called with every event of the run.

    Returns:
        The finished `Run`; `run.best.loss` is the loss found.

    Raises:
        UsageError: something that cannot be done, said before anything is written.
        Interrupted: Ctrl-C or SIGTERM; `lm.resume(path)` goes on.
    """
    task = as_task(task)
    return search_run.search(
        method,
        task,
        generations=generations,
        partial=default_partial(task) if partial is None else partial,
        fidelity=fidelity,
        seed=seed,
        path=path,
        start_from=start_from,
        shelf=shelf,
        settings=settings,
        finalists=finalists,
        finalist_seeds=finalist_seeds,
        seeds_per_candidate=seeds_per_candidate,
        elites=elites,
        resources=Resources(workers, executor, device, engine, deadline, listeners, dtype, compile),
    )


def shelf(
    task: TaskLike,
    *,
    training_steps: int | None = None,
    partial: float | None = None,
    finalists: int = 5,
    finalist_seeds: int = 2,
    seed: int = 0,
    path: PathLike | None = None,
    workers: int | AllCores | None = None,
    executor: Executor | None = None,
    device: str = "cpu",
    engine: str = "rule",
    dtype: str = "float32",
    compile: bool | None = None,
    deadline: float | None = None,
    listeners: Sequence[Listener] = (),
) -> Run:
    """The bar to beat: published losses × learning rate × label smoothing × early stopping on a task.

    Args:
        training_steps: how many training steps it may use in all; None takes the whole grid.

    The other arguments are those of `search`.
    """
    task = as_task(task)
    return shelving.shelf(
        task,
        training_steps=training_steps,
        partial=default_partial(task) if partial is None else partial,
        finalists=finalists,
        finalist_seeds=finalist_seeds,
        seed=seed,
        path=path,
        resources=Resources(workers, executor, device, engine, deadline, listeners, dtype, compile),
    )


def evaluate(
    subject: Run | Loss | str,
    task: TaskLike | None = None,
    *,
    seeds: int = 10,
    tune_seeds: int = 2,
    controls: Sequence[str] = meta_testing.CONTROLS,
    delta: float | None = None,
    shelf: Run | str | None = None,
    seed: int = 0,
    path: PathLike | None = None,
    workers: int | AllCores | None = None,
    executor: Executor | None = None,
    device: str = "cpu",
    engine: str = "rule",
    dtype: str = "float32",
    compile: bool | None = None,
    deadline: float | None = None,
    listeners: Sequence[Listener] = (),
) -> Verdict:
    """Is this loss really better? A verdict: better, worse, no worse, or not shown.

    Args:
        subject: a run (its best loss, judged against all controls and stored in the run), a loss, or text that names
            one.
        task: needed for losses; for a run, another task than its own means transfer.
        seeds: full trainings per arm. tune_seeds: trainings per learning rate of the grid.
        controls: which of "task", "tuned", "shelf".
        delta: margin for "no worse", in the metric's units.
        shelf: the shelf run to compare with, instead of the run's own.
        path: run folder of the verdict on a loss; `runs/compare-…` by default.

    The other arguments are those of `search`.

    Raises:
        UsageError: nothing to judge, no test split, unknown controls.
    """
    how = meta_testing.MetaTest(
        seeds, tune_seeds, tuple(controls), delta, shelf.path if isinstance(shelf, Run) else shelf
    )
    resources = Resources(workers, executor, device, engine, deadline, listeners, dtype, compile)
    task = None if task is None else as_task(task)
    if isinstance(subject, str) and is_run(subject):
        subject = Run(subject)
    if isinstance(subject, Run):
        own = task is None or task.fingerprint().get("digest") == subject.row.fingerprint.get("digest")
        if own:
            return meta_testing.evaluate_run(subject.path, how, task=task, resources=resources)
        found = subject.best
        best, lr_scale, budget = found.loss, found.lr_scale, found.budget
        name = f"found on {subject.row.task}"
    else:
        if task is None:
            raise UsageError("evaluating a loss needs a task: evaluate(loss, task), or --task on the command line.")
        best, lr_scale, budget = named_loss(subject, task), 1.0, 1.0
        name = subject if isinstance(subject, str) else str(subject)
    assert task is not None
    return meta_testing.evaluate_loss(
        best,
        task,
        how,
        name=name,
        lr_scale=lr_scale,
        budget=budget,
        seed=seed,
        path=path,
        resources=resources,
    )


def compare(
    losses: Sequence[Run | Loss | str],
    task: TaskLike,
    *,
    seeds: int = 10,
    tune_lr: Sequence[int] | bool = False,
    tune_seeds: int = 2,
    delta: float | None = None,
    seed: int = 0,
    path: PathLike | None = None,
    workers: int | AllCores | None = None,
    executor: Executor | None = None,
    device: str = "cpu",
    engine: str = "rule",
    dtype: str = "float32",
    compile: bool | None = None,
    deadline: float | None = None,
    listeners: Sequence[Listener] = (),
) -> Verdict:
    """Losses side by side on the same seeds; the first is the reference the others are judged against.

    Args:
        losses: runs (their best), losses, or text that names them.
        tune_lr: positions of losses that also run with tuned learning rate; True means all.

    The other arguments are those of `evaluate`.
    """
    task = as_task(task)
    contestants = [_contestant(entry, task, "control" if i == 0 else "subject") for i, entry in enumerate(losses)]
    positions = range(len(contestants)) if tune_lr is True else () if tune_lr is False else tune_lr
    return comparing.compare(
        contestants,
        task,
        seeds=seeds,
        tune=tuple(positions),
        tune_seeds=tune_seeds,
        delta=delta,
        seed=seed,
        path=path,
        resources=Resources(workers, executor, device, engine, deadline, listeners, dtype, compile),
    )


def resume(
    path: PathLike,
    *,
    task: TaskLike | None = None,
    workers: int | AllCores | None = None,
    executor: Executor | None = None,
    listeners: Sequence[Listener] = (),
) -> Run | Verdict:
    """Go on with an interrupted run as if it had never stopped; a finished one is returned as it is.

    Args:
        task: for tasks built in Python, which only Python can rebuild.
    """
    resources = Resources(workers, executor, listeners=listeners)
    found: Run | Verdict = search_run.resume(path, task=None if task is None else as_task(task), resources=resources)
    return found


def as_task(task: TaskLike) -> AnyTask:
    """A task, the one a text names, or several of both as one.

    Raises:
        TaskError: tasks that do not go together.
    """
    if isinstance(task, Sequence) and not isinstance(task, str):
        found = [as_task(one) for one in task]
        return found[0] if len(found) == 1 else SeveralTasks(found)
    return resolve_task(task) if isinstance(task, str) else task


def default_partial(task: AnyTask) -> float:
    """Effort per candidate where none is given: the task's own number of steps (of several its share), else a tenth."""
    if isinstance(task, SeveralTasks) and task.partial and task.steps:
        return task.partial / task.steps
    return float(task.partial) if task.partial and task.partial > 1 else 0.1


def is_run(text: str) -> bool:
    """Whether a text is the path of a run folder."""
    return os.path.isfile(os.path.join(text, "lossmith.db"))


def named_loss(subject: Loss | LossSet | str, task: AnyTask) -> Loss | LossSet:
    """A loss wherever one is expected: itself, a run's best, a published name, an expression, a JSON file."""
    if not isinstance(subject, str):
        return subject
    if is_run(subject):
        return Run(subject, head=task.head if callable(task.head) else None).best.loss
    return loss(subject, head=task.head)


def _contestant(entry: Run | Loss | str, task: AnyTask, kind: Any) -> Contestant:
    if isinstance(entry, str) and is_run(entry):
        entry = Run(entry)
    if isinstance(entry, Run):
        best = entry.best
        name = os.path.basename(os.path.normpath(entry.path))
        note = str(best.loss) + (f", learning rate × {best.lr_scale:.4g}" if best.lr_scale != 1 else "")
        return Contestant(name, to_json(best.loss), best.lr_scale, best.budget, kind, note=note)
    found = named_loss(entry, task)
    return Contestant(entry if isinstance(entry, str) else str(found), to_json(found), kind=kind)
