"""`search` and `resume`: a whole run, from an empty folder to a winner."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from lossmith.errors import LossError, SpecError, UsageError
from lossmith.experiment.compare import resume_compare
from lossmith.experiment.events import Note
from lossmith.experiment.finalists import affordable, choose
from lossmith.experiment.opening import (
    Resources,
    check_absent,
    create,
    default_path,
    open_session,
    prepare,
    task_section,
)
from lossmith.experiment.run import Run
from lossmith.experiment.search_loop import SearchLoop
from lossmith.experiment.session import Session, sitting
from lossmith.experiment.spec import SearchSection, Spec, make
from lossmith.experiment.tuning_pilot import check_tunable, try_tuning
from lossmith.losses import Loss, LossSet, from_json, loss, to_json
from lossmith.records import Preparation
from lossmith.search import METHODS, Method, Problem
from lossmith.search import method as make_method
from lossmith.tasks import AnyTask, Task
from lossmith.tasks.several import all_parts, members_of

GENERATIONS = 20
StartFrom: TypeAlias = "Run | Loss | str | Sequence[Run | Loss | str]"


def search(
    method: Method | str,
    task: AnyTask,
    *,
    generations: int | None = None,
    partial: float = 0.1,
    fidelity: str = "steps",
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
    start_from: StartFrom = (),
    shelf: Run | str | None = None,
    settings: Mapping[str, Any] | None = None,
    finalists: int | None = None,
    finalist_seeds: int = 2,
    resources: Resources | None = None,
    **options: Any,
) -> Run:
    """Search for a loss: `lossmith.search`, which documents the arguments, with what may be used gathered.

    Args:
        generations: None for 20, or for as many as the method's own settings make.
        resources: workers, device, listeners; nothing in it changes the result.
        options: further fields of `SearchSection` (elites, seeds_per_candidate …).
    """
    resources = resources or Resources()
    method = make_method(method, **dict(settings or {})) if isinstance(method, str) else method
    budget = as_budget(partial, task)
    generations = generations_of(method, generations)
    shelf_path = shelf.path if isinstance(shelf, Run) else shelf
    if isinstance(start_from, Run) and start_from.kind == "shelf" and shelf_path is None:
        shelf_path = start_from.path
    if finalists is None:
        count = generations * int(method.settings().get("population", 20))
        finalists = affordable(task, candidates=count, budget=budget, seeds=max(1, finalist_seeds))
    section: SearchSection = make(
        SearchSection,
        method=method.name,
        settings=method.settings(),
        generations=generations,
        budget=budget,
        fidelity=fidelity,
        start_from=[to_json(found) for found in starting_losses(start_from, task)],
        shelf=None if shelf_path is None else os.path.abspath(shelf_path),
        finalists=finalists,
        finalist_seeds=finalist_seeds,
        **options,
    )
    return start("search", method, section, task, seed=seed, path=path, resources=resources)


def generations_of(method: Method, generations: int | None) -> int:
    """How many generations a search takes that was asked to take so many, or (None) as many as is usual.

    Raises:
        UsageError: the method's settings make another number of them.
    """
    if method.rounds is None:
        return GENERATIONS if generations is None else generations
    if generations not in (None, method.rounds):
        raise UsageError(
            f"generations = {generations}: {method.name} goes by meta-steps, not by generations: give its setting "
            "meta_steps in its place, as in lm.search(lm.ML3(meta_steps=250), task)."
        )
    return method.rounds


def start(
    kind: str,
    method: Method,
    section: SearchSection,
    task: AnyTask,
    *,
    seed: int,
    path: str | os.PathLike[str] | None,
    resources: Resources,
) -> Run:
    """Create a run of candidates and carry it to its winner (`search`, `shelf`)."""
    path = default_path(kind, task, method.name, seed) if path is None else path
    check_absent(path)
    spec: Spec = make(Spec, kind=kind, seed=seed, task=task_section(task), search=section)
    if section.fidelity == "data" and not all_parts(task):
        raise SpecError(
            'fidelity "data" needs a task given by its parts; a training function reads trial.budget itself.'
        )
    check_parts(method, task)
    problem = problem_of(section, task, seed)
    asked, _ = method.ask(method.init(problem))  # what the method cannot start from is said before anything is trained
    data_fraction = section.budget if section.fidelity == "data" else 1.0
    plan, _ = prepare(task, resources, budget=section.budget, data_fraction=data_fraction, seed=seed)
    try_tuning(task, method, asked, plan)
    with sitting(create(path, spec, task, plan, resources)) as session:
        _carry_on(session, method, problem, section, seed)
    return Run(path)


def resume(path: str | os.PathLike[str], *, task: AnyTask | None = None, resources: Resources | None = None) -> Any:
    """Go on with an interrupted run of any kind as if it had never stopped; a finished one is returned as it is.

    Args:
        task: for tasks built in Python, which only Python can rebuild.

    Returns:
        The `Run` of a search or shelf, the `Verdict` of a comparison.

    Raises:
        RunError: no run there, damaged, newer, made with another task, or open elsewhere.
    """
    resources = resources or Resources()
    run = Run(path)
    if run.spec.kind == "compare":
        return resume_compare(path, task, resources)
    if run.finished:
        return run
    session, spec = open_session(path, task, resources)
    with sitting(session):
        assert spec.search is not None
        method = method_of(spec.search)
        _carry_on(session, method, problem_of(spec.search, session.task, spec.seed), spec.search, spec.seed)
    return Run(path)


def method_of(section: SearchSection) -> Method:
    """The search method a spec names."""
    from lossmith.search.shelf import ShelfGrid

    if section.method == ShelfGrid.name:
        return ShelfGrid(**section.settings)
    return make_method(section.method, **section.settings)


def problem_of(section: SearchSection, task: AnyTask, seed: int) -> Problem:
    """What the method is told of the task."""
    head = task.head if callable(task.head) else None
    losses = tuple(from_json(text, head=head) for text in section.start_from)
    starts = tuple(found for found in losses if isinstance(found, Loss))
    return Problem(task.setting, seed=seed, start_from=starts, generations=section.generations)


def preparation_of(method: Method, session: Session) -> Preparation:
    """What a method wants done between ask and training, as far as the task allows it."""
    wanted = method.preparation
    if wanted.screening is None or any(isinstance(one, Task) for one in members_of(session.task)):
        return wanted
    session.emit(
        Note(
            "the rejection protocol and gradient equivalence need a task given by its parts (model, data, recipe): "
            "this search trains every candidate that its method proposes."
        )
    )
    return Preparation()


def check_parts(method: Method, task: AnyTask) -> None:
    """Whether a task can be tuned on, said before anything is written; methods that tune nothing take every task.

    Raises:
        UsageError: the method differentiates through training and the task is a training function.
        TaskError: the task lacks what tuning needs.
    """
    if method.preparation.tuning is None:
        return
    if not all_parts(task):
        fit = ", ".join(name for name, cls in METHODS.items() if not cls.needs_parts)
        raise UsageError(
            f"{method.name} differentiates through training, which a training function does not allow: give the task "
            f"by its parts, lm.Task(model=..., train=..., recipe=...), or search with {fit}."
        )
    check_tunable(members_of(task), method.preparation.tuning)


def as_budget(partial: float, task: AnyTask) -> float:
    """Partial training as a share of the full one: a fraction in (0, 1] stays, a number of steps above 1 is divided.

    On several tasks a number of steps is that of each, and they have one share, which is what requests go by.
    """
    if isinstance(partial, bool) or not partial > 0 or partial != partial:
        raise SpecError(f"partial = {partial!r}: a share of the full training in (0, 1], or a number of steps above 1.")
    if partial <= 1:
        return float(partial)
    full = [one.steps for one in members_of(task)]
    steps = full[0]
    if steps is None or None in full:
        raise SpecError(
            f"partial = {partial:g} steps: this task does not say how many steps it has; give a share in (0, 1]."
        )
    if len(set(full)) > 1:
        raise SpecError(
            f"partial = {partial:g} steps: the tasks have full trainings of different lengths; give a share of them in "
            "(0, 1], or one length for all (--steps N)."
        )
    if partial > steps or partial != int(partial):
        raise SpecError(f"partial = {partial:g}: a whole number of steps up to the {steps:,} of the full training.")
    return float(partial) / steps


def starting_losses(start_from: StartFrom, task: AnyTask) -> list[Loss]:
    """Losses named in any way, under the task's head."""
    if isinstance(start_from, (Run, Loss, str)):
        start_from = [start_from]
    losses: list[Loss] = []
    for entry in start_from:
        if isinstance(entry, Run):
            losses += [found for found in entry.finalist_losses() if isinstance(found, Loss)]
        elif isinstance(entry, Loss):
            losses.append(entry)
        elif isinstance(entry, str):
            named = _run_or_loss(entry, task)
            losses += named
        else:
            raise UsageError(f"start_from takes names, losses and runs, not {type(entry).__name__}.")
    return losses


def _run_or_loss(text: str, task: AnyTask) -> list[Loss]:
    if os.path.exists(os.path.join(text, "lossmith.db")):
        return [found for found in Run(text).finalist_losses() if isinstance(found, Loss)]
    named = loss(text, head=task.head)
    if isinstance(named, LossSet):
        raise LossError(f"{text} holds several losses: a search starts from single ones.")
    return [named]


def _carry_on(session: Session, method: Method, problem: Problem, section: SearchSection, seed: int) -> None:
    tried = SearchLoop(session, method, problem, section, seed, preparation_of(method, session)).run()
    choose(session, tried, section, seed)
    session.store.set_state("finished")
